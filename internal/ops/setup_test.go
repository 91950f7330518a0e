package ops_test

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/index"
	"github.com/fraiseql/weir/internal/sandbox"
)

var postgres sandbox.Suite

func TestMain(m *testing.M) { goleak.VerifyTestMain(postgres.Main(m)) }

// setup connects to a migrated database of the test's own.
func setup(t *testing.T) *pgx.Conn {
	t.Helper()
	return connect(t, postgres.Database(t))
}

// connect has nothing in the search_path, so that every name in a query must be qualified.
func connect(t *testing.T, databaseURL string) *pgx.Conn {
	t.Helper()
	cfg, err := pgx.ParseConfig(databaseURL)
	check(t, err)
	return connectAs(t, cfg)
}

func connectAs(t *testing.T, cfg *pgx.ConnConfig) *pgx.Conn {
	t.Helper()
	ctx := context.WithoutCancel(t.Context()) // cleanups connect, too
	cfg.RuntimeParams["search_path"] = ""
	conn, err := pgx.ConnectConfig(ctx, cfg)
	check(t, err)
	t.Cleanup(func() { _ = conn.Close(ctx) })
	return conn
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func exec(t *testing.T, db *pgx.Conn, sql string, args ...any) {
	t.Helper()
	_, err := db.Exec(context.WithoutCancel(t.Context()), sql, args...)
	check(t, err)
}

// job is a row of weir.river_job. The zero value is a dead letter of order-shipped/notify-erp that has just run out of
// its three attempts.
type job struct {
	kind, observer, action, queue, state, mark, lastError string
	event                                                 *event.Event
	failed                                                time.Time
}

var failedJob = job{
	kind: "weir_webhook", observer: "order-shipped", action: "notify-erp", queue: "erp_example_org", state: "discarded",
	lastError: "503 Service Unavailable",
}

func (j job) insert(t *testing.T, db *pgx.Conn) (id int64) {
	t.Helper()
	if j.event == nil {
		j.event = newEvent(1)
	}
	if j.failed.IsZero() {
		j.failed = time.Now()
	}
	args, err := json.Marshal(map[string]any{
		"observer": j.observer, "action": j.action, "entity": j.event.EntityType, "entity_id": j.event.EntityID,
		"event_type": j.event.Type, "event_id": j.event.ID, "lsn": j.event.LSN, "tx_index": j.event.TxIndex,
		"day": j.event.Day().Format(time.DateOnly), "pk": j.event.PK,
	})
	check(t, err)
	meta := map[string]any{
		"output": map[string]any{"result": "dead", "status": 503, "duration_ms": 12}, "snoozes": 2, "weir_waiting_since": "x",
	}
	if j.mark != "" {
		meta["weir_dead_letter"] = j.mark
	}
	metadata, err := json.Marshal(meta)
	check(t, err)
	var failures []string
	for n := 1; n <= 3 && j.lastError != ""; n++ {
		text := j.lastError
		if n < 3 {
			text = fmt.Sprintf("failure %d", n)
		}
		one, err := json.Marshal(map[string]any{"at": j.failed, "attempt": n, "error": text, "trace": ""})
		check(t, err)
		failures = append(failures, string(one))
	}
	err = db.QueryRow(t.Context(), `
		INSERT INTO weir.river_job (kind, queue, state, attempt, max_attempts, args, metadata, errors, attempted_at, finalized_at)
		VALUES ($1, $2, $3::text::weir.river_job_state, 3, 3, $4, $5, $6::text[]::jsonb[], $7::timestamptz,
		        CASE WHEN $3::text IN ('discarded', 'cancelled', 'completed') THEN $7::timestamptz END)
		RETURNING id`, j.kind, j.queue, j.state, string(args), string(metadata), failures, j.failed).Scan(&id)
	check(t, err)
	return id
}

// newEvent is an update of an order, the n-th of the change log.
func newEvent(n int64) *event.Event {
	return &event.Event{
		ID: uuid.NewSHA1(uuid.Nil, fmt.Append(nil, n)), Type: event.Update, EntityType: "Order", EntityID: fmt.Sprint("order-", n),
		Data:    json.RawMessage(`{"status":"shipped","total":100.10,"big":9007199254740993123}`),
		Changes: json.RawMessage(`{"status":{"old":"paid","new":"shipped"}}`), UpdatedFields: []string{"status"},
		Timestamp: event.Time(time.Now().Truncate(time.Microsecond)), CommitTime: event.Time(time.Now().Add(-time.Hour)),
		LSN: event.LSN(0x1000 + n), TxIndex: n, PK: n,
	}
}

func record(t *testing.T, db *pgx.Conn, events ...*event.Event) {
	t.Helper()
	err := pgx.BeginFunc(t.Context(), db, func(tx pgx.Tx) error {
		all := make([]index.Ingested, len(events))
		for i, e := range events {
			all[i] = index.Ingested{Event: e, Matched: true}
		}
		return index.New(0, index.Config{}).Record(t.Context(), tx, all)
	})
	check(t, err)
}

func equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}
