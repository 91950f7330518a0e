package ops

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/internal/jobs"
	"github.com/fraiseql/weir/internal/store"
)

// target is something that can be paused.
type target struct {
	scope Scope
	name  string
	queue string // of an endpoint
}

// is says that a pause is the target's. One of an endpoint that only a configuration knows yet has the name of the queue.
func (t target) is(p Pause) bool {
	return p.Scope == t.scope && (p.Name == t.name || t.scope == ScopeEndpoint && p.Name == t.queue)
}

// find returns the targets; the error is an *UnknownTargetError.
func (t Targets) find(ctx context.Context, db DB) ([]target, error) {
	if t.none() {
		return []target{{scope: ScopeDeliveries}}, nil
	}
	endpoints, err := t.findEndpoints(ctx, db)
	if err != nil {
		return nil, err
	}
	found, err := t.findObservers(ctx, db)
	if err != nil {
		return nil, err
	}
	found = append(endpoints, found...)
	if t.Stream {
		found = append(found, target{scope: ScopeStream})
	}
	return found, nil
}

func (t Targets) findEndpoints(ctx context.Context, db DB) ([]target, error) {
	if len(t.Endpoints) == 0 {
		return nil, nil
	}
	known, err := endpointsByQueue(ctx, db, t.Configured)
	if err != nil {
		return nil, err
	}
	maps.DeleteFunc(known, func(queue, _ string) bool { return jobs.OwnQueue(queue) })
	var found []target
	for _, name := range unique(t.Endpoints) {
		queue := jobs.QueueName(name)
		if known[queue] != name { // or the queue of one that nobody knows any more
			queue = name
		}
		if known[queue] != name {
			return nil, &UnknownTargetError{ScopeEndpoint, name, slices.Sorted(maps.Values(known))}
		}
		found = append(found, target{ScopeEndpoint, name, queue})
	}
	return found, nil
}

func (t Targets) findObservers(ctx context.Context, db DB) ([]target, error) {
	paused := []Pause{}
	if len(t.Observers) > 0 {
		var err error
		if paused, err = ReadPaused(ctx, db); err != nil {
			return nil, err
		}
	}
	var found []target
	for _, name := range unique(t.Observers) {
		one := target{scope: ScopeObserver, name: name}
		known := t.Configured != nil && t.Configured.Has(name) || slices.ContainsFunc(paused, one.is)
		if !known {
			var err error
			if known, err = store.New().ObserverHasJobs(ctx, db, name); err != nil {
				return nil, fmt.Errorf("look for deliveries of observer %s: %w", name, err)
			}
		}
		if !known {
			return nil, t.unknownObserver(ctx, db, name)
		}
		found = append(found, one)
	}
	return found, nil
}

func (t Targets) unknownObserver(ctx context.Context, db DB, name string) error {
	known, err := store.New().ObserversWithJobs(ctx, db)
	if err != nil {
		return fmt.Errorf("list the observers: %w", err)
	}
	if t.Configured != nil {
		known = append(known, t.Configured.Names()...)
	}
	return &UnknownTargetError{ScopeObserver, name, unique(known)}
}

// unique sorts names, each once.
func unique(names []string) []string { return slices.Compact(slices.Sorted(slices.Values(names))) }

// deliveriesOf are the targets of all pauses but the stream's.
func deliveriesOf(ctx context.Context, db DB, paused []Pause) ([]target, error) {
	queues := map[string]string{}
	if slices.ContainsFunc(paused, func(p Pause) bool { return p.Scope == ScopeEndpoint }) {
		known, err := endpointsByQueue(ctx, db, nil)
		if err != nil {
			return nil, err
		}
		for queue, name := range known {
			queues[name] = queue
		}
	}
	var found []target
	for _, p := range paused {
		if p.Scope != ScopeStream {
			found = append(found, target{p.Scope, p.Name, queues[p.Name]})
		}
	}
	return found, nil
}

func (t target) pause(ctx context.Context, tx pgx.Tx, by, reason string) error {
	if t.scope == ScopeEndpoint {
		return jobs.PauseQueue(ctx, tx, t.queue, by, reason)
	}
	_, err := store.New().AddPause(ctx, tx, store.AddPauseParams{Scope: string(t.scope), Name: t.name, PausedBy: by, Reason: reason})
	if err != nil {
		return fmt.Errorf("pause %s: %w", Pause{Scope: t.scope, Name: t.name}.What(), err)
	}
	return nil
}

func (t target) resume(ctx context.Context, tx pgx.Tx) error {
	if t.scope == ScopeEndpoint {
		return jobs.ResumeQueue(ctx, tx, t.queue)
	}
	_, err := store.New().RemovePause(ctx, tx, store.RemovePauseParams{Scope: string(t.scope), Name: t.name})
	if err != nil {
		return fmt.Errorf("resume %s: %w", Pause{Scope: t.scope, Name: t.name}.What(), err)
	}
	return nil
}

// heldBy returns the pause that keeps a delivery from being made, nil where there is none.
func (d *Delivery) heldBy(paused []Pause) *Pause {
	if !slices.Contains([]string{"available", "pending", "retryable", "scheduled"}, d.State) || jobs.OwnQueue(d.Queue) {
		return nil
	}
	for i, p := range paused {
		switch {
		case p.Scope == ScopeDeliveries,
			p.Scope == ScopeObserver && p.Name == d.Observer,
			p.Scope == ScopeEndpoint && (p.Name == d.Queue || jobs.QueueName(p.Name) == d.Queue):
			return &paused[i]
		}
	}
	return nil
}
