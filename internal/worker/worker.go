// Package worker is the process: it connects the rooms, runs them until it is told to stop, and answers /metrics,
// /healthz and /readyz.
package worker

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"

	"github.com/fraiseql/weir/db/migrations"
	"github.com/fraiseql/weir/internal/action"
	"github.com/fraiseql/weir/internal/capture"
	"github.com/fraiseql/weir/internal/config"
	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/index"
	"github.com/fraiseql/weir/internal/jobs"
	"github.com/fraiseql/weir/internal/observer"
	"github.com/fraiseql/weir/internal/outbound"
	"github.com/fraiseql/weir/internal/store"
)

const (
	// poolConns is the size of the pool for River and the deliveries, unless the URL says pool_max_conns.
	poolConns = 10
	// eventCache is how many bytes of recent events are kept for their deliveries.
	eventCache = 16 << 20
	// Partitions are made this many days ahead, and looked after this often; a failure is repeated sooner.
	partitionDays  = 7
	partitionEvery = 6 * time.Hour
	partitionAgain = 10 * time.Minute
	retryDatabase  = 2 * time.Second
)

// Options is what a Worker needs beside its configuration.
type Options struct {
	Logger  *slog.Logger
	Version string
	// HTTPReady is told the address of the HTTP server once it listens. Optional.
	HTTPReady func(addr string)
}

// Worker captures changes and delivers them. Make it with New, run it once with Run.
type Worker struct {
	cfg      *config.Config
	opts     Options
	log      *slog.Logger
	clientID string
	registry *prometheus.Registry

	pool   *pgxpool.Pool
	stream *capture.Stream
	queue  *jobs.Queue
	health health
}

// New makes a worker. It connects to nothing yet.
func New(cfg *config.Config, opts Options) *Worker {
	w := &Worker{cfg: cfg, opts: opts, log: opts.Logger, clientID: newClientID(), registry: prometheus.NewRegistry()}
	w.registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "weir_build_info", Help: "1, with the version of the worker.",
			ConstLabels: prometheus.Labels{"version": opts.Version},
		}, func() float64 { return 1 }),
	)
	return w
}

// newClientID is fresh at each start: a restarted worker is not the one that died. It fits PostgreSQL's 63 bytes for
// application_name.
func newClientID() string {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "worker"
	}
	var random [4]byte
	_, _ = rand.Read(random[:]) // never fails (crypto/rand)
	return fmt.Sprintf("%.36s-%d-%s", host, os.Getpid(), hex.EncodeToString(random[:]))
}

// Run works until the context ends; then running deliveries get their time (shutdown_timeout), and what is cut off
// goes to the next worker. It returns nil after a stop that was asked for, and an error that says what mends it when
// the database is set up in a way that waiting does not cure. For an unreachable database it waits.
func (w *Worker) Run(ctx context.Context) (err error) {
	var undo cleanup
	defer func() { err = errors.Join(err, undo.run()) }()

	if err := w.serveHTTP(ctx, &undo); err != nil {
		return err
	}
	pool, err := w.connect(ctx)
	if err != nil {
		return stopped(ctx, err)
	}
	undo.add("close the database pool", func() error { pool.Close(); return nil })
	w.pool = pool
	if err := w.awaitDatabase(ctx); err != nil {
		return stopped(ctx, err)
	}
	if err := w.assemble(ctx, &undo); err != nil {
		return err
	}
	w.log.Info("worker started", "version", w.opts.Version, "client_id", w.clientID,
		"observers", len(w.cfg.Observers), "installation", w.cfg.Installation)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return w.stream.Run(ctx) })
	group.Go(func() error { return w.deliver(ctx) })
	group.Go(func() error { return w.keepPartitions(ctx) })
	if err := group.Wait(); err != nil {
		return stopped(ctx, err)
	}
	w.log.Info("worker stopped")
	return nil
}

// stopped is nil for an error that only says that the context has ended.
func stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// assemble makes the rooms' objects. Nothing runs yet.
func (w *Worker) assemble(ctx context.Context, undo *cleanup) error {
	client := outbound.New(w.cfg.Outbound)
	undo.add("close outbound connections", func() error { client.CloseIdleConnections(); return nil })
	observers, err := observer.New(w.cfg.Observers, action.Deps{HTTP: client, Logger: w.log})
	if err != nil {
		return err
	}
	reader, err := capture.NewReader(ctx, w.cfg.Source.URL.Value(), w.clientID, w.cfg.Source.Config)
	if err != nil {
		return err
	}
	undo.add("close the change log's reader", func() error { reader.Close(); return nil })
	history := index.New(eventCache)
	w.queue, err = jobs.New(jobs.Options{
		Pool: w.pool, Index: history, Reader: reader, Observers: observers, Endpoints: w.cfg.Endpoints, ClientID: w.clientID,
		SoftStop: w.cfg.ShutdownTimeout.Std(), Logger: w.log, RiverLogger: slog.New(quiet{w.log.Handler()}), Registerer: w.registry,
	})
	if err != nil {
		return err
	}
	w.stream = capture.New(w.cfg.Source.Config, capture.Options{
		SourceURL: w.cfg.Source.URL.Value(), DatabaseURL: w.cfg.Database.URL.Value(), Installation: w.cfg.Installation,
		ClientID: w.clientID, Sink: sink{history, w.queue}, Logger: w.log, Registerer: w.registry,
	})
	w.health.set(w.stream, w.queue)
	return nil
}

// sink is where capture and jobs meet: events and their jobs, in the transaction that advances the checkpoint.
type sink struct {
	history *index.Index
	queue   *jobs.Queue
}

// Commit records the batch's events and inserts its jobs.
func (s sink) Commit(ctx context.Context, tx pgx.Tx, batch []event.Change) error {
	events := make([]*event.Event, 0, len(batch))
	for i := range batch {
		if batch[i].Reason == "" {
			events = append(events, &batch[i].Event)
		}
	}
	if err := s.history.Record(ctx, tx, events); err != nil {
		return err
	}
	return s.queue.Insert(ctx, tx, batch)
}

// deliver works jobs, but not before the source is known to be the checkpoint's: a copy must send nothing.
func (w *Worker) deliver(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-w.stream.Verified():
		return capture.Denied(w.queue.Run(ctx), w.pool.Config().ConnConfig.User)
	}
}

// connect makes the pool, which connects later.
func (w *Worker) connect(ctx context.Context) (*pgxpool.Pool, error) {
	url := w.cfg.Database.URL.Value()
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("database.url: %w", err)
	}
	if !strings.Contains(url, "pool_max_conns") {
		cfg.MaxConns = poolConns
	}
	cfg.ConnConfig.RuntimeParams["application_name"] = "weir:" + w.clientID
	cfg.ConnConfig.RuntimeParams["client_encoding"] = "UTF8" // whatever the database's or the role's default is
	return pgxpool.NewWithConfig(ctx, cfg)
}

// awaitDatabase waits until the database answers, then checks that it is migrated.
func (w *Worker) awaitDatabase(ctx context.Context) error {
	logged := ""
	for {
		err := w.prepareDatabase(ctx)
		var setup *capture.SetupError
		if err == nil || errors.As(err, &setup) {
			return err
		}
		if err.Error() != logged {
			w.log.Warn("database not ready, waiting for it", "error", err)
			logged = err.Error()
		}
		w.health.waiting(err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(retryDatabase):
		}
	}
}

func (w *Worker) prepareDatabase(ctx context.Context) error {
	version, err := store.New().SchemaVersion(ctx, w.pool)
	if capture.NotMigrated(err) || (err == nil && version < migrations.Version) {
		return &capture.SetupError{
			Problem: fmt.Sprintf("the database is at schema version %d, this worker needs %d", version, migrations.Version),
			Hint:    "weir migrate up",
		}
	}
	if err != nil {
		return capture.Denied(err, w.pool.Config().ConnConfig.User)
	}
	return w.checkEncoding(ctx)
}

// checkEncoding refuses a database that cannot hold every text: a job whose receiver answers with a character that it
// lacks could never be completed, and would be delivered again and again. The source may have any encoding.
func (w *Worker) checkEncoding(ctx context.Context) error {
	var encoding string
	if err := w.pool.QueryRow(ctx, "SELECT current_setting('server_encoding')").Scan(&encoding); err != nil {
		return err
	}
	if encoding == "UTF8" {
		return nil
	}
	return &capture.SetupError{
		Problem: fmt.Sprintf("the database of database.url has encoding %s, which cannot hold every receiver's answer", encoding),
		Hint: "CREATE DATABASE weir ENCODING 'UTF8' TEMPLATE template0 LOCALE 'C'; let database.url name it and source.url " +
			"this one, then weir migrate up",
	}
}

func (w *Worker) ensurePartitions(ctx context.Context) error {
	today := time.Now().UTC().Truncate(24 * time.Hour)
	_, err := store.New().EnsurePartitions(ctx, w.pool, store.EnsurePartitionsParams{
		First: today.AddDate(0, 0, -1), Last: today.AddDate(0, 0, partitionDays),
	})
	if err != nil {
		return fmt.Errorf("make partitions: %w", err)
	}
	return nil
}

// keepPartitions makes partitions ahead of time. Nothing waits for it: events of a day that has none go to the default
// partition, and are moved when it is made.
func (w *Worker) keepPartitions(ctx context.Context) error {
	for {
		wait := partitionEvery
		if err := w.ensurePartitions(ctx); err != nil && ctx.Err() == nil {
			wait = partitionAgain
			w.log.Warn("partitions not made, trying again later; that takes the role that owns schema weir, or a member of it",
				"error", err, "again_in", wait)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
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
