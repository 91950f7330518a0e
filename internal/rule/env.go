package rule

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"unicode/utf8"

	"github.com/expr-lang/expr/vm"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/fraiseql/weir/internal/event"
)

// Env is one event as conditions and templates see it. Its JSON is decoded when it is first needed, and then once for
// all conditions and templates. An Env is not safe for concurrent use: make one for each goroutine.
type Env struct {
	event   *event.Event
	data    lazy
	changes lazy
	trace   lazy
	looks   int // how often a key was looked for in data without decoding all of it
	machine vm.VM
	credit  int
}

// NewEnv prepares an event. It must not be modified while the Env is used.
func NewEnv(e *event.Event) *Env { return &Env{event: e} }

// lazy is a JSON value that is decoded at most once.
type lazy struct {
	done  bool
	value any
	err   error
}

func (l *lazy) get(name string, raw []byte, empty any) (any, error) {
	if !l.done {
		l.done = true
		l.value = empty
		if len(raw) > 0 {
			if l.value, l.err = decodeJSON(raw); l.err != nil {
				l.err = fmt.Errorf("%s of the event is not valid JSON: %w", name, l.err)
			}
		}
	}
	return l.value, l.err
}

// What an evaluation may cost: a byte of text or a digit that is looked at or made costs 1, an element of a list
// elementCost, preparing a number for computing decimalCost, a step of a loop stepCost. The limit is less than a second
// of work, far above what an honest expression needs for the largest event.
const (
	maxCost     = 64 << 20
	elementCost = 16
	decimalCost = 64
	stepCost    = 256
)

var errTooExpensive = errors.New("this costs more than an expression may: simplify it")

func (e *Env) spend(cost int) error {
	if cost > e.credit {
		e.credit = 0
		return errTooExpensive
	}
	e.credit -= cost
	return nil
}

// fieldKind says whether name is a field of the event, and of which kind it is when it is not null.
func fieldKind(name string) (kind, bool) {
	switch name {
	case "id", "event_type", "entity_type", "entity_id", "user_id", "tenant_id", "timestamp", "actor_type",
		"acting_for", "schema_version", "cdc_source", "commit_time", "lsn":
		return kindString, true
	case "duration_ms", "seq":
		return kindNumber, true
	case "updated_fields", "unchanged_fields":
		return kindList, true
	case "data", "changes", "trace_context":
		return kindAny, true
	default:
		return kindAny, false
	}
}

// fieldNames are the fields of the event, for suggestions.
var fieldNames = []string{
	"id", "event_type", "entity_type", "entity_id", "data", "changes", "user_id", "tenant_id", "timestamp",
	"duration_ms", "seq", "actor_type", "acting_for", "schema_version", "cdc_source", "updated_fields", "commit_time",
	"lsn", "trace_context", "unchanged_fields",
}

// field is the value of a field of the event.
func (e *Env) field(name string) (any, error) {
	ev := e.event
	switch name {
	case "id":
		return ev.ID.String(), nil
	case "event_type":
		return string(ev.Type), nil
	case "entity_type":
		return ev.EntityType, nil
	case "entity_id":
		return ev.EntityID, nil
	case "data":
		return e.data.get("data", ev.Data, map[string]any{})
	case "changes":
		return e.changes.get("changes", ev.Changes, nil)
	case "trace_context":
		return e.trace.get("trace_context", ev.TraceContext, nil)
	case "user_id":
		return orNull(ev.UserID), nil
	case "tenant_id":
		return orNull(ev.TenantID), nil
	case "actor_type":
		return orNull(ev.ActorType), nil
	case "acting_for":
		return orNull(ev.ActingFor), nil
	case "schema_version":
		return orNull(ev.SchemaVersion), nil
	case "cdc_source":
		return orNull(ev.CDCSource), nil
	case "timestamp":
		return timeOrNull(ev.Timestamp), nil
	case "commit_time":
		return timeOrNull(ev.CommitTime), nil
	case "lsn":
		return ev.LSN.String(), nil
	case "duration_ms":
		return intOrNull(ev.DurationMS), nil
	case "seq":
		return intOrNull(ev.Seq), nil
	case "updated_fields":
		return listOrNull(ev.UpdatedFields), nil
	case "unchanged_fields":
		return listOrNull(ev.UnchangedFields), nil
	default:
		return nil, fmt.Errorf("the event has no field %q", name)
	}
}

func orNull(s *string) any {
	if s == nil {
		return nil
	}
	return *s
}

func intOrNull(n *int64) any {
	if n == nil {
		return nil
	}
	return int(*n)
}

func timeOrNull(t event.Time) any {
	if s := t.String(); s != "" {
		return s
	}
	return nil
}

func listOrNull(texts []string) any {
	if texts == nil {
		return nil
	}
	list := make([]any, len(texts))
	for i, s := range texts {
		list[i] = s
	}
	return list
}

// object is data as an object.
func (e *Env) object() (map[string]any, error) {
	data, err := e.field("data")
	if err != nil {
		return nil, err
	}
	if object, ok := data.(map[string]any); ok {
		return object, nil
	}
	return nil, fmt.Errorf("data is %s, not an object: it has no keys", kindOf(data))
}

// look is a top-level key of data, while data is not decoded: most conditions want one or two keys of a document. It returns
// false where that says nothing, also of what is no object or not valid, or has no such key.
func (e *Env) look(name string) (value any, ok bool) {
	const most = 2 // more are found sooner in what is decoded once
	if e.data.done || e.looks == most {
		return nil, false
	}
	e.looks++
	dec, done := newDecoder(e.event.Data)
	defer done()
	if t, err := dec.ReadToken(); err != nil || t.Kind() != '{' {
		return nil, false
	}
	for dec.PeekKind() == '"' {
		key, err := dec.ReadValue()
		if err != nil {
			return nil, false
		}
		if !spells(key, name) {
			err = dec.SkipValue()
		} else if value, err = decodeValue(dec); err == nil {
			ok = true // and go on: the last one counts
		}
		if err != nil {
			return nil, false
		}
	}
	if _, err := dec.ReadToken(); err != nil || !ended(dec) {
		return nil, false
	}
	return value, ok
}

// spells says that a JSON string is the text.
func spells(quoted jsontext.Value, text string) bool {
	if bytes.IndexByte(quoted, '\\') >= 0 || !utf8.Valid(quoted) {
		unquoted, _ := jsontext.AppendUnquote(nil, quoted) // what is not valid is replaced, as ReadToken does
		return string(unquoted) == text
	}
	return string(quoted[1:len(quoted)-1]) == text
}

// key is a top-level key of data.
func (e *Env) key(name string) (any, error) {
	if v, ok := e.look(name); ok {
		return v, nil
	}
	object, err := e.object()
	if err != nil {
		return nil, err
	}
	v, ok := object[name]
	if !ok && slices.Contains(e.event.UnchangedFields, name) {
		return nil, fmt.Errorf("data has no %q: it is large and was not changed, so PostgreSQL did not write it down; with "+
			"ALTER TABLE … REPLICA IDENTITY FULL it does", name)
	}
	if !ok {
		return nil, fmt.Errorf("data has no key %q%s; has_field('%s') asks without an error",
			name, suggestion(name, object, fieldNames), name)
	}
	return v, nil
}

// suggestion is ` (did you mean "…"?)` when something that exists is spelt nearly alike, else "".
func suggestion[V any](name string, keys map[string]V, more []string) string {
	best, least := "", min(3, 1+len(name)/3) // a short name has too many neighbors
	for _, candidate := range slices.Concat(slices.Sorted(maps.Keys(keys)), more) {
		if d := distance(name, candidate, least); d < least {
			best, least = candidate, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean %q?)", best)
}

// distance is the number of characters to add, remove or change to make a into b, or limit if it is not less.
func distance(a, b string, limit int) int {
	x, y := []rune(a), []rune(b)
	if d := len(x) - len(y); d >= limit || -d >= limit {
		return limit
	}
	row := make([]int, len(y)+1)
	for j := range row {
		row[j] = j
	}
	for i := range x {
		diagonal := row[0]
		row[0] = i + 1
		for j := range y {
			changed := diagonal
			if x[i] != y[j] {
				changed++
			}
			diagonal = row[j+1]
			row[j+1] = min(changed, row[j]+1, diagonal+1)
		}
	}
	return min(row[len(y)], limit)
}
