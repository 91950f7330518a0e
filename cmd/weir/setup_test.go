package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
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

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// call is one call of the program, in process.
type call struct {
	args  []string
	env   map[string]string
	stdin string // "": there is no terminal; else what is typed at it
	color bool   // stdout is a terminal
}

// result is what came of a call.
type result struct {
	t              *testing.T
	code           int
	stdout, stderr string
}

func (c call) run(t *testing.T) result {
	t.Helper()
	var stdout, stderr strings.Builder
	code := run(t.Context(), c.args, environment{
		stdin: strings.NewReader(c.stdin), stdout: &stdout, stderr: &stderr,
		lookup:      func(name string) (string, bool) { v, ok := c.env[name]; return v, ok },
		interactive: c.stdin != "", terminal: c.color,
	})
	return result{t, code, stdout.String(), stderr.String()}
}

// weir calls the program with no environment and no terminal.
func weir(t *testing.T, args ...string) result {
	t.Helper()
	return call{args: args}.run(t)
}

// exits holds the exit code against what is expected.
func (r result) exits(want int) result {
	r.t.Helper()
	if r.code != want {
		r.t.Fatalf("exit code %d, want %d\nstdout: %s\nstderr: %s", r.code, want, r.stdout, r.stderr)
	}
	return r
}

// says looks for texts on stdout.
func (r result) says(texts ...string) result {
	r.t.Helper()
	contains(r.t, "stdout", r.stdout, texts)
	return r
}

// complains looks for texts on stderr.
func (r result) complains(texts ...string) result {
	r.t.Helper()
	contains(r.t, "stderr", r.stderr, texts)
	return r
}

func contains(t *testing.T, what, got string, texts []string) {
	t.Helper()
	for _, text := range texts {
		if !strings.Contains(got, text) && !strings.Contains(oneLine(got), oneLine(text)) { // lines are wrapped
			t.Errorf("%s lacks %q:\n%s", what, text, got)
		}
	}
}

// json reads stdout strictly: one document and nothing else.
func (r result) json(into any) {
	r.t.Helper()
	if err := json.Unmarshal([]byte(r.stdout), into); err != nil {
		r.t.Fatalf("stdout is no JSON: %v\n%s", err, r.stdout)
	}
}

// database is a migrated one of the test's own, with a session in it.
func database(t *testing.T) (databaseURL string, db *pgx.Conn) {
	t.Helper()
	databaseURL = postgres.Database(t)
	return databaseURL, connectTo(t, databaseURL)
}

func connectTo(t *testing.T, databaseURL string) *pgx.Conn {
	t.Helper()
	db, err := pgx.Connect(t.Context(), databaseURL)
	check(t, err)
	t.Cleanup(func() { _ = db.Close(context.WithoutCancel(t.Context())) })
	return db
}

// slotFile writes a configuration whose slot is the test's own: slots belong to the server.
func slotFile(t *testing.T, db *pgx.Conn, more string) (path, slot string) {
	t.Helper()
	check(t, db.QueryRow(t.Context(), `SELECT current_database()`).Scan(&slot))
	return file(t, "source: {slot: "+slot+"}\n"+more), slot
}

func file(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "weir.yaml")
	check(t, os.WriteFile(path, []byte(content), 0o600))
	return path
}

func exec(t *testing.T, db *pgx.Conn, sql string, args ...any) {
	t.Helper()
	_, err := db.Exec(t.Context(), sql, args...)
	check(t, err)
}

// shippedOrder is an event: an order that was shipped.
func shippedOrder(n int64) *event.Event {
	return &event.Event{
		ID: uuid.NewSHA1(uuid.Nil, fmt.Append(nil, n)), Type: event.Update, EntityType: "Order", EntityID: fmt.Sprint("order-", n),
		Data:    json.RawMessage(`{"status":"shipped","total":100.10,"big":9007199254740993123}`),
		Changes: json.RawMessage(`{"status":{"old":"paid","new":"shipped"}}`), UpdatedFields: []string{"status"},
		Timestamp: event.Time(time.Now()), CommitTime: event.Time(time.Now()), LSN: event.LSN(n), TxIndex: n, PK: n,
	}
}

func record(t *testing.T, db *pgx.Conn, events ...*event.Event) {
	t.Helper()
	check(t, pgx.BeginFunc(t.Context(), db, func(tx pgx.Tx) error {
		all := make([]index.Ingested, len(events))
		for i, e := range events {
			all[i] = index.Ingested{Event: e, Matched: true}
		}
		return index.New(0, index.Config{}).Record(t.Context(), tx, all)
	}))
}

// deadLetter makes one of an observer's action notify, for the first order.
func deadLetter(t *testing.T, db *pgx.Conn, observer, message string) (id string) {
	t.Helper()
	e := shippedOrder(1)
	var n int64
	err := db.QueryRow(t.Context(), `
		INSERT INTO weir.river_job (kind, queue, state, attempt, max_attempts, args, metadata, errors, finalized_at)
		VALUES ('weir_webhook', 'erp', 'discarded', 3, 3,
		        jsonb_build_object('observer', $1::text, 'action', 'notify', 'entity', 'Order', 'entity_id', $2::text,
		                           'event_type', 'UPDATE', 'event_id', $3::text, 'lsn', $4::text, 'tx_index', 1, 'day', $5::text, 'pk', 1),
		        '{"output": {"result": "dead", "status": 503, "duration_ms": 12}, "weir_dead_letter": "attempts_exhausted"}',
		        ARRAY[jsonb_build_object('at', now(), 'attempt', 3, 'error', $6::text)], now())
		RETURNING id`, observer, e.EntityID, e.ID.String(), e.LSN.String(), e.Day().Format(time.DateOnly), message).Scan(&n)
	check(t, err)
	return fmt.Sprint(n)
}

// states lists the states of all jobs, the oldest first.
func states(t *testing.T, db *pgx.Conn) string {
	t.Helper()
	var all string
	err := db.QueryRow(t.Context(),
		`SELECT coalesce(string_agg(state || ' ' || attempt, ', ' ORDER BY id), '') FROM weir.river_job`).Scan(&all)
	check(t, err)
	return all
}
