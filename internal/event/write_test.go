package event_test

import (
	"bytes"
	"encoding/json"
	"reflect"
	"testing"

	"github.com/fraiseql/weir/internal/event"
)

// encoded is what encoding/json writes of the event, which is what the struct's tags say.
func encoded(t *testing.T, e event.Event) string {
	t.Helper()
	for raw, otherwise := range map[*json.RawMessage]string{&e.Data: "{}", &e.Changes: "null", &e.TraceContext: "null"} {
		if len(*raw) == 0 {
			*raw = json.RawMessage(otherwise)
		}
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(&e); err != nil {
		t.Fatal(err)
	}
	return string(bytes.TrimSuffix(buf.Bytes(), []byte("\n")))
}

// FuzzJSON holds what is written key by key against what encoding/json makes of the struct's tags.
func FuzzJSON(f *testing.F) {
	f.Add("Order", `{"a": [1, 2.50, "x \" y \\"], "\\\\": {"b" : null}}`, "tenant")
	f.Add("Ördér\u2028 \"q\" <b>&\x01\xff", " \n[ ]\t", "\\")
	f.Add("", `"\\\""`, "")
	f.Fuzz(func(t *testing.T, text, raw, other string) {
		e := *full()
		e.EntityType, e.EntityID, e.UserID = text, other, &text
		e.UpdatedFields, e.UnchangedFields = []string{text, other}, []string{other}
		if json.Valid([]byte(raw)) {
			e.Data, e.Changes, e.TraceContext = json.RawMessage(raw), json.RawMessage(raw), json.RawMessage(raw)
		}
		got, err := e.JSON()
		if err != nil {
			t.Fatal(err)
		}
		if want := encoded(t, e); string(got) != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		parsed, err := event.Parse(got)
		if err != nil {
			t.Fatal(err)
		}
		var decoded event.Event
		if err := json.Unmarshal(got, &decoded); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(parsed, &decoded) {
			t.Errorf("parsed  %+v\ndecoded %+v", parsed, &decoded)
		}
	})
}

func TestJSONOfAnEmptyEvent(t *testing.T) {
	t.Parallel()
	var e event.Event
	got, err := e.JSON()
	if err != nil {
		t.Fatal(err)
	}
	if want := encoded(t, e); string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func BenchmarkJSON(b *testing.B) {
	e := full()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := e.JSON(); err != nil {
			b.Fatal(err)
		}
	}
}
