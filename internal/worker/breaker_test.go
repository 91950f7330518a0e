package worker_test

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// endpoint is the name of a receiver's place.
func (rc *receiver) endpoint(t testing.TB) string {
	t.Helper()
	u, err := url.Parse(rc.URL)
	if err != nil {
		t.Fatal(err)
	}
	return u.Host
}

// unbroken is configuration by which the receiver's failures open no breaker.
func (rc *receiver) unbroken(t testing.TB) string {
	t.Helper()
	return fmt.Sprintf("endpoints: {%q: {breaker: off}}\n", rc.endpoint(t))
}

// breakerState is what the row of the endpoint says.
func (r *rig) breakerState(endpoint string) string {
	return r.one("SELECT coalesce(max(state), '') FROM weir.endpoint WHERE name = $1", endpoint)
}

func (r *rig) number(sql string, args ...any) int {
	r.t.Helper()
	n, err := strconv.Atoi(r.one(sql, args...))
	if err != nil {
		r.t.Fatal(err)
	}
	return n
}

// metric is the sum of the series of a metric that have these labels, as they are written.
func (run *running) metric(t testing.TB, name, labels string) float64 {
	t.Helper()
	sum := 0.0
	series := regexp.MustCompile(`(?m)^` + name + `\{[^}]*` + regexp.QuoteMeta(labels) + `[^}]*\} (\S+)$`)
	for _, m := range series.FindAllStringSubmatch(run.get(t, "/metrics").body, -1) {
		v, err := strconv.ParseFloat(m[1], 64)
		if err != nil {
			t.Fatal(err)
		}
		sum += v
	}
	return sum
}

const (
	concurrency = 20
	atOnce      = 500 // what comes at once when the endpoint begins to fail
)

// outage is an endpoint that fails under load, with its breaker.
type outage struct {
	*rig
	rc       *receiver
	endpoint string
	down     atomic.Bool
	probes   int
	openFor  time.Duration
}

func (o *outage) config(worker string) string {
	return fmt.Sprintf("endpoints: {%q: {concurrency: %d, breaker: {min_requests: 20, open_for: %s, probes: %d}}}",
		o.endpoint, concurrency, o.openFor, o.probes) +
		hook(o.rc.URL, ", headers: {X-Worker: "+worker+"}", "retry: {initial_delay: 500ms, max_delay: 2s, max_attempts: 20}")
}

// calls counts the requests so far, and those of a worker.
func (o *outage) calls(worker string) (all, of int) {
	for _, req := range o.rc.seen() {
		all++
		if req.header.Get("X-Worker") == worker {
			of++
		}
	}
	return all, of
}

// load commits orders at a steady pace until the context ends, and returns how many.
func (o *outage) load(ctx context.Context, pace time.Duration) (orders int) {
	conn, err := pgx.Connect(o.t.Context(), o.url)
	if err != nil {
		o.t.Error(err)
		return 0
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	for ; ctx.Err() == nil; time.Sleep(pace) {
		_, err := conn.Exec(o.t.Context(), `
			INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data)
			VALUES ('Order', 'INSERT', gen_random_uuid(), '{}')`)
		if err != nil {
			o.t.Error(err)
			return orders
		}
		orders++
	}
	return orders
}

// updates counts those of River's table, as the statistics have them: a second late.
func (o *outage) updates() int {
	return o.number("SELECT n_tup_upd::text FROM pg_stat_all_tables WHERE relid = 'weir.river_job'::regclass")
}

func (o *outage) wal() int { return o.number("SELECT (pg_current_wal_lsn() - '0/0')::bigint::text") }

// TestChaosEndpointFails: an endpoint fails for a while under load. Requests drop to the probes, also those of a worker that
// starts meanwhile and has seen no failure; no delivery loses an attempt; River's table is left alone; and everything is
// delivered when the endpoint is back.
func TestChaosEndpointFails(t *testing.T) {
	t.Parallel()
	o := &outage{rig: newRig(t), probes: 2, openFor: time.Second}
	length, pace := 8*time.Second, 20*time.Millisecond
	if full() {
		length, o.openFor = 60*time.Second, 5*time.Second
	}
	o.rc = newReceiver(t, func(w http.ResponseWriter, _ *http.Request) {
		if o.down.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	o.endpoint = o.rc.endpoint(t)
	o.started(o.config("one"))
	ctx, enough := context.WithCancel(t.Context())
	var loading sync.WaitGroup
	orders := 0
	loading.Go(func() { orders = o.load(ctx, pace) })
	defer loading.Wait()
	defer enough()
	o.await("deliveries", func() bool { all, _ := o.calls(""); return all > 40 })

	before, _ := o.calls("")
	o.down.Store(true)
	began := time.Now()
	o.exec(`INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data)
		SELECT 'Order', 'INSERT', gen_random_uuid(), '{}' FROM generate_series(1, $1)`, atOnce)
	o.await("the breaker", func() bool { return o.breakerState(o.endpoint) != "closed" })
	time.Sleep(500 * time.Millisecond) // calls that were under way, and the statistics
	opened, _ := o.calls("")
	t.Logf("the breaker opened within %s, after %d requests", time.Since(began).Round(time.Millisecond), opened-before)
	two := o.started(o.config("two"))
	began2, updates, wal, jobs := time.Now(), o.updates(), o.wal(), o.number("SELECT count(*)::text FROM job")
	time.Sleep(length - time.Since(began))
	open := time.Since(began2)
	o.wantQuiet(opened, open, two)
	updates, wal, jobs = o.updates()-updates, o.wal()-wal, o.number("SELECT count(*)::text FROM job")-jobs
	t.Logf("open for %s: %d updates of River's table; WAL of the whole server: %d bytes, %d for each of %d new deliveries",
		open.Round(time.Millisecond), updates, wal, wal/max(1, jobs), jobs)
	// A probe is fetched, concluded, and becomes due again. What had failed before becomes due, once each.
	if limit := 100 + 10*o.rounds(open)*o.probes; updates > limit {
		t.Errorf("%d updates of River's table while the endpoint was not called, want at most %d", updates, limit)
	}

	o.down.Store(false)
	o.await("the breaker to close", func() bool { return o.breakerState(o.endpoint) == "closed" })
	enough()
	loading.Wait()
	o.awaitFor(2*time.Minute, "all delivered", func() bool { return o.jobs("state = 'completed'") == strconv.Itoa(orders+atOnce) })
	o.wantAttempts()
}

// rounds is how often an open breaker can have let probes through, by now.
func (o *outage) rounds(open time.Duration) int { return int(open/o.openFor) + 1 }

// wantQuiet fails unless all requests since the breaker opened were probes, and the second worker's breaker is open, too.
func (o *outage) wantQuiet(opened int, open time.Duration, two *running) {
	o.t.Helper()
	all, of := o.calls("two")
	o.t.Logf("%d requests within %s while the breaker was open, %d of them by the second worker", all-opened, open.Round(time.Millisecond), of)
	if limit := o.rounds(open) * o.probes; all-opened > limit || all == opened {
		o.t.Errorf("%d requests while the breaker was open, want 1 to %d: the probes", all-opened, limit)
	}
	if of >= 20 {
		o.t.Errorf("the second worker made %d requests, enough to find out for itself", of)
	}
	if n := two.metric(o.t, "weir_breaker_transitions_total", `to="open"`); n == 0 {
		o.t.Error("the second worker did not open")
	}
	o.await("/readyz to say so", func() bool {
		a := two.get(o.t, "/readyz")
		return a.code == http.StatusOK && strings.Contains(a.body, "endpoint "+o.endpoint+": circuit breaker")
	})
}

// wantAttempts fails unless every delivery has used as many attempts as it was called.
func (o *outage) wantAttempts() {
	o.t.Helper()
	called := map[string]int{}
	for _, req := range o.rc.seen() {
		called[strings.Trim(field(o.t, req.body, "id"), `"`)]++
	}
	rows, err := o.conn.Query(o.t.Context(), "SELECT args ->> 'event_id', attempt, (metadata ->> 'snoozes')::int FROM job")
	if err != nil {
		o.t.Fatal(err)
	}
	var event string
	var attempt int
	var snoozes *int
	jobs, wrong, put, most := 0, 0, 0, 0
	_, err = pgx.ForEachRow(rows, []any{&event, &attempt, &snoozes}, func() error {
		jobs++
		if attempt != called[event] {
			wrong++
		}
		if snoozes != nil {
			put++
			most = max(most, *snoozes)
		}
		return nil
	})
	if err != nil {
		o.t.Fatal(err)
	}
	o.t.Logf("%d deliveries; %d were put off, at most %d times", jobs, put, most)
	if put > 4*concurrency || most > 2 {
		o.t.Errorf("%d deliveries were put off, up to %d times: want those that had been fetched, once or twice", put, most)
	}
	if wrong > 0 {
		o.t.Errorf("%d of %d deliveries used more or fewer attempts than calls", wrong, jobs)
	}
}

// What a person opens is not called until he closes it; an endpoint beside it goes on, and so do actions without a breaker.
func TestBreakerByHand(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rc, other := newReceiver(t, nil), newReceiver(t, nil)
	endpoint := rc.endpoint(t)
	run := r.started(fmt.Sprintf(`
outbound: {allow: ["127.0.0.0/8"]}
endpoints: {%q: {breaker: off}}
observers:
  both: {entity: Order, actions: [{type: webhook, url: %q}, {type: webhook, name: other, url: %q}]}
`, endpoint, rc.URL, other.URL))
	r.await("the rows", func() bool { return r.one("SELECT count(*)::text FROM weir.endpoint") == "2" })
	r.exec("UPDATE weir.endpoint SET state = 'open', open_until = 'infinity', manual = true, reason = 'it moves' WHERE name = $1", endpoint)
	state := func() float64 { return run.metric(t, "weir_breaker_state", `endpoint="`+endpoint+`"`) }
	r.await("the worker to follow", func() bool { return state() == 2 })
	for range 20 {
		r.order(`{}`)
	}
	r.await("the other endpoint", func() bool { return len(other.seen()) == 20 })
	if n := len(rc.seen()); n != 0 {
		t.Errorf("%d calls of an endpoint that a person keeps closed off", n)
	}
	if waiting := r.jobs("state = 'available' AND attempt = 0 AND NOT metadata ? 'snoozes'"); waiting != "20" {
		t.Errorf("%s deliveries wait untouched, want 20", waiting)
	}
	r.exec("UPDATE weir.endpoint SET state = 'closed', open_until = NULL WHERE name = $1", endpoint)
	r.await("the rest", func() bool { return len(rc.seen()) == 20 })
}

// 410 Gone disables the one action, in every worker, and not its endpoint: its deliveries are dead letters without a call, until
// it has another URL or a person closes it.
func TestGoneDisablesTheAction(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rc := newReceiver(t, func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/gone" {
			w.WriteHeader(http.StatusGone)
		}
	})
	config := func(path string) string {
		return fmt.Sprintf(`
outbound: {allow: ["127.0.0.0/8"]}
observers:
  both: {entity: Order, actions: [{type: webhook, url: %q}, {type: webhook, name: other, url: %q}]}
`, rc.URL+path, rc.URL+"/other")
	}
	calls := func(path string) (n int) {
		for _, req := range rc.seen() {
			if req.path == path {
				n++
			}
		}
		return n
	}
	dead := deadLetter + " AND metadata ->> 'weir_dead_letter' = 'gone'"
	run, standby := r.started(config("/gone")), r.started(config("/gone"))
	r.order(`{}`)
	r.await("the dead letter", func() bool { return r.jobs(dead) == "1" })
	gone := func(run *running) bool { return run.metric(t, "weir_actions_gone", `action="webhook"`) == 1 }
	r.await("both workers to know", func() bool { return gone(run) && gone(standby) })
	for range 10 {
		r.order(`{}`)
	}
	r.await("the dead letters", func() bool { return r.jobs(dead) == "11" })
	r.await("the other action", func() bool { return calls("/other") == 11 })
	if n := calls("/gone"); n != 1 {
		t.Errorf("%d calls of a target that is gone, want 1", n)
	}
	if n := r.number("SELECT count(*)::text FROM weir.gone WHERE target LIKE '%gone%'"); n != 0 {
		t.Error("the table shows the URL")
	}

	r.exec("DELETE FROM weir.gone") // weir breaker close both/webhook
	r.await("both workers to know", func() bool { return !gone(run) && !gone(standby) })
	r.order(`{}`)
	r.await("another call", func() bool { return calls("/gone") == 2 })
	r.await("it to be gone again", func() bool { return r.one("SELECT count(*)::text FROM weir.gone") == "1" })
	run.stop(t)
	standby.stop(t)
	r.started(config("/new"))
	r.await("the new target to be known", func() bool { return r.one("SELECT count(*)::text FROM weir.gone") == "0" })
	r.order(`{}`)
	r.await("a call of the new one", func() bool { return calls("/new") == 1 })
}

// What waits for the rate limit when the target turns out to be gone is not called either.
func TestGoneWhileOthersWait(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rc := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusGone) })
	r.started(fmt.Sprintf("endpoints: {%q: {rate_limit: 5/s}}", rc.endpoint(t)) + hook(rc.URL, ""))
	r.exec(`INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data)
		SELECT 'Order', 'INSERT', gen_random_uuid(), '{}' FROM generate_series(1, 10)`)
	r.await("the dead letters", func() bool { return r.jobs(deadLetter+" AND metadata ->> 'weir_dead_letter' = 'gone'") == "10" })
	if n := len(rc.seen()); n != 1 {
		t.Errorf("%d calls of a target that is gone, want 1", n)
	}
}

// A URL with placeholders stands for many places: that one of them is gone says nothing about the others.
func TestGoneOfATemplatedTarget(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rc := newReceiver(t, func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/1" {
			w.WriteHeader(http.StatusGone)
		}
	})
	r.started(hook(rc.URL+"/{{ n }}", ""))
	for n := range 3 {
		r.order(fmt.Sprintf(`{"n": %d}`, n))
	}
	r.await("the deliveries", func() bool { return r.jobs("state = 'completed'") == "2" })
	r.await("the dead letter", func() bool { return r.jobs(deadLetter) == "1" })
	if n := r.one("SELECT count(*)::text FROM weir.gone"); n != "0" {
		t.Errorf("%s actions are gone", n)
	}
}

// Of what waits for an endpoint, priority 1 goes first, whatever came first.
func TestPriorityWithinAQueue(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rc := newReceiver(t, nil)
	endpoint := rc.endpoint(t)
	r.exec("INSERT INTO weir.endpoint (name, state, open_until, manual) VALUES ($1, 'open', 'infinity', true)", endpoint)
	var actions []string
	for _, p := range []int{4, 2, 1, 3} {
		actions = append(actions, fmt.Sprintf("{type: webhook, name: p%d, priority: %d, url: %q}", p, p, rc.URL+"/"+strconv.Itoa(p)))
	}
	r.started(fmt.Sprintf(`
outbound: {allow: ["127.0.0.0/8"]}
endpoints: {%q: {concurrency: 1}}
observers:
  four: {entity: Order, actions: [%s]}
`, endpoint, strings.Join(actions, ", ")))
	for range 5 {
		r.order(`{}`)
	}
	r.await("what waits", func() bool { return r.jobs("state = 'available'") == "20" })
	r.exec("UPDATE weir.endpoint SET state = 'closed', open_until = NULL")
	r.await("all calls", func() bool { return len(rc.seen()) == 20 })
	order := ""
	for _, req := range rc.seen() {
		order += strings.TrimPrefix(req.path, "/")
	}
	if want := "11111222223333344444"; order != want {
		t.Errorf("called by priorities %s, want %s", order, want)
	}
}

// The worker that probes is killed while its probe hangs: another one probes, and what the dead one was running is delivered.
func TestCrashProber(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const fails, hangs, works = 0, 1, 2
	var mode atomic.Int64
	release := make(chan struct{})
	rc := newReceiver(t, func(w http.ResponseWriter, req *http.Request) {
		switch mode.Load() {
		case fails:
			w.WriteHeader(http.StatusServiceUnavailable)
		case hangs:
			select {
			case <-release:
			case <-req.Context().Done():
			}
		}
	})
	defer close(release)
	endpoint := rc.endpoint(t)
	path := r.write(fmt.Sprintf("endpoints: {%q: {breaker: {min_requests: 5, open_for: 1s, probes: 1}}}", endpoint) +
		hook(rc.URL, "", "retry: {initial_delay: 100ms, max_delay: 1s}"))
	workers := []*process{r.spawn(t, path), r.spawn(t, path)}
	for range 20 {
		r.order(`{}`)
	}
	r.await("the breaker", func() bool { return r.breakerState(endpoint) == "open" })
	mode.Store(hangs)
	var prober string
	r.await("a probe that hangs", func() bool {
		prober = r.one("SELECT coalesce(max(changed_by) FILTER (WHERE state = 'half-open'), '') FROM weir.endpoint")
		return prober != "" && r.jobs("state = 'running'") == "1"
	})
	mode.Store(works)
	for _, w := range workers {
		if w.clientID() == prober {
			if err := w.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	began := time.Now()
	r.await("another prober's success", func() bool { return r.breakerState(endpoint) == "closed" })
	t.Logf("closed %s after the prober's death", time.Since(began).Round(time.Millisecond))
	r.await("all deliveries", func() bool { return r.jobs("state = 'completed'") == "20" })
}
