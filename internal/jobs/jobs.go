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
	"go.opentelemetry.io/otel/trace"

	"github.com/fraiseql/weir/internal/breaker"
	"github.com/fraiseql/weir/internal/cache"
	"github.com/fraiseql/weir/internal/capture"
	"github.com/fraiseql/weir/internal/dedup"
	"github.com/fraiseql/weir/internal/index"
	"github.com/fraiseql/weir/internal/lease"
	"github.com/fraiseql/weir/internal/observer"
	"github.com/fraiseql/weir/internal/store"
)

// Schema is where River's tables are.
const Schema = "weir"

// FetchCooldown bounds how often a queue is fetched: it is the latency that a delivery gains by not being alone.
const FetchCooldown = 20 * time.Millisecond

const (
	// sweepEvery is how often queues that have jobs but no endpoint (any more) are looked for, and dead letters counted.
	sweepEvery = 5 * time.Second
	sweepAgain = 250 * time.Millisecond // when there is more to do
	startRetry = time.Second
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
	Redis     *cache.Redis   // nil: deliveries are not marked as made, and keyed dedup is the database's
	Results   *cache.Results // nil: no result is kept
	// Documents stores a document of the history again that its store refused. nil: there is no such store.
	Documents func(ctx context.Context, key index.Key, outcome *index.Outcome, version int64) (refused string, err error)
	// StreamPaused is told, again and again, that somebody has paused the stream. Optional. It must not block.
	StreamPaused func()
	ClientID     string
	SoftStop     time.Duration // how long running deliveries may take when the worker stops
	// RecoveryWindow is how far before the newest ingested change a lost slot is made up for: what was ingested since is kept.
	RecoveryWindow time.Duration
	// Remains waits for what River still does after Run has returned because the lease was lost.
	Remains     *sync.WaitGroup
	Logger      *slog.Logger
	RiverLogger *slog.Logger // River's own: it speaks of every job
	Registerer  prometheus.Registerer
	Tracer      trace.Tracer // nil: nothing is traced
	Stream      string       // the stream's name, for traces
}

// Queue inserts and works jobs. Safe for concurrent use.
type Queue struct {
	set      atomic.Pointer[observer.Set]
	index    *index.Index
	runner   *runner
	client   *river.Client[pgx.Tx]
	inserter *river.Client[pgx.Tx] // works nothing
	rescuer  *rescuer
	lease    *lease.Lease
	gauges   *gauges
	log      *slog.Logger
	working  atomic.Bool

	softStop time.Duration
	recovery time.Duration // Options.RecoveryWindow
	remains  *sync.WaitGroup

	swapped chan struct{} // asks for a sweep before its time
	ending  chan struct{} // closed when Run's context has ended
	// unreleased: the jobs that waited for what the configuration in force knows are still to be made available.
	unreleased atomic.Bool

	producers producers
	turns     *turns
	// uncommitted is what Insert has inserted and Committed has not heard of.
	uncommitted *matching
	stream      string // Options.Stream
}

// New makes a queue that can insert jobs; Run works them.
func New(o Options) (*Queue, error) {
	q := &Queue{
		index: o.Index, log: o.Logger.With("component", "jobs"), lease: o.Lease, swapped: make(chan struct{}, 1),
		softStop: o.SoftStop, recovery: o.RecoveryWindow, remains: o.Remains, ending: make(chan struct{}), stream: o.Stream,
	}
	q.producers.log = q.log
	q.set.Store(o.Observers)
	q.unreleased.Store(true)
	m := newMetrics(o.Registerer)
	m.expect(o.Observers)
	q.gauges = newGauges(o.Pool, o.ClientID, q.producers.names, q.log, o.Registerer)
	q.turns = newTurns(o.Pool, &q.set, q.log)
	q.runner = &runner{
		pool: o.Pool, functions: o.Functions, lease: o.Lease, index: o.Index, set: &q.set, turns: q.turns, metrics: m, log: q.log,
		ending: q.ending, results: o.Results, tracer: o.Tracer,
		panel: breaker.New(breaker.Options{
			DB: o.Pool, ClientID: o.ClientID, Turned: q.wake, Logger: o.Logger, Registerer: o.Registerer,
			QueueOf: QueueName, Resumed: q.resumed, StreamPaused: o.StreamPaused,
		}),
	}
	if q.runner.claims = dedup.Claims(dedup.NewPostgres(o.Pool)); o.Redis != nil {
		q.runner.claims, q.runner.marks = dedup.NewRedis(o.Redis), dedup.NewMarks(o.Redis)
		q.runner.made = &made{marks: q.runner.marks, log: q.log}
	}
	q.producers.allowed, q.producers.paused = q.runner.panel.Allowed, q.runner.panel.QueuePaused
	q.turns.paused = q.runner.panel.ObserverPaused
	q.serve(o.Observers, o.Endpoints)

	q.rescuer = &rescuer{
		pool: o.Pool, lease: o.Lease, clientID: o.ClientID, attempts: newAttempts(), set: &q.set, metrics: m, log: q.log,
		freed: q.swapped,
	}

	workers := river.NewWorkers()
	river.AddWorker(workers, newWorker[webhookArgs](q.runner))
	river.AddWorker(workers, newWorker[slackArgs](q.runner))
	river.AddWorker(workers, newWorker[emailArgs](q.runner))
	river.AddWorker(workers, newWorker[smsArgs](q.runner))
	river.AddWorker(workers, newWorker[pushArgs](q.runner))
	river.AddWorker(workers, newWorker[searchArgs](q.runner))
	river.AddWorker(workers, newWorker[cacheArgs](q.runner))
	river.AddWorker(workers, newWorker[databaseArgs](q.runner))
	river.AddWorker(workers, newWorker[logArgs](q.runner))
	river.AddWorker(workers, &housekeeper{queue: q})
	river.AddWorker(workers, &changeWorker{queue: q, reader: o.Reader})
	river.AddWorker(workers, &documentWorker{queue: q, store: o.Documents})

	client, err := river.NewClient(riverpgxv5.New(o.Pool), &river.Config{
		ID: o.ClientID, Schema: Schema, Queues: q.producers.first(), Workers: workers, Logger: o.RiverLogger,
		FetchCooldown: FetchCooldown, FetchOnlyKnownKinds: true,
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
	q.client, q.producers.queues = client, client.Queues()
	// A client that inserts keeps quiet for its FetchCooldown after it has announced jobs, and announces nothing afterwards: what
	// comes a few milliseconds after another job would wait until somebody polls. Batches are further apart than River's least.
	q.inserter, err = river.NewClient(riverpgxv5.New(o.Pool), &river.Config{
		Schema: Schema, Logger: o.RiverLogger, FetchCooldown: river.FetchCooldownMin,
	})
	if err != nil {
		return nil, fmt.Errorf("make River's client that inserts: %w", err)
	}
	return q, nil
}

// Swap puts other observers in force: for what is matched from now on, and for every delivery that starts from now on, also
// those that are queued already. It needs no database and does not wait: the sweep, which it wakes, serves new queues, and
// until then they hold what is matched into them. Those that nothing goes to any more go on being served, since they may hold
// deliveries. A changed concurrency takes effect when the deliveries that run in the queue have ended; until then it starts no
// others.
func (q *Queue) Swap(set *observer.Set, endpoints map[string]EndpointConfig) {
	q.runner.metrics.expect(set)
	q.serve(set, endpoints)
	q.set.Store(set)
	q.runner.strangers.forget()
	q.unreleased.Store(true)
	q.wake()
}

// serve says which endpoints are to be served, and how.
func (q *Queue) serve(set *observer.Set, configs map[string]EndpointConfig) {
	byQueue := places(set, configs)
	endpoints := map[string]breaker.Endpoint{}
	for _, at := range byQueue {
		endpoints[at.name] = at.settings
	}
	q.runner.panel.Configure(endpoints, targets(set))
	q.runner.panel.Watch(set.Names())
	q.producers.want(byQueue)
}

// wake asks for a sweep before its time.
func (q *Queue) wake() {
	select {
	case q.swapped <- struct{}{}:
	default:
	}
}

// Run works jobs until the context ends, then gives the running ones their time (Options.SoftStop) and loses nothing:
// what is cut off is available again. When the lease is lost they get no time: they are somebody else's by then.
func (q *Queue) Run(ctx context.Context) error {
	if !q.start(ctx) {
		return nil
	}
	defer q.working.Store(false)
	stopCalling := q.turns.start(context.WithoutCancel(ctx), q.client)
	stopCounting := q.gauges.start(context.WithoutCancel(ctx), q.client)
	defer stopCounting()
	stopForgetting := q.runner.made.start(context.WithoutCancel(ctx), q.client)
	defer stopForgetting()
	defer stopCalling() // when River has stopped: what ends until then has successors, too
	var beside sync.WaitGroup
	beside.Go(func() { q.rescuer.run(ctx) })
	beside.Go(func() { q.runner.panel.Run(ctx) })
	beside.Go(func() {
		<-ctx.Done()
		close(q.ending)
	})
	q.sweepUntil(ctx)
	beside.Wait()
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
		err := q.followFirst(ctx)
		if err == nil {
			err = keepPauses(ctx, q.runner.pool)
		}
		if err == nil {
			// A context of its own: River's stop must not begin with a cut-off of what is running.
			err = q.client.Start(context.WithoutCancel(ctx))
		}
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

func (q *Queue) isEnding() bool {
	select {
	case <-q.ending:
		return true
	default:
		return false
	}
}

// Working says that jobs are being worked: not while the database cannot be reached.
func (q *Queue) Working() bool { return q.working.Load() }

func (q *Queue) sweepUntil(ctx context.Context) {
	logged := ""
	for {
		done, err := q.tidy(ctx)
		q.working.Store(err == nil)
		wait := sweepEvery
		switch {
		case err == nil:
			logged = ""
			if !done {
				wait = sweepAgain
			}
		case ctx.Err() == nil && err.Error() != logged:
			q.log.Warn("queues not looked over, trying again", "error", err)
			logged = err.Error()
		}
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

func (q *Queue) tidy(ctx context.Context) (done bool, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, sweepTime, fmt.Errorf("the database did not answer within %s", sweepTime))
	defer cancel()
	if done, err = q.sweep(ctx); err != nil {
		err = errors.Join(err, context.Cause(ctx))
	}
	return done, err
}

// sweep moves the jobs of queues that belong to no endpoint (any more), serves the queues that are to be served, calls
// deliveries whose turn it is, lets jobs go whose observer is known again and, when all that is done, counts the dead letters
// for the metric. It returns false when it should be called again soon.
func (q *Queue) sweep(ctx context.Context) (done bool, err error) {
	names, err := store.New().WaitingQueues(ctx, q.runner.pool)
	if err != nil {
		return false, fmt.Errorf("list queues with jobs: %w", err)
	}
	holding, err := q.moveOrphans(ctx, names)
	if err != nil {
		return false, err
	}
	if done, err = q.producers.adjust(ctx, holding); err != nil {
		return false, err
	}
	swept, err := q.turns.sweep(ctx)
	if err != nil {
		return false, err
	}
	released, err := q.release(ctx)
	if err != nil || !released || !swept || !done || len(holding) < len(names) {
		return false, err
	}
	counts, err := store.New().CountDeadLetters(ctx, q.runner.pool)
	if err != nil {
		return false, fmt.Errorf("count dead letters: %w", err)
	}
	q.runner.metrics.setDead(q.set.Load(), counts)
	return true, nil
}
