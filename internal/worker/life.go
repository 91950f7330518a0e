package worker

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	"github.com/fraiseql/weir/db/migrations"
	"github.com/fraiseql/weir/internal/action"
	"github.com/fraiseql/weir/internal/cache"
	"github.com/fraiseql/weir/internal/capture"
	"github.com/fraiseql/weir/internal/config"
	"github.com/fraiseql/weir/internal/index"
	"github.com/fraiseql/weir/internal/jobs"
	"github.com/fraiseql/weir/internal/lease"
	"github.com/fraiseql/weir/internal/observer"
	"github.com/fraiseql/weir/internal/outbound"
	"github.com/fraiseql/weir/internal/store"
)

// life is what a worker does under one client id: until it is stopped, or declared dead. Then nothing of it may go on, and
// a worker that is not stopped begins another life, as a restarted process would.
type life struct {
	cfg        *config.Config
	opts       Options
	log        *slog.Logger
	clientID   string
	registerer prometheus.Registerer
	tracer     trace.Tracer // nil: no traces
	health     *health

	remains *sync.WaitGroup // what goes on for a while when the life is over
	server  server

	lease  *lease.Lease
	pool   *pgxpool.Pool
	stream *capture.Stream
	queue  *jobs.Queue
	client *outbound.Client              // of the observers in force
	mailer atomic.Pointer[action.Mailer] // theirs, too; probes read it

	history   *index.Index
	followers []*index.Follower

	redis   *cache.Redis   // nil without the section redis
	results *cache.Results // as redis

	elastic *index.Elasticsearch // nil without the section elasticsearch
}

// live lives one life. It returns lease.ErrLost when others have declared it dead.
func (w *Worker) live(ctx context.Context) (err error) {
	var undo cleanup
	defer func() { err = errors.Join(err, undo.run()) }()
	metrics := &registrations{Registerer: w.metrics}
	undo.add("unregister metrics", metrics.undo)
	l := &life{
		cfg: w.force.config(), opts: w.opts, log: w.log, clientID: newClientID(), registerer: metrics, health: &w.health,
		remains: &w.remains, tracer: w.tracer,
	}
	l.lease = lease.New(lease.Options{
		DatabaseURL: l.cfg.Database.URL.Value(), ClientID: l.clientID, Version: l.opts.Version, ReadsStream: l.readsStream,
		Logger: l.log,
	})
	if err := l.assemble(ctx, &undo); err != nil {
		return err
	}
	if err := w.force.begin(l); err != nil {
		return err
	}
	undo.add("end reloads", func() error { w.force.end(); return nil })
	if err := l.awaitDatabase(ctx); err != nil {
		return err
	}
	undo.add("give the lease back", l.hold(ctx))
	undo.add("leave Redis", l.followRedis(ctx))
	return l.run(ctx)
}

// storeDocument stores a document again that Elasticsearch refused, nil without an Elasticsearch.
func (l *life) storeDocument() func(context.Context, index.Key, *index.Outcome, int64) (string, error) {
	if l.elastic == nil {
		return nil
	}
	return func(ctx context.Context, key index.Key, outcome *index.Outcome, version int64) (string, error) {
		return l.elastic.Again(ctx, l.pool, key, outcome, version)
	}
}

func (l *life) run(ctx context.Context) error {
	l.health.set(l.stream, l.queue, l.troubles)
	l.log.Info("worker started", "version", l.opts.Version, "client_id", l.clientID,
		"observers", len(l.cfg.Observers), "installation", l.cfg.Installation)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return l.stream.Run(ctx) })
	group.Go(func() error { return l.deliver(ctx) })
	for _, follower := range l.followers {
		group.Go(func() error { return l.follow(ctx, follower) })
	}
	group.Go(func() error {
		select {
		case <-l.lease.Lost():
			return l.lease.Err()
		case <-ctx.Done():
			return nil
		}
	})
	return group.Wait()
}

// troubles are what is away of what deliveries use.
func (l *life) troubles() []string {
	var away []string
	if trouble := l.mailer.Load().Trouble(); trouble != "" {
		away = append(away, "smtp: "+trouble)
	}
	if trouble := l.redis.Trouble(); trouble != "" {
		away = append(away, "redis: "+trouble+" (deliveries go on without it)")
	}
	if trouble := l.elastic.Trouble(); trouble != "" {
		away = append(away, "elasticsearch: "+trouble)
	}
	return away
}

// followRedis keeps in touch with Redis until the function that it returns is called. Deliveries that end while the worker
// stops use it, too.
func (l *life) followRedis(ctx context.Context) (leave func() error) {
	if l.redis == nil {
		return func() error { return nil }
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var following sync.WaitGroup
	following.Go(func() { l.redis.Run(ctx) })
	following.Go(func() { l.results.Run(ctx) })
	return func() error {
		cancel()
		following.Wait()
		return nil
	}
}

// hold renews the lease until it is given back. It outlasts the rooms: what they still do while they stop is done under it.
func (l *life) hold(ctx context.Context) (giveBack func() error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = l.lease.Run(ctx) // who is to know that it was lost has Lost
	}()
	return func() error {
		cancel()
		<-ended
		return nil
	}
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

// assemble makes the rooms' objects. Nothing is connected yet and nothing runs.
func (l *life) assemble(ctx context.Context, undo *cleanup) error {
	pool, err := l.connect(ctx, poolConns)
	if err != nil {
		return err
	}
	undo.add("close the database pool", func() error { l.closePool(pool); return nil })
	l.pool = pool
	functions, err := l.connect(ctx, functionConns)
	if err != nil {
		return err
	}
	undo.add("close the pool for functions", func() error { l.closePool(functions); return nil })
	if l.cfg.Redis != nil {
		l.redis = cache.Open(*l.cfg.Redis, l.log, l.registerer)
		undo.add("close Redis", l.redis.Close)
		l.results = cache.NewResults(l.redis, cache.ResultsOptions{ClientID: l.clientID, Logger: l.log, Registerer: l.registerer})
	}
	if l.cfg.Elasticsearch != nil {
		l.elastic, err = index.OpenElasticsearch(*l.cfg.Elasticsearch, index.ElasticsearchOptions{
			Installation: l.cfg.Installation, Logger: l.log, Registerer: l.registerer,
		})
		if err != nil {
			return err
		}
		undo.add("close Elasticsearch", l.elastic.Close)
	}
	observers, deps, err := l.observers(l.cfg)
	if err != nil {
		return err
	}
	l.client = deps.HTTP
	l.mailer.Store(deps.Mailer)
	undo.add("close outbound connections", func() error { l.client.CloseIdleConnections(); return nil })
	reader, err := capture.NewReader(ctx, l.cfg.Source.URL.Value(), l.clientID, l.cfg.Source.Config)
	if err != nil {
		return err
	}
	undo.add("close the change log's reader", func() error { reader.Close(); return nil })
	history := index.New(eventCache, l.cfg.History)
	l.history = history
	l.queue, err = jobs.New(jobs.Options{
		Pool: l.pool, Functions: functions, Lease: l.lease, Index: history, Reader: reader, Observers: observers,
		Redis: l.redis, Results: l.results, Endpoints: l.cfg.Endpoints, ClientID: l.clientID, Documents: l.storeDocument(),
		SoftStop: l.cfg.ShutdownTimeout.Std(), RecoveryWindow: l.cfg.Source.Config.WithDefaults().RecoveryWindow.Std(), Logger: l.log,
		StreamPaused: l.pauseStream, Tracer: l.tracer, Stream: string(l.cfg.Source.Slot),
		Remains: l.remains, RiverLogger: slog.New(quiet{l.log.Handler()}), Registerer: l.registerer,
	})
	if err != nil {
		return err
	}
	l.followHistory()
	sink := &sink{history: history, queue: l.queue}
	l.stream = capture.New(l.cfg.Source.Config, capture.Options{
		SourceURL: l.cfg.Source.URL.Value(), DatabaseURL: l.cfg.Database.URL.Value(), Installation: l.cfg.Installation,
		ClientID: l.clientID, Sink: sink, Prepare: sink.Prepare, Committed: l.committed, MayBury: l.lease.Outlives, Logger: l.log,
		Registerer: l.registerer,
	})
	return nil
}

// readsStream is asked by the lease, which is renewed only after the life was assembled.
func (l *life) readsStream() (heard time.Duration, reading bool) { return l.stream.Reads() }

// pauseStream is asked for by the queue, which looks at all pauses, and runs only when the stream is there.
func (l *life) pauseStream() { l.stream.Pause() }

// deliver works jobs, but not before the source is known to be the checkpoint's: a copy must send nothing.
func (l *life) deliver(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-l.stream.Verified():
		return capture.Denied(l.queue.Run(ctx), l.pool.Config().ConnConfig.User)
	}
}

// follow stores the history, but not before the source is known to be the checkpoint's: a copy must not write into the indices of
// the original.
func (l *life) follow(ctx context.Context, f *index.Follower) error {
	select {
	case <-ctx.Done():
	case <-l.stream.Verified():
		f.Run(ctx)
	}
	return nil
}

// committed tells who follows that a batch is there.
func (l *life) committed() {
	l.queue.Committed()
	for _, follower := range l.followers {
		follower.Wake()
	}
}

// followHistory makes the followers of the stores.
func (l *life) followHistory() {
	o := index.FollowerOptions{
		Pool: l.pool, Index: l.history, Finished: l.queue.Finished, Refused: l.queue.InsertRefused, Logger: l.log,
		Metrics: index.NewFollowerMetrics(l.registerer),
	}
	l.followers = append(l.followers, index.FollowPostgres(o))
	if l.elastic != nil {
		l.followers = append(l.followers, index.FollowElasticsearch(l.elastic, o))
	}
}

// awaitDatabase waits until the database answers, checks that it is migrated, and takes the lease.
func (l *life) awaitDatabase(ctx context.Context) error {
	logged := ""
	for {
		if err := l.lease.Err(); err != nil {
			return err // another server answers by now: the next life asks that one
		}
		err := l.prepareDatabase(ctx)
		var setup *capture.SetupError
		if err == nil || errors.As(err, &setup) {
			return err
		}
		if err.Error() != logged {
			l.log.Warn("database not ready, waiting for it", "error", err)
			logged = err.Error()
		}
		l.health.waiting(err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(retryDatabase):
		}
	}
}

func (l *life) prepareDatabase(ctx context.Context) error {
	version, err := store.New().SchemaVersion(ctx, l.pool)
	if capture.NotMigrated(err) || (err == nil && version < migrations.Version) {
		return &capture.SetupError{
			Problem: fmt.Sprintf("the database is at schema version %d, this worker needs %d", version, migrations.Version),
			Hint:    "weir migrate up",
		}
	}
	if err != nil {
		return capture.Denied(err, l.pool.Config().ConnConfig.User)
	}
	if err := l.checkEncoding(ctx); err != nil {
		return err
	}
	if err := l.nameKeys(ctx); err != nil {
		return err
	}
	return capture.Denied(l.lease.Take(ctx), l.pool.Config().ConnConfig.User)
}

// checkEncoding refuses a database that cannot hold every text: a job whose receiver answers with a character that it
// lacks could never be completed, and would be delivered again and again. The source may have any encoding.
func (l *life) checkEncoding(ctx context.Context) error {
	var encoding string
	if err := l.pool.QueryRow(ctx, "SELECT current_setting('server_encoding')").Scan(&encoding); err != nil {
		return err
	}
	if encoding == "UTF8" {
		return nil
	}
	return &capture.SetupError{
		Problem: fmt.Sprintf("the database of database.url has encoding %s, which cannot hold every receiver's answer", encoding),
		Hint:    capture.NewDatabase,
	}
}

// nameKeys says whose keys in Redis are: several installations may share it, also unnamed ones.
func (l *life) nameKeys(ctx context.Context) error {
	if l.redis == nil {
		return nil
	}
	identity, err := jobs.Identity(ctx, l.pool)
	if err != nil {
		return capture.Denied(err, l.pool.Config().ConnConfig.User)
	}
	l.redis.Name(l.cfg.Installation, identity)
	return nil
}

// observers compiles those of a configuration, with an HTTP client of their own, and a mailer unless smtp is what it was.
func (l *life) observers(cfg *config.Config) (*observer.Set, action.Deps, error) {
	deps := action.Deps{
		HTTP: outbound.New(cfg.Outbound), Mailer: l.mailer.Load().With(cfg.SMTP), Redis: l.redis, Results: l.results,
		Elasticsearch: l.elastic, Logger: l.log,
	}
	set, err := observer.New(cfg.Observers, deps)
	return set, deps, err
}

// reload swaps observers and endpoints. Deliveries that are under way end with what they began with. inForce's lock keeps
// reloads, and the end of the life, apart.
func (l *life) reload(cfg *config.Config) error {
	set, deps, err := l.observers(cfg)
	if err != nil {
		return err
	}
	l.history.Configure(cfg.History)
	l.queue.Swap(set, cfg.Endpoints)
	l.client.CloseIdleConnections() // those in use close when they have been idle for a minute
	l.client = deps.HTTP
	l.mailer.Store(deps.Mailer)
	return nil
}

// registrations remembers what was registered, so that it can be taken back.
type registrations struct {
	prometheus.Registerer
	made []prometheus.Collector
}

// MustRegister is the Registerer's.
func (r *registrations) MustRegister(cs ...prometheus.Collector) {
	r.Registerer.MustRegister(cs...)
	r.made = append(r.made, cs...)
}

func (r *registrations) undo() error {
	for _, c := range r.made {
		r.Unregister(c)
	}
	return nil
}
