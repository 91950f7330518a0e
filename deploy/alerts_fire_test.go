package deploy_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/internal/sandbox"
)

// TestAlertsFireAndResolve breaks workers in every way that an alert is about, has a real Prometheus scrape them, and wants each
// alert to fire; then it mends everything, and wants each to resolve.
func TestAlertsFireAndResolve(t *testing.T) {
	t.Parallel()
	f := newFaults(t)
	all := []*installation{f.busy, f.stopped, f.held, f.gap, f.flapping}
	p := startPrometheus(t, all...)
	await(t, "all to be scraped and well", func() bool {
		return len(p.query("weir_ready == 1").Data.Result) == len(all) && len(p.query("up == 1").Data.Result) == len(all)
	})
	missing := alertNames(t)
	well := time.Now() // what has fired while they started is over with the next evaluation
	for now := p.firing(); len(now) > 0; now = p.firing() {
		if time.Since(well) > patience {
			t.Fatalf("these fire although all is well: %v", now)
		}
		time.Sleep(200 * time.Millisecond)
	}

	f.begin()
	began, next := time.Now(), time.Now()
	for ; len(missing) > 0; time.Sleep(200 * time.Millisecond) {
		now := p.firing()
		missing = slices.DeleteFunc(missing, func(name string) bool { return now[name] != nil })
		if time.Since(began) > patience {
			t.Fatalf("these did not fire: %v", missing)
		}
		if time.Now().After(next) {
			f.again()
			next = time.Now().Add(time.Second)
		}
	}
	t.Logf("all alerts have fired %s after the faults", time.Since(began).Round(time.Second))
	checkDashboard(t, p)

	f.end()
	began = time.Now()
	for now := p.firing(); len(now) > 0; now = p.firing() {
		if time.Since(began) > patience {
			t.Fatalf("these did not resolve: %v", now)
		}
		if now["WeirDeadLetters"] != nil {
			f.removeDeadLetters()
		}
		time.Sleep(time.Second)
	}
	t.Logf("all alerts have resolved %s later", time.Since(began).Round(time.Second))
}

// faults are workers that can be broken, by what is done to them.
type faults struct {
	t                                  *testing.T
	busy, stopped, held, gap, flapping *installation

	broken   atomic.Bool // the receiver answers badly
	receiver *server
	redis    *sandbox.Redis
	elastic  *server // a proxy before the real one
	good     string  // the configuration of busy

	elasticURL string
	locks      []func()
}

func newFaults(t *testing.T) *faults {
	t.Helper()
	f := &faults{t: t, redis: sandbox.TestRedis(t), elasticURL: postgres.Elasticsearch(t)}
	target, err := url.Parse(f.elasticURL)
	f.must(err)
	f.elastic = newServer(t, httputil.NewSingleHostReverseProxy(target))
	f.receiver = newServer(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	answers := httptest.NewServer(http.HandlerFunc(f.answer))
	t.Cleanup(answers.Close)

	f.busy = install(t, fmt.Sprintf("busy-%d", os.Getpid()), "", fmt.Sprintf(busyConfig, f.redis.URL(), f.elastic.url(), f.receiver.url(), answers.URL))
	f.good = read(t, f.busy.path)
	f.stopped = install(t, "stopped", "", "observers: {}\n")
	f.held = install(t, "held", "", "observers: {}\n")
	f.gap = install(t, "gap", ", tables: [{table: public.things, entity: Thing, id: id}]", "observers: {}\n",
		"CREATE TABLE things (id int PRIMARY KEY)")
	f.flapping = install(t, fmt.Sprintf("flapping-%d", os.Getpid()), "", fmt.Sprintf(flappingConfig, f.elasticURL))
	f.refuse()
	return f
}

// busyConfig takes the URLs of Redis, Elasticsearch, a receiver that can be stopped, and one that answers badly.
const busyConfig = `
outbound: {allow: ["127.0.0.0/8"]}
redis: {url: %q}
elasticsearch: {urls: [%q]}
history: {store: both}
endpoints:
  stopped: {breaker: {min_requests: 2, open_for: 2s}}
  unbroken: {breaker: off}
  answers: {breaker: off}
  slow: {concurrency: 1, breaker: off}
observers:
  breaker: {entity: Order, retry: {initial_delay: 200ms, backoff: fixed}, actions: [{type: webhook, url: "%[3]s/", endpoint: stopped}]}
  failing:
    entity: Order
    retry: {initial_delay: 200ms, backoff: fixed, max_attempts: 1000}
    actions: [{type: webhook, url: "%[3]s/", endpoint: unbroken}]
  alert: {entity: Once, on_failure: alert, actions: [{type: webhook, url: "%[4]s/bad", endpoint: answers}]}
  gone: {entity: Once, actions: [{type: webhook, url: "%[4]s/gone", endpoint: answers}]}
  condition: {entity: Once, condition: missing > 1, actions: [{type: log}]}
  slow: {entity: Slow, actions: [{type: webhook, url: "%[4]s/slow", endpoint: slow}]}
`

const flappingConfig = `
elasticsearch: {urls: [%q]}
history: {store: both}
observers: {all: {entity: "*", actions: [{type: log, level: debug}]}}
`

// answer is a receiver that works, refuses, is gone or is slow, as long as it is broken.
func (f *faults) answer(w http.ResponseWriter, req *http.Request) {
	if !f.broken.Load() {
		return
	}
	switch req.URL.Path {
	case "/bad":
		w.WriteHeader(http.StatusBadRequest)
	case "/gone":
		w.WriteHeader(http.StatusGone)
	case "/slow":
		select { // what takes that long is the receiver's work
		case <-time.After(400 * time.Millisecond):
		case <-req.Context().Done():
		}
	}
}

// refuse gives an index of flapping a type that its events do not have.
func (f *faults) refuse() {
	f.t.Helper()
	f.flapping.log("7", 1)
	await(f.t, "the index", func() bool { return strings.Contains(get(f.t, f.indexURL()+"/_count"), `"count":2`) })
	f.index(http.MethodDelete, "")
	f.index(http.MethodPut, `{"mappings":{"properties":{"entity":{"type":"integer"}}}}`)
}

func (f *faults) indexURL() string {
	return f.elasticURL + "/weir-history-" + f.flapping.name + "-" + time.Now().UTC().Format("2006.01.02")
}

func (f *faults) index(method, body string) {
	f.t.Helper()
	req, err := http.NewRequestWithContext(f.t.Context(), method, f.indexURL(), strings.NewReader(body))
	f.must(err)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	f.must(err)
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		f.t.Fatalf("%s %s: %s", method, f.indexURL(), resp.Status)
	}
}

// begin breaks what stays broken until the end.
func (f *faults) begin() {
	f.t.Helper()
	f.broken.Store(true)
	f.receiver.stop()
	f.elastic.stop()
	f.must(f.redis.Kill())
	f.busy.weir("pause", "--observer", "condition")
	f.busy.configure(f.good + "nonsense: 1\n")
	f.must(f.busy.process.Signal(syscall.SIGHUP))
	f.busy.log("Order", 5)
	f.busy.log("Slow", 200)

	f.must(f.stopped.process.Kill())

	f.lock(f.held, "weir.checkpoint")
	f.other(f.held).log("Order", 1)
	f.other(f.held).exec("SELECT pg_logical_emit_message(false, 'other', repeat('x', 1 << 20)) FROM generate_series(1, 110)")

	f.gap.dropSlot()

	f.flapping.exec(`INSERT INTO weir.river_job (kind, queue, max_attempts, state, attempt, attempted_at, attempted_by, args)
		VALUES ('weir_log', 'log', 22, 'running', 1, now(), '{ghost}', '{}')`)
	f.flapping.exec("DELETE FROM weir.worker")
	f.flapping.dropSlot()
	f.lock(f.flapping, "weir.river_leader")
}

// again does what is counted, and seen for a while only.
func (f *faults) again() {
	f.t.Helper()
	f.busy.log("Once", 1)
	f.busy.exec(`INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id) VALUES ('Order', 'UPSERT', gen_random_uuid())`)
	f.busy.exec("SELECT pg_logical_emit_message(false, 'weir', '{}')")
	f.flapping.log("Order", 1)
	f.flapping.endReader()
}

// end mends everything, with what the runbook says.
func (f *faults) end() {
	f.t.Helper()
	f.broken.Store(false)
	f.receiver.start()
	f.elastic.start()
	f.must(f.redis.Start(f.t.Context()))
	f.busy.configure(f.good)
	f.must(f.busy.process.Signal(syscall.SIGHUP))
	f.stopped.start()
	for _, unlock := range f.locks {
		unlock()
	}
	f.gap.weir("accept-gap", "--yes")
	f.busy.weir("breaker", "close", "gone/webhook")
	f.busy.weir("resume")
	f.index(http.MethodDelete, "")
}

// removeDeadLetters removes what there is by now: what was broken ends as a dead letter a while after it was mended.
func (f *faults) removeDeadLetters() {
	f.t.Helper()
	f.busy.weir("dlq", "remove", "--all", "--yes")
	f.flapping.weir("dlq", "remove", "--all", "--yes")
}

func (f *faults) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

// other is the same installation with a session of its own.
func (f *faults) other(in *installation) *installation {
	f.t.Helper()
	other := *in
	conn, err := pgx.Connect(f.t.Context(), in.url)
	f.must(err)
	f.t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(f.t.Context())) })
	other.conn = conn
	return &other
}

// lock keeps a table from being written until the end.
func (f *faults) lock(in *installation, table string) {
	f.t.Helper()
	tx, err := f.other(in).conn.Begin(f.t.Context())
	f.must(err)
	_, err = tx.Exec(f.t.Context(), "LOCK TABLE "+table+" IN EXCLUSIVE MODE")
	f.must(err)
	f.locks = append(f.locks, func() { f.must(tx.Rollback(f.t.Context())) })
}

// server is an HTTP server that can be stopped, and started again at the same address.
type server struct {
	t       *testing.T
	address string
	handler http.Handler
	running *http.Server
	serving sync.WaitGroup
}

func newServer(t *testing.T, handler http.Handler) *server {
	t.Helper()
	s := &server{t: t, address: freePort(t), handler: handler}
	s.start()
	t.Cleanup(s.stop)
	return s
}

func (s *server) url() string { return "http://" + s.address }

func (s *server) start() {
	s.t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(context.WithoutCancel(s.t.Context()), "tcp", s.address)
	if err != nil {
		s.t.Fatal(err)
	}
	s.running = &http.Server{Handler: s.handler, ReadHeaderTimeout: time.Minute}
	s.serving.Go(func() { _ = s.running.Serve(listener) })
}

func (s *server) stop() {
	_ = s.running.Close()
	s.serving.Wait()
}
