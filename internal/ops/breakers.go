package ops

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/store"
)

// Breakers are the circuit breakers of all endpoints that workers know, by name, and the actions that are gone.
type Breakers struct {
	Time      event.Time   `json:"time"`      // by the database's clock
	Endpoints []Breaker    `json:"endpoints"` // by name
	Gone      []GoneAction `json:"gone"`      // actions that are disabled
}

// Breaker is the circuit breaker of an endpoint.
type Breaker struct {
	Endpoint string `json:"endpoint"` // its name
	// State is closed, open or half-open: one worker probes.
	State string     `json:"state"`
	Since event.Time `json:"since"` // when it came into this state
	// Until is when an open one lets probes through; null for one that a person has opened until somebody closes it, and for
	// those that are not open.
	Until  event.Time `json:"until"`
	Reason string     `json:"reason"` // why it is in this state, for people
	// By is who put it into this state: a worker's client id or a person; "" for one that has never changed.
	By string `json:"by"`
	// Manual is true when that was a person.
	Manual bool `json:"manual"`
}

// GoneAction is an action that is disabled, since its target answered 410 Gone.
type GoneAction struct {
	Observer string     `json:"observer"` // its name
	Action   string     `json:"action"`   // its name
	Since    event.Time `json:"since"`    // when the target answered so
}

// Name is how people write it.
func (g GoneAction) Name() string { return g.Observer + "/" + g.Action }

// ReadBreakers lists them all.
func ReadBreakers(ctx context.Context, db DB) (Breakers, error) {
	rows, err := store.New().FollowEndpoints(ctx, db)
	if err != nil {
		return Breakers{}, fmt.Errorf("list the circuit breakers: %w", err)
	}
	b := Breakers{Endpoints: []Breaker{}, Gone: []GoneAction{}}
	for _, r := range rows {
		b.Time = event.Time(r.Now)
		if r.State == "paused" { // see ReadPaused
			continue
		}
		if r.Action != "" {
			b.Gone = append(b.Gone, GoneAction{Observer: r.Endpoint, Action: r.Action, Since: event.Time(r.ChangedAt)})
			continue
		}
		one := Breaker{
			Endpoint: r.Endpoint, State: r.State, Since: event.Time(r.ChangedAt), Reason: r.Reason, By: r.ChangedBy, Manual: r.Manual,
		}
		if r.OpenUntil.Unix() > 0 {
			one.Until = event.Time(r.OpenUntil)
		}
		b.Endpoints = append(b.Endpoints, one)
	}
	return b, nil
}

// NotClosed are the breakers that are open or half-open.
func (b Breakers) NotClosed() []Breaker {
	found := []Breaker{}
	for _, one := range b.Endpoints {
		if one.State != "closed" {
			found = append(found, one)
		}
	}
	return found
}

// find returns the endpoint or the action of a name; the error is an *UnknownBreakerError.
func (b Breakers) find(name string, actions bool) (*Breaker, *GoneAction, error) {
	unknown := &UnknownBreakerError{Name: name}
	for i := range b.Endpoints {
		if b.Endpoints[i].Endpoint == name {
			return &b.Endpoints[i], nil, nil
		}
		unknown.Known = append(unknown.Known, b.Endpoints[i].Endpoint)
	}
	for i := range b.Gone {
		if !actions {
			break
		}
		if b.Gone[i].Name() == name {
			return nil, &b.Gone[i], nil
		}
		unknown.Known = append(unknown.Known, b.Gone[i].Name())
	}
	return nil, nil, unknown
}

// UnknownBreakerError says that there is no such endpoint, nor an action of that name that is gone.
type UnknownBreakerError struct {
	Name  string
	Known []string
}

// Error lists what there is.
func (e *UnknownBreakerError) Error() string {
	what := "endpoint " + e.Name
	if strings.Contains(e.Name, "/") {
		what = "action " + e.Name + " that is gone"
	}
	if len(e.Known) == 0 {
		return fmt.Sprintf("there is no %s: no worker has started yet with a configuration that goes anywhere", what)
	}
	return fmt.Sprintf("there is no %s: expected one of %s", what, strings.Join(e.Known, ", "))
}

// ByHand is what a person says about a breaker.
type ByHand struct {
	For    time.Duration // how long it stays open; 0: until somebody closes it
	Reason string
	By     string // who
}

// OpenBreaker stops deliveries to an endpoint, and returns what it is now. Workers follow within about a second; calls that are
// under way end as they end.
func OpenBreaker(ctx context.Context, db DB, endpoint string, how ByHand) (Breakers, error) {
	return switchBreaker(ctx, db, endpoint, false, func(_ *Breaker, _ *GoneAction) error {
		params := store.OpenBreakerParams{Name: endpoint, Me: how.By, Reason: how.Reason}
		if how.For > 0 {
			s := how.For.Seconds()
			params.OpenFor = &s
		}
		_, err := store.New().OpenBreaker(ctx, db, params)
		return err
	})
}

// CloseBreaker lets deliveries to an endpoint go, or those of an action, OBSERVER/ACTION, that was gone. It returns what the
// endpoint is now; of an action, what it was.
func CloseBreaker(ctx context.Context, db DB, name string, how ByHand) (Breakers, error) {
	return switchBreaker(ctx, db, name, true, func(b *Breaker, g *GoneAction) (err error) {
		if g != nil {
			_, err = store.New().RemoveGone(ctx, db, store.RemoveGoneParams{Observer: g.Observer, Action: g.Action})
			return err
		}
		_, err = store.New().CloseBreaker(ctx, db, store.CloseBreakerParams{Name: b.Endpoint, Me: how.By, Reason: how.Reason})
		return err
	})
}

func switchBreaker(
	ctx context.Context, db DB, name string, actions bool, do func(*Breaker, *GoneAction) error,
) (Breakers, error) {
	all, err := ReadBreakers(ctx, db)
	if err != nil {
		return Breakers{}, err
	}
	b, g, err := all.find(name, actions)
	if err != nil {
		return Breakers{}, err
	}
	if err := do(b, g); err != nil {
		return Breakers{}, fmt.Errorf("change the circuit breaker of %s: %w", name, err)
	}
	changed := Breakers{Time: all.Time, Endpoints: []Breaker{}, Gone: []GoneAction{}}
	if g != nil {
		changed.Gone = append(changed.Gone, *g)
		return changed, nil
	}
	if all, err = ReadBreakers(ctx, db); err != nil {
		return Breakers{}, err
	}
	if b, _, err = all.find(name, false); err != nil {
		return Breakers{}, err
	}
	changed.Time, changed.Endpoints = all.Time, append(changed.Endpoints, *b)
	return changed, nil
}
