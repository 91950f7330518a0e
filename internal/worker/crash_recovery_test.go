package worker_test

import (
	"math/rand/v2"
	"testing"
	"time"
)

// TestCrashRecovery loses the slot under load, in each way, with finished jobs already gone, and kills the worker in the middle of
// each recovery. Then the change log is compared with the jobs: one for each matching row, none lost, none twice.
func TestCrashRecovery(t *testing.T) {
	t.Parallel()
	rounds, kills, changes := 1, 2, 6000
	if full() {
		rounds, kills, changes = 5, 6, 40000
	}
	for name, lose := range map[string]func(*rig){"dropped": (*rig).dropSlot, "invalidated": (*rig).loseSlot} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, r := ownServer(t, map[string]string{"max_slot_wal_keep_size": "16MB", "max_wal_size": "64MB", "min_wal_size": "32MB"})
			r.exec("CREATE TABLE public.gone (args jsonb)")
			w := &victim{r: r, binary: workerBinary(t), config: r.writeCrash()}
			w.start()
			r.await("the slot", func() bool { return r.one("SELECT count(*)::text FROM weir.checkpoint") == "1" })
			written := make(chan error, 1)
			go func() { written <- writeChanges(t.Context(), r.url, changes) }()
			for range rounds {
				r.await("some jobs", func() bool {
					return r.one("SELECT (count(*) >= 200)::text FROM job WHERE state = 'completed'") == "true"
				})
				w.kill()
				r.await("the walsender to end", func() bool {
					return r.one("SELECT count(*)::text FROM pg_replication_slots WHERE active") == "0"
				})
				r.exec(`WITH old AS (DELETE FROM weir.river_job WHERE state = 'completed' AND kind <> 'weir_housekeeping' RETURNING args)
					INSERT INTO public.gone SELECT args FROM old`)
				r.exec(`INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data)
					SELECT 'Order', 'INSERT', gen_random_uuid(), '{"even": true}' FROM generate_series(1, 8000)`) // nobody reads them
				lose(r)
				r.killInRecovery(w, kills)
				w.start()
				r.awaitFor(2*time.Minute, "the stream", func() bool { return r.one("SELECT state FROM weir.checkpoint") == "streaming" })
			}
			if err := <-written; err != nil {
				t.Fatal(err)
			}
			r.awaitNothingMissing()
			w.kill()
			if twice := r.one(`SELECT count(*)::text FROM (SELECT FROM (SELECT args FROM job UNION ALL SELECT args FROM public.gone) j
				GROUP BY args->>'event_id', args->>'pk', args->>'observer', args->>'action' HAVING count(*) > 1) twice`); twice != "0" {
				t.Errorf("%s deliveries have more than one job", twice)
			}
			t.Logf("%s jobs were gone, %s left, of %s rows", r.one("SELECT count(*)::text FROM public.gone"), r.jobs("true"),
				r.one("SELECT count(*)::text FROM core.tb_entity_change_log"))
		})
	}
}

const missingJobs = `SELECT count(*)::text FROM core.tb_entity_change_log l WHERE (object_data->>'even')::boolean AND NOT EXISTS (
	SELECT FROM (SELECT args FROM job UNION ALL SELECT args FROM public.gone) j WHERE j.args->>'event_id' = l.id::text)`

func (r *rig) awaitNothingMissing() {
	r.t.Helper()
	last := ""
	defer func() {
		if r.t.Failed() {
			r.t.Logf("%s rows have no job", last)
		}
	}()
	r.awaitFor(2*time.Minute, "a job for each matching row", func() bool { last = r.one(missingJobs); return last == "0" })
}

// killInRecovery kills the worker at random moments of a recovery.
func (r *rig) killInRecovery(w *victim, kills int) {
	r.t.Helper()
	for range kills {
		epoch := r.one("SELECT epoch::text FROM weir.checkpoint")
		w.start()
		r.await("a recovery", func() bool { return r.one("SELECT epoch::text FROM weir.checkpoint") != epoch })
		if state := r.one("SELECT state FROM weir.checkpoint"); state != "recovering" {
			r.t.Fatalf("state %s", state)
		}
		time.Sleep(time.Duration(rand.IntN(600)) * time.Millisecond)
		w.kill()
	}
}

func (r *rig) dropSlot() {
	r.t.Helper()
	r.exec("SELECT pg_drop_replication_slot($1)", r.slot)
}

// loseSlot writes WAL until the server has removed what the slot needs.
func (r *rig) loseSlot() {
	r.t.Helper()
	r.await("the slot to be lost", func() bool {
		r.exec("SELECT pg_logical_emit_message(false, 'other', repeat('x', 1 << 20)) FROM generate_series(1, 8)")
		r.exec("SELECT pg_switch_wal()")
		r.exec("CHECKPOINT")
		return r.one("SELECT wal_status FROM pg_replication_slots WHERE slot_name = $1", r.slot) == "lost"
	})
}

// TestSlotDroppedUnderARunningWorker: it recovers without anybody's doing, and stays up.
func TestSlotDroppedUnderARunningWorker(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	run := r.started(logOrders)
	r.order(`{"n": 1}`)
	r.await("the first", func() bool { return r.jobs("state = 'completed'") == "1" })
	r.await("the slot to be dropped", func() bool { // the worker may have it again at once
		_, _ = r.conn.Exec(t.Context(), "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1 AND active", r.slot)
		_, err := r.conn.Exec(t.Context(), "SELECT pg_drop_replication_slot($1)", r.slot)
		return err == nil
	})
	r.order(`{"n": 2}`)
	r.await("the second", func() bool { return r.jobs("state = 'completed'") == "2" })
	r.await("ready", func() bool {
		return run.get(t, "/readyz").code == 200 && r.one("SELECT state FROM weir.checkpoint") == "streaming"
	})
	r.order(`{"n": 3}`)
	r.await("the third", func() bool { return r.jobs("state = 'completed'") == "3" })
}

// TestReadinessInAGap: the worker delivers what is queued, and is not ready.
func TestReadinessInAGap(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	run := r.started(logOrders)
	r.order(`{"n": 1}`)
	r.await("the first", func() bool { return r.jobs("state = 'completed'") == "1" })
	run.stop(t)
	r.exec("UPDATE weir.checkpoint SET state = 'gap', problem = 'slot gone'")
	r.exec("UPDATE weir.river_job SET state = 'available', finalized_at = NULL WHERE state = 'completed' AND kind = 'weir_log'")
	run = r.start(logOrders)
	r.await("the gap", func() bool {
		got := run.get(t, "/readyz")
		return got.code == 503 && field(t, got.body, "stream") == `"gap"` && field(t, got.body, "error") != `""`
	})
	r.await("what is queued", func() bool { return r.jobs("state = 'completed'") == "1" })
}

const logOrders = `
observers:
  all:
    entity: Order
    actions: [{type: log, level: debug}]
`
