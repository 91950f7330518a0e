package bench

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/uuid"

	"github.com/fraiseql/weir/internal/action"
	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/observer"
	"github.com/fraiseql/weir/internal/rule"
)

// BenchmarkMatch finds an event's deliveries and renders the body of one, each time from the JSON on, as a worker does. A set of
// many observers is held against one of those alone that are of the event's entity.
func BenchmarkMatch(b *testing.B) {
	shipped := &event.Event{
		ID: uuid.New(), Type: event.Update, EntityType: "Order", EntityID: uuid.NewString(),
		Data: json.RawMessage(`{"id": "0191d6f4-0000-7000-8000-000000000001", "number": 4711, "status": "shipped", "total": 100.10,
			"customer": {"name": "Ada", "email": "ada@example.org"}, "note": "` + strings.Repeat("x", 300) + `"}`),
		Changes: json.RawMessage(`{"status": {"old": "paid", "new": "shipped"}}`),
	}
	body, err := rule.CompileTemplate(`{"order": "{{ entity_id }}", "number": {{ number }}, "customer": "{{ customer.name }}"}`)
	check(b, err)
	typical := observers(b, 1, 1)
	inTurn(b, "condition+template", 300, 100, side{"", func() {
		env := rule.NewEnv(shipped)
		matches(b, typical, env, shipped, 1)
		if text, err := body.JSON(env); err != nil || !strings.Contains(string(text), `"customer": "Ada"`) {
			b.Fatalf("%s, %v", text, err)
		}
	}})
	decoded := rule.NewEnv(shipped)
	inTurn(b, "condition-decoded-before", 300, 100, side{"", func() { matches(b, typical, decoded, shipped, 1) }})
	matching := func(set *observer.Set, own int) func() {
		return func() { matches(b, set, rule.NewEnv(shipped), shipped, own) }
	}
	inTurn(b, "observers=1", 300, 100, side{"", matching(typical, 1)})
	for _, c := range []struct{ all, own int }{{100, 3}, {10_000, 3}, {10_000, 30}} {
		inTurn(b, fmt.Sprintf("observers=%d/of-entity=%d", c.all, c.own), 300, 100,
			side{weir, matching(observers(b, c.all, c.own), c.own)}, side{"these-alone", matching(observers(b, c.own, c.own), c.own)})
	}
}

// observers are so many, of which some are of the entity Order.
func observers(b *testing.B, all, own int) *observer.Set {
	b.Helper()
	var text strings.Builder
	for i := range all {
		entity := "Order"
		if i >= own {
			entity = fmt.Sprintf("Entity%d", i)
		}
		fmt.Fprintf(&text, "o%d: {entity: %s, condition: \"field_changed_to('status', 'shipped') && total > %d\", actions: [{type: log}]}\n",
			i, entity, i)
	}
	var configs map[string]observer.Config
	check(b, yaml.NewDecoder(strings.NewReader(text.String()), yaml.Strict()).DecodeContext(b.Context(), &configs))
	set, err := observer.New(configs, action.Deps{Logger: slog.New(slog.DiscardHandler)})
	check(b, err)
	return set
}

func matches(b *testing.B, set *observer.Set, env *rule.Env, e *event.Event, want int) {
	b.Helper()
	if m := set.Match(env, e); len(m.Deliveries) != want || len(m.Errors) > 0 {
		b.Fatalf("%d deliveries, want %d, %v", len(m.Deliveries), want, m.Errors)
	}
}
