// Package event holds the nouns that travel through Weir: an Event (what conditions, templates and receivers see), a
// Change (an event, or the reason why a row is none) and a Delivery (one action of one observer for one event). It has
// no behavior beyond naming them, giving them their stable ids and writing them as JSON with exact digits.
package event

import (
	"encoding/json"
	"fmt"
	"time"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
)

// Type is what happened to the entity. The strings are FraiseQL's.
type Type string

// The four event types.
const (
	Insert Type = "INSERT"
	Update Type = "UPDATE"
	Delete Type = "DELETE"
	Custom Type = "CUSTOM"
)

// Types lists every event type.
func Types() []Type { return []Type{Insert, Update, Delete, Custom} }

// Event is the JSON form of a change. Its keys, all but the last always present, are the contract with receivers
// (FraiseQL's keys first, Weir's after them). Raw JSON fields are kept as PostgreSQL wrote them, so that every digit of
// a number survives.
type Event struct {
	ID            uuid.UUID       `json:"id"` // the change log's id; made of the place in the stream without one
	Type          Type            `json:"event_type"`
	EntityType    string          `json:"entity_type"`    // as observers name it
	EntityID      string          `json:"entity_id"`      // "" for a CUSTOM event without one
	Data          json.RawMessage `json:"data"`           // after-image; for DELETE the before-image; {} when there is none
	Changes       json.RawMessage `json:"changes"`        // {field:{old,new}}; null without a before-image, {} when nothing changed
	UserID        *string         `json:"user_id"`        // who has changed it
	TenantID      *string         `json:"tenant_id"`      // whose data it is
	Timestamp     Time            `json:"timestamp"`      // the row's created_at
	DurationMS    *int64          `json:"duration_ms"`    // of the mutation, as its producer says
	Seq           *int64          `json:"seq"`            // the producer's number of the change
	ActorType     *string         `json:"actor_type"`     // human_user, service_account, ai_agent or system_job
	ActingFor     *string         `json:"acting_for"`     // on whose behalf the actor acted
	SchemaVersion *string         `json:"schema_version"` // of the application, as it says
	CDCSource     *string         `json:"cdc_source"`     // which way the change came into the log, as its producer says

	UpdatedFields []string        `json:"updated_fields"` // null when the producer named none
	CommitTime    Time            `json:"commit_time"`    // from the Begin message: the true one
	LSN           LSN             `json:"lsn"`            // of the commit, as in Position
	TraceContext  json.RawMessage `json:"trace_context"`  // W3C trace context of the transaction

	// UnchangedFields are large columns of a directly captured table that an UPDATE left as they were, and whose values
	// PostgreSQL therefore did not write down: data lacks them. It is the one key that is only there when it says something.
	UnchangedFields []string `json:"unchanged_fields,omitempty"`

	// PK is the change log's pk_entity_change_log, 0 for an event without a row there. With ID it identifies the
	// event: the change log's id has no unique index. It is not part of the JSON.
	PK int64 `json:"-"`
	// TxIndex is the event's index within its transaction (see Position). It is not part of the JSON.
	TxIndex int64 `json:"-"`
}

// Position is the event's place in commit order.
func (e *Event) Position() Position { return Position{LSN: e.LSN, Index: e.TxIndex} }

// Day is the UTC date of the event's timestamp: the partition of weir.event that holds it.
func (e *Event) Day() time.Time {
	return time.Time(e.Timestamp).UTC().Truncate(24 * time.Hour)
}

// anyJSON takes for valid what encoding/json does, which needs longer to find out.
var anyJSON = jsonv2.JoinOptions(jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))

// Parse reads what JSON wrote. PK and TxIndex are not part of it: the caller has them.
func Parse(raw []byte) (*Event, error) {
	var e Event
	if err := jsonv2.Unmarshal(raw, &e, anyJSON); err != nil {
		return nil, fmt.Errorf("decode event: %w", err)
	}
	return &e, nil
}

// Time is an instant, written in RFC 3339 with microseconds in UTC as FraiseQL does.
type Time time.Time

const timeLayout = "2006-01-02T15:04:05.999999Z07:00"

// String is the RFC 3339 form, "" for the zero time.
func (t Time) String() string {
	if time.Time(t).IsZero() {
		return ""
	}
	return time.Time(t).UTC().Format(timeLayout)
}

// MarshalJSON writes the RFC 3339 form; the zero time is null.
func (t Time) MarshalJSON() ([]byte, error) {
	if time.Time(t).IsZero() {
		return []byte("null"), nil
	}
	return json.Marshal(t.String())
}

// UnmarshalJSON reads RFC 3339, to the microsecond, or null.
func (t *Time) UnmarshalJSON(raw []byte) error {
	var std time.Time // null leaves it as it is
	if err := json.Unmarshal(raw, &std); err != nil {
		return err
	}
	std = std.UTC().Truncate(time.Microsecond)
	if year := std.Year(); year < 0 || year > 9999 { // in its own zone it may have been within
		return fmt.Errorf("the year of %s is not of four digits in UTC", raw)
	}
	*t = Time(std)
	return nil
}

func orDefault(raw json.RawMessage, def string) json.RawMessage {
	if len(raw) == 0 {
		return json.RawMessage(def)
	}
	return raw
}
