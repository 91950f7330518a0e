// Package jobs turns matched changes into River jobs and works them. River does the queueing: one queue an endpoint,
// one kind a type of action, retries by the observer's policy. Dead letters are River jobs, too.
package jobs

import (
	"context"
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
	startRetry = time.Second
	// riverRescue turns River's own rescue off: it goes by age alone, does not know who is alive, and keeps the job's id.
	riverRescue = 10 * 365 * 24 * time.Hour
)

// Options is what a Queue needs.
type Options struct {
	Pool        *pgxpool.Pool
	Functions   *pgxpool.Pool // for actions that run in the database: one connection for each that runs
	Lease       *lease.Lease  // taken before Run
	Index       *index.Index
	Reader      *capture.Reader
	Observers   *observer.Set
	Endpoints   map[string]EndpointConfig
	ClientID    string
	SoftStop    time.Duration // how long running deliveries may take when the worker stops
	Logger      *slog.Logger
	RiverLogger *slog.Logger // River's own: it speaks of every job
	Registerer  prometheus.Registerer
}

// Queue inserts and works jobs. Safe for concurrent use.
type Queue struct {
	set       atomic.Pointer[observer.Set]
	index     *index.Index
	runner    *runner
	client    *river.Client[pgx.Tx]
	rescuer   *rescuer
	lease     *lease.Lease
	endpoints map[string]EndpointConfig
	log       *slog.Logger
	served    map[string]bool // queues that have a producer; the sweep's own after New
	working   atomic.Bool
}

// New makes a queue that can insert jobs; Run works them.
func New(o Options) (*Queue, error) {
	q := &Queue{
		index: o.Index, endpoints: o.Endpoints, log: o.Logger.With("component", "jobs"), served: map[string]bool{},
		lease: o.Lease,
	}
	q.set.Store(o.Observers)
	m := newMetrics(o.Registerer)
	m.expect(o.Observers)
	q.runner = &runner{pool: o.Pool, functions: o.Functions, index: o.Index, set: &q.set, metrics: m, log: q.log}

	q.rescuer = &rescuer{
		pool: o.Pool, lease: o.Lease, clientID: o.ClientID, attempts: newAttempts(), set: &q.set, metrics: m, log: q.log,
	}

	workers := river.NewWorkers()
	river.AddWorker(workers, newWorker[webhookArgs](q.runner))
	river.AddWorker(workers, newWorker[databaseArgs](q.runner))
	river.AddWorker(workers, newWorker[logArgs](q.runner))
	river.AddWorker(workers, &changeWorker{queue: q, reader: o.Reader})

	client, err := river.NewClient(riverpgxv5.New(o.Pool), &river.Config{
		ID: o.ClientID, Schema: Schema, Queues: q.queues(), Workers: workers, Logger: o.RiverLogger,
		FetchCooldown: fetchCooldown, FetchOnlyKnownKinds: true,
		JobTimeout: -1, SoftStopTimeout: o.SoftStop,
		Middleware:           []rivertype.Middleware{q.rescuer.attempts},
		RescueStuckJobsAfter: riverRescue,
		// Dead letters stay until somebody acts.
		CancelledJobRetentionPeriod: -1, DiscardedJobRetentionPeriod: -1,
	})
	if err != nil {
		return nil, fmt.Errorf("make River's client: %w", err)
	}
	q.client = client
	return q, nil
}

// queues has one for each endpoint that an action goes to, so that a slow one holds back nothing else.
func (q *Queue) queues() map[string]river.QueueConfig {
	queues := map[string]river.QueueConfig{queueChange: {MaxWorkers: changeWorkers}}
	for _, endpoint := range q.set.Load().Endpoints() {
		queues[QueueName(endpoint)] = river.QueueConfig{MaxWorkers: q.endpoints[endpoint].WithDefaults(endpoint).Concurrency}
	}
	for name := range queues {
		q.served[name] = true
	}
	return queues
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
	stopped := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		select {
		case <-q.lease.Lost():
			_ = q.client.StopAndCancel(ctx) // Stop, below, returns what there is to say
		case <-stopped:
		}
	})
	err := q.client.Stop(ctx)
	close(stopped)
	watching.Wait()
	if err != nil {
		return fmt.Errorf("stop River: %w", err)
	}
	return nil
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
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		err := q.sweep(ctx)
		if err != nil && ctx.Err() == nil {
			q.log.Warn("queues not looked over", "error", err)
		}
		q.working.Store(err == nil)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// sweep serves queues that hold jobs but belong to no endpoint of the configuration: an observer's URL was changed, and
// what was queued for the old place goes to the new one. It also counts the dead letters for the metric.
func (q *Queue) sweep(ctx context.Context) error {
	names, err := store.New().WaitingQueues(ctx, q.runner.pool)
	if err != nil {
		return fmt.Errorf("list queues with jobs: %w", err)
	}
	for _, name := range names {
		if q.served[name] {
			continue
		}
		q.log.Info("working off a queue that has no endpoint any more", "queue", name)
		c := EndpointConfig{}.WithDefaults(name)
		if err := q.client.Queues().Add(name, river.QueueConfig{MaxWorkers: c.Concurrency}); err != nil {
			return fmt.Errorf("add queue %s: %w", name, err)
		}
		q.served[name] = true
	}
	counts, err := store.New().CountDeadLetters(ctx, q.runner.pool)
	if err != nil {
		return fmt.Errorf("count dead letters: %w", err)
	}
	q.runner.metrics.setDead(q.set.Load(), counts)
	return nil
}
