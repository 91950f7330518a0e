package worker_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/goleak"

	"github.com/fraiseql/weir/internal/config"
	"github.com/fraiseql/weir/internal/sandbox"
	"github.com/fraiseql/weir/internal/worker"
)

var postgres sandbox.Suite

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(postgres.Main(m), goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(builtWorker.dir)
		os.Exit(code)
	}))
}

// rig is a migrated database, with workers on it on demand.
type rig struct {
	t    testing.TB
	url  string
	slot string
	conn *pgx.Conn
}

func newRig(t testing.TB) *rig {
	t.Helper()
	return rigOn(t, postgres.Database(t))
}

func rigOn(t testing.TB, databaseURL string) *rig {
	t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, url: databaseURL, slot: strings.TrimPrefix(u.Path, "/")}
	r.reconnect()
	if r.one("SELECT (to_regclass('weir.river_job') IS NOT NULL)::text") == "true" {
		r.exec("CREATE OR REPLACE VIEW public.job AS SELECT * FROM weir.river_job WHERE kind <> 'weir_housekeeping'")
	}
	t.Cleanup(func() { _ = r.conn.Close(context.WithoutCancel(t.Context())) })
	return r
}

func (r *rig) reconnect() {
	r.t.Helper()
	conn, err := pgx.Connect(r.t.Context(), r.url)
	if err != nil {
		r.t.Fatal(err)
	}
	r.conn = conn
}

func (r *rig) exec(sql string, args ...any) {
	r.t.Helper()
	if _, err := r.conn.Exec(r.t.Context(), sql, args...); err != nil {
		r.t.Fatalf("%s: %v", sql, err)
	}
}

func (r *rig) one(sql string, args ...any) string {
	r.t.Helper()
	var s string
	if err := r.conn.QueryRow(r.t.Context(), sql, args...).Scan(&s); err != nil {
		r.t.Fatalf("%s: %v", sql, err)
	}
	return s
}

// order commits one change-log row of entity Order with this after-image.
func (r *rig) order(data string) {
	r.t.Helper()
	r.exec(`INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data)
		VALUES ('Order', 'INSERT', gen_random_uuid(), $1)`, data)
}

// write writes a configuration file: a frame with the database, and the given rest.
func (r *rig) write(rest string) string {
	r.t.Helper()
	path := filepath.Join(r.t.TempDir(), "weir.yaml")
	frame := fmt.Sprintf("database: {url: %q}\nhttp: {listen: \"127.0.0.1:0\"}\n", r.url)
	if !strings.Contains(rest, "shutdown_timeout:") {
		frame += "shutdown_timeout: 5s\n"
	}
	if !strings.Contains(rest, "source:") {
		frame += fmt.Sprintf("source: {slot: %s, heartbeat: 1s}\n", r.slot)
	}
	if err := os.WriteFile(path, []byte(frame+rest), 0o600); err != nil {
		r.t.Fatal(err)
	}
	return path
}

// running is a worker in this process.
type running struct {
	addr   string
	cancel context.CancelFunc
	done   chan struct{}
	err    error
}

func (r *rig) start(rest string, env ...string) *running {
	r.t.Helper()
	lookup := func(name string) (string, bool) {
		for _, kv := range env {
			if k, v, _ := strings.Cut(kv, "="); k == name {
				return v, true
			}
		}
		return "", false
	}
	cfg, err := config.Load(r.t.Context(), config.Options{Path: r.write(rest), Lookup: lookup})
	if err != nil {
		r.t.Fatal(err)
	}
	return r.work(cfg, worker.Options{})
}

// work runs a worker until the test ends.
func (r *rig) work(cfg *config.Config, options worker.Options) *running {
	r.t.Helper()
	ctx, cancel := context.WithCancel(r.t.Context())
	ready := make(chan string, 1)
	options.Logger, options.Version = slog.New(slog.NewTextHandler(testWriter{r.t}, nil)), "test"
	options.HTTPReady = func(addr string) { ready <- addr }
	w := worker.New(cfg, options)
	run := &running{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(run.done)
		run.err = w.Run(ctx)
	}()
	r.t.Cleanup(func() { run.stop(r.t) })
	select {
	case run.addr = <-ready:
	case <-run.done:
		r.t.Fatalf("the worker ended: %v", run.err)
	}
	return run
}

func (run *running) stop(t testing.TB) {
	t.Helper()
	run.cancel()
	<-run.done
	if run.err != nil {
		t.Errorf("the worker ended: %v", run.err)
	}
	run.err = nil
}

func (r *rig) started(rest string, env ...string) *running {
	r.t.Helper()
	run := r.start(rest, env...)
	r.await("ready", func() bool { return run.get(r.t, "/readyz").code == http.StatusOK })
	return run
}

type answer struct {
	code int
	body string
}

func (run *running) get(t testing.TB, path string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+run.addr+path, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, string(body)}
}

// await polls for what other processes and servers do; nothing signals it.
func (r *rig) await(what string, is func() bool) {
	r.t.Helper()
	r.awaitFor(60*time.Second, what, is)
}

func (r *rig) awaitFor(limit time.Duration, what string, is func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(limit); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("never happened: %s", what)
		}
	}
}

// jobs counts jobs by a condition, without those of housekeeping.
func (r *rig) jobs(where string) string {
	r.t.Helper()
	return r.one("SELECT count(*)::text FROM job WHERE " + where)
}

const deadLetter = "(state = 'discarded' OR (state = 'cancelled' AND metadata ? 'weir_dead_letter'))"

// receiver is an HTTP server that keeps what it gets.
type receiver struct {
	*httptest.Server
	mu       sync.Mutex // guards the rest
	requests []request
	answer   func(w http.ResponseWriter, req *http.Request)
}

type request struct {
	id     string
	path   string
	header http.Header
	body   string
}

func newReceiver(t testing.TB, answer func(http.ResponseWriter, *http.Request)) *receiver {
	t.Helper()
	rc := &receiver{answer: answer}
	rc.Server = httptest.NewServer(rc)
	t.Cleanup(rc.Close)
	return rc
}

func (rc *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, _ := io.ReadAll(req.Body)
	rc.mu.Lock()
	rc.requests = append(rc.requests, request{req.Header.Get("webhook-id"), req.URL.RequestURI(), req.Header, string(body)})
	answer := rc.answer
	rc.mu.Unlock()
	if answer != nil {
		answer(w, req)
	}
}

func (rc *receiver) seen() []request {
	rc.mu.Lock()
	defer rc.mu.Unlock()
	return append([]request(nil), rc.requests...)
}

func (rc *receiver) behave(answer func(http.ResponseWriter, *http.Request)) {
	rc.mu.Lock()
	defer rc.mu.Unlock()
	rc.answer = answer
}

func field(t testing.TB, body, key string) string {
	t.Helper()
	var m map[string]json.RawMessage
	if err := json.Unmarshal([]byte(body), &m); err != nil {
		t.Fatalf("body %s: %v", body, err)
	}
	return string(m[key])
}

func isConnectionLoss(err error) bool {
	var pg *pgconn.PgError
	return err != nil && (!errors.As(err, &pg) || strings.HasPrefix(pg.Code, "57P") || strings.HasPrefix(pg.Code, "08"))
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}
