package bench

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"github.com/fraiseql/weir/internal/store"
)

const (
	ingestRows = 100_000
	// ingestBatch is the most changes that a batch of Weir's takes, which a backlog fills.
	ingestBatch = 2000
)

// BenchmarkIngest turns a backlog into events and waiting jobs, against a bare loop that stores the same rows and jobs.
func BenchmarkIngest(b *testing.B) {
	for _, jobs := range []int{1, 3} {
		b.Run(fmt.Sprintf("jobs=%d", jobs), func(b *testing.B) {
			r := newRig(b)
			config := r.write(manyActions(jobs))
			r.makePaused(config)
			r.exec("SELECT pg_advisory_lock(hashtextextended('weir.history.' || store, 0)) FROM weir.history")
			r.changes("Order", ingestRows, 1000)
			b.Run("by=weir", func(b *testing.B) { r.on(b).ingested(config, jobs) })
			stored := r.stored()
			b.Run("by=loop", func(b *testing.B) { stored.storeAgain(b, newRig(b)) })
		})
	}
}

// manyActions is an observer whose actions are so many.
func manyActions(n int) string {
	var actions []string
	for i := range n {
		actions = append(actions, fmt.Sprintf("{type: log, name: a%d, level: debug}", i))
	}
	return "observers: {every: {entity: Order, condition: total >= 0, actions: [" + strings.Join(actions, ", ") + "]}}\n"
}

func (r *rig) ingested(config string, jobs int) {
	r.b.Helper()
	events := func() float64 { return r.number("SELECT events FROM weir.checkpoint") }
	p := r.reads(r.start(config))
	r.await("the first changes", func() bool { return events() > 0 })
	objects, bytes := p.allocated()
	used, wal := p.used(), r.wal()
	before, began := events(), time.Now()
	r.await("the backlog", func() bool { return events() >= ingestRows })
	n := ingestRows - before
	perSecond := n / time.Since(began).Seconds()
	used = p.used() - used
	objectsNow, bytesNow := p.allocated()
	figures(r.b, map[string]float64{
		"changes/s": perSecond, "jobs/s": perSecond * float64(jobs), "WAL-B/change": (r.wal() - wal) / n,
		"cpu-µs/change": float64(used.Microseconds()) / n, "allocs/change": (objectsNow - objects) / n, "B/change": (bytesNow - bytes) / n,
	})
	p.stop()
}

// batches are what Weir has stored.
type batches struct {
	events [][]store.CopyEventsParams
	jobs   [][]river.InsertManyParams
}

// storedArgs are arguments as they are in the database.
type storedArgs struct {
	kind string
	raw  []byte
}

func (a storedArgs) Kind() string                 { return a.kind }
func (a storedArgs) MarshalJSON() ([]byte, error) { return a.raw, nil }

func (r *rig) stored() (all batches) {
	r.b.Helper()
	rows, err := r.conn.Query(r.b.Context(), `SELECT day, id, pk, (lsn - '0/0')::bigint, tx_index, event_type, entity_type, entity_id, tenant_id,
		commit_time, created_at, payload, unredacted FROM weir.event ORDER BY seq`)
	check(r.b, err)
	events, err := pgx.CollectRows(rows, pgx.RowToStructByPos[store.CopyEventsParams])
	check(r.b, err)
	rows, err = r.conn.Query(r.b.Context(), `SELECT kind, args, metadata, queue, priority, max_attempts FROM weir.river_job
		WHERE kind <> 'weir_housekeeping' ORDER BY id`)
	check(r.b, err)
	jobs, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (river.InsertManyParams, error) {
		var a storedArgs
		var metadata json.RawMessage
		var o river.InsertOpts
		err := row.Scan(&a.kind, &a.raw, &metadata, &o.Queue, &o.Priority, &o.MaxAttempts)
		o.Metadata = metadata
		return river.InsertManyParams{Args: a, InsertOpts: &o}, err
	})
	check(r.b, err)
	each := len(jobs) / len(events)
	for len(events) > 0 {
		n := min(ingestBatch, len(events))
		all.events, all.jobs = append(all.events, events[:n]), append(all.jobs, jobs[:n*each])
		events, jobs = events[n:], jobs[n*each:]
	}
	return all
}

// storeAgain stores them in an empty database.
func (s batches) storeAgain(b *testing.B, r *rig) {
	b.Helper()
	client, err := river.NewClient(riverpgxv5.New(nil), &river.Config{Schema: "weir"})
	check(b, err)
	ctx := b.Context()
	wal, events, jobs := r.wal(), 0, 0
	began := time.Now()
	for i := range s.events {
		check(b, pgx.BeginFunc(ctx, r.conn, func(tx pgx.Tx) error {
			if _, err := store.New().CopyEvents(ctx, tx, s.events[i]); err != nil {
				return err
			}
			// In slices as large as the batches: one statement would hold three times as many jobs as Weir does.
			for rest := s.jobs[i]; len(rest) > 0; {
				n := min(ingestBatch, len(rest))
				if _, err := client.InsertManyFastTx(ctx, tx, rest[:n]); err != nil {
					return err
				}
				rest = rest[n:]
			}
			return nil
		}))
		events, jobs = events+len(s.events[i]), jobs+len(s.jobs[i])
	}
	took := time.Since(began).Seconds()
	figures(b, map[string]float64{
		"changes/s": float64(events) / took, "jobs/s": float64(jobs) / took, "WAL-B/change": (r.wal() - wal) / float64(events),
	})
}
