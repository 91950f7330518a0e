// Package worker is the process: it connects the rooms, runs them until it is told to stop, and answers /metrics,
// /healthz and /readyz.
package worker

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.opentelemetry.io/otel/trace"

	"github.com/fraiseql/weir/internal/capture"
	"github.com/fraiseql/weir/internal/config"
	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/index"
	"github.com/fraiseql/weir/internal/jobs"
	"github.com/fraiseql/weir/internal/lease"
	"github.com/fraiseql/weir/internal/telemetry"
)

const (
	// poolConns is the size of the pool for River and the deliveries, unless the URL says pool_max_conns.
	poolConns = 10
	// functionConns bounds the pool for functions, of which each running one holds a connection: more than any endpoint's
	// concurrency, which is what limits them.
	functionConns = 10000
	// eventCache is how many bytes of recent events are kept for their deliveries.
	eventCache    = 8 << 20
	retryDatabase = 2 * time.Second
	// shortLife is one after which the next does not begin at once.
	shortLife = 10 * time.Second
	// remainsTime is how long the remains of earlier lives are waited for at the end.
	remainsTime = 3 * time.Second
)

// Options is what a Worker needs beside its configuration.
type Options struct {
	Logger  *slog.Logger
	Version string
	// HTTPReady is told the address of the HTTP server once it listens. Optional.
	HTTPReady func(addr string)
	// Load reads the configuration again. nil: it never changes.
	Load func(context.Context) (*config.Config, error)
	// Reload asks for that at once; else it happens when one of the configuration's files has changed. Optional.
	Reload <-chan struct{}
	// LogLevel is set to a reloaded configuration's. Optional.
	LogLevel *slog.LevelVar
	// Registerer takes the metrics in place of the registry that /metrics serves. Optional.
	Registerer prometheus.Registerer
}

// Worker captures changes and delivers them. Make it with New, run it once with Run.
type Worker struct {
	opts     Options
	log      *slog.Logger
	registry *prometheus.Registry // what /metrics serves
	metrics  prometheus.Registerer
	reloads  reloadMetrics
	spans    *telemetry.Metrics
	tracer   trace.Tracer       // nil: no traces
	losses   prometheus.Counter // of the lease
	force    inForce
	health   health
	remains  sync.WaitGroup // what goes on for a while of lives that are over; they can do nothing any more
}

// New makes a worker. It connects to nothing yet.
func New(cfg *config.Config, opts Options) *Worker {
	w := &Worker{opts: opts, log: opts.Logger, registry: prometheus.NewRegistry()}
	w.metrics = cmp.Or[prometheus.Registerer](opts.Registerer, w.registry)
	w.force.cfg, w.force.loadedAt = cfg, time.Now()
	w.health.degraded = w.force.degraded
	w.reloads = newReloadMetrics(w.metrics)
	w.spans = telemetry.NewMetrics(w.metrics)
	w.losses = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "weir_lease_losses_total", Help: "Times that this worker had lost its lease and began anew under another client id.",
	})
	w.metrics.MustRegister(
		w.losses,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "weir_ready", Help: "1 while /readyz says that this worker is ready, else 0.",
		}, w.health.ready),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "weir_degraded", Help: "How many things are not as they should be and do not keep this worker from working: " +
				"the lines of degraded in /readyz.",
		}, w.health.troubles),
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "weir_build_info", Help: "1, with the version of the worker.",
			ConstLabels: prometheus.Labels{"version": opts.Version},
		}, func() float64 { return 1 }),
	)
	return w
}

// Run works until the context ends; then running deliveries get their time (shutdown_timeout), and what is cut off
// goes to the next worker. It returns nil after a stop that was asked for, and an error that says what mends it when
// the database is set up in a way that waiting does not cure. For an unreachable database it waits.
func (w *Worker) Run(ctx context.Context) (err error) {
	var undo cleanup
	defer func() { err = errors.Join(err, undo.run()) }()

	if err := w.trace(ctx, &undo); err != nil {
		return err
	}
	if err := w.serveHTTP(ctx, &undo); err != nil {
		return err
	}
	var watching sync.WaitGroup
	watchCtx, unwatch := context.WithCancel(ctx)
	watching.Go(func() { w.watch(watchCtx) })
	undo.add("stop watching the configuration", func() error {
		unwatch()
		watching.Wait()
		return nil
	})
	undo.add("wait for what is left of earlier lives", func() error { w.await(&w.remains); return nil })
	for {
		began := time.Now()
		err := stopped(ctx, w.live(ctx))
		switch {
		case !errors.Is(err, lease.ErrLost):
			if err == nil {
				w.log.Info("worker stopped")
			}
			return err
		case ctx.Err() != nil:
			return nil
		}
		w.losses.Inc()
		w.log.Warn("this worker begins anew under another client id", "error", err)
		if time.Since(began) < shortLife { // an address that leads now here, now there
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(retryDatabase):
			}
		}
	}
}

// trace makes what sends traces, if they are wanted. It outlasts the lives: what they do at their end is traced, too.
func (w *Worker) trace(ctx context.Context, undo *cleanup) error {
	cfg := w.force.config()
	if cfg.Telemetry.OTLPEndpoint == "" {
		return nil
	}
	provider, err := telemetry.New(ctx, telemetry.Options{
		Endpoint: string(cfg.Telemetry.OTLPEndpoint), Version: w.opts.Version, Installation: cfg.Installation,
		Metrics: w.spans, Logger: w.log,
	})
	if err != nil {
		return err
	}
	undo.add("send the last traces", func() error { return provider.Stop(ctx) })
	w.tracer = provider.Tracer()
	return nil
}

// await waits for a while.
func (w *Worker) await(remains *sync.WaitGroup) {
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		remains.Wait()
	}()
	select {
	case <-gone:
	case <-time.After(remainsTime):
		w.log.Warn("something of an earlier life does not end")
	}
}

// stopped is nil for an error that only says that the context has ended.
func stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// sink is where capture and jobs meet: events and their jobs, in the transaction that advances the checkpoint.
type sink struct {
	history *index.Index
	queue   *jobs.Queue
}

// Prepare matches a batch and writes down its events while others are being committed. Of one that leads to no job, and that the
// history leaves out, nothing is stored but the checkpoint.
func (s *sink) Prepare(ctx context.Context, batch []event.Change) capture.Prepared {
	matched := s.queue.Prepare(ctx, batch)
	var events []index.Ingested
	if made := matched.Made(); made != nil {
		events = ingested(batch, made)
		if rows := s.history.Prepare(events); rows == 0 && !slices.Contains(made, true) {
			return capture.Prepared{Passed: matched.Passed}
		}
	}
	return capture.Prepared{Commit: func(ctx context.Context, tx pgx.Tx) error { return s.store(ctx, tx, batch, matched, events) }}
}

// Commit inserts the batch's jobs and records its events, those without a job unless the history leaves them out.
func (s *sink) Commit(ctx context.Context, tx pgx.Tx, batch []event.Change) error {
	return s.store(ctx, tx, batch, s.queue.Prepare(ctx, batch), nil)
}

func (s *sink) store(ctx context.Context, tx pgx.Tx, batch []event.Change, matched jobs.Prepared, events []index.Ingested) error {
	made, err := matched.Insert(ctx, tx)
	if err != nil {
		return err
	}
	if events == nil {
		events = ingested(batch, made)
	}
	return s.history.Record(ctx, tx, events)
}

// ingested are the events among the changes.
func ingested(batch []event.Change, made []bool) []index.Ingested {
	events := make([]index.Ingested, 0, len(batch))
	for i := range batch {
		if batch[i].Reason == "" {
			events = append(events, index.Ingested{Event: &batch[i].Event, Matched: made[i]})
		}
	}
	return events
}

// quiet passes River's warnings and errors on and keeps the rest for debugging: River speaks of every job.
type quiet struct{ slog.Handler }

// Enabled lowers what River calls info to debug.
func (q quiet) Enabled(ctx context.Context, level slog.Level) bool {
	if level == slog.LevelInfo {
		level = slog.LevelDebug
	}
	return q.Handler.Enabled(ctx, level)
}

// WithAttrs keeps the wrapping.
func (q quiet) WithAttrs(attrs []slog.Attr) slog.Handler { return quiet{q.Handler.WithAttrs(attrs)} }

// WithGroup keeps the wrapping.
func (q quiet) WithGroup(name string) slog.Handler { return quiet{q.Handler.WithGroup(name)} }
