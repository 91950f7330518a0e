package capture

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/fraiseql/weir/internal/event"
)

// eventPrefix marks a message that is an event: an outbox without a table.
//
//	SELECT pg_logical_emit_message(true, 'weir', '{"entity_type": "Order", "entity_id": "7", "data": {"total": 100.10}}');
const eventPrefix = "weir"

// plainMessage is the entity type of a message that names none.
const plainMessage = "message"

// eventNamespace is the UUIDv5 namespace of events that have no row in the change log. It must never change: the ledger tells
// repeats by the id.
var eventNamespace = uuid.MustParse("0b1c6b7e-3f0d-5c61-8a55-9d2a4c1f7e36")

// eventID is the identity of what came at a position of a cluster's WAL. Part parts what one message of the WAL holds more
// than one of; the first is 0.
func eventID(written timelines, pos event.Position, part int) uuid.UUID {
	name := written.name(pos.LSN) + "\x00" + strconv.FormatInt(pos.Index, 10)
	if part > 0 {
		name += "\x00" + strconv.Itoa(part)
	}
	return uuid.NewSHA1(eventNamespace, []byte(name))
}

// placed is a change without a row in the change log.
func (d *decoder) placed(typ event.Type, part int) event.Change {
	return event.Change{Event: event.Event{
		ID: eventID(d.written, d.pos, part), Type: typ, LSN: d.pos.LSN, TxIndex: d.pos.Index,
		Timestamp: event.Time(d.committed), CommitTime: event.Time(d.committed),
	}}
}

// customEvent is a message's. What is no event by its content is one by its place: it becomes a dead letter.
func (d *decoder) customEvent(content []byte) event.Change {
	c := d.placed(event.Custom, 0)
	c.EntityType = plainMessage
	if err := readMessage(bytes.Clone(content), &c.Event); err != nil {
		c.Reason = "a message with prefix " + eventPrefix + ": " + err.Error()
	}
	return c
}

// readMessage takes the fields of an event where the content names its entity type, else the whole content as data.
// pgoutput sends a message's bytes as they are, in whatever encoding.
func readMessage(content []byte, e *event.Event) error {
	if !utf8.Valid(content) {
		return fmt.Errorf("its content is not UTF-8")
	}
	if !json.Valid(content) {
		return fmt.Errorf("its content is not JSON")
	}
	var fields map[string]json.RawMessage
	_ = json.Unmarshal(content, &fields) // no object: then it has no fields
	name, named := jsonString(fields["entity_type"])
	if !named {
		name, named = jsonString(fields["object_type"])
	}
	if !named {
		e.Data = document(content, "{}")
		return nil
	}
	if name == "" {
		return fmt.Errorf("its entity_type is empty: set it to the entity's type, as in Order")
	}
	e.EntityType = name
	return fillFromMessage(fields, e)
}

func fillFromMessage(fields map[string]json.RawMessage, e *event.Event) error {
	e.Data = document(fields["data"], "{}")
	e.TraceContext = document(fields["trace_context"], "")
	var id *string
	for _, text := range []struct {
		key  string
		into **string
	}{
		{"entity_id", &id},
		{"tenant_id", &e.TenantID},
		{"user_id", &e.UserID},
		{"actor_type", &e.ActorType},
		{"acting_for", &e.ActingFor},
		{"schema_version", &e.SchemaVersion},
	} {
		var err error
		if *text.into, err = textOrNumber(fields[text.key]); err != nil {
			return fmt.Errorf("its %s is %w", text.key, err)
		}
	}
	if id != nil {
		e.EntityID = *id
	}
	if raw := document(fields["duration_ms"], ""); raw != nil {
		if err := json.Unmarshal(raw, &e.DurationMS); err != nil {
			return fmt.Errorf("its duration_ms is no integer")
		}
	}
	if raw := document(fields["updated_fields"], ""); raw != nil {
		if err := json.Unmarshal(raw, &e.UpdatedFields); err != nil {
			return fmt.Errorf("its updated_fields is no list of names")
		}
	}
	return nil
}

func jsonString(raw json.RawMessage) (s string, ok bool) {
	if len(raw) == 0 || raw[0] != '"' {
		return "", false
	}
	return s, json.Unmarshal(raw, &s) == nil
}

// textOrNumber is a string, or a number with its digits as they are written; null is nil.
func textOrNumber(raw json.RawMessage) (*string, error) {
	raw = document(raw, "")
	if raw == nil {
		return nil, nil
	}
	if s, ok := jsonString(raw); ok {
		return &s, nil
	}
	if raw[0] == '-' || raw[0] >= '0' && raw[0] <= '9' {
		return str(raw), nil
	}
	return nil, fmt.Errorf("neither a text nor a number")
}
