package observer

import (
	"fmt"
	"strings"

	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/rule"
)

// Verdict is what became of an event at one observer.
type Verdict string

// The verdicts.
const (
	VerdictMatch       Verdict = "match"
	VerdictDisabled    Verdict = "disabled"
	VerdictOtherEntity Verdict = "other_entity"
	VerdictOtherType   Verdict = "other_type"
	VerdictFalse       Verdict = "condition_false"
	VerdictError       Verdict = "condition_error"
)

// Explanation says what became of an event at one observer, and why. Its JSON is part of `weir debug-event`.
type Explanation struct {
	Observer string  `json:"observer"` // its name
	Verdict  Verdict `json:"verdict"`
	// Reason says why there was no match, for people; "" for a match.
	Reason string `json:"reason,omitempty"`
	// Condition is the observer's, as written.
	Condition string `json:"condition,omitempty"`
	// Actions are the names of those that the match leads to.
	Actions []string `json:"actions,omitempty"`
}

// Explain says for each observer, by name, whether the event matches and why not. env is the event's.
func (s *Set) Explain(env *rule.Env, e *event.Event) []Explanation {
	all := make([]Explanation, len(s.observers))
	for i, o := range s.observers {
		all[i] = o.explain(env, e)
	}
	return all
}

func (o *compiled) explain(env *rule.Env, e *event.Event) Explanation {
	x := Explanation{Observer: o.name, Verdict: o.mismatch(e)}
	if o.cfg.Condition != nil {
		x.Condition = o.cfg.Condition.String()
	}
	switch x.Verdict {
	case VerdictDisabled:
		x.Reason = "the observer is not enabled"
	case VerdictOtherEntity:
		x.Reason = fmt.Sprintf("entity is %s, not %s", e.EntityType, o.cfg.Entity)
	case VerdictOtherType:
		x.Reason = fmt.Sprintf("event_type is %s, not %s", e.Type, joinTypes(o.cfg.EventType))
	default:
		o.explainCondition(env, &x)
	}
	if x.Verdict == VerdictMatch {
		for _, b := range o.bound {
			x.Actions = append(x.Actions, b.Action.Name())
		}
	}
	return x
}

func (o *compiled) explainCondition(env *rule.Env, x *Explanation) {
	ok, err := o.holds(env)
	switch {
	case err != nil:
		x.Verdict, x.Reason = VerdictError, err.Error()
	case ok:
		x.Verdict = VerdictMatch
	default:
		x.Verdict, x.Reason = VerdictFalse, o.cfg.Condition.Explain(env)
	}
}

// mismatch says why the event does not even reach the condition, "" if it does.
func (o *compiled) mismatch(e *event.Event) Verdict {
	switch {
	case !*o.cfg.Enabled:
		return VerdictDisabled
	case o.cfg.Entity != anyEntity && o.cfg.Entity != e.EntityType:
		return VerdictOtherEntity
	case !o.cfg.EventType.Has(e.Type):
		return VerdictOtherType
	default:
		return ""
	}
}

func joinTypes(types EventTypes) string {
	names := make([]string, len(types))
	for i, t := range types {
		names[i] = string(t)
	}
	return strings.Join(names, " or ")
}
