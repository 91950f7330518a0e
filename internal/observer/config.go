package observer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/invopop/jsonschema"

	"github.com/fraiseql/weir/internal/action"
	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/rule"
	"github.com/fraiseql/weir/internal/setting"
)

// Config is one entry of `observers:` in weir.yaml. Its key is the observer's name (see CheckName).
type Config struct {
	// Enabled says whether events are matched. Deliveries that exist already go on. Default: true.
	Enabled *bool `yaml:"enabled,omitempty"`
	// Entity is the entity_type of the events, exactly, or "*" for every one.
	Entity string `yaml:"entity" jsonschema:"required,minLength=1"`
	// EventType is one event type or a list. Default: every type.
	EventType EventTypes `yaml:"event_type,omitempty"`
	// Condition is an expression over the event that has to be true. Default: none.
	Condition *rule.Condition `yaml:"condition,omitempty"`
	// Ordering is none, or entity: deliveries for one entity run one event after the other, in commit order, those for
	// different entities in parallel. An event without an entity_id keeps no order. Default: none.
	Ordering Ordering `yaml:"ordering,omitempty" jsonschema:"enum=none,enum=entity"`
	// OnDeadLetter says, with ordering: entity, whether a dead letter holds up the later deliveries of its entity until
	// somebody acts (block), or is passed over (skip). Default: block.
	OnDeadLetter OnDeadLetter `yaml:"on_dead_letter,omitempty" jsonschema:"enum=block,enum=skip"`
	// OnFailure is what becomes of a delivery that failed for good. dlq: it is kept as a dead letter. alert: kept, and
	// weir_alerts_total counts it. log: one error line, not kept. Default: dlq.
	OnFailure OnFailure `yaml:"on_failure,omitempty" jsonschema:"enum=dlq,enum=alert,enum=log"`
	// Retry says how often and when a delivery that failed is tried again.
	Retry RetryPolicy `yaml:"retry,omitempty"`
	// Actions are what to do: each is a delivery of its own for each event.
	Actions []action.Config `yaml:"actions" jsonschema:"required,minItems=1"`
}

// Ordering says which deliveries of an observer run one after the other.
type Ordering string

// The values of ordering.
const (
	OrderingNone   Ordering = "none"   // all run in parallel
	OrderingEntity Ordering = "entity" // those of one entity in commit order
)

// OnDeadLetter says what a dead letter means for the later deliveries of its entity.
type OnDeadLetter string

// The values of on_dead_letter.
const (
	DeadLetterBlocks  OnDeadLetter = "block" // they wait until it is retried or removed
	DeadLetterSkipped OnDeadLetter = "skip"  // they go on without it
)

// OnFailure is what becomes of a delivery that failed for good.
type OnFailure string

// The values of on_failure.
const (
	OnFailureDLQ   OnFailure = "dlq"   // kept until somebody acts
	OnFailureAlert OnFailure = "alert" // kept, and weir_alerts_total counts it
	OnFailureLog   OnFailure = "log"   // one error line, not kept
)

// WithDefaults fills in what is not set.
func (c Config) WithDefaults() Config {
	if c.Enabled == nil {
		enabled := true
		c.Enabled = &enabled
	}
	c.Ordering = cmp.Or(c.Ordering, OrderingNone)
	c.OnDeadLetter = cmp.Or(c.OnDeadLetter, DeadLetterBlocks)
	c.OnFailure = cmp.Or(c.OnFailure, OnFailureDLQ)
	c.Retry = c.Retry.WithDefaults()
	return c
}

// Check finds actions that share a name: deliveries name their action, so it must be one. And what nothing would read.
func (c Config) Check(value func(key string) ast.Node) error {
	var errs []error
	if node := setting.Written(value)("on_dead_letter"); node != nil && c.Ordering != OrderingEntity {
		errs = append(errs, setting.ErrorAt(node, "on_dead_letter says nothing without an order: add ordering: entity, or remove it"))
	}
	list, ok := value("actions").(*ast.SequenceNode)
	if !ok || len(list.Values) != len(c.Actions) {
		return errors.Join(errs...) // reported already
	}
	seen := map[string]bool{}
	for i, a := range c.Actions {
		if name := a.Name(); name != "" && seen[name] {
			errs = append(errs, setting.ErrorAt(list.Values[i],
				"a second action of this observer is named %q: give it a name of its own (the default is its type)", name))
		}
		seen[a.Name()] = true
	}
	return errors.Join(errs...)
}

var nameRE = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)

const maxName = 64

// CheckName says what is wrong with an observer's name: it stands in job arguments, metrics and command lines.
func CheckName(name string) error {
	if len(name) > maxName || !nameRE.MatchString(name) {
		return fmt.Errorf("%q is no name of an observer: expected letters, digits, _, . and -, "+
			"a letter or digit first, at most %d characters", name, maxName)
	}
	return nil
}

// EventTypes are event types; none stands for every one.
type EventTypes []event.Type

// Has says whether t is among them.
func (ts EventTypes) Has(t event.Type) bool { return len(ts) == 0 || slices.Contains(ts, t) }

// UnmarshalYAML reads one type or a list, in any case.
func (ts *EventTypes) UnmarshalYAML(_ context.Context, node ast.Node) error {
	nodes := []ast.Node{node}
	if list, ok := node.(*ast.SequenceNode); ok {
		nodes = list.Values
	}
	if len(nodes) == 0 {
		return setting.ErrorAt(node, "event_type is empty: remove it to match every type, or expected %s", typeNames())
	}
	var types EventTypes
	var errs []error
	for _, n := range nodes {
		text, _ := setting.Text(n)
		t := event.Type(strings.ToUpper(text))
		switch {
		case !slices.Contains(event.Types(), t):
			errs = append(errs, setting.ErrorAt(n, "%q is no event type: expected %s", text, typeNames()))
		case slices.Contains(types, t):
			errs = append(errs, setting.ErrorAt(n, "event type %s is written twice: remove one", t))
		default:
			types = append(types, t)
		}
	}
	*ts = types
	return errors.Join(errs...)
}

func typeNames() string {
	names := make([]string, len(event.Types()))
	for i, t := range event.Types() {
		names[i] = string(t)
	}
	return strings.Join(names[:len(names)-1], ", ") + " or " + names[len(names)-1]
}

// JSONSchema describes event types to editors.
func (EventTypes) JSONSchema() *jsonschema.Schema {
	one := &jsonschema.Schema{Type: "string"}
	for _, t := range event.Types() {
		one.Enum = append(one.Enum, string(t), strings.ToLower(string(t)))
	}
	minItems := uint64(1)
	return &jsonschema.Schema{OneOf: []*jsonschema.Schema{
		one, {Type: "array", Items: one, MinItems: &minItems, UniqueItems: true},
	}}
}
