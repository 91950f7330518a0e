package ops_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/internal/capture"
	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/index"
	"github.com/fraiseql/weir/internal/ops"
)

// indexed makes the documents of what has been recorded, and says that nothing lags.
func indexed(t *testing.T, db *pgx.Conn) {
	t.Helper()
	today := time.Now().UTC().Truncate(24 * time.Hour)
	_, err := ops.Reindex(t.Context(), db, index.Reindex{From: today.AddDate(0, 0, -2), To: today.AddDate(0, 0, 1)})
	check(t, err)
	exec(t, db, "UPDATE weir.history SET event_seq = (SELECT max(seq) FROM weir.event) WHERE store = 'postgres'")
}

func moved(t *testing.T, db *pgx.Conn, e *event.Event, observer, state string) {
	t.Helper()
	exec(t, db, `
		INSERT INTO weir.outcome (day, delivery_id, event_id, event_pk, entity_type, entity_id, observer, action, action_type, endpoint,
		                          state, attempts, finished_at, payload)
		VALUES ($1, $2, $3, $4, $5, $6, $7, 'notify-erp', 'webhook', 'erp', $8, 2, now(), '{"job_id": 77, "errors": []}')`,
		e.Day(), event.DeliveryID(e.ID, e.PK, observer, failedJob.action), e.ID, e.PK, e.EntityType, e.EntityID, observer, state)
}

// TestSearchTellsDeliveriesApart: two events may have one id, and a delivery may be in two places.
func TestSearchTellsDeliveriesApart(t *testing.T) {
	t.Parallel()
	db := setup(t)
	one, two := newEvent(1), newEvent(1)
	two.PK, two.LSN = 2, one.LSN+8
	record(t, db, one, two)
	j := failedJob
	j.event = two
	j.insert(t, db)
	moved(t, db, two, j.observer, "delivered") // it was retried by hand after its move
	moved(t, db, one, "large", "cancelled")
	moved(t, db, one, "small", "delivered")
	refused := j
	refused.kind = "weir_document"
	refused.insert(t, db)
	indexed(t, db)
	found, err := ops.HistoryInPostgres(db).Search(t.Context(), index.Search{Limit: 10})
	check(t, err)
	equal(t, "store", found.Store, ops.StorePostgres)
	equal(t, "lag", found.LagSeconds, 0)
	equal(t, "hits", len(found.Hits), 2)
	newer, older := found.Hits[0], found.Hits[1]
	equal(t, "newest first", newer.PK, 2)
	equal(t, "deliveries of the newer", len(newer.Deliveries), 1)
	equal(t, "River's", newer.Deliveries[0].Moved, false)
	equal(t, "deliveries of the older", len(older.Deliveries), 2)
	for _, d := range older.Deliveries {
		equal(t, "moved", d.Moved, true)
		equal(t, "entity", d.EntityID, "order-1")
		switch d.Observer {
		case "large":
			equal(t, "cancelled", d.State, "cancelled")
			if d.Outcome != nil {
				t.Errorf("a person has cancelled it: %+v", d.Outcome)
			}
		default:
			equal(t, "state", d.State, "completed")
			equal(t, "result", d.Outcome.Result, "delivered")
		}
	}
	if !strings.Contains(string(newer.Event), `"big":9007199254740993123`) {
		t.Errorf("digits are lost: %s", newer.Event)
	}
}

// TestHistoryShowsNothingRedacted: the whole event stays for its deliveries, and no report has it.
func TestHistoryShowsNothingRedacted(t *testing.T) {
	t.Parallel()
	db := setup(t)
	hidden, err := index.ParseRedact("Order.data.card")
	check(t, err)
	e := newEvent(1)
	e.Data, e.Changes = json.RawMessage(`{"card":"4111111111","total":1}`), json.RawMessage(`{"card":{"old":null,"new":"4111111111"}}`)
	check(t, pgx.BeginFunc(t.Context(), db, func(tx pgx.Tx) error {
		c := index.Config{Redact: []index.Redact{hidden}}
		return index.New(0, c).Record(t.Context(), tx, []index.Ingested{{Event: e, Matched: true}})
	}))
	j := failedJob
	j.event = e
	id := j.insert(t, db)
	indexed(t, db)
	found, err := ops.HistoryInPostgres(db).Search(t.Context(), index.Search{Limit: 10})
	check(t, err)
	reports, err := ops.DebugEvent(t.Context(), db, e.ID, ops.Question{})
	check(t, err)
	letter, err := ops.NewDeadLetters(db).Show(t.Context(), id)
	check(t, err)
	for what, report := range map[string]any{"search": found, "debug-event": reports, "dlq show": letter} {
		raw, err := json.Marshal(report)
		check(t, err)
		if text := string(raw); strings.Contains(text, "4111111111") || !strings.Contains(text, `"total":1`) {
			t.Errorf("%s: %s", what, text)
		}
	}
	query, err := index.ParseQuery("4111111111")
	check(t, err)
	found, err = ops.HistoryInPostgres(db).Search(t.Context(), index.Search{Query: query, Limit: 10})
	check(t, err)
	equal(t, "hits", len(found.Hits), 0)
}

func TestMentions(t *testing.T) {
	t.Parallel()
	db := setup(t)
	id := uuid.NewString()
	own, other := newEvent(1), newEvent(2)
	own.EntityID = id
	other.Data = json.RawMessage(`{"parent":"` + id + `"}`)
	record(t, db, own, other, newEvent(3))
	indexed(t, db)
	h := ops.HistoryInPostgres(db)
	for asked, want := range map[string]int64{id: 1, uuid.NewString(): 0, `"`: 0, "order-3": 0} {
		m, err := h.Mentions(t.Context(), "Order", asked)
		check(t, err)
		equal(t, "mentions of "+asked, m, ops.Mentions{Events: want})
	}
}

// TestChangeLogOf: a role that row security hides rows from must not be told that there are none.
func TestChangeLogOf(t *testing.T) {
	t.Parallel()
	db := setup(t)
	id := uuid.NewString()
	exec(t, db, `INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id)
		VALUES ('Order', 'INSERT', $1::uuid), ('Order', 'UPDATE', $1::uuid), ('Invoice', 'UPDATE', $1::uuid)`, id)
	exec(t, db, "ALTER TABLE core.tb_entity_change_log ENABLE ROW LEVEL SECURITY")
	exec(t, db, "GRANT USAGE ON SCHEMA core TO pg_monitor")
	exec(t, db, "GRANT SELECT ON core.tb_entity_change_log TO pg_monitor")
	log := ops.ChangeLogOf{Source: db, Table: *capture.Config{}.WithDefaults().ChangeLog, EntityType: "Order", EntityID: id}
	exec(t, db, "SET ROLE pg_monitor")
	if n, err := log.Count(t.Context()); err == nil {
		t.Errorf("hidden rows were counted: %d", n)
	}
	if err := log.CheckRemovable(t.Context()); err == nil || !strings.Contains(err.Error(), "may not delete") {
		t.Errorf("got %v", err)
	}
	exec(t, db, "RESET ROLE")
	check(t, log.CheckRemovable(t.Context()))
	n, err := log.Count(t.Context())
	check(t, err)
	equal(t, "rows", n, 2)
	n, err = log.Remove(t.Context())
	check(t, err)
	equal(t, "removed", n, 2)
	var left int
	check(t, db.QueryRow(context.WithoutCancel(t.Context()), "SELECT count(*) FROM core.tb_entity_change_log").Scan(&left))
	equal(t, "left", left, 1)
}
