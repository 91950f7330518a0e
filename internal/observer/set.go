// Package observer is the compiled set of observers: which events lead to which deliveries, what a delivery's names
// stand for, and why an event did not match.
package observer

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/fraiseql/weir/internal/action"
	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/rule"
)

// anyEntity is the entity of an observer that wants every one.
const anyEntity = "*"

// Set is every observer of a configuration, compiled. It does not change, so it is safe for concurrent use; a reload
// makes another.
type Set struct {
	observers []*compiled // by name
	// Those that may match an event, enabled and by name: by entity, with those for any entity among them; elsewhere
	// holds the latter alone, for the entities that no observer names.
	byEntity  map[string]byType
	elsewhere byType
}

type byType map[event.Type][]*compiled

type compiled struct {
	name  string
	cfg   Config
	bound []*Bound // in the order of the file
}

// Bound is an action of an observer, ready to run, with what the observer says about its deliveries.
type Bound struct {
	Observer  string
	Retry     RetryPolicy
	OnFailure OnFailure
	Ordering  Ordering
	Action    action.Action
}

// New compiles observers, by name. The error names what package config would have refused with a place in the file.
func New(configs map[string]Config, deps action.Deps) (*Set, error) {
	s := &Set{byEntity: map[string]byType{}}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(configs)) {
		o, err := compile(name, configs[name].WithDefaults(), deps)
		if err != nil {
			errs = append(errs, fmt.Errorf("observer %s: %w", name, err))
			continue
		}
		s.observers = append(s.observers, o)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	s.index()
	return s, nil
}

func compile(name string, cfg Config, deps action.Deps) (*compiled, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	o := &compiled{name: name, cfg: cfg}
	for _, a := range cfg.Actions {
		if o.action(a.Name()) != nil {
			return nil, fmt.Errorf("two actions are named %q", a.Name())
		}
		o.bound = append(o.bound, &Bound{
			Observer: name, Retry: cfg.Retry, OnFailure: cfg.OnFailure, Ordering: cfg.Ordering, Action: a.Bind(deps),
		})
	}
	return o, nil
}

func (o *compiled) action(name string) *Bound {
	for _, b := range o.bound {
		if b.Action.Name() == name {
			return b
		}
	}
	return nil
}

func (s *Set) index() {
	s.elsewhere = s.candidates(anyEntity)
	for _, o := range s.observers {
		if e := o.cfg.Entity; *o.cfg.Enabled && e != anyEntity && s.byEntity[e] == nil {
			s.byEntity[e] = s.candidates(e)
		}
	}
}

func (s *Set) candidates(entity string) byType {
	found := byType{}
	for _, o := range s.observers {
		if !*o.cfg.Enabled || o.cfg.Entity != entity && o.cfg.Entity != anyEntity {
			continue
		}
		for _, t := range event.Types() {
			if o.cfg.EventType.Has(t) {
				found[t] = append(found[t], o)
			}
		}
	}
	return found
}

func (s *Set) of(e *event.Event) []*compiled {
	if t, ok := s.byEntity[e.EntityType]; ok {
		return t[e.Type]
	}
	return s.elsewhere[e.Type]
}

// Matched is what an event leads to.
type Matched struct {
	// Deliveries are the actions to run, by observer's name, then in the order of the file. Not to be modified.
	Deliveries []*Bound
	// Errors are the conditions that failed: neither a match nor none, but a dead letter with the reason.
	Errors []ConditionError

	candidates []*compiled // that were asked; shared
}

// Misses are the observers, by name, that want events of this entity and type and whose condition was false.
func (m Matched) Misses() iter.Seq[string] {
	return func(yield func(string) bool) {
		deliveries, failed := m.Deliveries, m.Errors
		for _, o := range m.candidates {
			switch {
			case len(failed) > 0 && failed[0].Observer == o.name:
				failed = failed[1:]
			case len(deliveries) > 0 && deliveries[0].Observer == o.name:
				deliveries = deliveries[len(o.bound):]
			case !yield(o.name):
				return
			}
		}
	}
}

// ConditionError says that an observer's condition could not be evaluated for an event.
type ConditionError struct {
	Observer string
	Err      error
}

// Error names the observer.
func (e ConditionError) Error() string {
	return fmt.Sprintf("observer %s: condition: %v", e.Observer, e.Err)
}

// Unwrap is the condition's own error.
func (e ConditionError) Unwrap() error { return e.Err }

// Match evaluates the observers that may match the event; env is the event's. It allocates nothing for an event that
// no observer or exactly one matches.
func (s *Set) Match(env *rule.Env, e *event.Event) Matched {
	m := Matched{candidates: s.of(e)}
	for _, o := range m.candidates {
		ok, err := o.holds(env)
		switch {
		case err != nil:
			m.Errors = append(m.Errors, ConditionError{Observer: o.name, Err: err})
		case !ok:
		case m.Deliveries == nil:
			m.Deliveries = slices.Clip(o.bound) // shared: to append to it is to copy it
		default:
			m.Deliveries = append(m.Deliveries, o.bound...)
		}
	}
	return m
}

func (o *compiled) holds(env *rule.Env) (bool, error) {
	if o.cfg.Condition == nil {
		return true, nil
	}
	return o.cfg.Condition.Eval(env)
}

// Lookup finds an action by the names that a delivery carries, also one of an observer that is not enabled: that stops
// new deliveries, not those that exist.
func (s *Set) Lookup(observer, act string) (*Bound, bool) {
	o := s.observer(observer)
	if o == nil {
		return nil, false
	}
	b := o.action(act)
	return b, b != nil
}

func (s *Set) observer(name string) *compiled {
	i, ok := slices.BinarySearchFunc(s.observers, name, func(o *compiled, name string) int {
		return strings.Compare(o.name, name)
	})
	if !ok {
		return nil
	}
	return s.observers[i]
}

// Has says that there is an observer of this name, enabled or not.
func (s *Set) Has(observer string) bool { return s.observer(observer) != nil }

// Order is what an observer says about the order of its deliveries; ok is false for one that is unknown.
func (s *Set) Order(observer string) (ordering Ordering, onDeadLetter OnDeadLetter, ok bool) {
	o := s.observer(observer)
	if o == nil {
		return "", "", false
	}
	return o.cfg.Ordering, o.cfg.OnDeadLetter, true
}

// All are the actions of every observer, enabled or not: by observer's name, then in the order of the file.
func (s *Set) All() []*Bound {
	var all []*Bound
	for _, o := range s.observers {
		all = append(all, o.bound...)
	}
	return all
}

// Names are the observers, sorted.
func (s *Set) Names() []string {
	names := make([]string, len(s.observers))
	for i, o := range s.observers {
		names[i] = o.name
	}
	return names
}

// Endpoints are where the observers' actions go, each once, sorted: those of observers that are not enabled, too, since
// deliveries of theirs may exist.
func (s *Set) Endpoints() []string {
	seen := map[string]bool{}
	for _, b := range s.All() {
		seen[b.Action.Endpoint()] = true
	}
	return slices.Sorted(maps.Keys(seen))
}
