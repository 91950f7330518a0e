package worker_test

import (
	"fmt"
	"testing"
	"time"
)

// TestCrashMover has finished deliveries moved out of River's table while changes come in and the worker is killed. Each is
// in the one table or in the other, and none in both; capture goes on meanwhile.
func TestCrashMover(t *testing.T) {
	t.Parallel()
	finished, kills := 20_000, 2
	if full() {
		finished, kills = 200_000, 5
	}
	r := newRig(t)
	// They were finished before the worker comes: rows of the change log, and a job for each that has been completed.
	r.exec(`INSERT INTO weir.river_job (kind, queue, state, attempt, max_attempts, args, metadata, attempted_at, finalized_at)
		SELECT 'weir_log', 'log', 'completed', 1, 22, jsonb_build_object('observer', 'o', 'action', 'log', 'entity', 'Order',
			'entity_id', n::text, 'event_type', 'INSERT', 'event_id', gen_random_uuid(), 'lsn', '0/1', 'tx_index', n,
			'day', current_date, 'pk', n), '{"output": {"result": "delivered", "duration_ms": 1}}', now() - interval '2 h', now() - interval '2 h'
		FROM generate_series(1, $1) n`, finished)
	config := r.write("history: {finished_jobs: 1h}\n" + everyOrder)
	w := r.spawn(t, config)
	var longest time.Duration
	moving, changes, last := 0, 0, time.Now()
	events := func() string { return r.one("SELECT events::text FROM weir.checkpoint") }
	before := events()
	outcomes := func() int {
		var n int
		if err := r.conn.QueryRow(t.Context(), "SELECT count(*) FROM weir.outcome").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	deadline := time.Now().Add(5 * time.Minute)
	for killed := 0; ; {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d finished deliveries were moved; housekeeping: %s", outcomes(), finished, r.one(
				"SELECT coalesce(json_agg(j), '[]')::text FROM weir.river_job j WHERE kind = 'weir_housekeeping'"))
		}
		r.order(`{}`)
		changes++
		if now := events(); now != before {
			longest = max(longest, time.Since(last))
			before, last = now, time.Now()
			if n := outcomes(); n > 0 && n < finished {
				moving++
			}
		}
		n := outcomes()
		if n >= finished {
			break
		}
		if killed < kills && n > (killed+1)*finished/(kills+2) {
			killed++
			if err := w.Kill(); err != nil {
				t.Fatal(err)
			}
			w = r.spawn(t, config)
			last = time.Now() // nobody reads while nobody is there
		}
		if time.Since(last) > time.Minute {
			t.Fatal("capture stands still")
		}
		time.Sleep(5 * time.Millisecond)
	}
	want := fmt.Sprint(changes)
	r.await("the changes that came meanwhile", func() bool { return r.jobs("state = 'completed'") == want })
	total := fmt.Sprintf("%d %d", finished, finished)
	if got := r.one("SELECT count(*) || ' ' || count(DISTINCT event_pk) FROM weir.outcome WHERE state = 'delivered'"); got != total {
		t.Errorf("outcomes and deliveries with one: %s, want %s", got, total)
	}
	if n := r.one("SELECT count(*)::text FROM weir.river_job j JOIN weir.outcome o ON o.event_id = (j.args->>'event_id')::uuid"); n != "0" {
		t.Errorf("%s deliveries are in both tables", n)
	}
	if moving == 0 {
		t.Error("the checkpoint did not move while jobs were moved")
	}
	t.Logf("%d moved with %d kills, %d changes meanwhile; the checkpoint stood still for %s at the longest",
		finished, kills, changes, longest.Round(time.Millisecond))
}
