// Package jobs turns matched changes into River jobs and works them. River does the queueing: one queue an endpoint,
// one kind a type of action, retries by the observer's policy. Dead letters are River jobs, too.
package jobs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivertype"

	"github.com/fraiseql/weir/internal/capture"
	"github.com/fraiseql/weir/internal/index"
	"github.com/fraiseql/weir/internal/lease"
	"github.com/fraiseql/weir/internal/observer"
	"github.com/fraiseql/weir/internal/store"
)

// Schema is where River's tables are.
const Schema = "weir"

const (
	// fetchCooldown bounds how often a queue is fetched: it is the latency that a delivery gains by not being alone.
	fetchCooldown = 20 * time.Millisecond
	// changeWorkers is the concurrency of weir_change: it is the database's time that they take, and nobody waits.
	changeWorkers = 2
	// sweepEvery is how often queues that have jobs but no endpoint (any more) are looked for, and dead letters counted.
	sweepEvery = 5 * time.Second
	// resizePatience is how long a queue of another concurrency is waited for, before others are looked at again.
	resizePatience = 50 * time.Millisecond
	resizeAgain    = 250 * time.Millisecond
	startRetry     = time.Second
	// sweepTime bounds a sweep: a connection may be dead without anybody having said so.
	sweepTime = 10 * time.Second
	// stopGrace is how much longer than its deliveries River may take to stop, and lostGrace how long when the lease is lost
	// and the database denies it everything.
	stopGrace = 10 * time.Second
	lostGrace = time.Second
	// riverRescue turns River's own rescue off: it goes by age alone, does not know who is alive, and keeps the job's id.
	riverRescue = 10 * 365 * 24 * time.Hour
)

// Options is what a Queue needs.
type Options struct {
	Pool      *pgxpool.Pool
	Functions *pgxpool.Pool // for actions that run in the database: one connection for each that runs
	Lease     *lease.Lease  // taken before Run
	Index     *index.Index
	Reader    *capture.Reader
	Observers *observer.Set
	Endpoints map[string]EndpointConfig
	History   index.Config
	ClientID  string
	SoftStop  time.Duration // how long running deliveries may take when the worker stops
	// Remains waits for what River still does after Run has returned because the lease was lost.
	Remains     *sync.WaitGroup
	Logger      *slog.Logger
	RiverLogger *slog.Logger // River's own: it speaks of every job
	Registerer  prometheus.Registerer
}

// Queue inserts and works jobs. Safe for concurrent use.
type Queue struct {
	set     atomic.Pointer[observer.Set]
	history atomic.Pointer[index.Config]
	index   *index.Index
	runner  *runner
	client  *river.Client[pgx.Tx]
	rescuer *rescuer
	lease   *lease.Lease
	log     *slog.Logger
	working atomic.Bool

	softStop time.Duration
	remains  *sync.WaitGroup

	swapped chan struct{} // asks for a sweep before its time

	mu     sync.Mutex     // guards the rest
	served map[string]int // the concurrency of the queues that have a producer
	wanted map[string]int // what it is to become
}

// New makes a queue that can insert jobs; Run works them.
func New(o Options) (*Queue, error) {
	q := &Queue{
		index: o.Index, log: o.Logger.With("component", "jobs"), lease: o.Lease, swapped: make(chan struct{}, 1),
		softStop: o.SoftStop, remains: o.Remains,
		served: map[string]int{}, wanted: map[string]int{},
	}
	q.set.Store(o.Observers)
	q.setHistory(o.History)
	m := newMetrics(o.Registerer)
	m.expect(o.Observers)
	q.runner = &runner{
		pool: o.Pool, functions: o.Functions, lease: o.Lease, index: o.Index, set: &q.set, metrics: m, log: q.log,
	}

	q.rescuer = &rescuer{
		pool: o.Pool, lease: o.Lease, clientID: o.ClientID, attempts: newAttempts(), set: &q.set, metrics: m, log: q.log,
		freed: q.swapped,
	}

	workers := river.NewWorkers()
	river.AddWorker(workers, newWorker[webhookArgs](q.runner))
	river.AddWorker(workers, newWorker[databaseArgs](q.runner))
	river.AddWorker(workers, newWorker[logArgs](q.runner))
	river.AddWorker(workers, &housekeeper{queue: q})
	river.AddWorker(workers, &changeWorker{queue: q, reader: o.Reader})

	client, err := river.NewClient(riverpgxv5.New(o.Pool), &river.Config{
		ID: o.ClientID, Schema: Schema, Queues: q.queues(o.Endpoints), Workers: workers, Logger: o.RiverLogger,
		FetchCooldown: fetchCooldown, FetchOnlyKnownKinds: true,
		JobTimeout: -1, SoftStopTimeout: o.SoftStop,
		Middleware:           []rivertype.Middleware{q.rescuer.attempts},
		RescueStuckJobsAfter: riverRescue,
		PeriodicJobs:         periodic(),
		// River's cleaner is off: our mover takes finished jobs, and dead letters stay until somebody acts.
		CompletedJobRetentionPeriod: -1, CancelledJobRetentionPeriod: -1, DiscardedJobRetentionPeriod: -1,
	})
	if err != nil {
		return nil, fmt.Errorf("make River's client: %w", err)
	}
	q.client = client
	return q, nil
}

// queues has one for each endpoint that an action goes to, so that a slow one holds back nothing else.
func (q *Queue) queues(endpoints map[string]EndpointConfig) map[string]river.QueueConfig {
	q.served = concurrencies(q.set.Load(), endpoints)
	q.served[queueChange], q.served[KindHousekeeping] = changeWorkers, 1
	queues := map[string]river.QueueConfig{}
	for name, n := range q.served {
		queues[name] = river.QueueConfig{MaxWorkers: n}
	}
	queues[KindHousekeeping] = river.QueueConfig{MaxWorkers: 1, FetchPollInterval: housekeepingPoll}
	return queues
}

// concurrencies are those of the set's endpoints, by the names of their queues.
func concurrencies(set *observer.Set, endpoints map[string]EndpointConfig) map[string]int {
	byQueue := map[string]int{}
	for _, endpoint := range set.Endpoints() {
		byQueue[QueueName(endpoint)] = endpoints[endpoint].WithDefaults(endpoint).Concurrency
	}
	return byQueue
}

// Swap puts other observers in force: for what is matched from now on, and for every delivery that starts from now on, also
// those that are queued already. New queues are served before anything is matched into them; those that nothing goes to any
// more go on being served, since they may hold deliveries. A changed concurrency takes effect when the deliveries that run
// in the queue have ended; until then it starts no others.
func (q *Queue) Swap(set *observer.Set, endpoints map[string]EndpointConfig, history index.Config) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.wanted = concurrencies(set, endpoints)
	for name, n := range q.wanted {
		if _, ok := q.served[name]; !ok {
			if err := q.serve(name, n); err != nil {
				return err
			}
		}
	}
	q.runner.metrics.expect(set)
	q.set.Store(set)
	q.setHistory(history)
	select {
	case q.swapped <- struct{}{}:
	default:
	}
	return nil
}

// serve gives a queue a producer. The caller holds mu.
func (q *Queue) serve(name string, concurrency int) error {
	if err := q.client.Queues().Add(name, river.QueueConfig{MaxWorkers: concurrency}); err != nil {
		return fmt.Errorf("add queue %s: %w", name, err)
	}
	q.served[name] = concurrency
	return nil
}

// resize gives queues of another concurrency a new producer, as far as their deliveries have ended, and returns whether
// that is done.
func (q *Queue) resize(ctx context.Context) (done bool, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	done = true
	for name, want := range q.wanted {
		have, served := q.served[name]
		if served && have == want {
			continue
		}
		if served {
			err := q.drop(ctx, name)
			if errors.Is(err, context.DeadlineExceeded) {
				done = false // it starts nothing more, and is asked again
				continue
			}
			if err != nil {
				return false, err
			}
		}
		if err := q.serve(name, want); err != nil {
			return false, err
		}
		q.log.Info("changed the concurrency of a queue", "queue", name, "concurrency", want)
	}
	return done, nil
}

// drop takes a queue's producer away, once its deliveries have ended. The caller holds mu.
func (q *Queue) drop(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, resizePatience)
	defer cancel()
	if err := q.client.Queues().Remove(ctx, name); err != nil {
		return fmt.Errorf("remove queue %s: %w", name, err)
	}
	delete(q.served, name)
	return nil
}

// Run works jobs until the context ends, then gives the running ones their time (Options.SoftStop) and loses nothing:
// what is cut off is available again. When the lease is lost they get no time: they are somebody else's by then.
func (q *Queue) Run(ctx context.Context) error {
	if !q.start(ctx) {
		return nil
	}
	defer q.working.Store(false)
	var rescuing sync.WaitGroup
	rescuing.Go(func() { q.rescuer.run(ctx) })
	q.sweepUntil(ctx)
	rescuing.Wait()
	return q.stop(context.WithoutCancel(ctx))
}

func (q *Queue) stop(ctx context.Context) error {
	q.log.Info("stopping: running deliveries get their time")
	ctx, cancel := context.WithTimeout(ctx, q.softStop+stopGrace)
	defer cancel()
	stopped := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		select {
		case <-q.lease.Lost():
			// River's leader tries for seconds to resign. The next life does not wait for that.
			defer time.AfterFunc(lostGrace, cancel).Stop()
			_ = q.client.StopAndCancel(ctx) // Stop, below, returns what there is to say
		case <-stopped:
		}
	})
	err := q.client.Stop(ctx)
	close(stopped)
	watching.Wait()
	switch {
	case err == nil:
		return nil
	case q.lease.Err() != nil:
		q.remains.Go(func() { <-q.client.Stopped() })
		return nil
	default:
		return fmt.Errorf("stop River: %w", err)
	}
}

// start starts River's client, again and again while the database is away. It returns false when the context ends first.
func (q *Queue) start(ctx context.Context) bool {
	for {
		// A context of its own: River's stop must not begin with a cut-off of what is running.
		err := q.client.Start(context.WithoutCancel(ctx))
		if err == nil {
			return true
		}
		q.log.Warn("River not started, trying again", "error", err)
		select {
		case <-ctx.Done():
			return false
		case <-time.After(startRetry):
		}
	}
}

// Working says that jobs are being worked: not while the database cannot be reached.
func (q *Queue) Working() bool { return q.working.Load() }

func (q *Queue) sweepUntil(ctx context.Context) {
	for {
		wait := sweepEvery
		resized, err := q.tidy(ctx)
		if !resized {
			wait = resizeAgain
		}
		if err != nil && ctx.Err() == nil {
			q.log.Warn("queues not looked over", "error", err)
		}
		q.working.Store(err == nil)
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-q.swapped:
		case <-timer.C:
		}
		timer.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

func (q *Queue) tidy(ctx context.Context) (resized bool, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, sweepTime, fmt.Errorf("the database did not answer within %s", sweepTime))
	defer cancel()
	if resized, err = q.resize(ctx); err == nil {
		err = q.sweep(ctx)
	}
	if err != nil {
		err = errors.Join(err, context.Cause(ctx))
	}
	return resized, err
}

// sweep serves queues that hold jobs but belong to no endpoint of the configuration: an observer's URL was changed, and
// what was queued for the old place goes to the new one. It also counts the dead letters for the metric.
func (q *Queue) sweep(ctx context.Context) error {
	names, err := store.New().WaitingQueues(ctx, q.runner.pool)
	if err != nil {
		return fmt.Errorf("list queues with jobs: %w", err)
	}
	if err := q.adopt(names); err != nil {
		return err
	}
	counts, err := store.New().CountDeadLetters(ctx, q.runner.pool)
	if err != nil {
		return fmt.Errorf("count dead letters: %w", err)
	}
	q.runner.metrics.setDead(q.set.Load(), counts)
	return nil
}

func (q *Queue) adopt(names []string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, name := range names {
		if _, ok := q.served[name]; ok {
			continue
		}
		q.log.Info("working off a queue that has no endpoint any more", "queue", name)
		if err := q.serve(name, EndpointConfig{}.WithDefaults(name).Concurrency); err != nil {
			return err
		}
	}
	return nil
}
