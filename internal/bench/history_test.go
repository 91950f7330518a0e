package bench

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

const historyRows = 20_000

// BenchmarkHistory says what it costs ingest that events can be found: half of the changes match, and their jobs wait, so that
// what is measured is the events' part. It is held against the same load while somebody else has the lock of those who follow,
// so that nobody does.
func BenchmarkHistory(b *testing.B) {
	for _, kind := range []string{"events: matched", "events: all", "events: all, store: both"} {
		b.Run(strings.NewReplacer(": ", "=", ", ", "/").Replace(kind), func(b *testing.B) {
			history := "history: {" + kind + "}\n"
			if strings.Contains(kind, "both") {
				history += fmt.Sprintf("elasticsearch: {urls: [%q]}\n", servers.Elasticsearch(b))
			}
			b.Run("by=weir", func(b *testing.B) { newRig(b).ingestedWithHistory(history, true) })
			b.Run("by=unfollowed", func(b *testing.B) { newRig(b).ingestedWithHistory(history, false) })
		})
	}
}

// ingestedWithHistory measures ingest until its last event, and says how long after that the last one could be found.
func (r *rig) ingestedWithHistory(history string, follow bool) {
	r.b.Helper()
	config := r.write(fmt.Sprintf(`
installation: %s
%s
observers: {half: {entity: Order, condition: total > 500, actions: [{type: log, level: debug}]}}
`, strings.ReplaceAll(r.slot, "_", "-"), history))
	r.makePaused(config)
	r.changes("Order", historyRows, 1000)
	if !follow {
		r.exec("SELECT pg_advisory_lock(hashtextextended('weir.history.' || store, 0)) FROM weir.history")
	}
	p := r.reads(r.start(config))
	before, wal, used := r.number("SELECT events FROM weir.checkpoint"), r.wal(), cpu(r.b, p.PID())
	began := time.Now()
	r.await("the backlog", func() bool { return r.number("SELECT events FROM weir.checkpoint") >= historyRows })
	n, took := historyRows-before, time.Since(began)
	byUnit := map[string]float64{"changes/s": n / took.Seconds()}
	if follow {
		r.await("the history", func() bool { return r.number(historyLag, strings.Contains(history, "both")) == 0 })
		all := time.Since(began)
		documents := r.number("SELECT count(*) FROM weir.document")
		if want := r.number("SELECT count(*) FROM weir.event"); documents != want {
			r.b.Fatalf("%v documents for %v events", documents, want)
		}
		byUnit["documents/s"], byUnit["behind-s"] = documents/all.Seconds(), (all - took).Seconds()
	}
	byUnit["WAL-B/change"] = (r.wal() - wal) / n
	byUnit["cpu-µs/change"] = float64((cpu(r.b, p.PID()) - used).Microseconds()) / n
	figures(r.b, byUnit)
	p.stop()
}

// historyLag is how many events the store of PostgreSQL has not stored yet or, with true, the one of the two that has fewer.
const historyLag = `SELECT count(*) FROM weir.event
	WHERE seq > (SELECT min(event_seq) FROM weir.history WHERE store = 'postgres' OR $1)`
