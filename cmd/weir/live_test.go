package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/internal/config"
	"github.com/fraiseql/weir/internal/ops"
	"github.com/fraiseql/weir/internal/worker"
)

// counter is a receiver that counts the calls of each delivery, and answers with status.
type counter struct {
	mu     sync.Mutex // guards the rest
	status int
	calls  map[string]int
}

func (c *counter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls[r.Header.Get("webhook-id")]++
	w.WriteHeader(c.status)
}

// become answers with another status from now on, and forgets the calls.
func (c *counter) become(status int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.status, c.calls = status, map[string]int{}
}

// seen is the number of deliveries and of calls.
func (c *counter) seen() (deliveries, calls int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.calls {
		calls += n
	}
	return len(c.calls), calls
}

// live runs a worker with a configuration file until the test ends or stop is called.
func live(t *testing.T, path string) (stop func()) {
	t.Helper()
	cfg, err := config.Load(t.Context(), config.Options{Path: path})
	check(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- worker.New(cfg, worker.Options{Logger: slog.New(slog.NewTextHandler(testLog{t}, nil)), Version: "test"}).Run(ctx)
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("worker: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// testLog is the worker's log, shown when the test fails.
type testLog struct{ t *testing.T }

func (w testLog) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

func commitOrders(t *testing.T, db *pgx.Conn, n int) {
	t.Helper()
	exec(t, db, `INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data)
		SELECT 'Order', 'INSERT', gen_random_uuid(), jsonb_build_object('total', n) FROM generate_series(1, $1) n`, n)
}

func jobsWhere(t *testing.T, db *pgx.Conn, where string) int {
	t.Helper()
	var n int
	check(t, db.QueryRow(t.Context(), "SELECT count(*) FROM weir.river_job WHERE "+where).Scan(&n))
	return n
}

// A receiver that stays away longer than the attempts last: dead letters, which retry-all delivers, each once.
func TestRetryAllDeliversEachOnce(t *testing.T) {
	t.Parallel()
	url, db := database(t)
	receiver := &counter{status: http.StatusInternalServerError, calls: map[string]int{}}
	server := httptest.NewServer(receiver)
	t.Cleanup(server.Close)
	path, _ := slotFile(t, db, fmt.Sprintf(`database: {url: %q}
http: {listen: ""}
outbound: {allow: ["127.0.0.1"]}
endpoints: {%q: {breaker: off}}
observers:
  hook:
    entity: Order
    retry: {max_attempts: 3, initial_delay: 100ms, backoff: fixed}
    actions: [{type: webhook, url: %q}]
`, url, strings.TrimPrefix(server.URL, "http://"), server.URL))
	live(t, path)
	until(t, "the stream", func() bool {
		var status ops.Status
		weir(t, "status", "--config", path, "--format", "json").exits(0).json(&status)
		return status.Stream.State == ops.StreamStreaming
	})
	const orders = 30
	commitOrders(t, db, orders)
	until(t, "dead letters", func() bool { return jobsWhere(t, db, "state = 'discarded'") == orders })
	weir(t, "status", "--config", path).exits(0).says("streaming", "hook", "30")

	receiver.become(http.StatusOK)
	weir(t, "dlq", "retry-all", "--config", path, "--dry-run").exits(0)
	if deliveries, _ := receiver.seen(); deliveries != 0 {
		t.Fatal("a dry run delivered")
	}
	weir(t, "dlq", "retry-all", "--config", path).exits(0).says("30 dead letters")
	until(t, "deliveries", func() bool { return jobsWhere(t, db, "state = 'completed'") == orders })
	weir(t, "dlq", "retry-all", "--config", path).exits(0)
	if deliveries, calls := receiver.seen(); deliveries != orders || calls != orders {
		t.Errorf("%d deliveries in %d calls, want each of %d once", deliveries, calls, orders)
	}
}

// A misspelt condition, corrected in the file: debug-event says what is wrong, a restart and a retry deliver.
func TestCorrectedConditionDelivers(t *testing.T) {
	t.Parallel()
	url, db := database(t)
	receiver := &counter{status: http.StatusOK, calls: map[string]int{}}
	server := httptest.NewServer(receiver)
	t.Cleanup(server.Close)
	with := func(condition string) string {
		path, _ := slotFile(t, db, fmt.Sprintf(`database: {url: %q}
http: {listen: ""}
outbound: {allow: ["127.0.0.1"]}
observers:
  hook: {entity: Order, condition: %q, actions: [{type: webhook, url: %q}]}
`, url, condition, server.URL))
		return path
	}
	wrong := with("totl >= 1")
	stop := live(t, wrong)
	until(t, "the slot", func() bool {
		var there bool
		check(t, db.QueryRow(t.Context(), "SELECT EXISTS (SELECT FROM weir.checkpoint)").Scan(&there))
		return there
	})
	commitOrders(t, db, 1)
	until(t, "the dead letter", func() bool { return jobsWhere(t, db, "state = 'cancelled'") == 1 })
	weir(t, "debug-event", "--last", "1", "--config", wrong).exits(0).says("totl", "condition error")
	stop()
	right := with("total >= 1")
	live(t, right)
	weir(t, "dlq", "retry-all", "--config", right).exits(0)
	until(t, "the delivery", func() bool { return jobsWhere(t, db, "state = 'completed'") == 2 }) // and the change's job
	if deliveries, calls := receiver.seen(); deliveries != 1 || calls != 1 {
		t.Errorf("%d deliveries in %d calls", deliveries, calls)
	}
	weir(t, "debug-event", "--last", "1", "--config", right).exits(0).says("match", "delivered (200)")
}
