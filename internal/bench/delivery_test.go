package bench

import (
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
)

const (
	deliveries          = 20_000
	deliveryConcurrency = 200
)

// BenchmarkDelivery works off a backlog of webhooks, against bare River that posts as much.
func BenchmarkDelivery(b *testing.B) {
	for _, c := range answers {
		b.Run("answers="+c.name, func(b *testing.B) {
			var body string
			var queued []river.InsertManyParams
			b.Run("by=weir", func(b *testing.B) {
				var first atomic.Pointer[string]
				r, rc := newRig(b), newReceiver(b, c.after, func(_ time.Time, req *http.Request) { remember(&first, req) })
				p := r.reads(r.start(r.write(rc.everyOrder(deliveryConcurrency))))
				r.backlog(rc, deliveries, deliveryConcurrency)
				queued = r.webhooks()
				r.delivered(rc, deliveries, p)
				body = *first.Load()
			})
			b.Run("by=river", func(b *testing.B) {
				r, rc := newRig(b), newReceiver(b, c.after, nil)
				r.insert(queued, rc.queue())
				p := r.startRiver(bareRiver{Queues: []string{rc.queue()}, Workers: deliveryConcurrency, Target: rc.URL, Body: body})
				r.waits(rc, deliveryConcurrency)
				r.delivered(rc, len(queued), p)
			})
		})
	}
}

// answers are how long a receiver takes.
var answers = []struct {
	name  string
	after time.Duration
}{{"at-once", 0}, {"20ms", 20 * time.Millisecond}}

// remember keeps the first body: all are alike.
func remember(first *atomic.Pointer[string], req *http.Request) {
	if first.Load() != nil {
		return
	}
	body, _ := io.ReadAll(req.Body) // of a request that breaks off there is another
	text := string(body)
	first.CompareAndSwap(nil, &text)
}

// backlog has the worker make one for a receiver that is shut, and waits until all is done about it but for deliveries.
func (r *rig) backlog(rc *receiver, n, running int) {
	r.b.Helper()
	r.changes("Order", n, 1000)
	r.await("the backlog", func() bool { return r.number("SELECT events FROM weir.checkpoint") >= float64(n) })
	r.recorded()
	r.waits(rc, running)
}

// recorded waits until the history has all events.
func (r *rig) recorded() {
	r.b.Helper()
	r.await("the history", func() bool {
		return r.number(`SELECT (event_seq >= (SELECT max(seq) FROM weir.event))::int FROM weir.history WHERE store = 'postgres'`) == 1
	})
}

// waits returns when so many requests are at a receiver that is shut.
func (r *rig) waits(rc *receiver, running int) {
	r.b.Helper()
	r.await("requests", func() bool { return rc.arrived.Load() >= int64(running) })
	r.exec("ANALYZE weir.river_job")
}

// webhooks are what is queued.
func (r *rig) webhooks() []river.InsertManyParams {
	r.b.Helper()
	rows, err := r.conn.Query(r.b.Context(), `SELECT kind, args, priority, max_attempts FROM weir.river_job
		WHERE kind = 'weir_webhook' ORDER BY id`)
	check(r.b, err)
	jobs, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (river.InsertManyParams, error) {
		var a storedArgs
		var o river.InsertOpts
		err := row.Scan(&a.kind, &a.raw, &o.Priority, &o.MaxAttempts)
		return river.InsertManyParams{Args: a, InsertOpts: &o}, err
	})
	check(r.b, err)
	return jobs
}

// insert queues jobs.
func (r *rig) insert(jobs []river.InsertManyParams, queue string) {
	r.b.Helper()
	client := inserter(r.b)
	for i := range jobs {
		jobs[i].InsertOpts.Queue = queue
	}
	check(r.b, pgx.BeginFunc(r.b.Context(), r.conn, func(tx pgx.Tx) error {
		_, err := client.InsertManyFastTx(r.b.Context(), tx, jobs)
		return err
	}))
}

// delivered opens the receiver, and reports how fast all is concluded that is queued for it.
func (r *rig) delivered(rc *receiver, n int, workers ...*process) {
	r.b.Helper()
	r.exec("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
	used, wal, statements := time.Duration(0), r.wal(), r.statements()
	for _, p := range workers {
		used -= cpu(r.b, p.PID())
	}
	began := time.Now()
	rc.open()
	r.await("the answers", func() bool { return rc.answered.Load() >= int64(n) })
	r.await("their conclusion", func() bool {
		return r.number("SELECT count(*) FROM weir.river_job WHERE kind = 'weir_webhook' AND state = 'completed'") >= float64(n)
	})
	took := time.Since(began)
	for _, p := range workers {
		used += cpu(r.b, p.PID())
	}
	if extra := rc.answered.Load() - int64(n); extra > 0 {
		r.b.Fatalf("%d deliveries were made again", extra)
	}
	figures(r.b, map[string]float64{
		"deliveries/s": float64(n) / took.Seconds(), "cpu-µs/delivery": float64(used.Microseconds()) / float64(n),
		"WAL-B/delivery": (r.wal() - wal) / float64(n), "statements/1000": (r.statements() - statements) / float64(n) * 1000,
	})
	for _, p := range workers {
		p.stop()
	}
}

// statements is how many the server has executed in this database so far, but for those of transactions' borders.
func (r *rig) statements() float64 {
	r.b.Helper()
	return r.number(`SELECT coalesce(sum(calls), 0) FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid
		WHERE d.datname = current_database() AND query !~* '^(begin|commit|rollback)'`)
}
