package event

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

func TestRead(t *testing.T) {
	t.Parallel()
	e, unknown, err := Read([]byte(` {"event_type": "UPDATE", "entity_type": "Order", "ENTITY_ID": "x", "totl": 1,
		"data": {"total": 100.10, "big": 9007199254740993123}, "seq": 9007199254740993, "updated_fields": ["total"]} `))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(unknown, []string{"ENTITY_ID", "totl"}) || e.EntityID != "" {
		t.Errorf("unknown %v, entity_id %s", unknown, e.EntityID)
	}
	if string(e.Data) != `{"total":100.10,"big":9007199254740993123}` || *e.Seq != 9007199254740993 || string(e.Changes) != "null" {
		t.Errorf("got %+v", e)
	}
	// What JSON writes is read back whole.
	raw, err := e.JSON()
	if err != nil {
		t.Fatal(err)
	}
	again, unknown, err := Read(raw)
	if err != nil || len(unknown) != 0 {
		t.Fatalf("%v, unknown %v", err, unknown)
	}
	if second, err := again.JSON(); err != nil || !bytes.Equal(second, raw) {
		t.Errorf("%v\ngot  %s\nwant %s", err, second, raw)
	}
}

func TestReadRefuses(t *testing.T) {
	t.Parallel()
	with := func(more string) string { return `{"event_type": "INSERT", "entity_type": "Order", ` + more + `}` }
	for text, want := range map[string]string{
		"":                                 "there is nothing",
		"[]":                               "expected an event",
		"x":                                "expected an event",
		`{"event_type": "INSERT"`:          "no JSON at byte 23: unexpected EOF",
		`{"event_type": INSERT}`:           "no JSON at byte",
		`{"event_type": "INSERT"}`:         "entity_type is missing",
		`{"entity_type": "Order"}`:         `event_type is "": expected INSERT`,
		`{"event_type": "insert"}`:         `event_type is "insert": expected INSERT`,
		with(`"data": {}`) + "{}":          "something stands behind",
		with(`"data": {}, "data": {}`):     "data is written twice",
		with(`"data": []`):                 "data is no object",
		with(`"changes": 1`):               "changes is no object",
		with(`"entity_id": 7`):             "entity_id: expected text, found number",
		with(`"seq": "7"`):                 "seq: expected a whole number, found string",
		with(`"updated_fields": "status"`): "updated_fields: expected a list, found string",
		with(`"id": "7"`):                  "id: ",
		with(`"timestamp": "yesterday"`):   "timestamp: ",
		with(`"lsn": "x"`):                 "lsn: ",
	} {
		if _, _, err := Read([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", text, err, want)
		}
	}
}
