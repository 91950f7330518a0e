package event_test

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/fraiseql/weir/internal/event"
)

// full is an event in which every field says something.
func full() *event.Event {
	return &event.Event{
		ID: uuid.MustParse("5f0c8a52-7c1e-4b7e-9a39-0d6f3c1b2a41"), Type: event.Update, EntityType: "Order", EntityID: "42",
		Data:    json.RawMessage(`{"total": 100.10, "n": 9007199254740993123, "tiny": 1e-400, "html": "<a & b>"}`),
		Changes: json.RawMessage(`{"total":{"old":100.1,"new":100.10}}`),
		UserID:  ptr("17"), TenantID: ptr("b6f9f6c8-3c86-4a4e-8ad6-4d2b9a2a9a10"),
		Timestamp:  at("2026-03-01T00:30:00.123456+02:00"),
		DurationMS: ptr[int64](12), Seq: ptr[int64](9007199254740993), ActorType: ptr("human_user"),
		ActingFor: ptr("7d0b6f0e-0d53-4a35-8a9c-5b1d1f1c2b3a"), SchemaVersion: ptr("v7"), CDCSource: ptr("trigger"),
		UpdatedFields: []string{"total"}, CommitTime: at("2026-02-28T22:30:01Z"), LSN: 0x16B374D848,
		TraceContext: json.RawMessage(`{"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}`),
		PK:           77, TxIndex: 3,
	}
}

func ptr[T any](v T) *T { return &v }

func at(s string) event.Time {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		panic(err)
	}
	return event.Time(t)
}

// The keys, their order and their forms are the contract with receivers: a change here breaks them.
func TestJSONIsTheContract(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		event *event.Event
		want  string
	}{
		"full": {full(), `{
			"id":"5f0c8a52-7c1e-4b7e-9a39-0d6f3c1b2a41",
			"event_type":"UPDATE",
			"entity_type":"Order",
			"entity_id":"42",
			"data":{"total":100.10,"n":9007199254740993123,"tiny":1e-400,"html":"<a & b>"},
			"changes":{"total":{"old":100.1,"new":100.10}},
			"user_id":"17",
			"tenant_id":"b6f9f6c8-3c86-4a4e-8ad6-4d2b9a2a9a10",
			"timestamp":"2026-02-28T22:30:00.123456Z",
			"duration_ms":12,
			"seq":9007199254740993,
			"actor_type":"human_user",
			"acting_for":"7d0b6f0e-0d53-4a35-8a9c-5b1d1f1c2b3a",
			"schema_version":"v7",
			"cdc_source":"trigger",
			"updated_fields":["total"],
			"commit_time":"2026-02-28T22:30:01Z",
			"lsn":"16/B374D848",
			"trace_context":{"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
		}`},
		"empty: every key is there": {&event.Event{PK: 1, TxIndex: 1}, `{
			"id":"00000000-0000-0000-0000-000000000000",
			"event_type":"",
			"entity_type":"",
			"entity_id":"",
			"data":{},
			"changes":null,
			"user_id":null,
			"tenant_id":null,
			"timestamp":null,
			"duration_ms":null,
			"seq":null,
			"actor_type":null,
			"acting_for":null,
			"schema_version":null,
			"cdc_source":null,
			"updated_fields":null,
			"commit_time":null,
			"lsn":"0/0",
			"trace_context":null
		}`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := tt.event.JSON()
			want := strings.NewReplacer("\n", "", "\t", "").Replace(tt.want)
			if err != nil || string(got) != want {
				t.Errorf("%v\n got %s\nwant %s", err, got, want)
			}
		})
	}
}

// null says that there was no before-image, {} that nothing changed; the same for a list of fields that is empty.
func TestNullIsNotEmpty(t *testing.T) {
	t.Parallel()
	e := full()
	e.Changes, e.UpdatedFields = json.RawMessage("{}"), []string{}
	if got := values(t, e); got["changes"] != "{}" || got["updated_fields"] != "[]" {
		t.Errorf("nothing changed: changes %s, updated_fields %s", got["changes"], got["updated_fields"])
	}
	e.Changes, e.UpdatedFields = nil, nil
	if got := values(t, e); got["changes"] != "null" || got["updated_fields"] != "null" {
		t.Errorf("not known: changes %s, updated_fields %s", got["changes"], got["updated_fields"])
	}
}

// values is the event's JSON by key.
func values(t *testing.T, e *event.Event) map[string]string {
	t.Helper()
	raw, err := e.JSON()
	if err != nil {
		t.Fatal(err)
	}
	var parsed map[string]json.RawMessage
	if err := json.Unmarshal(raw, &parsed); err != nil {
		t.Fatal(err)
	}
	got := make(map[string]string, len(parsed))
	for key, value := range parsed {
		got[key] = string(value)
	}
	return got
}

// JSON must not change the event: it is shared by the deliveries that run at the same time.
func TestJSONLeavesTheEventAlone(t *testing.T) {
	t.Parallel()
	e := &event.Event{}
	if _, err := e.JSON(); err != nil || e.Data != nil || e.Changes != nil || e.TraceContext != nil {
		t.Errorf("data %s, changes %s, trace_context %s, %v", e.Data, e.Changes, e.TraceContext, err)
	}
}

func TestJSONRefusesBrokenData(t *testing.T) {
	t.Parallel()
	e := full()
	e.Data = json.RawMessage(`{"a":`)
	if got, err := e.JSON(); err == nil || !strings.Contains(err.Error(), e.ID.String()) {
		t.Errorf("got %s, %v; want an error that names the event", got, err)
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	want := full()
	raw, err := want.JSON()
	if err != nil {
		t.Fatal(err)
	}
	got, err := event.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	want.PK, want.TxIndex = 0, 0 // not part of the JSON
	want.Data = json.RawMessage(strings.ReplaceAll(string(want.Data), `": `, `":`))
	want.Data = json.RawMessage(strings.ReplaceAll(string(want.Data), `, "`, `,"`))
	want.Timestamp, want.CommitTime = at(want.Timestamp.String()), at(want.CommitTime.String()) // in UTC
	if !reflect.DeepEqual(got, want) {
		t.Errorf(" got %+v\nwant %+v", got, want)
	}
	for _, text := range []string{
		``, `[]`, `{"id":"no uuid"}`, `{"lsn":"16"}`, `{"lsn":5}`, `{"lsn":null}`, `{"timestamp":"yesterday"}`,
		`{"timestamp":"0000-01-01T00:00:00+01:00"}`, `{"timestamp":"9999-12-31T23:59:59-01:00"}`, `{"seq":1.5}`, `{"entity_id":1}`,
	} {
		if got, err := event.Parse([]byte(text)); err == nil {
			t.Errorf("%s is accepted as %+v", text, got)
		}
	}
}

// The day is UTC's, whatever the zone of the timestamp: it names the partition.
func TestDay(t *testing.T) {
	t.Parallel()
	for timestamp, want := range map[string]string{
		"2026-03-01T00:30:00+02:00": "2026-02-28", "2026-02-28T23:30:00-02:00": "2026-03-01",
		"2026-03-01T00:00:00Z": "2026-03-01", "2026-02-28T23:59:59.999999Z": "2026-02-28", "1969-12-31T12:00:00Z": "1969-12-31",
	} {
		e := event.Event{Timestamp: at(timestamp)}
		day, err := time.Parse(time.DateOnly, want)
		if err != nil {
			t.Fatal(err)
		}
		if got := e.Day(); got != day { // ==: days are parts of keys
			t.Errorf("%s is of %s, want %s", timestamp, got, want)
		}
	}
}

func TestTimeIsWrittenInMicroseconds(t *testing.T) {
	t.Parallel()
	for from, want := range map[string]string{
		"2026-02-28T22:30:00Z":                "2026-02-28T22:30:00Z",
		"2026-02-28T22:30:00.1234567Z":        "2026-02-28T22:30:00.123456Z",
		"2026-02-28T22:30:00.120+05:30":       "2026-02-28T17:00:00.12Z",
		"0099-01-01T00:00:00Z":                "0099-01-01T00:00:00Z",
		"2026-02-28T22:30:00.000000999+00:00": "2026-02-28T22:30:00Z",
	} {
		raw, err := json.Marshal(at(from))
		if err != nil || string(raw) != `"`+want+`"` {
			t.Errorf("%s: got %s, %v; want %s", from, raw, err, want)
		}
	}
	if got := (event.Time{}).String(); got != "" {
		t.Errorf("the zero time is %q", got)
	}
}

// FuzzParse: what JSON writes of anything that was read, is read as the same and written the same again.
func FuzzParse(f *testing.F) {
	raw, err := full().JSON()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte(`{}`))
	f.Add([]byte(`{"data":{"a":1e999,"b":-0.00,"c":"\ud800"},"changes":{},"updated_fields":["\u2028<>&",""],"lsn":"FFFFFFFF/FFFFFFFF"}`))
	f.Add([]byte(`{"timestamp":"0001-01-01T00:00:00.0000001Z","commit_time":"9999-12-31T23:59:59.999999+00:00","lsn":"0/1"}`))
	f.Add([]byte(`{"id":"{5f0c8a52-7c1e-4b7e-9a39-0d6f3c1b2a41}","seq":-9223372036854775808,"duration_ms":null,"user_id":""}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		e, err := event.Parse(raw)
		if err != nil {
			return
		}
		first, err := e.JSON()
		if err != nil {
			t.Fatalf("%q cannot be written: %v", raw, err)
		}
		again, err := event.Parse(first)
		if err != nil {
			t.Fatalf("%s cannot be read: %v", first, err)
		}
		second, err := again.JSON()
		if err != nil || !bytes.Equal(second, first) {
			t.Errorf("%v\n%s\nbecame\n%s", err, first, second)
		}
		if again.Day() != e.Day() || again.Position() != e.Position() {
			t.Errorf("day %s, position %s became %s, %s", e.Day(), e.Position(), again.Day(), again.Position())
		}
	})
}
