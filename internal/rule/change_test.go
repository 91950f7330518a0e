package rule_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/fraiseql/weir/internal/event"
)

func TestFieldChanged(t *testing.T) {
	t.Parallel()
	update := func(changes string, updated ...string) *event.Event {
		return &event.Event{
			Type: event.Update, Data: json.RawMessage(`{"status": "shipped", "total": 100, "ok": true, "text": "100", "note": null}`),
			Changes: json.RawMessage(changes), UpdatedFields: updated,
		}
	}
	before := update(`{"status": {"old": "paid", "new": "shipped"}, "total": {"old": 99.50, "new": 100},
		"ok": {"old": false, "new": true}, "text": {"old": "99", "new": "100"}, "note": {"old": "x", "new": null}}`)
	names := update("null", "status", "total", "ok", "note")
	nothing := update("null")
	tests := []struct {
		source string
		e      *event.Event
		want   bool
		err    string
	}{
		{"field_changed('status')", before, true, ""},
		{"field_changed('other')", before, false, ""},
		{"field_changed('status')", update("{}", "status"), false, ""}, // tracked, and nothing changed
		{"field_changed_to('status', 'shipped')", before, true, ""},
		{"field_changed_to('status', 'paid')", before, false, ""},
		{"field_changed_to('other', 'paid')", before, false, ""},
		{"field_changed_from('status', 'paid')", before, true, ""},
		{"field_changed_from('status', 'shipped')", before, false, ""},
		{"field_changed_to('total', 100)", before, true, ""},
		{"field_changed_to('total', 100.00)", before, true, ""},
		{"field_changed_to('total', '100')", before, true, ""},
		{"field_changed_to('total', '100.0')", before, true, ""},
		{"field_changed_to('total', '101')", before, false, ""},
		{"field_changed_to('total', 'abc')", before, false, ""},
		{"field_changed_from('total', 99.5)", before, true, ""},
		{"field_changed_to('ok', true)", before, true, ""},
		{"field_changed_to('ok', 'true')", before, true, ""},
		{"field_changed_to('ok', 'false')", before, false, ""},
		{"field_changed_to('ok', 1)", before, false, ""},
		{"field_changed_to('text', '100')", before, true, ""},
		{"field_changed_to('text', 100)", before, false, ""},
		{"field_changed_to('note', null)", before, true, ""},
		{"field_changed_to('note', 'null')", before, true, ""},
		{"field_changed_to('status', data.status)", before, true, ""},
		{"field_changed('status')", names, true, ""},
		{"field_changed('text')", names, false, ""},
		{"field_changed_to('status', 'shipped')", names, true, ""},
		{"field_changed_to('status', 'paid')", names, false, ""},
		{"field_changed_to('total', '100')", names, true, ""},
		{"field_changed_to('text', '100')", names, false, ""},
		{"field_changed_from('text', 'x')", names, false, ""},
		{"field_changed_from('status', 'paid')", names, false, "no before-image (changes is null), so the old value of \"status\" is not known"},
		{"field_changed_to('gone', 1)", update("null", "gone"), false, `data has no key "gone"`},
		{"field_changed('status')", nothing, false, "neither a before-image (changes) nor updated_fields"},
		{"field_changed_to('status', 'shipped')", nothing, false, "neither a before-image"},
		{"field_changed_from('status', 'shipped')", nothing, false, "neither a before-image"},
		{"field_changed('status')", update("[]"), false, "is a list, not an object"},
		{"field_changed('status')", update(`{"status": 1}`), false, "not {old, new}"},
		{"field_changed('status')", update(`{`), false, "changes of the event is not valid JSON"},
	}
	for _, tt := range tests {
		got, err := eval(t, tt.source, tt.e)
		if got != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s with changes %s and %v: got %v, %v; want %v, %q",
				tt.source, tt.e.Changes, tt.e.UpdatedFields, got, err, tt.want, tt.err)
		}
	}
	for _, typ := range []event.Type{event.Insert, event.Delete, event.Custom} {
		e := *before
		e.Type = typ
		for _, source := range []string{
			"field_changed('status')", "field_changed_to('status', 'shipped')", "field_changed_from('status', 'paid')",
		} {
			if got, err := eval(t, source, &e); got || err != nil {
				t.Errorf("%s on %s: got %v, %v; want false", source, typ, got, err)
			}
		}
	}
}
