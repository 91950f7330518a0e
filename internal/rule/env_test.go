package rule_test

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/rule"
)

func TestDataThatIsNoObject(t *testing.T) {
	t.Parallel()
	tests := []struct {
		data, source string
		want         bool
		err          string
	}{
		{"", "data == {}", true, ""},
		{"", "has_field('a')", false, ""},
		{"{}", "a == 1", false, `data has no key "a"`},
		{"[1]", "a == 1", false, "data is a list, not an object"},
		{"[1]", "data[0] == 1", true, ""},
		{"null", "data == null", true, ""},
		{"null", "a == 1", false, "data is null, not an object"},
		{`{"a": 1`, "a == 1", false, "data of the event is not valid JSON"},
		{`{"a": 1} x`, "a == 1", false, "data of the event is not valid JSON: there is more after the value"},
	}
	for _, tt := range tests {
		got, err := eval(t, tt.source, &event.Event{Data: json.RawMessage(tt.data)})
		if got != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s with %q: got %v, %v; want %v, %q", tt.source, tt.data, got, err, tt.want, tt.err)
		}
	}
}

// TestEveryFieldOfTheEventHasAName fails when the event's JSON gets a key that conditions do not know.
func TestEveryFieldOfTheEventHasAName(t *testing.T) {
	t.Parallel()
	e := order()
	e.Data = json.RawMessage(`{}`)
	raw, err := e.JSON()
	if err != nil {
		t.Fatal(err)
	}
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(raw, &keys); err != nil {
		t.Fatal(err)
	}
	env := rule.NewEnv(e)
	for key, want := range keys {
		tmpl, err := rule.CompileTemplate("{{ " + key + " }}")
		if err != nil {
			t.Fatal(err)
		}
		got, err := tmpl.JSON(env)
		if err != nil {
			t.Errorf("%s: %v", key, err)
			continue
		}
		var a, b any
		if json.Unmarshal(got, &a) != nil || json.Unmarshal(want, &b) != nil {
			t.Fatalf("%s: %s, %s", key, got, want)
		}
		if !reflect.DeepEqual(a, b) {
			t.Errorf("%s is %s to templates, %s in the event's JSON", key, got, want)
		}
	}
}

func TestConditionIsSafeForConcurrentUse(t *testing.T) {
	t.Parallel()
	c, err := rule.CompileCondition("status == 'shipped' && total > 100 && any(items, .qty > 1) && status matches '^s'")
	if err != nil {
		t.Fatal(err)
	}
	results := make(chan bool)
	for range 8 {
		go func() {
			env := rule.NewEnv(order())
			ok := true
			for range 50 {
				result, err := c.Eval(env)
				ok = ok && result && err == nil
			}
			results <- ok
		}()
	}
	all := make([]bool, 8)
	for i := range all {
		all[i] = <-results
	}
	if slices.Contains(all, false) {
		t.Error("a goroutine got another result")
	}
}

func TestOneFailureLeavesTheEnvUsable(t *testing.T) {
	t.Parallel()
	env := rule.NewEnv(order())
	for _, tt := range []struct {
		source string
		fails  bool
	}{{"any(items, .missing > 1)", true}, {"total > 100", false}, {"count(1..9999, count(1..9999, true) > 0) > 0", true}, {"any(items, .qty > 1)", false}} {
		c, err := rule.CompileCondition(tt.source)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := c.Eval(env); got == tt.fails || (err != nil) != tt.fails {
			t.Errorf("%s: %v, %v", tt.source, got, err)
		}
	}
}
