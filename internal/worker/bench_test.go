package worker_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/fraiseql/weir/internal/config"
	"github.com/fraiseql/weir/internal/worker"
)

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
