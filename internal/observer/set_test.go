package observer

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/fraiseql/weir/internal/action"
	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/rule"
)

// compileSet makes a set of what would stand under `observers:`.
func compileSet(t testing.TB, text string) *Set {
	t.Helper()
	var configs map[string]Config
	if err := yaml.NewDecoder(strings.NewReader(text), yaml.Strict()).DecodeContext(t.Context(), &configs); err != nil {
		t.Fatalf("decode: %v", err)
	}
	set, err := New(configs, action.Deps{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatalf("compile: %v", err)
	}
	return set
}

func orderEvent(typ event.Type, data string) *event.Event {
	return &event.Event{Type: typ, EntityType: "Order", EntityID: "1", Data: json.RawMessage(data), Changes: json.RawMessage("null")}
}

// deliveries writes a match as observer/action names.
func deliveries(m Matched) string {
	names := make([]string, len(m.Deliveries))
	for i, b := range m.Deliveries {
		names[i] = b.Observer + "/" + b.Action.Name()
	}
	return strings.Join(names, " ")
}

const several = `
shipped:
  entity: Order
  event_type: update
  condition: status == 'shipped'
  on_failure: alert
  retry: {max_attempts: 3, backoff: fixed}
  actions:
    - {type: log, name: second, endpoint: b}
    - {type: log, name: first, endpoint: a}
any:
  entity: "*"
  event_type: [INSERT, UPDATE]
  actions: [{type: log}]
off:
  enabled: false
  entity: Order
  actions: [{type: log, endpoint: off}]
users:
  entity: User
  actions: [{type: log}]
misspelt:
  entity: Order
  event_type: UPDATE
  condition: statsu == 'shipped'
  actions: [{type: log}]
`

func TestMatch(t *testing.T) {
	t.Parallel()
	set := compileSet(t, several)
	tests := []struct {
		name   string
		event  *event.Event
		want   string
		failed string
	}{
		{"condition true", orderEvent(event.Update, `{"status":"shipped"}`), "any/log shipped/second shipped/first", "misspelt"},
		{"condition false", orderEvent(event.Update, `{"status":"new"}`), "any/log", "misspelt"},
		{"a condition that fails is not no match", orderEvent(event.Update, `{"statsu":"shipped"}`), "any/log misspelt/log", "shipped"},
		{"other type", orderEvent(event.Insert, `{"status":"shipped"}`), "any/log", ""},
		{"no observer of the type", orderEvent(event.Custom, `{}`), "", ""},
		{"other entity", &event.Event{Type: event.Delete, EntityType: "User"}, "users/log", ""},
		{"entity that nobody names", &event.Event{Type: event.Insert, EntityType: "Cart"}, "any/log", ""},
		{"case counts", &event.Event{Type: event.Delete, EntityType: "user"}, "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := set.Match(rule.NewEnv(tt.event), tt.event)
			if got := deliveries(m); got != tt.want {
				t.Errorf("deliveries %q, want %q", got, tt.want)
			}
			var failed []string
			for _, e := range m.Errors {
				failed = append(failed, e.Observer)
				if e.Err == nil || !strings.Contains(e.Error(), e.Observer) {
					t.Errorf("error %v: want the observer and a reason", e)
				}
			}
			missed := ""
			if tt.name == "condition false" {
				missed = "shipped"
			}
			if got := strings.Join(slices.Collect(m.Misses()), " "); got != missed {
				t.Errorf("missed by %q, want %q", got, missed)
			}
			if got := strings.Join(failed, " "); got != tt.failed {
				t.Errorf("condition errors of %q, want %q", got, tt.failed)
			}
		})
	}
}

// The set's own lists must survive what a caller does to a result.
func TestMatchedMayBeAppendedTo(t *testing.T) {
	t.Parallel()
	set := compileSet(t, "a: {entity: Order, actions: [{type: log}]}")
	e := orderEvent(event.Insert, `{}`)
	m := set.Match(rule.NewEnv(e), e)
	_ = append(m.Deliveries, &Bound{Observer: "intruder"})
	if got := deliveries(set.Match(rule.NewEnv(e), e)); got != "a/log" {
		t.Errorf("deliveries %q after an append", got)
	}
}

func TestBound(t *testing.T) {
	t.Parallel()
	set := compileSet(t, several)
	b, ok := set.Lookup("shipped", "first")
	if !ok || b.Observer != "shipped" || b.Action.Name() != "first" || b.Action.Endpoint() != "a" ||
		b.OnFailure != OnFailureAlert || b.Retry.MaxAttempts != 3 || b.Retry.Backoff != Fixed || b.Retry.InitialDelay != seconds(1) {
		t.Errorf("shipped/first: %v, %+v", ok, b)
	}
	if b, ok := set.Lookup("any", "log"); !ok || b.OnFailure != OnFailureDLQ || b.Retry != (RetryPolicy{}).WithDefaults() {
		t.Errorf("any/log has not the defaults: %+v", b)
	}
	if _, ok := set.Lookup("off", "log"); !ok {
		t.Error("an observer that is not enabled is gone: its queued deliveries would die")
	}
	for _, names := range [][2]string{{"nobody", "log"}, {"any", "nothing"}, {"", ""}} {
		if _, ok := set.Lookup(names[0], names[1]); ok {
			t.Errorf("%v was found", names)
		}
	}
	if !set.Has("off") || set.Has("nobody") {
		t.Error("Has is wrong")
	}
	if got := fmt.Sprint(set.Endpoints()); got != "[a b log off]" {
		t.Errorf("endpoints %s", got)
	}
	if got := deliveries(Matched{Deliveries: set.All()}); got != "any/log misspelt/log off/log shipped/second shipped/first users/log" {
		t.Errorf("all: %s", got)
	}
}

func TestExplain(t *testing.T) {
	t.Parallel()
	set := compileSet(t, several)
	e := orderEvent(event.Update, `{"status":"new"}`)
	got := map[string]Explanation{}
	var order []string
	for _, x := range set.Explain(rule.NewEnv(e), e) {
		got[x.Observer] = x
		order = append(order, x.Observer)
	}
	if !slices.IsSorted(order) || len(order) != 5 {
		t.Errorf("order %v", order)
	}
	tests := []struct {
		observer string
		verdict  Verdict
		reason   string
	}{
		{"any", VerdictMatch, ""},
		{"off", VerdictDisabled, "not enabled"},
		{"users", VerdictOtherEntity, "entity is Order, not User"},
		{"shipped", VerdictFalse, "status"},
		{"misspelt", VerdictError, "statsu"},
	}
	for _, tt := range tests {
		x := got[tt.observer]
		if x.Verdict != tt.verdict || !strings.Contains(x.Reason, tt.reason) || (x.Reason == "") != (tt.verdict == VerdictMatch) {
			t.Errorf("%s: %+v, want %s because of %q", tt.observer, x, tt.verdict, tt.reason)
		}
	}
	if len(got["any"].Actions) != 1 || got["shipped"].Condition != "status == 'shipped'" {
		t.Errorf("actions or condition missing: %+v", got)
	}
	deleted := orderEvent(event.Delete, `{}`)
	for _, x := range set.Explain(rule.NewEnv(deleted), deleted) {
		if x.Observer == "any" && (x.Verdict != VerdictOtherType || x.Reason != "event_type is DELETE, not INSERT or UPDATE") {
			t.Errorf("other type: %+v", x)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	if _, err := New(map[string]Config{"no good": {Entity: "Order"}}, action.Deps{}); err == nil {
		t.Error("a bad name passed")
	}
	if set, err := New(nil, action.Deps{}); err != nil || len(set.Endpoints()) != 0 {
		t.Errorf("no observers are legal: %v", err)
	}
}

func TestCheckName(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"a", "order-shipped", "Order.shipped_2", "0", strings.Repeat("x", 64)} {
		if err := CheckName(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{"", "-a", ".a", "a b", "a/b", "ä", "a\n", strings.Repeat("x", 65)} {
		if CheckName(name) == nil {
			t.Errorf("%q passed", name)
		}
	}
}

// Capture calls Match for every change: what hardly anybody is interested in must cost next to nothing.
func TestMatchAllocatesNothingForOneObserver(t *testing.T) {
	set := compileSet(t, several)
	e := &event.Event{Type: event.Delete, EntityType: "User"}
	env := rule.NewEnv(e)
	if n := testing.AllocsPerRun(100, func() { set.Match(env, e) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
