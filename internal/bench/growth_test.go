package bench

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

const (
	growthChanges = 40_000
	growthJobs    = 15_000
)

// BenchmarkGrowth ingests a backlog and then works off its jobs in a database that holds finished jobs and a history already,
// against one that holds none.
func BenchmarkGrowth(b *testing.B) {
	sizes := []int{10_000, 1_000_000}
	if full() {
		sizes = append(sizes, 10_000_000)
	}
	one := newRig(b).remains()
	for _, size := range sizes {
		b.Run(fmt.Sprintf("present=%d", size), func(b *testing.B) {
			filled := newRig(b)
			config := filled.write(manyActions(1))
			filled.makePaused(config)
			filled.fill(one, size)
			b.Run("by=weir", func(b *testing.B) { filled.on(b).ingestsAndFetches(config) })
			b.Run("by=empty", func(b *testing.B) {
				r := newRig(b)
				config := r.write(manyActions(1))
				r.makePaused(config)
				r.ingestsAndFetches(config)
			})
		})
	}
}

// remains are what is left of a change, as JSON.
type remains struct{ event, job, document, outcome string }

// remains has a worker make those of one.
func (r *rig) remains() (m remains) {
	r.b.Helper()
	p := r.reads(r.start(r.write(manyActions(1))))
	r.changes("Order", 1, 1)
	r.documents(2)
	p.stop()
	check(r.b, r.conn.QueryRow(r.b.Context(), `SELECT (SELECT to_jsonb(e)::text FROM weir.event e),
		(SELECT to_jsonb(j)::text FROM weir.river_job j WHERE kind <> 'weir_housekeeping'),
		(SELECT to_jsonb(d)::text FROM weir.document d WHERE observer = ''),
		(SELECT to_jsonb(d)::text FROM weir.document d WHERE observer <> '')`).Scan(&m.event, &m.job, &m.document, &m.outcome))
	return m
}

// fill stores so many events of a month, documents of them, and finished jobs of a day, as they are when Weir has made them, and
// puts slot and checkpoint behind that. Indexes whose keys come in no order are made afterwards, which takes a tenth of the time.
func (r *rig) fill(m remains, size int) {
	r.b.Helper()
	r.exec("SET synchronous_commit = off")
	defer r.exec("RESET ALL")
	r.exec("SET maintenance_work_mem = '512MB'")
	r.exec(`CREATE FUNCTION past(n bigint, of bigint, span interval) RETURNS timestamptz LANGUAGE sql STABLE
		RETURN now() - interval '1 hour' - span * ((of - n)::float8 / of)`)
	r.exec("SELECT weir.ensure_partitions(current_date - 30, current_date)")
	remake := r.dropIndexes("weir_job_event", "document_words")
	r.exec(`INSERT INTO weir.event (day, id, pk, lsn, tx_index, event_type, entity_type, entity_id, commit_time, created_at, payload, seq)
		SELECT (at AT TIME ZONE 'UTC')::date, md5(n::text)::uuid, n, lsn, tx_index, event_type, entity_type, md5('o' || n % 300000)::uuid,
		       at, at, payload, n
		  FROM jsonb_populate_record(NULL::weir.event, $1::jsonb), generate_series(1, $2::bigint) n, past(n, $2, '29 days') at`, m.event, size)
	for _, one := range []string{m.document, m.outcome} {
		r.exec(`INSERT INTO weir.document
				(day, seq, delivery_id, event_id, event_pk, at, entity_type, entity_id, observer, outcome, version, words)
			SELECT (past AT TIME ZONE 'UTC')::date, n, CASE WHEN observer = '' THEN delivery_id ELSE md5('d' || n)::uuid END, md5(n::text)::uuid,
			       n, past, entity_type, md5('o' || n % 300000)::uuid, observer, outcome, version,
			       words || array_to_tsvector(ARRAY[md5(n::text), md5('o' || n % 300000)])
			  FROM jsonb_populate_record(NULL::weir.document, $1::jsonb), generate_series(1, $2::bigint) n, past(n, $2, '29 days') past`,
			one, size)
	}
	// As River does: first they wait. What is left of that is room for others, once it is vacuumed.
	r.exec(`INSERT INTO weir.river_job (state, max_attempts, created_at, scheduled_at, priority, args, kind, metadata, queue, tags)
		SELECT 'available', max_attempts, at, at, priority,
		       args || jsonb_build_object('event_id', md5(n::text)::uuid, 'entity_id', md5('o' || n % 300000)::uuid, 'pk', n,
		           'day', (past(n, $2, '29 days') AT TIME ZONE 'UTC')::date),
		       kind, metadata, queue, tags
		  FROM jsonb_populate_record(NULL::weir.river_job, $1::jsonb), generate_series(1, $2::bigint) n, past(n, $2, '20 hours') at`,
		m.job, size)
	r.exec(`UPDATE weir.river_job j SET state = done.state, attempt = done.attempt, attempted_at = j.created_at,
			finalized_at = j.created_at, attempted_by = done.attempted_by, errors = done.errors
		FROM jsonb_populate_record(NULL::weir.river_job, $1::jsonb) done WHERE j.kind = done.kind AND j.state = 'available'`, m.job)
	r.exec("SELECT setval('weir.event_seq', $1)", size)
	r.exec("UPDATE weir.history SET event_seq = $1, finished_at = now()", size)
	for _, definition := range remake {
		r.exec(definition)
	}
	r.exec("VACUUM ANALYZE")
	for range 3 { // where the slot's WAL begins follows one checkpoint of the server behind
		r.exec("CHECKPOINT")
		r.exec("SELECT pg_replication_slot_advance($1, pg_current_wal_flush_lsn())", r.slot)
	}
	const rest = "SELECT pg_current_wal_flush_lsn() - restart_lsn FROM pg_replication_slots WHERE slot_name = $1"
	if left := r.number(rest, r.slot); left > 1<<20 {
		r.b.Fatalf("the slot begins %v bytes back: they would be decoded, too", left)
	}
	r.exec(`UPDATE weir.checkpoint SET lsn = confirmed_flush_lsn, tx_index = 0 FROM pg_replication_slots WHERE slot_name = $1`, r.slot)
}

// dropIndexes returns what makes them again.
func (r *rig) dropIndexes(names ...string) (remake []string) {
	r.b.Helper()
	for _, name := range names {
		var definition string
		check(r.b, r.conn.QueryRow(r.b.Context(), "SELECT pg_get_indexdef($1::regclass)", "weir."+name).Scan(&definition))
		remake = append(remake, strings.Replace(definition, " ON ONLY ", " ON ", 1)) // of the partitions, too
		r.exec("DROP INDEX weir." + name)
	}
	return remake
}

// ingestsAndFetches ingests a backlog while its jobs wait, and then has some of them done. What comes first is for a server that
// has just written all to its disk: it writes each page that is changed for the first time as a whole.
func (r *rig) ingestsAndFetches(config string) {
	r.b.Helper()
	r.exec("CHECKPOINT")
	r.ingest(config, growthChanges)
	wal := r.wal()
	changesPerSecond := r.ingest(config, growthChanges)
	perChange := (r.wal() - wal) / growthChanges
	r.exec("DELETE FROM weir.pause")
	unfinished := func() float64 {
		return r.number("SELECT count(*) FROM weir.river_job WHERE state IN ('available', 'running')")
	}
	p := r.reads(r.start(config))
	first := unfinished()
	began := time.Now()
	done := 0.0
	r.await("the jobs", func() bool {
		time.Sleep(50 * time.Millisecond) // to count is work, too
		done = first - unfinished()
		return done >= growthJobs
	})
	figures(r.b, map[string]float64{
		"changes/s": changesPerSecond, "WAL-B/change": perChange, "jobs/s": done / time.Since(began).Seconds(),
	})
	p.stop()
}

// ingest has a worker ingest a backlog, and returns how many changes it ingested in a second once it had begun.
func (r *rig) ingest(config string, changes int) (perSecond float64) {
	r.b.Helper()
	ingested := func() float64 { return r.number("SELECT events FROM weir.checkpoint") }
	end := ingested() + float64(changes)
	r.changes("Order", changes, 1000)
	p := r.reads(r.start(config))
	r.await("the first changes", func() bool { return ingested() > end-float64(changes) })
	before, began := ingested(), time.Now()
	r.await("the backlog", func() bool { return ingested() >= end })
	perSecond = (end - before) / time.Since(began).Seconds()
	p.stop()
	return perSecond
}
