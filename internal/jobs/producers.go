package jobs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/riverqueue/river"

	"github.com/fraiseql/weir/internal/store"
)

const (
	// changeWorkers is the concurrency of weir_change: it is the database's time that they take, and nobody waits.
	changeWorkers = 2
	// resizePatience is how long queues of another concurrency are waited for, all together, before others are looked at again.
	// When a network fails they are many, and each has to be told at once that it is to fetch no more.
	resizePatience = 50 * time.Millisecond
	// orphanBatch is how many jobs of a queue without an endpoint are looked at, and moved, at a time.
	orphanBatch = 2000
	// stopping stands for the concurrency of a queue that starts nothing more and has not ended yet.
	stopping = 0
)

// producers are River's, one a queue: each fetches a queue's jobs and bounds how many of them run. There is a queue for each
// endpoint that an action goes to, so that a slow one holds back nothing else.
type producers struct {
	queues *river.QueueBundle
	log    *slog.Logger

	wanted  atomic.Pointer[map[string]place]           // the endpoints in force, by the names of their queues
	allowed func(endpoint string, concurrency int) int // how much of an endpoint's concurrency its breaker lets through
	paused  func(queue string) bool                    // a queue without an endpoint: whether deliveries are
	// served are the queues that have a producer, with its concurrency. It belongs to the sweep: to add a producer is to
	// write to the database, and whoever reloads a configuration must not wait for that.
	served map[string]int
}

// want says what is to be served from now on; adjust does it.
func (p *producers) want(byQueue map[string]place) { p.wanted.Store(&byQueue) }

// names are those of the queues that are wanted, and of our own but for housekeeping's.
func (p *producers) names() []string {
	return append(slices.Collect(maps.Keys(*p.wanted.Load())), queueChange, KindDocument)
}

// first are the queues that River's client begins with. Those of endpoints follow: which of them may be called is in the
// database.
func (p *producers) first() map[string]river.QueueConfig {
	p.served = map[string]int{queueChange: changeWorkers, KindDocument: 1, KindHousekeeping: 1}
	return map[string]river.QueueConfig{
		queueChange:      {MaxWorkers: changeWorkers},
		KindDocument:     {MaxWorkers: 1},
		KindHousekeeping: {MaxWorkers: 1, FetchPollInterval: housekeepingPoll},
	}
}

// adjust gives producers to the queues that are wanted and to those that hold jobs but belong to no endpoint (any more): an
// observer's URL was changed, and what was queued for the old place goes to the new one. It returns whether that is done: a
// producer of another concurrency has to end its deliveries first, and starts no others until then. What fails is tried
// again by the next call.
func (p *producers) adjust(ctx context.Context, holding []string) (done bool, err error) {
	done = true
	target, patience := p.target(holding), time.Now().Add(resizePatience)
	for _, name := range slices.Sorted(maps.Keys(target)) {
		ok, err := p.give(ctx, name, target[name], max(time.Until(patience), time.Millisecond))
		if err != nil {
			return false, err
		}
		done = done && ok
	}
	return done, nil
}

// target is what each queue is to have: 0 for none, while its endpoint must not be called, or is paused. One that nothing goes
// to any more keeps its producer, since it may hold deliveries; when that producer has been told to stop, it gets another.
func (p *producers) target(holding []string) map[string]int {
	target := map[string]int{}
	for name, at := range *p.wanted.Load() {
		target[name] = p.allowed(at.name, at.concurrency)
	}
	for name, have := range p.served {
		if _, ok := target[name]; ok {
			continue
		}
		switch {
		case p.held(name):
			have = 0
		case have == stopping:
			have = EndpointConfig{}.WithDefaults(name).Concurrency
		}
		target[name] = have
	}
	for _, name := range holding {
		if _, ok := target[name]; !ok && !p.held(name) {
			p.log.Info("working off a queue that has no endpoint any more", "queue", name)
			target[name] = EndpointConfig{}.WithDefaults(name).Concurrency
		}
	}
	return target
}

// held says that a queue without an endpoint is paused. What is Weir's own goes on, unless River is told otherwise.
func (p *producers) held(name string) bool { return !isOurs(name) && p.paused(name) }

// give gives a queue a producer of this concurrency, none for 0, and returns false while the one before has not ended.
func (p *producers) give(ctx context.Context, name string, concurrency int, patience time.Duration) (done bool, err error) {
	have, served := p.served[name]
	if served && have == concurrency && have != stopping || !served && concurrency == 0 {
		return true, nil
	}
	if served {
		p.served[name] = stopping // from the moment it is told to, also when waiting for it is given up
		err := p.remove(ctx, name, patience)
		if errors.Is(err, context.DeadlineExceeded) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("remove queue %s: %w", name, err)
		}
	}
	if concurrency == 0 {
		return true, nil
	}
	if err := p.queues.Add(name, river.QueueConfig{MaxWorkers: concurrency}); err != nil {
		// River keeps a producer that could not be started, and refuses another until it is removed.
		_ = p.remove(context.WithoutCancel(ctx), name, patience)
		return false, fmt.Errorf("add queue %s: %w", name, err)
	}
	p.served[name] = concurrency
	if served {
		p.log.Info("changed the concurrency of a queue", "queue", name, "concurrency", concurrency)
	}
	return true, nil
}

// remove takes a queue's producer away, once its deliveries have ended. From the moment it is called, it starts no others.
func (p *producers) remove(ctx context.Context, name string, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := p.queues.Remove(ctx, name)
	var gone *river.QueueNotFoundError
	if err != nil && !errors.As(err, &gone) {
		return err
	}
	delete(p.served, name)
	return nil
}

// moveOrphans gives what waits in queues that no endpoint of the configuration has to the queues of the actions' endpoints,
// whose concurrency then holds for it: an observer's URL has moved. It returns the names without those of which it moved
// something, which are to be looked at again. What it cannot move, since nobody knows its observer, is worked where it is.
func (q *Queue) moveOrphans(ctx context.Context, names []string) (left []string, err error) {
	wanted := *q.producers.wanted.Load()
	observers, actions, queues := q.names()
	for _, name := range names {
		if _, ok := wanted[name]; ok || isOurs(name) {
			left = append(left, name)
			continue
		}
		targets, err := store.New().MoveWaiting(ctx, q.runner.pool, store.MoveWaitingParams{
			Queue: name, Observers: observers, Actions: actions, Queues: queues, MaxRows: orphanBatch,
		})
		if err != nil {
			return nil, fmt.Errorf("move the jobs of queue %s: %w", name, err)
		}
		if len(targets) == 0 {
			left = append(left, name)
			continue
		}
		q.log.Info("moved jobs of a queue that has no endpoint any more to those of their actions", "queue", name, "jobs", len(targets))
		if err := announce(ctx, q.runner.pool, targets); err != nil {
			return nil, err
		}
	}
	return left, nil
}

// announce tells River's clients, as an insert would, that there is something to fetch in the queues of these jobs.
func announce(ctx context.Context, db store.DBTX, queues []string) error {
	if len(queues) == 0 {
		return nil
	}
	slices.Sort(queues)
	if err := store.New().NotifyQueues(ctx, db, slices.Compact(queues)); err != nil {
		return fmt.Errorf("announce jobs that were made available: %w", err)
	}
	return nil
}
