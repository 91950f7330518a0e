package capture

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/fraiseql/weir/internal/event"
)

// row is a change-log row in PostgreSQL's text form, from the WAL or from a SELECT. A nil field is NULL.
type row struct {
	pk, id, objectType, verb, objectID  []byte
	data, before, updatedFields         []byte
	tenantID, contact, actor, actingFor []byte
	schemaVersion, traceContext         []byte
	durationMS, seq, extra, createdAt   []byte

	isJSON bool // the documents are, as their columns' types say: they need not be looked at again
}

// columns names the change log's columns that Weir reads and where each goes; others are tolerated and ignored.
var columns = []readColumn{
	{"pk_entity_change_log", true, func(r *row) *[]byte { return &r.pk }},
	{"id", true, func(r *row) *[]byte { return &r.id }},
	{"object_type", true, func(r *row) *[]byte { return &r.objectType }},
	{"modification_type", true, func(r *row) *[]byte { return &r.verb }},
	{"object_id", true, func(r *row) *[]byte { return &r.objectID }},
	{"object_data", true, func(r *row) *[]byte { return &r.data }},
	{"created_at", true, func(r *row) *[]byte { return &r.createdAt }},
	{"object_data_before", false, func(r *row) *[]byte { return &r.before }},
	{"updated_fields", false, func(r *row) *[]byte { return &r.updatedFields }},
	{"tenant_id", false, func(r *row) *[]byte { return &r.tenantID }},
	{"fk_contact", false, func(r *row) *[]byte { return &r.contact }},
	{"actor_type", false, func(r *row) *[]byte { return &r.actor }},
	{"acting_for", false, func(r *row) *[]byte { return &r.actingFor }},
	{"schema_version", false, func(r *row) *[]byte { return &r.schemaVersion }},
	{"trace_context", false, func(r *row) *[]byte { return &r.traceContext }},
	{"duration_ms", false, func(r *row) *[]byte { return &r.durationMS }},
	{"seq", false, func(r *row) *[]byte { return &r.seq }},
	{"extra_metadata", false, func(r *row) *[]byte { return &r.extra }},
}

type readColumn struct {
	name     string
	required bool
	field    func(*row) *[]byte
}

// fieldOf returns where a column goes, nil for one that Weir does not read.
func fieldOf(column string) func(*row) *[]byte {
	for _, c := range columns {
		if c.name == column {
			return c.field
		}
	}
	return nil
}

// change turns the row into an event, or into the reason why it is none. It fills what can be read in both cases.
func (r *row) change(pos event.Position, committed time.Time) event.Change {
	c := event.Change{Event: event.Event{
		LSN: pos.LSN, TxIndex: pos.Index, CommitTime: event.Time(committed),
		Timestamp: event.Time(committed), // until created_at is read: every change has a day
	}}
	if err := r.fill(&c.Event); err != nil {
		c.Reason = err.Error()
	}
	return c
}

// fill reads the row's identity first, so that a dead letter names the row whatever else is wrong with it.
func (r *row) fill(e *event.Event) error {
	e.EntityType = string(r.objectType)
	e.EntityID = string(r.objectID)
	if err := scan("pk_entity_change_log", r.pk, parseInt, &e.PK); err != nil {
		return err
	}
	if err := scan("id", r.id, parseUUID, &e.ID); err != nil {
		return err
	}
	if err := scan("created_at", r.createdAt, parseTime, &e.Timestamp); err != nil {
		return err
	}
	if r.pk == nil || r.id == nil || r.createdAt == nil {
		return fmt.Errorf("pk_entity_change_log, id or created_at is NULL: each row of the change log needs them")
	}
	typ, err := parseVerb(r.verb)
	if err != nil {
		return err
	}
	e.Type = typ
	if len(r.objectType) == 0 {
		return fmt.Errorf("object_type is empty: set it to the entity's type, as in Order")
	}
	if r.objectID == nil && typ != event.Custom {
		return fmt.Errorf("object_id is NULL: only a CUSTOM row may be without one")
	}
	return r.fillRest(e)
}

func (r *row) fillRest(e *event.Event) error {
	e.UserID, e.TenantID = str(r.contact), str(r.tenantID)
	e.ActorType, e.ActingFor, e.SchemaVersion = str(r.actor), str(r.actingFor), str(r.schemaVersion)
	var err error
	if e.DurationMS, err = optional("duration_ms", r.durationMS, parseInt); err != nil {
		return err
	}
	if e.Seq, err = optional("seq", r.seq, parseInt); err != nil {
		return err
	}
	if e.UpdatedFields, err = parseTextArray(r.updatedFields); err != nil {
		return fmt.Errorf("updated_fields: %w", err)
	}
	for _, doc := range []struct {
		name string
		raw  []byte
	}{
		{"object_data", r.data},
		{"object_data_before", r.before},
		{"trace_context", r.traceContext},
		{"extra_metadata", r.extra},
	} {
		if doc.raw != nil && !r.isJSON && !json.Valid(doc.raw) {
			return fmt.Errorf("%s is not JSON", doc.name)
		}
	}
	e.TraceContext = document(r.traceContext, "")
	e.CDCSource = cdcSource(r.extra)
	return r.fillImages(e)
}

// fillImages sets data and changes: the only fields whose meaning depends on the event's type.
func (r *row) fillImages(e *event.Event) error {
	e.Data = document(r.data, "{}")
	switch e.Type {
	case event.Delete:
		e.Data = document(r.before, "{}")
	case event.Update:
		if before := document(r.before, ""); before != nil {
			changes, err := diff(before, e.Data)
			if err != nil {
				return fmt.Errorf("compare object_data_before with object_data: %w", err)
			}
			e.Changes = changes
		}
	case event.Insert, event.Custom:
	}
	return nil
}

// document is the raw JSON, or the default for SQL's NULL and JSON's null.
func document(raw []byte, def string) json.RawMessage {
	if raw != nil && string(raw) != "null" {
		return raw
	}
	if def == "" {
		return nil
	}
	return json.RawMessage(def)
}

// diff compares the top-level keys of two documents. Both come from the same server's jsonb, whose text form is
// canonical but for the scale of numbers: 100.0 and 100.00 count as a change, as their digits do.
func diff(before, after []byte) (json.RawMessage, error) {
	var was, is map[string]json.RawMessage
	if err := json.Unmarshal(before, &was); err != nil {
		return nil, fmt.Errorf("the before-image is not an object")
	}
	if err := json.Unmarshal(after, &is); err != nil {
		return nil, fmt.Errorf("the after-image is not an object")
	}
	type pair struct {
		Old json.RawMessage `json:"old"`
		New json.RawMessage `json:"new"`
	}
	changed := map[string]pair{}
	for key, old := range was {
		if now, ok := is[key]; !ok || !bytes.Equal(old, now) {
			changed[key] = pair{old, now}
		}
	}
	for key, now := range is {
		if _, ok := was[key]; !ok {
			changed[key] = pair{nil, now}
		}
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(changed); err != nil {
		return nil, err
	}
	return bytes.TrimRight(buf.Bytes(), "\n"), nil
}

func cdcSource(extra []byte) *string {
	if !bytes.Contains(extra, []byte(`"cdc_source"`)) {
		return nil
	}
	var meta struct {
		CDCSource *string `json:"cdc_source"`
	}
	// A cdc_source that is no string, or metadata that is no object, says nothing about the source.
	if err := json.Unmarshal(extra, &meta); err != nil {
		return nil
	}
	return meta.CDCSource
}

func str(raw []byte) *string {
	if raw == nil {
		return nil
	}
	s := string(raw)
	return &s
}

func scan[T any](column string, raw []byte, parse func(string) (T, error), into *T) error {
	if raw == nil {
		return nil
	}
	v, err := parse(string(raw))
	if err != nil {
		return fmt.Errorf("%s: %w", column, err)
	}
	*into = v
	return nil
}

func optional[T any](column string, raw []byte, parse func(string) (T, error)) (*T, error) {
	if raw == nil {
		return nil, nil
	}
	var v T
	err := scan(column, raw, parse, &v)
	return &v, err
}

func parseVerb(raw []byte) (event.Type, error) {
	switch verb := strings.ToUpper(string(raw)); verb {
	case "INSERT", "UPDATE", "DELETE", "CUSTOM":
		return event.Type(verb), nil
	case "NOOP", "READ":
		return event.Custom, nil
	default:
		return "", fmt.Errorf("unknown modification_type %.40q: want INSERT, UPDATE, DELETE, CUSTOM, NOOP or READ", raw)
	}
}

func parseInt(s string) (int64, error) {
	v, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%.40q is not an integer", s)
	}
	return v, nil
}

func parseUUID(s string) (uuid.UUID, error) {
	v, err := uuid.Parse(s)
	if err != nil {
		return uuid.Nil, fmt.Errorf("%.40q is not a uuid", s)
	}
	return v, nil
}

// parseTime reads a timestamptz as the ISO DateStyle writes it in UTC, which both our connections ask for.
func parseTime(s string) (event.Time, error) {
	t, err := time.Parse("2006-01-02 15:04:05.999999999Z07", s)
	if err != nil {
		return event.Time{}, fmt.Errorf("%.40q is not a point in time", s)
	}
	return event.Time(t), nil
}

func parseTextArray(raw []byte) ([]string, error) {
	if raw == nil {
		return nil, nil
	}
	var elements []*string
	if err := pgtype.NewMap().Scan(pgtype.TextArrayOID, pgx.TextFormatCode, raw, &elements); err != nil {
		return nil, fmt.Errorf("%.40q is not an array of text", raw)
	}
	elements = slices.DeleteFunc(elements, func(s *string) bool { return s == nil })
	fields := make([]string, len(elements))
	for i, s := range elements {
		fields[i] = *s
	}
	return fields, nil
}
