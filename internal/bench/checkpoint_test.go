package bench

import (
	"cmp"
	"context"
	"log/slog"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/fraiseql/weir/internal/capture"
	"github.com/fraiseql/weir/internal/event"
)

// BenchmarkCheckpoint reads a backlog into a sink that stores nothing: what remains is to move the checkpoint, durably, for each
// batch. Who moves a row one step further with each commit cannot be quicker than who does only that.
func BenchmarkCheckpoint(b *testing.B) {
	for _, most := range []int{1, 0} {
		name, rows := "default", 200_000
		if most > 0 {
			name, rows = strconv.Itoa(most), 10_000
		}
		b.Run("batch="+name, func(b *testing.B) {
			r := newRig(b)
			r.reads(r.startAs("stream", r.url, r.slot, strconv.Itoa(most))).stop() // makes the slot
			r.changes("Order", rows, cmp.Or(most, 1000))
			b.Run("by=weir", func(b *testing.B) { r.on(b).checkpointed(most, rows) })
			if most > 0 {
				b.Run("by=update-loop", func(b *testing.B) { r.on(b).updated(rows) })
			}
		})
	}
}

// nothing is a sink that stores nothing.
type nothing struct{}

func (nothing) Commit(context.Context, pgx.Tx, []event.Change) error { return nil }

// passes says, as the worker does, that there is nothing to store.
func passes(context.Context, []event.Change) capture.Prepared {
	return capture.Prepared{Passed: func() {}}
}

// bareStream reads a slot into such a sink. It is called with the database, the slot, and how many changes a batch has at most.
func bareStream(ctx context.Context, args []string) error {
	most, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	return capture.New(capture.Config{Slot: capture.Name(args[1])}, capture.Options{
		SourceURL: args[0], DatabaseURL: args[0], ClientID: "bench", Sink: nothing{}, Prepare: passes, BatchChanges: most,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)), Registerer: prometheus.NewRegistry(),
	}).Run(ctx)
}

// checkpointed has the stream read the backlog. Its time runs from when it reads.
func (r *rig) checkpointed(most, rows int) {
	r.b.Helper()
	before, committed := r.number("SELECT events FROM weir.checkpoint"), r.number(checkpointUpdates)
	p := r.reads(r.startAs("stream", r.url, r.slot, strconv.Itoa(most)))
	first := r.number("SELECT events FROM weir.checkpoint")
	began := time.Now()
	r.await("the backlog", func() bool { return r.number("SELECT events FROM weir.checkpoint") >= before+float64(rows) })
	took := time.Since(began)
	p.stop()
	batches := r.number(checkpointUpdates) - committed
	if most > 0 && batches < float64(rows/most) {
		r.b.Fatalf("%v updates of the checkpoint for %d changes, %d each", batches, rows, most)
	}
	figures(r.b, map[string]float64{
		"changes/s": (before + float64(rows) - first) / took.Seconds(), "changes/batch": float64(rows) / batches,
	})
}

// checkpointUpdates is how often the checkpoint has been written.
const checkpointUpdates = "SELECT pg_stat_get_tuples_updated('weir.checkpoint'::regclass)"

// updated commits as often, the cheapest way there is: a prepared statement that is a transaction by itself.
func (r *rig) updated(rows int) {
	r.b.Helper()
	r.exec("CREATE TABLE bare (singleton boolean PRIMARY KEY DEFAULT true, n bigint NOT NULL) WITH (fillfactor = 20)")
	r.exec("INSERT INTO bare (n) VALUES (0)")
	began := time.Now()
	for i := range rows {
		if _, err := r.conn.Exec(r.b.Context(), "UPDATE bare SET n = $1 WHERE n = $2", i+1, i); err != nil {
			r.b.Fatal(err)
		}
	}
	took := time.Since(began)
	if n := r.number("SELECT n FROM bare"); n != float64(rows) {
		r.b.Fatalf("the loop ended at %v of %d", n, rows)
	}
	figures(r.b, map[string]float64{"changes/s": float64(rows) / took.Seconds()})
}
