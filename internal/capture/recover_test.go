package capture_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/fraiseql/weir/internal/capture"
	"github.com/fraiseql/weir/internal/event"
)

// record is what history and jobs leave of a batch, as far as a recovery looks at it.
func record(ctx context.Context, tx pgx.Tx, batch []event.Change) error {
	var events [][]any
	for i := range batch {
		c := &batch[i]
		if c.Reason == "" {
			events = append(events, []any{
				c.Day(), c.ID, c.PK, int64(c.LSN), c.TxIndex, string(c.Type), c.EntityType, c.EntityID, time.Time(c.CommitTime),
				time.Time(c.Timestamp), "{}",
			})
			continue
		}
		_, err := tx.Exec(ctx, `
			INSERT INTO weir.river_job (kind, queue, max_attempts, state, finalized_at, metadata, args)
			VALUES ('weir_change', 'weir_change', 1, 'cancelled', now(), '{"weir_dead_letter": "bad_row"}',
			        jsonb_build_object('observer', '', 'event_id', $1::uuid, 'pk', $2::bigint))`, c.ID, c.PK)
		if err != nil {
			return err
		}
	}
	_, err := tx.CopyFrom(ctx, pgx.Identifier{"weir", "event"}, []string{
		"day", "id", "pk", "lsn", "tx_index", "event_type", "entity_type", "entity_id", "commit_time", "created_at", "payload",
	}, pgx.CopyFromRows(events))
	return err
}

// stopped is a stream that has read some changes and was stopped.
func stopped(t *testing.T, changes int) *rig {
	t.Helper()
	return newRig(t).stopped(changes)
}

func (r *rig) stopped(changes int) *rig {
	r.t.Helper()
	r.sink.ledger = true
	run := r.start("one")
	r.streaming(run)
	r.write(1, changes)
	r.await("the first", func() bool { return len(strings.Fields(r.ingested())) == changes })
	run.stop(r.t)
	r.letGo()
	return r
}

func (r *rig) dropSlot() {
	r.t.Helper()
	r.exec("SELECT pg_drop_replication_slot($1)", r.cfg.Slot)
}

// A slot that has lost something is made up for, and what was ingested is not ingested again.
func TestRecovers(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]string{
		"dropped":   "SELECT pg_drop_replication_slot($1)",
		"moved":     "SELECT pg_replication_slot_advance($1, pg_current_wal_lsn())",
		"recreated": "SELECT pg_create_logical_replication_slot(s, 'pgoutput') FROM (SELECT $1::name s, pg_drop_replication_slot($1)) d",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := stopped(t, 3)
			r.write(4, 11) // in the order of numbers, which is not that of texts
			r.exec(spoil, string(r.cfg.Slot))
			r.write(12, 12)
			r.streaming(r.start("two"))
			r.write(13, 13)
			r.await("everything", func() bool { return len(strings.Fields(r.ingested())) >= 13 })
			if got := r.ingested(); got != "1 2 3 4 5 6 7 8 9 10 11 12 13" {
				t.Errorf("ingested %s", got)
			}
			if got := r.one("SELECT state || problem || epoch FROM weir.checkpoint"); got != "streaming3" {
				t.Errorf("the checkpoint: %s", got)
			}
			if back := r.one(`SELECT count(*)::text FROM (SELECT (lsn, tx_index) <= lag((lsn, tx_index)) OVER (ORDER BY n) AS back FROM ingested) o WHERE back`); back != "0" {
				t.Errorf("%s changes do not lie behind the one before", back)
			}
			if again := r.one("SELECT (count(*) FILTER (WHERE failover))::text FROM (SELECT coalesce((to_jsonb(s)->>'failover')::boolean, true) AS failover FROM pg_replication_slots s WHERE slot_name = $1) s", r.cfg.Slot); again != "1" {
				t.Error("the slot is not made for a failover")
			}
		})
	}
}

// Rows that were written before the first start are none of ours, however young they are.
func TestRecoveryLeavesOutWhatWasBeforeTheFirstStart(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.sink.ledger = true
	r.write(1, 2)
	run := r.start("one")
	r.streaming(run)
	r.write(3, 3)
	r.await("the third", func() bool { return r.ingested() == "3" })
	run.stop(t)
	r.letGo()
	r.dropSlot()
	r.write(4, 4)
	r.start("two")
	r.await("the fourth", func() bool { return strings.HasSuffix(r.ingested(), "4") })
	if got := r.ingested(); got != "3 4" {
		t.Errorf("ingested %s", got)
	}
}

// Transactions that were open at the checkpoint, and when the slot was lost and made again, with savepoints; and rows that others
// have updated since.
func TestRecoversOpenTransactions(t *testing.T) {
	t.Parallel()
	_, databaseURL := ownServer(t, nil) // others would wait for our transactions
	r := rigOn(t, databaseURL)
	r.sink.ledger = true
	run := r.start("one")
	r.streaming(run)
	open := make([]*pgx.Conn, 3)
	for i := range open {
		conn, err := pgx.Connect(t.Context(), r.url)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
		open[i] = conn
		do(t, conn, "BEGIN", "SAVEPOINT a")
		insert(t, conn, 10*i+10, 10*i+10)
		do(t, conn, "SAVEPOINT b")
		insert(t, conn, 10*i+11, 10*i+11) // is rolled back
		do(t, conn, "ROLLBACK TO b", "SAVEPOINT c")
		insert(t, conn, 10*i+12, 10*i+12)
		do(t, conn, "RELEASE c")
	}
	r.write(1, 2)
	do(t, open[0], "COMMIT")
	r.write(3, 3)
	r.await("what was committed", func() bool { return r.ingested() == "1 2 10 12 3" })
	run.stop(t)
	r.letGo()
	r.write(4, 4)
	r.dropSlot()
	do(t, open[1], "COMMIT")
	r.write(5, 5)
	r.exec(`UPDATE core.tb_entity_change_log SET nats_published_at = now(), object_data = object_data || '{"sent": true}'`)
	r.start("two")
	r.await("the recovery to wait for the last", func() bool {
		return r.one("SELECT count(*)::text FROM pg_stat_activity WHERE application_name = 'weir:two' AND query LIKE 'CREATE_REPLICATION%' AND state = 'active'") == "1"
	})
	do(t, open[2], "COMMIT")
	r.write(6, 6)
	r.await("everything", func() bool { return len(strings.Fields(r.ingested())) >= 12 })
	got := strings.Fields(r.ingested())
	if len(got) != 12 || strings.Join(got[:5], " ") != "1 2 10 12 3" {
		t.Errorf("ingested %s", got)
	}
	if missing := r.one("SELECT count(*)::text FROM core.tb_entity_change_log l WHERE NOT EXISTS (SELECT FROM ingested i WHERE i.pk = l.pk_entity_change_log)"); missing != "0" {
		t.Errorf("%s rows are missing: %s", missing, got)
	}
}

func do(t *testing.T, conn *pgx.Conn, statements ...string) {
	t.Helper()
	for _, sql := range statements {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
}

func insert(t *testing.T, conn *pgx.Conn, first, last int) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), insertRow, first, last); err != nil {
		t.Fatal(err)
	}
}

// A row that was no event is known by its job, also when somebody has removed that, and an event that was forgotten stays so.
func TestRecoveryBringsNothingBack(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.sink.ledger = true
	run := r.start("one")
	r.streaming(run)
	r.exec(`INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data)
		SELECT 'Order', 'UPSERT', gen_random_uuid(), '{}' FROM generate_series(1, 3)`)
	r.write(4, 6)
	r.await("the first", func() bool { return r.one("SELECT count(*)::text FROM ingested") == "6" })
	run.stop(t)
	r.letGo()
	r.exec("DELETE FROM weir.river_job WHERE args->>'pk' = '1'")
	r.exec("UPDATE core.tb_entity_change_log SET modification_type = 'UPDATE' WHERE pk_entity_change_log = 2")
	r.exec(`WITH gone AS (DELETE FROM weir.event WHERE pk = 4 RETURNING entity_type, entity_id)
		INSERT INTO weir.forgotten (entity_type, entity_id, removed) SELECT entity_type, entity_id, '{}' FROM gone`)
	r.exec(`UPDATE core.tb_entity_change_log SET created_at = created_at - interval '1 day' WHERE pk_entity_change_log = 5`)
	r.dropSlot()
	r.exec(`INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data, created_at)
		SELECT 'Order', v, gen_random_uuid(), '{"n": 9}', t::timestamptz FROM (VALUES ('UPSERT', now()::text), ('INSERT', now()::text), ('INSERT', 'infinity')) r(v, t)`)
	r.streaming(r.start("two"))
	r.write(10, 10)
	r.await("the last", func() bool { return r.one("SELECT count(*)::text FROM ingested WHERE data = '{\"n\": 10}'") == "1" })
	if got := r.one("SELECT string_agg(pk::text, ' ' ORDER BY n) FROM ingested WHERE n > 6"); got != "7 8 9 10" {
		t.Errorf("ingested after the loss: %s", got)
	}
	if got := r.one("SELECT count(*)::text FROM ingested WHERE n > 6 AND reason <> ''"); got != "2" {
		t.Errorf("%s bad rows after the loss, want 2", got)
	}
}

// The checkpoint's newest change was committed at a time that bounds what may be missing: a transaction may have been open for
// the window before. What is older than that is not looked at.
func TestRecoveryWindow(t *testing.T) {
	t.Parallel()
	r := stopped(t, 1)
	r.exec("UPDATE weir.checkpoint SET began_at = now() - interval '1 year'")
	r.dropSlot()
	r.exec(`INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data, created_at)
		SELECT 'Order', 'INSERT', gen_random_uuid(), jsonb_build_object('n', h), now() - make_interval(hours => h) FROM unnest(ARRAY[100, 25, 23, 2]) h`)
	r.streaming(r.start("two"))
	if got := r.ingested(); got != "1 23 2" {
		t.Errorf("ingested %s", got)
	}
}

// Broken off at any point, it begins again, and what it had ingested is known then.
func TestRecoveryBrokenOff(t *testing.T) {
	t.Parallel()
	r := stopped(t, 1)
	r.write(2, 9000)
	r.dropSlot()
	var calls atomic.Int32
	r.sink.before = func(context.Context, []event.Change) error {
		if n := calls.Add(1); n == 2 || n == 4 {
			return errors.New("the database went away")
		}
		return nil
	}
	r.streaming(r.start("two"))
	r.write(9001, 9001)
	r.await("the last", func() bool {
		return r.one("SELECT count(*)::text FROM ingested WHERE data::json->>'n' = '9001'") == "1"
	})
	if got := r.one("SELECT count(*) || ' ' || count(DISTINCT pk) FROM ingested"); got != "9001 9001" {
		t.Errorf("rows and distinct: %s", got)
	}
	if calls.Load() < 7 {
		t.Errorf("%d batches: nothing was broken off", calls.Load())
	}
}

// While one recovers, others stand by; one whose lease is gone is replaced, and what wakes up later stores nothing.
func TestRecoveryOfADeadWorkerIsTakenOver(t *testing.T) {
	t.Parallel()
	_, databaseURL := ownServer(t, nil) // others would wait for the transaction that hangs
	r := rigOn(t, databaseURL).stopped(1)
	r.write(2, 2)
	r.dropSlot()
	r.exec(`INSERT INTO weir.worker (client_id, hostname, pid, version) VALUES ('two', 'h', 1, 'v')`)
	hangs := make(chan struct{})
	var held atomic.Bool
	r.sink.before = func(context.Context, []event.Change) error {
		if held.CompareAndSwap(false, true) {
			<-hangs // in the batch's transaction
		}
		return nil
	}
	slow := r.start("two")
	r.await("a recovery", held.Load)
	other := r.start("three")
	r.await("another that stands by", func() bool { return other.Health().State == capture.Standby })
	r.exec("DELETE FROM weir.worker")
	r.streaming(other)
	close(hangs)
	r.await("the first to stand by", func() bool { return slow.Health().State == capture.Standby })
	r.write(3, 3)
	r.await("the third", func() bool { return strings.HasSuffix(r.ingested(), "3") })
	if got := r.ingested(); got != "1 2 3" {
		t.Errorf("ingested %s", got)
	}
}

// One that recovers and is cut off from the source has a lease all the same: others wait for it no longer than for a reader.
func TestRecoveryOfAWorkerThatIsCutOffIsTakenOver(t *testing.T) {
	t.Parallel()
	_, databaseURL := ownServer(t, nil)
	r := rigOn(t, databaseURL).stopped(1)
	r.write(2, 2)
	r.dropSlot()
	r.exec("UPDATE weir.checkpoint SET state = 'recovering', owner = 'two', owned_since = now()")
	r.exec(`INSERT INTO weir.worker (client_id, hostname, pid, version, stream_at) VALUES ('two', 'h', 1, 'v', now())`)
	var may atomic.Bool
	r.mayBury = func(time.Time) bool { return may.Load() }
	other := r.start("three")
	r.await("it to stand by", func() bool { return other.Health().State == capture.Standby })
	r.exec("UPDATE weir.checkpoint SET owned_since = now() - interval '1 hour'")
	r.exec("UPDATE weir.worker SET stream_at = now() - interval '1 hour'")
	if r.one("SELECT owner FROM weir.checkpoint") != "two" {
		t.Error("it has not waited")
	}
	may.Store(true)
	r.streaming(other)
	r.await("the second", func() bool { return r.ingested() == "1 2" })
}

// An owner that was stopped in the middle of a batch holds the checkpoint's row, also when its slot is free, or lost.
func TestCheckpointHeldByADeadOwner(t *testing.T) {
	t.Parallel()
	for _, lost := range []bool{true, false} {
		t.Run(fmt.Sprintf("slot lost: %v", lost), func(t *testing.T) {
			t.Parallel()
			r := stopped(t, 1)
			dead := "dead-" + string(r.cfg.Slot) // sessions are the server's: no other test's
			r.exec("UPDATE weir.checkpoint SET owner = $1", dead)
			cfg := r.conn.Config()
			cfg.RuntimeParams["application_name"] = "weir:" + dead
			batch, err := pgx.ConnectConfig(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = batch.Close(context.WithoutCancel(t.Context())) })
			do(t, batch, "BEGIN", "UPDATE weir.checkpoint SET events = events + 1")
			r.write(2, 2)
			if lost {
				r.dropSlot()
			}
			r.start("two")
			r.await("the second", func() bool { return r.ingested() == "1 2" })
		})
	}
}

// Policies that could hide rows are an error that says what mends it, never an empty answer.
func TestRecoveryUnderRowLevelSecurity(t *testing.T) {
	t.Parallel()
	r := stopped(t, 1)
	role := "limited_" + string(r.cfg.Slot)
	r.exec(fmt.Sprintf(`CREATE ROLE %s LOGIN REPLICATION IN ROLE pg_read_all_settings; GRANT SELECT ON core.tb_entity_change_log TO %[1]s;
		GRANT USAGE ON SCHEMA core TO %[1]s; ALTER TABLE core.tb_entity_change_log ENABLE ROW LEVEL SECURITY;
		CREATE POLICY p ON core.tb_entity_change_log USING (object_data->>'n' = '1'); ALTER PUBLICATION weir OWNER TO %[1]s`, role))
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		_, _ = r.conn.Exec(ctx, fmt.Sprintf("REASSIGN OWNED BY %s TO postgres; DROP OWNED BY %[1]s; DROP ROLE %[1]s", role))
	})
	r.write(2, 2)
	r.dropSlot()
	r.databaseURL, r.url = r.url, strings.Replace(r.url, "postgres@", role+"@", 1)
	if got := r.refusal(r.start("two")); !strings.Contains(got, "BYPASSRLS") || !strings.Contains(got, role) {
		t.Errorf("got %s", got)
	}
	if got := r.one("SELECT state FROM weir.checkpoint"); got != "streaming" {
		t.Errorf("state %s: something was given up before it was known that it can be made up for", got)
	}
	r.exec("ALTER ROLE " + role + " BYPASSRLS")
	r.start("three")
	r.await("the second", func() bool { return r.ingested() == "1 2" })
}

// WAL that the server removes while nobody reads.
func TestRecoversASlotThatIsLost(t *testing.T) {
	t.Parallel()
	_, databaseURL := ownServer(t, map[string]string{"max_slot_wal_keep_size": "16MB", "max_wal_size": "32MB", "min_wal_size": "32MB"})
	r := rigOn(t, databaseURL)
	r.sink.ledger = true
	run := r.start("one")
	r.streaming(run)
	r.write(1, 1)
	r.await("the first", func() bool { return r.ingested() == "1" })
	run.stop(t)
	r.letGo()
	r.write(2, 2)
	r.loseSlot()
	r.write(3, 3)
	r.streaming(r.start("two"))
	r.write(4, 4)
	r.await("everything", func() bool { return len(strings.Fields(r.ingested())) >= 4 })
	if got := r.ingested(); got != "1 2 3 4" {
		t.Errorf("ingested %s", got)
	}
}

// loseSlot writes WAL until the server has removed what the slot needs.
func (r *rig) loseSlot() {
	r.t.Helper()
	r.await("the slot to be lost", func() bool {
		r.exec("SELECT pg_logical_emit_message(false, 'other', repeat('x', 1 << 20)) FROM generate_series(1, 8)")
		r.exec("SELECT pg_switch_wal()")
		r.exec("CHECKPOINT")
		return r.one("SELECT wal_status FROM pg_replication_slots WHERE slot_name = $1", r.cfg.Slot) == "lost"
	})
}

// Where the stream carries more than the change log holds, nothing is captured until somebody has accepted the gap.
func TestGap(t *testing.T) {
	t.Parallel()
	r := stopped(t, 1)
	r.exec("CREATE TABLE public.orders (id uuid PRIMARY KEY)")
	r.cfg.Tables = []capture.CapturedTable{{Table: capture.Table{Schema: "public", Name: "orders"}}}
	r.dropSlot()
	r.write(2, 2)
	r.reg = prometheus.NewRegistry()
	run, other := r.start("one"), r.start("two")
	r.await("both to stop", func() bool { return run.Health().State == capture.Gap && other.Health().State == capture.Gap })
	if got := run.Health().Err; !strings.Contains(got, "does not exist") || !strings.Contains(got, "weir accept-gap") {
		t.Errorf("it says %s", got)
	}
	if r.gauge("weir_stream_gap") != 1 {
		t.Error("weir_stream_gap is not 1")
	}
	select {
	case <-run.Verified():
	default:
		t.Error("what is queued would not be delivered")
	}
	if slots := r.one("SELECT count(*)::text FROM pg_replication_slots WHERE slot_name = $1", r.cfg.Slot); slots != "0" {
		t.Error("a slot holds WAL that nobody reads")
	}
	r.write(3, 3)
	run.stop(t) // a gap lasts
	run = r.start("three")
	r.await("it to stop", func() bool { return run.Health().State == capture.Gap })
	if got := r.ingested(); got != "1" {
		t.Errorf("ingested %s over a gap", got)
	}
	r.exec("UPDATE weir.checkpoint SET state = 'recovering', owner = '', epoch = epoch + 1") // weir accept-gap
	r.await("one to go on", func() bool {
		return run.Health().State == capture.Streaming || other.Health().State == capture.Streaming
	})
	r.write(4, 4)
	r.await("the rest", func() bool { return len(strings.Fields(r.ingested())) >= 4 })
	if got := r.ingested(); got != "1 2 3 4" {
		t.Errorf("ingested %s", got)
	}
}

func (r *rig) gauge(name string) float64 {
	r.t.Helper()
	families, err := r.reg.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	r.t.Fatalf("no metric %s", name)
	return 0
}

// Without a change log there is nothing to recover from: once the gap is accepted, the stream goes on at the present. Where
// positions are lower than before, as on another timeline, no snapshot of before has what comes.
func TestGapWithoutAChangeLog(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.exec("CREATE TABLE orders (id int PRIMARY KEY, v int)")
	r.capture(table("orders"))
	r.cfg.ChangeLog = &capture.Table{}
	run := r.start("one")
	r.streaming(run)
	run.stop(t)
	r.letGo()
	r.dropSlot()
	r.exec("INSERT INTO orders VALUES (1, 0)")
	run = r.start("two")
	r.await("it to stop", func() bool { return run.Health().State == capture.Gap })
	r.exec(joinedFarAhead)
	r.exec("UPDATE weir.checkpoint SET state = 'recovering', owner = '', epoch = epoch + 1") // weir accept-gap
	r.streaming(run)
	r.exec("INSERT INTO orders VALUES (2, 0)")
	r.became("after the gap", `INSERT orders 2 {"id":2,"v":0}`)
}

// joinedFarAhead is a snapshot of another timeline, or another cluster.
const joinedFarAhead = `INSERT INTO weir.captured_table (name, joined, finished_at) VALUES ('public.orders', 'FFFF/0', now())`

// In another cluster positions are lower: what is written to a table there is in no snapshot of the cluster before.
func TestAdoptionElsewhereForgetsWhereSnapshotsJoined(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.exec("CREATE TABLE orders (id int PRIMARY KEY, v int)")
	r.capture(table("orders"))
	run := r.start("one")
	r.streaming(run)
	run.stop(t)
	r.letGo()
	r.exec("UPDATE weir.checkpoint SET system_identifier = '7'")
	r.exec(joinedFarAhead)
	r.adopt()
	r.streaming(r.start("two"))
	r.exec("INSERT INTO orders VALUES (1, 0)")
	r.became("what comes", `INSERT orders 1 {"id":1,"v":0}`)
}
