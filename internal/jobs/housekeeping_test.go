package jobs

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/index"
	"github.com/fraiseql/weir/internal/setting"
)

// keepHouse does once what the periodic job does.
func (r *rig) keepHouse(retention, finished time.Duration) {
	r.t.Helper()
	keep, age := setting.Duration(retention), setting.Duration(finished)
	r.keepHouseBy(index.Config{Retention: &keep, FinishedJobs: &age})
}

func (r *rig) keepHouseBy(c index.Config) {
	r.t.Helper()
	r.q.index.Configure(c)
	var log strings.Builder
	r.q.log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
	check(r.t, (&housekeeper{queue: r.q}).Work(r.t.Context(), &river.Job[housekeepingArgs]{JobRow: &rivertype.JobRow{}}))
	if log.Len() > 0 {
		r.t.Error(log.String())
	}
}

const month = 30 * 24 * time.Hour

// finish makes the job of a row of the change log a finished one.
func (r *rig) finish(pk int64, state, metadata, age string) {
	r.t.Helper()
	r.exec(`UPDATE weir.river_job SET state = $2::weir.river_job_state, metadata = $3::jsonb, attempt = 2, attempted_at = now() - $4::interval,
		finalized_at = now() - $4::interval, errors = ARRAY['{"at":"2026-01-01T00:00:00Z","attempt":1,"error":"JobCancelError: first","trace":""}'::jsonb]
		WHERE args->>'pk' = $1::bigint::text`, pk, state, metadata, age)
}

func TestMoverLeavesWhatIsNeeded(t *testing.T) {
	t.Parallel()
	r := newRig(t, oneLog)
	for pk := range int64(8) {
		r.commit(order(pk, `{}`))
	}
	r.commit(event.Change{Event: order(9, `{}`).Event, Reason: "bad"})
	r.finish(0, "completed", `{"output":{"result":"delivered","status":204,"body":"ok","duration_ms":17}}`, "25 h")
	r.finish(1, "completed", `{}`, "23 h")
	r.finish(2, "cancelled", `{"weir_dead_letter":"status_404"}`, "25 h")
	r.finish(3, "cancelled", `{"output":{"result":"dropped","duration_ms":1}}`, "25 h")
	r.finish(4, "cancelled", `{"cancel_attempted_at":"2026-01-01T00:00:00Z"}`, "25 h")
	r.finish(5, "discarded", `{}`, "25 h")
	r.finish(6, "completed", `{}`, "25 h")
	r.finish(9, "completed", `{}`, "25 h")
	// Its outcome is there: it was retried by hand after its move.
	r.keepHouse(10*365*24*time.Hour, 24*time.Hour)
	got := r.lines(`SELECT concat_ws(' ', event_pk, state, attempts, action_type, endpoint, response_status, duration_ms, error, payload->'output'->>'body')
		FROM weir.outcome ORDER BY event_pk`)
	want := []string{
		"0 delivered 2 log log 204 17 ok", "3 dropped 2 log log 1 first", "4 cancelled 2 log log first", "6 delivered 2 log log",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("outcomes:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if left := r.lines("SELECT args->>'pk' FROM weir.river_job ORDER BY 1"); strings.Join(left, " ") != "1 2 5 7" {
		t.Errorf("left are %v, want 1 (not long ago), 2 and 5 (dead letters), 7 (unfinished)", left)
	}
	if n := r.metric("weir_jobs_moved_total"); n != 5 {
		t.Errorf("%v moved, want 5", n)
	}
}

// What was overtaken stays so when what has overtaken it has left the table: a click on Retry sends it no more than before.
func TestOvertakenByWhatHasMoved(t *testing.T) {
	t.Parallel()
	for name, metadata := range map[string]string{
		"skipped":          `{"weir_ordered":true,"weir_dead_letter":"status_400"}`,
		"overtaken before": `{"weir_ordered":true,"weir_dead_letter":"overtaken"}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, `o: {entity: Order, ordering: entity, on_dead_letter: skip, actions: [{type: log}]}`)
			r.commit(order(1, `{}`))
			r.commit(order(2, `{}`))
			r.commit(order(3, `{}`))
			r.finish(1, "cancelled", metadata, "25 h")
			r.finish(2, "completed", `{"weir_ordered":true}`, "25 h")
			r.finish(3, "cancelled", `{"weir_ordered":true,"weir_dead_letter":"status_400"}`, "25 h")
			r.keepHouse(10*365*24*time.Hour, 24*time.Hour)
			r.exec("UPDATE weir.river_job SET state = 'available', finalized_at = NULL, scheduled_at = now() WHERE kind = 'weir_log'")
			r.run()
			r.await("the end", "SELECT count(*) = 2 FROM weir.river_job WHERE kind = 'weir_log' AND finalized_at IS NOT NULL")
			r.linesAre("cancelled overtaken completed", `SELECT concat_ws(' ', state,
				CASE WHEN state = 'cancelled' THEN metadata->>'weir_dead_letter' END) FROM weir.river_job WHERE kind = 'weir_log' ORDER BY args->>'pk'`)
		})
	}
}

// An outcome names the endpoint as the configuration does.
func TestOutcomeNamesTheEndpoint(t *testing.T) {
	t.Parallel()
	r := newRig(t, `o: {entity: Order, actions: [{type: log, endpoint: erp.example.org}]}`)
	r.commit(order(1, `{}`), order(2, `{}`))
	r.finish(1, "completed", `{}`, "25 h")
	r.finish(2, "completed", `{}`, "25 h")
	r.exec("UPDATE weir.river_job SET queue = 'gone_example_org' WHERE args->>'pk' = '2'")
	r.keepHouse(10*365*24*time.Hour, 24*time.Hour)
	r.linesAre("erp.example.org gone_example_org", "SELECT endpoint FROM weir.outcome ORDER BY event_pk")
}

// A worker that stops does not wait until everything is moved.
func TestMoverEndsWithTheWorker(t *testing.T) {
	t.Parallel()
	r := newRig(t, oneLog)
	r.exec(`INSERT INTO weir.river_job (kind, queue, state, attempt, max_attempts, args, attempted_at, finalized_at)
		SELECT 'weir_log', 'log', 'completed', 1, 22, jsonb_build_object('observer', 'o', 'action', 'log', 'entity', 'Order',
			'entity_id', n::text, 'event_type', 'INSERT', 'event_id', gen_random_uuid(), 'lsn', '0/1', 'tx_index', n,
			'day', current_date, 'pk', n), now() - interval '2 d', now() - interval '2 d'
		FROM generate_series(1, 30000) n`)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.q.Run(ctx) }()
	r.await("a batch", "SELECT EXISTS (SELECT FROM weir.outcome)")
	stop()
	check(t, <-ended)
	r.linesAre("available 1", "SELECT state || ' ' || (metadata->>'snoozes') FROM weir.river_job WHERE kind = 'weir_housekeeping'")
	r.linesAre("true", "SELECT (count(*) > 0)::text FROM weir.river_job WHERE state = 'completed'")
}

func TestMoverMeetsAnOutcome(t *testing.T) {
	t.Parallel()
	r := newRig(t, oneLog)
	r.commit(order(1, `{}`))
	r.finish(1, "completed", `{}`, "25 h")
	r.exec(`CREATE TABLE kept AS SELECT * FROM weir.river_job`)
	r.keepHouse(10*365*24*time.Hour, 0)
	r.exec(`INSERT INTO weir.river_job SELECT * FROM kept`)
	r.exec(`UPDATE weir.river_job SET attempt = 3`)
	r.keepHouse(10*365*24*time.Hour, 0)
	if got := r.lines(`SELECT count(*) || ' ' || max(attempts) || ' ' || (SELECT count(*) FROM weir.river_job) FROM weir.outcome`); got[0] != "1 3 0" {
		t.Errorf("outcomes, attempts, jobs: %s, want 1 3 0", got[0])
	}
}

// With the history in Elasticsearch alone, PostgreSQL keeps two days, and what Elasticsearch does not have yet.
func TestPartitionsWaitForElasticsearch(t *testing.T) {
	t.Parallel()
	r := newRig(t, `{}`)
	old := time.Now().UTC().AddDate(0, 0, -5)
	r.exec("SELECT weir.ensure_partitions(d::date, d::date) FROM generate_series(now() - interval '5 days', now(), interval '1 day') d")
	for pk := range int64(2) {
		c := order(pk, `{}`)
		c.Timestamp = event.Time(old.AddDate(0, 0, int(pk)))
		r.commit(c)
	}
	c := index.Config{Store: "elasticsearch"}
	r.keepHouseBy(c)
	r.linesAre("0 1", "SELECT string_agg(pk::text, ' ' ORDER BY pk) FROM weir.event")
	r.exec("UPDATE weir.history SET event_seq = (SELECT seq FROM weir.event WHERE pk = 0) WHERE store = 'elasticsearch'")
	r.keepHouseBy(c)
	r.linesAre("1", "SELECT string_agg(pk::text, ' ' ORDER BY pk) FROM weir.event")
	r.exec("UPDATE weir.history SET event_seq = (SELECT seq FROM weir.event WHERE pk = 1) WHERE store = 'elasticsearch'")
	r.keepHouseBy(c)
	r.linesAre("0", "SELECT count(*)::text FROM weir.event")
	if got := r.lines("SELECT relname::text FROM pg_class WHERE relname = 'event_" + old.Format("20060102") + "'"); len(got) != 0 {
		t.Errorf("left are %v", got)
	}
}

// Partitions that are older than the retention go, and what unfinished jobs and dead letters need stays until it is no
// longer needed.
func TestPartitionsAreMadeAndDropped(t *testing.T) {
	t.Parallel()
	r := newRig(t, oneLog)
	r.exec("SELECT weir.ensure_partitions('2026-02-28', '2026-02-28')") // the day of order
	for pk := range int64(4) {
		r.commit(order(pk, `{}`))
	}
	r.finish(1, "completed", `{}`, "25 h")
	r.finish(2, "cancelled", `{"weir_dead_letter":"status_404"}`, "25 h")
	r.finish(3, "discarded", `{}`, "25 h")
	r.exec("UPDATE weir.event SET ingested_at = created_at")
	today := time.Now().UTC()
	r.exec("DROP TABLE weir.event_" + today.AddDate(0, 0, 7).Format("20060102"))
	r.keepHouse(month, 24*time.Hour)
	if got := r.lines("SELECT pk::text FROM weir.event_default ORDER BY 1"); strings.Join(got, " ") != "0 2 3" {
		t.Errorf("kept events %v, want those of the unfinished job and of the dead letters", got)
	}
	if got := r.lines("SELECT relname::text FROM pg_class WHERE relname ~ '^(event|outcome)_202602'"); len(got) != 0 {
		t.Errorf("left are %v", got)
	}
	if got := r.lines("SELECT coalesce(to_regclass('weir.event_" + today.AddDate(0, 0, 7).Format("20060102") + "')::text, 'missing')"); got[0] == "missing" {
		t.Error("no partition was made for a week from today")
	}
	r.run()
	r.await("the delivery of an event that was moved", `SELECT count(*) = 1 FROM weir.river_job WHERE args->>'pk' = '0' AND state = 'completed'`)
	r.exec("DELETE FROM weir.river_job WHERE args->>'pk' = '2'")
	r.keepHouse(month, 0)
	r.await("the rest", `SELECT string_agg(pk::text, ' ') = '3' FROM weir.event`)
	if n := r.metric("weir_partitions_dropped_total"); n != 3 {
		t.Errorf("%v partitions dropped, want 3", n)
	}
}

// What a recovery may have to look up stays, however long ago the newest change was ingested, and wherever the history is.
func TestLedgerOutlivesTheRetention(t *testing.T) {
	t.Parallel()
	r := newRig(t, oneLog)
	r.q.recovery = 24 * time.Hour
	day := time.Now().UTC().AddDate(0, 0, -9).Format("20060102")
	r.exec("SELECT weir.ensure_partitions($1::date, $1::date)", day)
	r.exec(`INSERT INTO weir.checkpoint (system_identifier, timeline, installation, slot, lsn, commit_time)
		VALUES ('1', 1, '', 'weir', '0/1', now() - interval '8 days')`)
	r.exec(`INSERT INTO weir.discarded_change (event_id, pk, discarded_at) VALUES (gen_random_uuid(), 1, now() - interval '9 days')`)
	short := setting.Duration(24 * time.Hour)
	there := func() bool {
		return r.lines("SELECT coalesce(to_regclass('weir.event_" + day + "')::text, 'gone')")[0] != "gone"
	}
	discarded := func() bool { return len(r.lines("SELECT pk::text FROM weir.discarded_change")) > 0 }
	for _, place := range []string{"postgres", "elasticsearch"} {
		r.keepHouseBy(index.Config{Retention: &short, Store: place})
		if !there() {
			t.Fatalf("store %s: the events of the day before the newest change are gone", place)
		}
		if !discarded() {
			t.Fatalf("store %s: a discarded change of the day before the newest one is forgotten", place)
		}
	}
	r.exec("UPDATE weir.checkpoint SET commit_time = now()")
	r.keepHouseBy(index.Config{Retention: &short})
	if there() || discarded() {
		t.Error("nothing is dropped any more")
	}
}

// The periodic job runs, never piles up, and leaves nothing behind.
func TestHousekeepingIsPeriodic(t *testing.T) {
	t.Parallel()
	r := newRig(t, oneLog)
	r.exec("DROP TABLE weir.event_" + time.Now().UTC().AddDate(0, 0, 7).Format("20060102"))
	for range 3 {
		_, err := r.q.client.Insert(t.Context(), housekeepingArgs{}, nil)
		check(t, err)
	}
	if n := r.lines("SELECT count(*)::text FROM weir.river_job"); n[0] != "1" {
		t.Errorf("%s jobs of housekeeping at a time", n[0])
	}
	r.exec("DELETE FROM weir.river_job")
	r.run()
	r.await("housekeeping", "SELECT to_regclass('weir.event_"+time.Now().UTC().AddDate(0, 0, 7).Format("20060102")+"') IS NOT NULL")
	r.await("no trace of it", `SELECT count(*) = 0 FROM weir.river_job`)
}

// What was ingested, or delivered, within the retention stays for as long, whatever its event's timestamp: an import keeps the
// timestamps of its rows, and a dead letter is retried after weeks.
func TestRetentionGoesByWhenItHappenedHere(t *testing.T) {
	t.Parallel()
	r := newRig(t, oneLog)
	r.exec("SELECT weir.ensure_partitions('2026-02-28', '2026-02-28')") // the day of order
	imported := order(4, `{}`)
	imported.Timestamp = event.Time(time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)) // to the default partition
	r.commit(order(1, `{}`), order(2, `{}`), order(3, `{}`), imported)
	for pk := range int64(4) {
		r.finish(pk+1, "completed", `{}`, "25 h")
	}
	r.exec("UPDATE weir.river_job SET finalized_at = '2026-02-28' WHERE args->>'pk' IN ('1', '2')")
	r.keepHouse(month, 24*time.Hour)
	if got := r.lines("SELECT relname::text FROM pg_class WHERE relname ~ '^(event|outcome)_20(26|25)0[12]'"); len(got) != 0 {
		t.Errorf("left are %v", got)
	}
	r.linesAre("4", "SELECT pk::text FROM weir.event_default ORDER BY 1") // has just come
	r.linesAre("3 4", "SELECT event_pk::text FROM weir.outcome_default ORDER BY 1")
	r.exec("UPDATE weir.event SET ingested_at = ingested_at - interval '25 h'")
	r.exec("UPDATE weir.outcome SET finished_at = '2026-02-28' WHERE event_pk = 3")
	r.keepHouse(month, 24*time.Hour)
	r.linesAre("", "SELECT pk::text FROM weir.event ORDER BY 1")
	r.linesAre("4", "SELECT event_pk::text FROM weir.outcome ORDER BY 1")
}

// A day of which too much ended just now stays as it is: moving it would hold up ingest.
func TestPartitionOfLateOutcomesStays(t *testing.T) {
	t.Parallel()
	r := newRig(t, oneLog)
	r.exec("SELECT weir.ensure_partitions('2026-02-27', '2026-02-28')")
	r.exec(`INSERT INTO weir.outcome (day, delivery_id, event_id, event_pk, observer, action, action_type, endpoint, entity_type,
			entity_id, state, attempts, finished_at, payload)
		SELECT '2026-02-27', gen_random_uuid(), gen_random_uuid(), n, 'o', 'log', 'log', 'log', 'Order', '1', 'delivered', 1, now(), '{}'
		FROM generate_series(1, 10001) n`)
	r.keepHouse(month, 24*time.Hour)
	r.linesAre("outcome_20260227", "SELECT relname::text FROM pg_class WHERE relname ~ '^(event|outcome)_202602' AND relkind = 'r'")
	r.exec("UPDATE weir.outcome SET finished_at = '2026-02-28'")
	r.keepHouse(month, 24*time.Hour)
	r.linesAre("", "SELECT relname::text FROM pg_class WHERE relname ~ '^(event|outcome)_202602' AND relkind = 'r'")
}

// Days that went by while no worker was there get their partitions afterwards.
func TestMissedDaysGetPartitions(t *testing.T) {
	t.Parallel()
	r := newRig(t, oneLog)
	missed := func(days int) event.Change {
		c := order(int64(days), `{}`)
		c.Timestamp = event.Time(time.Now().UTC().AddDate(0, 0, -days))
		return c
	}
	r.commit(missed(2), missed(9), missed(40))
	r.keepHouse(month, 24*time.Hour)
	r.linesAre("40", "SELECT pk::text FROM weir.event_default")
	r.linesAre("2 9", "SELECT pk::text FROM weir.event WHERE tableoid::regclass::text = 'weir.event_' || to_char(day, 'YYYYMMDD') ORDER BY pk")
}

// A reader of a partition that is to be dropped holds nothing up for long.
func TestDroppingAPartitionDoesNotWait(t *testing.T) {
	t.Parallel()
	r := newRig(t, oneLog)
	r.exec("SELECT weir.ensure_partitions('2026-02-28', '2026-02-28')")
	reader, err := r.pool.Begin(t.Context())
	check(t, err)
	defer func() { _ = reader.Rollback(context.WithoutCancel(t.Context())) }()
	_, err = reader.Exec(t.Context(), "SELECT count(*) FROM weir.event")
	check(t, err)
	began := time.Now()
	err = (&housekeeper{queue: r.q}).dropPartitions(t.Context(), month)
	if took := time.Since(began); err == nil || took > time.Second {
		t.Errorf("after %s: %v, want to be refused the lock at once", took, err)
	}
}

func (r *rig) linesAre(want, sql string) {
	r.t.Helper()
	if got := strings.Join(r.lines(sql), " "); got != want {
		r.t.Errorf("%s: got %s, want %s", sql, got, want)
	}
}

// The circuit breakers of endpoints that are not configured any more are forgotten, unless a person keeps them open.
func TestEndpointsAreForgotten(t *testing.T) {
	t.Parallel()
	r := newRig(t, oneLog)
	r.exec(`INSERT INTO weir.endpoint (name, state, open_until, manual, updated_at) VALUES
		('log', 'closed', NULL, false, now() - interval '1 year'),
		('renamed', 'open', now() - interval '2 h', false, now() - interval '2 h'),
		('probed', 'half-open', NULL, false, now() - interval '2 h'),
		('known to others', 'open', now(), false, now() - interval '50 min'),
		('kept open', 'open', 'infinity', true, now() - interval '1 year')`)
	r.keepHouse(month, time.Hour)
	if left := strings.Join(r.lines("SELECT name FROM weir.endpoint ORDER BY name"), ", "); left != "kept open, known to others, log" {
		t.Errorf("left are %s", left)
	}
}
