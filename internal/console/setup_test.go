package console

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/fraiseql/weir/internal/config"
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

// password is the one of the tests' consoles that ask for one.
const password = "hunter2-of-the-console"

// rig is a console that runs until the test ends.
type rig struct {
	t       *testing.T
	console *Console
	url     string // of its root, without a slash at the end
	db      *pgx.Conn
	log     *sandbox.Output
	client  *http.Client
	stop    func() error // once
}

// newRig starts a console on a migrated database of the test's own. The text is what stands under `console:`, in braces, beside
// listen; lines that follow it are further sections.
func newRig(t *testing.T, text string) *rig {
	t.Helper()
	return newRigOn(t, postgres.Database(t), text)
}

func newRigOn(t *testing.T, databaseURL, text string) *rig {
	t.Helper()
	keys, rest, _ := strings.Cut(text, "\n")
	path := filepath.Join(t.TempDir(), "weir.yaml")
	check(t, os.WriteFile(path, fmt.Appendf(nil, "database: {url: %q}\nconsole: {listen: \"127.0.0.1:0\", %s}\n%s", databaseURL, keys, rest), 0o600))
	cfg, err := config.Load(t.Context(), config.Options{
		Path: path, Incomplete: true, Console: true,
		Lookup: func(name string) (string, bool) { return password, name == "CONSOLE_PASSWORD" },
	})
	check(t, err)
	r := &rig{t: t, log: &sandbox.Output{}, client: &http.Client{
		Transport: &http.Transport{}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	ready := make(chan string, 1)
	r.console, err = New(t.Context(), Options{
		Config: cfg, Version: "test", Ready: func(addr string) { ready <- addr },
		Logger: slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	check(t, err)
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- r.console.Run(ctx) }()
	r.stop = sync.OnceValue(func() error {
		stop()
		return <-ended
	})
	t.Cleanup(func() {
		r.client.CloseIdleConnections()
		if err := r.stop(); err != nil {
			t.Errorf("console: %v", err)
		}
	})
	scheme := "http"
	if !cfg.Console.TLS.IsZero() {
		scheme = "https"
	}
	select {
	case addr := <-ready:
		r.url = scheme + "://" + addr + string(cfg.Console.Prefix)
	case err := <-ended:
		ended <- err
		t.Fatalf("console: %v", err)
	}
	r.db, err = pgx.Connect(t.Context(), databaseURL)
	if err == nil {
		t.Cleanup(func() { _ = r.db.Close(context.WithoutCancel(t.Context())) })
	}
	return r
}

// root is the console's address, without the prefix.
func (r *rig) root() string { return strings.TrimSuffix(r.url, string(r.console.cfg.Prefix)) }

// do sends a request; the path is below the prefix, or a whole URL. Headers are pairs; Host is one.
func (r *rig) do(method, path, body string, headers ...string) (status int, text string, answer http.Header) {
	r.t.Helper()
	if !strings.Contains(path, "://") {
		path = r.url + path
	}
	req, err := http.NewRequestWithContext(r.t.Context(), method, path, strings.NewReader(body))
	check(r.t, err)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
		if headers[i] == "Host" {
			req.Host = headers[i+1]
		}
	}
	resp, err := r.client.Do(req)
	check(r.t, err)
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	check(r.t, err)
	return resp.StatusCode, string(raw), resp.Header
}

// get is do for a page.
func (r *rig) get(path string, headers ...string) (status int, text string) {
	r.t.Helper()
	status, text, _ = r.do(http.MethodGet, path, "", headers...)
	return status, text
}

// basic is the header of somebody who knows the password.
func basic(user, password string) []string {
	req := http.Request{Header: http.Header{}}
	req.SetBasicAuth(user, password)
	return []string{"Authorization", req.Header.Get("Authorization")}
}

// await polls until the condition holds.
func (r *rig) await(what string, holds func() bool) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-ctx.Done():
			r.t.Fatalf("waited too long for %s; the console's log:\n%s", what, r.log)
		case <-tick.C:
		}
	}
}

// one is the single value of a query, as text.
func (r *rig) one(sql string, args ...any) (value string) {
	r.t.Helper()
	check(r.t, r.db.QueryRow(r.t.Context(), sql, args...).Scan(&value))
	return value
}

// jobs are all rows of River's tables that a click could change, as text.
func (r *rig) jobs() string {
	r.t.Helper()
	return r.one(`SELECT (SELECT coalesce(string_agg(j::text, E'\n' ORDER BY id), '') FROM weir.river_job j) || E'\n' ||
		(SELECT coalesce(string_agg(q::text, E'\n' ORDER BY name), '') FROM weir.river_queue q)`)
}

// insert makes a delivery in the state.
func (r *rig) insert(state string, n int) (id int64) {
	r.t.Helper()
	args, err := json.Marshal(map[string]any{
		"observer": "order-shipped", "action": "notify-erp", "entity": "Order", "entity_id": fmt.Sprint("order-", n), "event_type": "UPDATE",
		"event_id": uuid.NewSHA1(uuid.Nil, fmt.Append(nil, n)), "lsn": fmt.Sprintf("0/19A%04X", n), "tx_index": 0, "day": "2026-11-30", "pk": n,
	})
	check(r.t, err)
	failures := []string{}
	if state == "retryable" || state == "discarded" {
		failures = append(failures, `{"at": "2026-11-30T08:00:00Z", "attempt": 1, "error": "503 Service Unavailable", "trace": ""}`)
	}
	check(r.t, r.db.QueryRow(r.t.Context(), `
		INSERT INTO weir.river_job (kind, queue, state, attempt, max_attempts, args, errors, attempted_by, attempted_at, scheduled_at, finalized_at)
		SELECT 'weir_webhook', 'erp_example_org', $1::text::weir.river_job_state, CASE WHEN $4 THEN 1 ELSE 0 END, 22, $2, $3::text[]::jsonb[],
		       CASE WHEN $4 THEN '{worker-1}'::text[] END, CASE WHEN $4 THEN now() END,
		       now() + CASE WHEN $1 IN ('scheduled', 'retryable') THEN interval '1 hour' ELSE interval '0' END,
		       CASE WHEN $1 IN ('completed', 'cancelled', 'discarded') THEN now() END
		RETURNING id`, state, string(args), failures, state != "available" && state != "pending" && state != "scheduled").Scan(&id))
	return id
}

// insertAll makes a delivery in each state, and their queue.
func (r *rig) insertAll() (ids map[string]int64) {
	r.t.Helper()
	ids = map[string]int64{}
	for i, state := range []string{"available", "pending", "scheduled", "running", "retryable", "completed", "cancelled", "discarded"} {
		ids[state] = r.insert(state, i+1)
	}
	_, err := r.db.Exec(r.t.Context(), `INSERT INTO weir.river_queue (name, updated_at) VALUES ('erp_example_org', now())`)
	check(r.t, err)
	return ids
}
