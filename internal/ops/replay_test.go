package ops_test

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/index"
	"github.com/fraiseql/weir/internal/jobs"
	"github.com/fraiseql/weir/internal/ops"
)

// replayOptions are those of a replay of the last hour.
func replayOptions(t *testing.T, db *pgx.Conn) ops.ReplayOptions {
	t.Helper()
	return ops.ReplayOptions{
		ID: uuid.New(), Since: time.Now().Add(-time.Hour), Until: time.Now().Add(time.Minute), Source: ops.ReplayEvents,
		Observers: observerSet(t), Capture: slotOf(t, db), Patience: 100 * time.Millisecond,
		Log: func(ctx context.Context) (*pgx.Conn, error) { return pgx.ConnectConfig(ctx, db.Config()) },
	}
}

func run(t *testing.T, db *pgx.Conn, o ops.ReplayOptions) *ops.Replay {
	t.Helper()
	r := ops.NewReplay(o)
	check(t, r.Run(t.Context(), db, o))
	return r
}

func countOf(t *testing.T, db *pgx.Conn, from string) (n int) {
	t.Helper()
	check(t, db.QueryRow(t.Context(), "SELECT count(*) FROM "+from).Scan(&n))
	return n
}

// A replay that was cut off goes on where it was, and two calls of one make each delivery once, wherever the jobs are by then.
func TestReplayGoesOn(t *testing.T) {
	t.Parallel()
	db := setup(t)
	const n = 1200
	events := make([]*event.Event, n)
	for i := range events {
		events[i] = newEvent(int64(i))
	}
	record(t, db, events...)
	o := replayOptions(t, db)
	ctx, cancel := context.WithCancel(t.Context())
	o.Progress = func(int64, int64) { cancel() }
	cut := ops.NewReplay(o)
	if err := cut.Run(ctx, connect(t, db.Config().ConnString()), o); err == nil || cut.Done {
		t.Fatalf("not cut off: %+v", cut)
	}
	equal(t, "deliveries before the cut", cut.Deliveries, 500)
	equal(t, "jobs before the cut", countOf(t, db, "weir.river_job"), 500)
	equal(t, "of how many", cut.Total, n)

	// Some have left the table meanwhile.
	var args []byte
	check(t, db.QueryRow(t.Context(), `DELETE FROM weir.river_job WHERE id = (SELECT min(id) FROM weir.river_job) RETURNING args`).Scan(&args))
	var a jobs.Args
	check(t, json.Unmarshal(args, &a))
	exec(t, db, `INSERT INTO weir.outcome (day, delivery_id, event_id, event_pk, observer, action, action_type, endpoint, entity_type, entity_id, state,
		attempts, finished_at, payload, cached) VALUES ($1::text::date, $2, $3, $4, 'order-shipped', 'notify-erp', 'log', 'log', 'Order', 'x', 'delivered', 1, now(), '{}', false)`,
		a.Day, a.DeliveryID(), a.EventID, a.PK)

	o.Progress = nil
	var both sync.WaitGroup
	results := make([]*ops.Replay, 2)
	for i := range results {
		conn := connect(t, db.Config().ConnString())
		both.Go(func() { results[i] = run(t, conn, o) })
	}
	both.Wait()
	equal(t, "deliveries after it", results[0].Deliveries+results[1].Deliveries, n-500)
	equal(t, "what existed", results[0].Existing+results[1].Existing, n+500)
	equal(t, "jobs", countOf(t, db, "weir.river_job"), n-1)
	equal(t, "ids", countOf(t, db, "(SELECT DISTINCT args FROM weir.river_job) x"), n-1)
	equal(t, "marked, and last", countOf(t, db, "weir.river_job WHERE args ? 'replay' AND priority = 4 AND kind = 'weir_log'"), n-1)
	equal(t, "conditions that fail", results[0].Errors[0], ops.ReplayError{
		Observer: "misspelt", Events: n, First: results[0].Errors[0].First,
	})
}

// Rows that the stream may still bring are not recorded by somebody else.
func TestReplayWaitsForTheStream(t *testing.T) {
	t.Parallel()
	db := setup(t)
	o := replayOptions(t, db)
	o.Source = ops.ReplayChangeLog
	createSlot(t, db, o.Capture)
	exec(t, db, `INSERT INTO weir.checkpoint (system_identifier, timeline, server, database_system, installation, slot, lsn)
		SELECT system_identifier, 1, '', '', '', current_database(), '0/1' FROM pg_control_system()`)
	exec(t, db, `INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data, object_data_before)
		VALUES ('Order', 'UPDATE', gen_random_uuid(), '{"status": "shipped", "total": 100.10}', '{"status": "paid"}')`)
	refused := func(what, want string) {
		t.Helper()
		r := ops.NewReplay(o)
		if err := r.Run(t.Context(), db, o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", what, err)
		}
		equal(t, what+": events", countOf(t, db, "weir.event"), 0)
		equal(t, what+": jobs", countOf(t, db, "weir.river_job"), 0)
	}
	refused("nobody reads", "no worker has read the stream for 100ms")
	exec(t, db, `UPDATE weir.checkpoint SET lsn = '7FFFFFFF/0', state = 'recovering'`)
	refused("recovering", "not streaming (recovering)")
	exec(t, db, `UPDATE weir.checkpoint SET state = 'streaming', system_identifier = '7'`)
	refused("another server", "weir adopt")
	exec(t, db, `UPDATE weir.checkpoint SET system_identifier = (SELECT system_identifier FROM pg_control_system())`)
	r := run(t, db, o)
	equal(t, "recorded", r.Recorded, 1)
	equal(t, "deliveries", r.Deliveries, 1)
	var total, position string
	check(t, db.QueryRow(t.Context(), `SELECT payload -> 'data' ->> 'total', lsn || '+' || tx_index FROM weir.event`).Scan(&total, &position))
	equal(t, "its data", total, "100.10")
	equal(t, "its place", position, "0/0+1")
	// It is recorded now: another replay takes it as it was recorded.
	o.ID, o.Source = uuid.New(), ops.ReplayEvents
	equal(t, "another replay", run(t, db, o).Deliveries, 1)
	equal(t, "events", countOf(t, db, "weir.event"), 1)
}

// What history.redact has taken from an event comes from the change log, or the event is left out.
func TestReplayOfRedactedEvents(t *testing.T) {
	t.Parallel()
	db := setup(t)
	o := replayOptions(t, db)
	redact, err := index.ParseRedact("Order.data.card")
	check(t, err)
	o.History.Redact = []index.Redact{redact}
	whole, gone := newEvent(1), newEvent(2)
	for _, e := range []*event.Event{whole, gone} {
		e.Data = json.RawMessage(`{"status":"shipped","total":100.10,"card":"4711"}`)
	}
	exec(t, db, `INSERT INTO core.tb_entity_change_log (pk_entity_change_log, id, object_type, modification_type, object_id, object_data, object_data_before)
		OVERRIDING SYSTEM VALUE VALUES (1, $1, 'Order', 'UPDATE', gen_random_uuid(), $2, '{"status": "paid"}')`, whole.ID, string(whole.Data))
	check(t, pgx.BeginFunc(t.Context(), db, func(tx pgx.Tx) error { // as they are when no job names them any more
		return index.New(0, o.History).Record(t.Context(), tx, []index.Ingested{{Event: whole}, {Event: gone}})
	}))
	equal(t, "redacted", countOf(t, db, "weir.event WHERE payload::text LIKE '%card%' OR unredacted IS NOT NULL"), 0)

	o.DryRun = true
	r := run(t, db, o)
	equal(t, "would be restored", r.Restored, 1)
	equal(t, "changed by a dry run", countOf(t, db, "weir.event WHERE unredacted IS NOT NULL"), 0)
	o.DryRun = false
	r = run(t, db, o)
	equal(t, "restored", r.Restored, 1)
	equal(t, "incomplete", r.Incomplete, 1)
	equal(t, "deliveries", r.Deliveries, 1)
	equal(t, "whole again", countOf(t, db, `weir.event WHERE pk = 1 AND unredacted -> 'data' ->> 'card' = '4711' AND lsn <> '0/0'`), 1)
	o.ID, o.Incomplete = uuid.New(), true
	r = run(t, db, o)
	equal(t, "all of them", r.Deliveries, 2)
}
