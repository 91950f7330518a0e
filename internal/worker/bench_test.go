package worker_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/fraiseql/weir/internal/capture"
	"github.com/fraiseql/weir/internal/config"
	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/worker"
)

// nothing is a sink that stores nothing: what remains is reading, decoding and the checkpoint.
type nothing struct{}

func (nothing) Commit(context.Context, pgx.Tx, []event.Change) error { return nil }

const benchChanges = 50000

// BenchmarkIngest measures how fast a backlog of committed changes becomes events and jobs, one job a change, and holds
// it against the same stream with a sink that stores nothing, measured in the same run: the ratio is what storing costs.
func BenchmarkIngest(b *testing.B) {
	var limit, ingest time.Duration
	for b.Loop() {
		limit += backlog(b, func(ctx context.Context, r *rig) error {
			s := capture.New(capture.Config{Slot: capture.Name(r.slot)}, capture.Options{
				SourceURL: r.url, DatabaseURL: r.url, ClientID: "bench", Sink: nothing{},
				Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
			})
			return s.Run(ctx)
		})
		ingest += backlog(b, func(ctx context.Context, r *rig) error {
			cfg, err := config.Load(ctx, config.Options{Path: r.write(`
observers:
  every: {entity: Order, condition: total >= 0, actions: [{type: log, level: debug}]}
`)})
			if err != nil {
				return err
			}
			return worker.New(cfg, worker.Options{Logger: slog.New(slog.DiscardHandler), Version: "bench"}).Run(ctx)
		})
	}
	n := float64(b.N * benchChanges)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(n/limit.Seconds(), "read/s")
	b.ReportMetric(n/ingest.Seconds(), "ingested/s")
	b.ReportMetric(limit.Seconds()/ingest.Seconds(), "of-limit")
}

// backlog commits changes while nobody listens, then runs what ingests them and returns how long that took.
func backlog(b *testing.B, run func(context.Context, *rig) error) time.Duration {
	b.Helper()
	r := rigOn(b, postgres.Database(b))
	start := func() (stop func()) {
		ctx, cancel := context.WithCancel(b.Context())
		done := make(chan error, 1)
		go func() { done <- run(ctx, r) }()
		return func() {
			cancel()
			if err := <-done; err != nil {
				b.Fatal(err)
			}
		}
	}
	stop := start() // the first start makes the slot
	r.await("the slot", func() bool { return r.one("SELECT count(*)::text FROM weir.checkpoint") == "1" })
	stop()
	for range benchChanges / 1000 {
		r.exec(`INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data)
			SELECT 'Order', 'INSERT', gen_random_uuid(), jsonb_build_object('total', n, 'status', 'shipped', 'note', repeat('x', 400))
			  FROM generate_series(1, 1000) n`)
	}
	began := time.Now()
	stop = start()
	r.awaitFor(10*time.Minute, "the backlog", func() bool {
		return r.one("SELECT (events >= $1)::text FROM weir.checkpoint", benchChanges) == "true"
	})
	took := time.Since(began)
	stop()
	return took
}

// BenchmarkOrdering measures what ordering: entity costs: deliveries to a receiver that answers at once, from a backlog over many
// entities and over one, held against the same backlog without an order, measured in the same run.
func BenchmarkOrdering(b *testing.B) {
	var none, many, one time.Duration
	const deliveries, alone = 5000, 500
	for b.Loop() {
		none += deliver(b, "none", deliveries, 500)
		many += deliver(b, "entity", deliveries, 500)
		one += deliver(b, "entity", alone, 1)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(b.N*deliveries)/none.Seconds(), "unordered/s")
	b.ReportMetric(float64(b.N*deliveries)/many.Seconds(), "ordered/s")
	b.ReportMetric(none.Seconds()/many.Seconds(), "of-unordered")
	b.ReportMetric(float64(b.N*alone)/one.Seconds(), "one-entity/s")
}

// deliver commits changes of some entities, and returns how long it took until all were delivered.
func deliver(b *testing.B, ordering string, changes, entities int) time.Duration {
	b.Helper()
	r := rigOn(b, postgres.Database(b))
	rc := newReceiver(b, nil)
	cfg, err := config.Load(b.Context(), config.Options{Path: r.write(fmt.Sprintf(`
outbound: {allow: ["127.0.0.1"]}
observers:
  every: {entity: Order, ordering: %s, actions: [{type: webhook, url: %q}]}
`, ordering, rc.URL))})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() {
		done <- worker.New(cfg, worker.Options{Logger: slog.New(slog.DiscardHandler), Version: "bench"}).Run(ctx)
	}()
	r.await("the slot", func() bool { return r.one("SELECT count(*)::text FROM weir.checkpoint") == "1" })
	began := time.Now()
	r.exec(`INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data)
		SELECT 'Order', 'UPDATE', ('00000000-0000-4000-8000-' || lpad((n % $2)::text, 12, '0'))::uuid, jsonb_build_object('n', n)
		  FROM generate_series(1, $1) n`, changes, entities)
	r.await("the deliveries", func() bool { return len(rc.seen()) >= changes })
	took := time.Since(began)
	cancel()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	return took
}
