package bench

import (
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// BenchmarkIdle watches workers that have nothing to do, and as many bare River clients with the same queues.
func BenchmarkIdle(b *testing.B) {
	for _, n := range []int{1, 4} {
		var queues []string
		b.Run(fmt.Sprintf("processes=%d/by=weir", n), func(b *testing.B) {
			r := newRig(b)
			config := r.write(threeEndpoints)
			all := []*process{r.reads(r.start(config))}
			for range n - 1 {
				all = append(all, r.start(config))
			}
			r.await("the workers", func() bool { return r.number("SELECT count(*) FROM weir.worker") == float64(n) })
			r.idles(all)
			queues = r.queues()
		})
		b.Run(fmt.Sprintf("processes=%d/by=river", n), func(b *testing.B) {
			r := newRig(b)
			var all []*process
			for range n {
				all = append(all, r.startRiver(bareRiver{Queues: queues, Workers: 10}))
			}
			r.await("the queues", func() bool { return len(r.queues()) == len(queues) })
			r.idles(all)
		})
	}
}

const threeEndpoints = `outbound: {allow: [127.0.0.1]}
observers:
  orders:
    entity: Order
    actions:
      - {type: webhook, name: a, endpoint: a, url: "http://127.0.0.1:9/a"}
      - {type: webhook, name: b, endpoint: b, url: "http://127.0.0.1:9/b"}
      - {type: webhook, name: c, endpoint: c, url: "http://127.0.0.1:9/c"}
`

func (r *rig) queues() []string {
	r.b.Helper()
	rows, err := r.conn.Query(r.b.Context(), "SELECT name FROM weir.river_queue ORDER BY name")
	check(r.b, err)
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	check(r.b, err)
	return names
}

// idles reports what the processes use together.
func (r *rig) idles(all []*process) {
	r.b.Helper()
	watch := 8 * time.Second
	if full() {
		watch = time.Minute
	}
	time.Sleep(3 * time.Second) // what happens once at the start
	r.exec("CREATE EXTENSION pg_stat_statements")
	used := func() (sum float64) {
		for _, p := range all {
			sum += float64(p.used()) / float64(time.Millisecond)
		}
		return sum
	}
	const queries = `SELECT coalesce(sum(calls), 0) FROM pg_stat_statements
		WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND query NOT LIKE '%pg_stat_statements%'`
	began := time.Now()
	cpu, calls, wal := used(), r.number(queries), r.wal()
	time.Sleep(watch)
	seconds := time.Since(began).Seconds()
	cpu, calls, wal = used()-cpu, r.number(queries)-calls, r.wal()-wal
	resident := 0.0
	for _, p := range all {
		resident += p.resident()
		select {
		case <-p.Exited():
			r.b.Fatalf("one has ended:\n%s", p.log)
		default:
		}
	}
	figures(r.b, map[string]float64{
		"cpu-ms/s": cpu / seconds, "queries/s": calls / seconds, "WAL-B/s": wal / seconds, "MB": resident / 1e6,
	})
}
