package bench

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// BenchmarkWAL compares what Weir writes for a change, from its commit until its one delivery has ended and both can be found,
// with what the change has written itself. A backlog shares commits; changes that trickle in do not.
func BenchmarkWAL(b *testing.B) {
	for _, load := range []struct {
		name    string
		changes int
		pause   time.Duration // between two commits; 0: they are there when the worker starts
	}{{"backlog", 10_000, 0}, {"trickle", 2_000, 4 * time.Millisecond}} {
		b.Run("load="+load.name, func(b *testing.B) {
			r := newRig(b)
			r.exec("CREATE EXTENSION pg_walinspect")
			rc := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
			b.Cleanup(rc.Close)
			config := r.write(fmt.Sprintf(`
outbound: {allow: ["127.0.0.1"]}
observers: {every: {entity: Order, actions: [{type: webhook, url: %q}]}}
`, rc.URL))
			r.makeSlot(config)
			before := r.wal()
			r.changes("Other", load.changes, 1) // they are read like the others, and match nothing
			theirs := r.wal() - before
			b.Run("by=change", func(b *testing.B) {
				figures(b, map[string]float64{"B/change": theirs / float64(load.changes)})
			})
			r.skip(config, load.changes)
			b.Run("by=weir", func(b *testing.B) {
				if load.pause == 0 {
					r.on(b).writesForBacklog(config, load.changes)
				} else {
					r.on(b).writesForTrickle(config, load.changes, load.pause, theirs)
				}
			})
		})
	}
}

// skip has a worker get done with changes that match nothing.
func (r *rig) skip(config string, changes int) {
	r.b.Helper()
	p := r.reads(r.start(config))
	r.documents(changes)
	p.stop()
}

// documents waits until so many can be found: one for each event, and one for each delivery that has ended.
func (r *rig) documents(n int) {
	r.b.Helper()
	r.await("the history", func() bool {
		time.Sleep(100 * time.Millisecond) // to count is work, too
		return r.number("SELECT count(*) FROM weir.document") >= float64(n)
	})
}

func (r *rig) writesForBacklog(config string, changes int) {
	r.b.Helper()
	stored := int(r.number("SELECT count(*) FROM weir.document"))
	r.changes("Order", changes, 1)
	from := r.lsn()
	p := r.reads(r.start(config))
	r.documents(stored + 2*changes)
	r.written(from, changes, 0)
	p.stop()
}

// writesForTrickle leaves out what the changes themselves write meanwhile.
func (r *rig) writesForTrickle(config string, changes int, pause time.Duration, theirs float64) {
	r.b.Helper()
	stored := int(r.number("SELECT count(*) FROM weir.document"))
	p := r.reads(r.start(config))
	from := r.lsn()
	for range changes {
		r.changes("Order", 1, 1)
		time.Sleep(pause)
	}
	r.documents(stored + 2*changes)
	r.written(from, changes, theirs)
	p.stop()
}

// written says what has been written since then, and into what: a record is counted for the first relation that it is about.
// What is left are commits, mostly.
func (r *rig) written(from string, changes int, theirs float64) {
	r.b.Helper()
	rows, err := r.conn.Query(r.b.Context(), `
		WITH record AS (
			SELECT min(record_length) AS length, sum(block_fpi_length) AS pages,
			       (array_agg(relfilenode ORDER BY block_id))[1] AS relfilenode
			  FROM pg_get_wal_block_info($1::pg_lsn, pg_current_wal_flush_lsn(), false) GROUP BY start_lsn),
		relation AS (
			SELECT c.relfilenode, a.amname, regexp_replace(coalesce(i.indrelid, t.oid, c.oid)::regclass::text, '_\d{8}$', '') AS of
			  FROM pg_class c LEFT JOIN pg_am a ON a.oid = c.relam LEFT JOIN pg_index i ON i.indexrelid = c.oid
			  LEFT JOIN pg_class t ON t.reltoastrelid = c.oid)
		SELECT CASE WHEN of = 'weir.event' AND amname = 'heap' THEN 'event'
		            WHEN of = 'weir.event' THEN 'event-index'
		            WHEN of = 'weir.river_job' AND amname = 'heap' THEN 'job'
		            WHEN of = 'weir.river_job' AND amname = 'gin' THEN 'job-gin'
		            WHEN of = 'weir.river_job' THEN 'job-btree'
		            WHEN of = 'weir.document' AND amname = 'gin' THEN 'document-gin'
		            WHEN of = 'weir.document' THEN 'document'
		            WHEN of = 'weir.checkpoint' THEN 'checkpoint'
		            WHEN of LIKE 'core.%' THEN 'change'
		            ELSE 'other' END, sum(length - pages)::float8, sum(pages)::float8
		  FROM record LEFT JOIN relation USING (relfilenode) GROUP BY 1`, from)
	check(r.b, err)
	defer rows.Close()
	byUnit := map[string]float64{}
	for rows.Next() {
		var into string
		var bytes, pages float64
		check(r.b, rows.Scan(&into, &bytes, &pages))
		byUnit[into+"-B"] = bytes / float64(changes)
		byUnit["pages-B"] += pages / float64(changes)
	}
	check(r.b, rows.Err())
	total := r.number("SELECT pg_current_wal_flush_lsn() - $1::pg_lsn", from) - theirs
	byUnit["B/change"] = total / float64(changes)
	figures(r.b, byUnit)
}
