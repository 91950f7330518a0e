package ops

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/google/uuid"

	"github.com/fraiseql/weir/internal/action"
	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/observer"
	"github.com/fraiseql/weir/internal/rule"
	"github.com/fraiseql/weir/internal/store"
)

// Rehearsal is what an observer would do about an event. Nothing of it was done.
type Rehearsal struct {
	Observer string           `json:"observer"` // its name
	Verdict  observer.Verdict `json:"verdict"`
	// Reason says why there is no match, for people; "" for a match.
	Reason string `json:"reason,omitempty"`
	// Condition is the observer's, as written.
	Condition string `json:"condition,omitempty"`
	// Event is as receivers get it.
	Event json.RawMessage `json:"event"`
	// Actions are those that the match leads to, none without one.
	Actions []RehearsedAction `json:"actions"`
}

// RehearsedAction is what an action would send.
type RehearsedAction struct {
	Name       string    `json:"name"`        // of the action
	Type       string    `json:"type"`        // of the action: webhook, log …
	Endpoint   string    `json:"endpoint"`    // "" when only the environment knows
	DeliveryID uuid.UUID `json:"delivery_id"` // what a receiver would get as webhook-id
	// Parts are what would be sent, in order.
	Parts action.Preview `json:"parts"`
	// Error says why the delivery would be a dead letter, "" when it would not.
	Error string `json:"error,omitempty"`
}

// Failed says that the event would make a dead letter before anything is sent.
func (r *Rehearsal) Failed() bool {
	for _, a := range r.Actions {
		if a.Error != "" {
			return true
		}
	}
	return r.Verdict == observer.VerdictError
}

// Rehearse evaluates an observer for an event and renders its actions. payload is the event's JSON, as it is or would be
// stored. The observer has to exist.
func Rehearse(set *observer.Set, name string, e *event.Event, payload []byte) Rehearsal {
	env := rule.NewEnv(e)
	r := Rehearsal{Observer: name, Event: payload, Actions: []RehearsedAction{}}
	for _, x := range set.Explain(env, e) {
		if x.Observer != name {
			continue
		}
		r.Verdict, r.Reason, r.Condition = x.Verdict, x.Reason, x.Condition
		for _, actionName := range x.Actions {
			if bound, ok := set.Lookup(name, actionName); ok {
				r.Actions = append(r.Actions, rehearseAction(bound, env, e, payload))
			}
		}
	}
	return r
}

func rehearseAction(bound *observer.Bound, env *rule.Env, e *event.Event, payload []byte) RehearsedAction {
	a := bound.Action
	r := RehearsedAction{
		Name: a.Name(), Type: a.Type(), Endpoint: a.Endpoint(), Parts: action.Preview{},
		DeliveryID: event.DeliveryID(e.ID, e.PK, bound.Observer, a.Name()),
	}
	parts, err := a.Preview(action.Call{
		Event: e, Payload: payload, Env: env, Observer: bound.Observer, Action: a.Name(), DeliveryID: r.DeliveryID, Attempt: 1,
	})
	reuse, problem := reuseParts(a, env)
	if err = cmp.Or(err, problem); err != nil {
		r.Error = err.Error()
		return r
	}
	r.Parts = append(append(r.Parts, parts...), reuse...)
	return r
}

// reuseParts are the keys by which deliveries share a call or a result.
func reuseParts(a action.Action, env *rule.Env) (parts action.Preview, err error) {
	if d := a.Dedup(); d != nil {
		key, err := d.Render(env)
		if err != nil {
			return nil, err
		}
		parts = append(parts, action.Part{Name: "dedup key", Value: key})
	}
	c := a.ResultCache()
	if c == nil {
		return parts, nil
	}
	key, tags, err := c.Render(env)
	if err != nil {
		return nil, err
	}
	parts = append(parts, action.Part{Name: "cache key", Value: key})
	if len(tags) > 0 {
		parts = append(parts, action.Part{Name: "cache tags", Value: strings.Join(tags, ", ")})
	}
	return parts, nil
}

// Recorded is an event that was ingested, and its JSON as it is stored. Of several with the id it is the newest: the change
// log's id is not unique. The error wraps ErrNoEvent when there is none.
func Recorded(ctx context.Context, db DB, id uuid.UUID) (*event.Event, []byte, error) {
	rows, err := store.New().FindEventsByID(ctx, db, id)
	if err != nil {
		return nil, nil, fmt.Errorf("find event %s: %w", id, err)
	}
	if len(rows) == 0 {
		return nil, nil, fmt.Errorf("%w: %s", ErrNoEvent, id)
	}
	row := rows[len(rows)-1] // they are in commit order
	e, err := stored(row.Payload, row.PK, row.TxIndex)
	return e, row.Payload, err
}

// stored is an event as weir.event has it: its JSON, and what that does not hold.
func stored(payload []byte, pk, txIndex int64) (*event.Event, error) {
	e, err := event.Parse(payload)
	if err != nil {
		return nil, err
	}
	e.PK, e.TxIndex = pk, txIndex
	return e, nil
}
