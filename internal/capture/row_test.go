package capture

import (
	"strings"
	"testing"
	"time"

	"github.com/fraiseql/weir/internal/event"
)

func goodRow() row {
	return row{
		pk: []byte("7"), id: []byte("0b8f0a52-6a5e-4a57-9d55-cd3ac0a4fb0a"), objectType: []byte("Order"), verb: []byte("update"),
		objectID: []byte("6a5e4a57-0b8f-4a52-9d55-cd3ac0a4fb0a"), data: []byte(`{"n": 9007199254740993123, "total": 100.10}`),
		before: []byte(`{"n": 9007199254740993123, "total": 99}`), createdAt: []byte("2026-11-23 10:11:12.123456+00"),
	}
}

var someTime = time.Date(2026, 11, 23, 10, 11, 13, 0, time.UTC)

func TestRowBecomesEvent(t *testing.T) {
	t.Parallel()
	r := goodRow()
	r.updatedFields, r.contact, r.seq = []byte(`{total,"a b"}`), []byte("42"), []byte("9007199254740993123")
	r.extra = []byte(`{"cdc_source": "fallback_trigger"}`)
	r.traceContext = []byte(`{"trace_id": "4bf92f3577b34da6a3ce929d0e0e4736"}`)
	c := r.change(event.Position{LSN: 0x16B374D848, Index: 3}, someTime)
	if c.Reason != "" {
		t.Fatal(c.Reason)
	}
	raw, err := c.JSON()
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"id":"0b8f0a52-6a5e-4a57-9d55-cd3ac0a4fb0a","event_type":"UPDATE","entity_type":"Order",` +
		`"entity_id":"6a5e4a57-0b8f-4a52-9d55-cd3ac0a4fb0a","data":{"n":9007199254740993123,"total":100.10},` +
		`"changes":{"total":{"old":99,"new":100.10}},"user_id":"42","tenant_id":null,` +
		`"timestamp":"2026-11-23T10:11:12.123456Z","duration_ms":null,"seq":9007199254740993123,"actor_type":null,` +
		`"acting_for":null,"schema_version":null,"cdc_source":"fallback_trigger","updated_fields":["total","a b"],` +
		`"commit_time":"2026-11-23T10:11:13Z","lsn":"16/B374D848",` +
		`"trace_context":{"trace_id":"4bf92f3577b34da6a3ce929d0e0e4736"}}`
	if string(raw) != want {
		t.Errorf("got  %s\nwant %s", raw, want)
	}
}

func TestRowImages(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		verb, data, before string
		wantData, wantDiff string
	}{
		"insert":                     {"INSERT", `{"a": 1}`, "", `{"a": 1}`, ""},
		"update without before":      {"UPDATE", `{"a": 1}`, "", `{"a": 1}`, ""},
		"update, nothing changed":    {"UPDATE", `{"a": 1}`, `{"a": 1}`, `{"a": 1}`, "{}"},
		"update, key added and gone": {"UPDATE", `{"a": 1}`, `{"b": 2}`, `{"a": 1}`, `{"a":{"old":null,"new":1},"b":{"old":2,"new":null}}`},
		"delete with before":         {"DELETE", "", `{"a": 1}`, `{"a": 1}`, ""},
		"delete without before":      {"DELETE", "", "", "{}", ""},
		"noop":                       {"noop", "", "", "{}", ""},
		"JSON null":                  {"READ", "null", "", "{}", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := goodRow()
			r.verb, r.data, r.before = []byte(tc.verb), nullable(tc.data), nullable(tc.before)
			c := r.change(event.Position{}, someTime)
			if c.Reason != "" || string(c.Data) != tc.wantData || string(c.Changes) != tc.wantDiff {
				t.Errorf("data %s, changes %s, reason %q; want data %s, changes %s", c.Data, c.Changes, c.Reason, tc.wantData, tc.wantDiff)
			}
		})
	}
}

func nullable(s string) []byte {
	if s == "" {
		return nil
	}
	return []byte(s)
}

func TestRowThatIsNoEvent(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		spoil func(*row)
		want  string
	}{
		"unknown verb":       {func(r *row) { r.verb = []byte("UPSERT") }, `unknown modification_type "UPSERT"`},
		"no object_id":       {func(r *row) { r.objectID = nil }, "object_id is NULL"},
		"no object_type":     {func(r *row) { r.objectType = nil }, "object_type is empty"},
		"broken JSON":        {func(r *row) { r.data = []byte(`{"a":`) }, "object_data is not JSON"},
		"infinite timestamp": {func(r *row) { r.createdAt = []byte("infinity") }, "created_at"},
		"list as an image":   {func(r *row) { r.before = []byte(`[1]`) }, "before-image is not an object"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := goodRow()
			tc.spoil(&r)
			c := r.change(event.Position{LSN: 1, Index: 2}, someTime)
			if !strings.Contains(c.Reason, tc.want) {
				t.Errorf("reason %q, want %q in it", c.Reason, tc.want)
			}
			if c.PK != 7 || c.ID.String() != string(r.id) || c.TxIndex != 2 || c.Day().IsZero() {
				t.Errorf("a dead letter must name its row: %+v", c.Event)
			}
		})
	}
}

func TestCustomNeedsNoEntity(t *testing.T) {
	t.Parallel()
	r := goodRow()
	r.verb, r.objectID = []byte("custom"), nil
	if c := r.change(event.Position{}, someTime); c.Reason != "" || c.EntityID != "" {
		t.Errorf("got %q, entity id %q", c.Reason, c.EntityID)
	}
}

// A heartbeat that is sent again must not move the checkpoint back to it.
func TestHeartbeatIsNewsOnlyAfterTheCheckpoint(t *testing.T) {
	t.Parallel()
	message := append([]byte{'M', 1}, make([]byte, 8)...)
	message = append(message, heartbeatPrefix+"\x00\x00\x00\x00\x00"...)
	for _, tc := range []struct {
		after event.Position
		want  bool
	}{
		{event.Position{LSN: 10}, true},
		{event.Position{LSN: 20, Index: 2}, true},
		{event.Position{LSN: 20, Index: 3}, false},
		{event.Position{LSN: 30}, false},
	} {
		d := newDecoder(Config{}.WithDefaults(), timelines{system: "1", now: 1}, nil)
		d.pos = event.Position{LSN: 20, Index: 2}
		got, err := d.decode(message, tc.after)
		if err != nil || got.heartbeat != tc.want || d.pos.Index != 3 {
			t.Errorf("after %s: %+v at %s, %v", tc.after, got, d.pos, err)
		}
	}
}
