package capture_test

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/internal/capture"
	"github.com/fraiseql/weir/internal/event"
)

// The sink is told of a batch while the one before is being committed, and gets both in their order.
func TestTheNextBatchIsPreparedMeanwhile(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var prepared atomic.Int64
	r.prepare = func(_ context.Context, batch []event.Change) capture.Prepared {
		prepared.Add(int64(len(batch)))
		return capture.Prepared{}
	}
	committing, release := make(chan struct{}, 100), make(chan struct{})
	r.sink.before = func(ctx context.Context, _ []event.Change) error {
		committing <- struct{}{}
		select {
		case <-release:
		case <-ctx.Done():
		}
		return ctx.Err()
	}
	r.streaming(r.start("one"))
	r.exec(insertRow, 1, 1)
	<-committing
	const rows = 5000 // more than a batch takes
	r.exec(insertRow, 2, rows)
	r.await("the next batch is prepared", func() bool { return prepared.Load() > 1 })
	if got := r.one("SELECT events::text FROM weir.checkpoint"); got != "0" {
		t.Errorf("the checkpoint is past %s changes while the first is being committed", got)
	}
	close(release)
	r.await("all of them", func() bool { return r.one("SELECT count(*)::text FROM ingested") == "5000" })
	if got := r.one("SELECT (array_agg(data::json->>'n' ORDER BY n) = array_agg(n::text ORDER BY n))::text FROM ingested"); got != "true" {
		t.Error("they were not ingested in their order")
	}
	if n := prepared.Load(); n != rows {
		t.Errorf("%d changes were prepared, want %d", n, rows)
	}
}

// Of a batch that the sink wants nothing of, the checkpoint is moved, once, and by its owner only.
func TestABatchOfWhichNothingIsStored(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var passed atomic.Int64
	r.prepare = func(_ context.Context, batch []event.Change) capture.Prepared {
		return capture.Prepared{Passed: func() { passed.Add(int64(len(batch))) }}
	}
	r.streaming(r.start("one"))
	events := func() string { return r.one("SELECT events::text FROM weir.checkpoint") }
	r.exec(insertRow, 1, 5)
	r.await("the checkpoint moves", func() bool { return events() == "5" })
	r.await("it is said", func() bool { return passed.Load() == 5 })
	r.await("the slot is told", func() bool {
		return r.one("SELECT (s.confirmed_flush_lsn >= c.lsn)::text FROM pg_replication_slots s, weir.checkpoint c WHERE slot_name = slot") == "true"
	})

	r.exec("UPDATE weir.checkpoint SET epoch = epoch + 1") // somebody else is the owner: the stream has to take it again
	r.exec(insertRow, 6, 10)
	r.await("the checkpoint moves again", func() bool { return events() == "10" })
	r.await("it is said", func() bool { return passed.Load() >= 10 })
	if got := r.one("SELECT epoch::text FROM weir.checkpoint"); got == "2" {
		t.Error("a fenced owner has moved the checkpoint")
	}
	if n := passed.Load(); n != 10 {
		t.Errorf("%d changes were passed, want 10", n)
	}
	if got := r.ingested(); got != "" {
		t.Errorf("the sink got %s", got)
	}
}

// What was prepared of a batch is committed, once; what the database refuses of it is the sink's, in parts.
func TestWhatWasPreparedIsCommitted(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var asked, refuse atomic.Int64
	r.prepare = func(_ context.Context, batch []event.Change) capture.Prepared {
		return capture.Prepared{Commit: func(ctx context.Context, tx pgx.Tx) error {
			asked.Add(1)
			if refuse.Load() > 0 {
				_, err := tx.Exec(ctx, "SELECT 1 / 0")
				return err
			}
			return r.sink.Commit(ctx, tx, batch)
		}}
	}
	r.streaming(r.start("one"))
	events := func() string { return r.one("SELECT events::text FROM weir.checkpoint") }
	r.exec(insertRow, 1, 5)
	r.await("what was prepared", func() bool { return events() == "5" })
	if n := asked.Load(); n == 0 || n > 5 {
		t.Errorf("what was prepared was committed %d times", n)
	}
	refuse.Store(1)
	asked.Store(0)
	r.exec(insertRow, 6, 7)
	r.await("what was refused", func() bool { return events() == "7" })
	if n := asked.Load(); n != 1 {
		t.Errorf("what was prepared was committed %d times, want once", n)
	}
	if got := r.ingested(); got != "1 2 3 4 5 6 7" {
		t.Errorf("the sink got %q", got)
	}
}
