package worker_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fraiseql/weir/internal/ops"
)

func (r *rig) pause(t ops.Targets) *ops.Pauses {
	r.t.Helper()
	p, err := ops.PauseWork(r.t.Context(), r.conn, t, "somebody@somewhere", "it moves")
	if err != nil {
		r.t.Fatal(err)
	}
	return p
}

// pauseObserver pauses one that has no jobs yet.
func (r *rig) pauseObserver(name string) {
	r.t.Helper()
	r.exec("INSERT INTO weir.pause (scope, name) VALUES ('observer', $1)", name)
}

func (r *rig) resume(t ops.Targets) *ops.Pauses {
	r.t.Helper()
	p, err := ops.ResumeWork(r.t.Context(), r.conn, t)
	if err != nil {
		r.t.Fatal(err)
	}
	return p
}

// obeyed waits until all of the workers know that something is paused, or that it is not.
func (r *rig) obeyed(scope, name string, paused bool, workers ...*running) {
	r.t.Helper()
	want := map[bool]float64{true: 1, false: 0}[paused]
	for _, run := range workers {
		r.await("a worker to obey", func() bool {
			body := run.get(r.t, "/metrics").body
			return strings.Contains(body, fmt.Sprintf("weir_paused{name=%q,scope=%q} %v\n", name, scope, want))
		})
	}
}

// untouched are jobs that nobody has fetched and put off.
const untouched = "attempt = 0 AND NOT metadata ? 'snoozes' AND errors IS NULL"

// once fails unless everything was delivered in one attempt, and each of n deliveries called once.
func (r *rig) once(rc *receiver, n int) {
	r.t.Helper()
	r.await("all deliveries", func() bool { return len(rc.seen()) >= n })
	r.await("their ends", func() bool { return r.jobs("finalized_at IS NULL") == "0" })
	ids := map[string]int{}
	for _, req := range rc.seen() {
		ids[req.id]++
	}
	if len(ids) != n || len(rc.seen()) != n {
		r.t.Errorf("%d calls for %d deliveries, want %d of each", len(rc.seen()), len(ids), n)
	}
	if got := r.jobs("kind = 'weir_webhook' AND (state <> 'completed' OR attempt <> 1)"); got != "0" {
		r.t.Errorf("%s deliveries took more than an attempt:\n%s", got, r.one("SELECT json_agg(j)::text FROM job j WHERE attempt <> 1"))
	}
}

// All deliveries wait, those of a worker, too, that starts meanwhile; everything else goes on.
func TestPauseAllDeliveries(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rc := newReceiver(t, nil)
	one, two := r.started(hook(rc.URL, "")), r.started(hook(rc.URL, ""))
	r.obeyed("deliveries", "", false, one, two)
	r.pause(ops.Targets{})
	r.obeyed("deliveries", "", true, one, two)
	three := r.started(hook(rc.URL, ""))
	r.obeyed("deliveries", "", true, three)

	r.orders(20)
	// A row that is no event, and housekeeping: of the queues that are nobody's deliveries.
	r.exec("INSERT INTO core.tb_entity_change_log (object_type, modification_type) VALUES ('Order', 'WHATEVER')")
	r.exec("INSERT INTO weir.river_job (kind, queue, max_attempts, args) VALUES ('weir_housekeeping', 'weir_housekeeping', 1, '{\"now\": 1}')")
	r.await("the row that is no event", func() bool { return r.jobs(deadLetter) == "1" })
	r.await("housekeeping", func() bool {
		return r.one("SELECT count(*)::text FROM weir.river_job WHERE kind = 'weir_housekeeping' AND args ? 'now'") == "0"
	})
	if waiting := r.jobs("kind = 'weir_webhook' AND state = 'available' AND " + untouched); waiting != "20" {
		t.Errorf("%s deliveries wait untouched, want 20", waiting)
	}
	if n := len(rc.seen()); n != 0 {
		t.Errorf("%d calls while all deliveries are paused", n)
	}
	a := two.get(t, "/readyz")
	if a.code != http.StatusOK || !strings.Contains(a.body, "deliveries: paused since") || !strings.Contains(a.body, "by somebody@somewhere: it moves") {
		t.Errorf("/readyz answers %d: %s", a.code, a.body)
	}

	if p := r.resume(ops.Targets{}); len(p.Changed) != 1 || p.Changed[0].Scope != ops.ScopeDeliveries || len(p.Paused) != 0 {
		t.Errorf("resumed %+v", p)
	}
	r.exec("DELETE FROM weir.river_job WHERE kind = 'weir_change'")
	r.once(rc, 20)
	r.obeyed("deliveries", "", false, one, two, three)
}

// An endpoint waits, and another does not. River's button is as good as ours, both ways.
func TestPauseEndpoint(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rc, other := newReceiver(t, nil), newReceiver(t, nil)
	endpoint := rc.endpoint(t)
	config := fmt.Sprintf(`
outbound: {allow: ["127.0.0.0/8"]}
observers:
  both: {entity: Order, actions: [{type: webhook, url: %q}, {type: webhook, name: other, url: %q}]}
`, rc.URL, other.URL)
	one, two := r.started(config), r.started(config)
	r.obeyed("endpoint", endpoint, false, one, two)
	pool, err := pgxpool.New(t.Context(), r.url)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	river, err := client(pool)
	if err != nil {
		t.Fatal(err)
	}
	queue := r.one("SELECT name FROM weir.river_queue WHERE name LIKE $1", "%"+endpoint[strings.Index(endpoint, ":")+1:])

	wait := func(so, far int) {
		t.Helper()
		r.orders(10)
		r.await("the other endpoint", func() bool { return len(other.seen()) == so+10 })
		if n := len(rc.seen()); n != far {
			t.Errorf("%d calls of an endpoint that is paused, want %d", n, far)
		}
		r.await("the deliveries to wait", func() bool { return r.jobs("state = 'available' AND "+untouched) == "10" })
	}
	if p := r.pause(ops.Targets{Endpoints: []string{endpoint}}); len(p.Changed) != 1 || p.Changed[0].By != "somebody@somewhere" || p.Changed[0].Name != endpoint {
		t.Errorf("paused %+v", p)
	}
	if p := r.pause(ops.Targets{Endpoints: []string{endpoint}}); len(p.Changed) != 0 || len(p.Unchanged) != 1 {
		t.Errorf("paused twice: %+v", p)
	}
	r.obeyed("endpoint", endpoint, true, one, two)
	three := r.started(config)
	wait(0, 0)
	if err := river.QueueResume(t.Context(), queue, nil); err != nil { // in River UI
		t.Fatal(err)
	}
	r.await("all calls", func() bool { return len(rc.seen()) == 10 })

	if err := river.QueuePause(t.Context(), queue, nil); err != nil { // in River UI
		t.Fatal(err)
	}
	r.obeyed("endpoint", endpoint, true, one, two, three)
	paused, err := ops.ReadPaused(t.Context(), r.conn)
	if err != nil || len(paused) != 1 || paused[0].Name != endpoint || paused[0].By != "" || paused[0].Reason != "" {
		t.Errorf("paused in River UI: %+v, %v", paused, err)
	}
	wait(10, 10)
	// River forgets queues that nobody has served for a day, but not that they are paused. Not a whole day here: a leader that has
	// just been elected could be quicker than the housekeeping.
	r.exec("UPDATE weir.river_queue SET updated_at = now() - interval '23 hours' WHERE name = $1", queue)
	r.exec("INSERT INTO weir.river_job (kind, queue, max_attempts, args) VALUES ('weir_housekeeping', 'weir_housekeeping', 1, '{\"now\": 1}')")
	r.await("the pause to be kept", func() bool {
		return r.one("SELECT (updated_at > now() - interval '1 h')::text FROM weir.river_queue WHERE name = $1", queue) == "true"
	})
	if p := r.resume(ops.Targets{}); len(p.Changed) != 1 || p.Changed[0].Name != endpoint {
		t.Errorf("resumed %+v", p)
	}
	r.once(rc, 20)
}

// What waits for a rate limit when its endpoint is paused is not called.
func TestPauseWhileOthersWaitForTheirMoment(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rc := newReceiver(t, nil)
	endpoint := rc.endpoint(t)
	run := r.started(fmt.Sprintf("endpoints: {%q: {rate_limit: 1/s}}", endpoint) + hook(rc.URL, ""))
	r.orders(4)
	r.await("a call, while others wait", func() bool { return len(rc.seen()) >= 1 && r.jobs("state = 'running'") != "0" })
	r.pause(ops.Targets{Endpoints: []string{endpoint}})
	r.obeyed("endpoint", endpoint, true, run)
	called := len(rc.seen())
	r.await("them to be put back", func() bool { return r.jobs("state = 'running'") == "0" })
	if n := len(rc.seen()); n != called || n == 4 {
		t.Errorf("%d calls, %d after the pause", n, n-called)
	}
	r.resume(ops.Targets{Endpoints: []string{endpoint}})
	r.await("all", func() bool { return r.jobs("state = 'completed' AND attempt = 1") == "4" })
}

// An observer's deliveries are set aside, each once, while those of another go on to the same endpoint.
func TestPauseObserver(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rc, other := newReceiver(t, nil), newReceiver(t, nil)
	config := fmt.Sprintf(`
outbound: {allow: ["127.0.0.0/8"]}
observers:
  held: {entity: Order, actions: [{type: webhook, url: %q, endpoint: shared}]}
  free: {entity: Order, actions: [{type: webhook, url: %q, endpoint: shared}]}
`, rc.URL, other.URL)
	one, two := r.started(config), r.started(config)
	r.pauseObserver("held")
	r.obeyed("observer", "held", true, one, two)
	three := r.started(config)
	r.orders(20)
	aside := "state = 'pending' AND metadata ? 'weir_paused' AND " + untouched
	r.await("them to be set aside", func() bool { return r.jobs(aside) == "20" })
	r.await("the other observer's", func() bool { return len(other.seen()) == 20 })

	// One of an observer that nobody knows, old enough to be given up: not while it is paused, either.
	r.pauseObserver("removed")
	r.exec(`INSERT INTO weir.river_job (kind, queue, max_attempts, created_at, args)
		SELECT kind, queue, max_attempts, now() - interval '2 h', args || '{"observer": "removed"}' FROM job WHERE args ->> 'observer' = 'held' LIMIT 1`)
	r.await("it to be set aside, too", func() bool { return r.jobs(aside) == "21" })
	before := r.one("SELECT string_agg(id || ' ' || xmin, ',' ORDER BY id) FROM weir.river_job WHERE state = 'pending'")
	r.pause(ops.Targets{}) // which wakes the sweep
	r.obeyed("deliveries", "", true, one, two, three)
	r.resume(ops.Targets{Observers: []string{"removed"}})
	r.await("the sweep", func() bool { return r.jobs(aside) == "20" })
	after := r.one("SELECT string_agg(id || ' ' || xmin, ',' ORDER BY id) FROM weir.river_job WHERE state = 'pending'")
	for _, row := range strings.Split(after, ",") {
		if !slices.Contains(strings.Split(before, ","), row) {
			t.Errorf("what was set aside was written again: %s", row)
		}
	}
	if n := len(rc.seen()); n != 0 {
		t.Errorf("%d calls of a paused observer", n)
	}
	r.resume(ops.Targets{})
	r.await("the end of the one that nobody knows", func() bool {
		return r.jobs(deadLetter+" AND metadata ->> 'weir_dead_letter' = 'unknown_observer'") == "1"
	})
	r.exec("DELETE FROM weir.river_job WHERE args ->> 'observer' = 'removed'")
	r.once(rc, 20)
}

// All workers are stopped when the pause is lifted: the next one makes what was set aside available.
func TestResumeObserverWithoutWorkers(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rc := newReceiver(t, nil)
	run := r.started(hook(rc.URL, ""))
	r.pauseObserver("hook")
	r.obeyed("observer", "hook", true, run)
	r.orders(5)
	r.await("them to be set aside", func() bool { return r.jobs("state = 'pending'") == "5" })
	run.stop(t)
	r.resume(ops.Targets{Observers: []string{"hook"}})
	r.started(hook(rc.URL, ""))
	r.once(rc, 5)
}

// The order of each entity's deliveries holds across a pause of the observer.
func TestPauseKeepsOrder(t *testing.T) {
	t.Parallel()
	const entities, events = 10, 12
	r := newRig(t)
	seen := newSequences(func() bool { return false })
	var calls atomic.Int64
	open := make(chan struct{})
	rc := newReceiver(t, func(w http.ResponseWriter, req *http.Request) {
		if calls.Add(1) > 2*entities {
			<-open
		}
		seen.ServeHTTP(w, req)
	})
	config := fmt.Sprintf(inOrder, rc.URL)
	one, two := r.started(config), r.started(config)
	write := make(chan error, 1)
	go func() { write <- writeSequences(context.WithoutCancel(t.Context()), r.url, entities, events) }()
	r.await("a call of each entity that hangs", func() bool { return calls.Load() == 3*entities })
	r.pause(ops.Targets{Observers: []string{"in-order"}})
	r.obeyed("observer", "in-order", true, one, two)
	close(open) // those end, and nothing follows
	if err := <-write; err != nil {
		t.Fatal(err)
	}
	r.await("everything to be ingested", func() bool { return r.jobs("true") == fmt.Sprint(entities*events) })
	r.await("the rest to wait", func() bool { return r.jobs("state NOT IN ('pending', 'completed')") == "0" })
	if n := r.jobs("state = 'pending' AND attempted_by IS NOT NULL"); n != "0" {
		t.Errorf("%s deliveries were called for nothing", n)
	}
	called := len(rc.seen())
	three := r.started(config)
	r.obeyed("observer", "in-order", true, three)
	one.stop(t)
	ids := r.one("SELECT coalesce(string_agg(id::text, ',' ORDER BY id), '') FROM job WHERE state = 'pending'")
	r.pause(ops.Targets{}) // which wakes the sweep
	r.obeyed("deliveries", "", true, two, three)
	r.resume(ops.Targets{Observers: []string{"in-order"}})
	r.await("the sweep", func() bool { return r.jobs("state = 'available'") == fmt.Sprint(entities) })
	if n := len(rc.seen()); n != called {
		t.Errorf("%d calls while the observer is paused", n-called)
	}
	if again := r.one("SELECT coalesce(string_agg(id::text, ',' ORDER BY id), '') FROM job WHERE state <> 'completed'"); again != ids {
		t.Errorf("what waits was fetched and put back: %s, before %s", again, ids)
	}
	r.resume(ops.Targets{})
	r.awaitFor(2*time.Minute, "every event delivered", func() bool { return seen.ended(entities, events) })
	if len(seen.bad) > 0 {
		t.Fatalf("%d requests out of order, the first: %s", len(seen.bad), seen.bad[0])
	}
	r.once(rc, entities*events)
}

// What runs when its observer is paused ends, and what a person retries meanwhile waits with the rest: debug-event says for what.
func TestRetryWhilePaused(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	started, goOn := make(chan struct{}, 1), make(chan struct{})
	rc := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) {
		started <- struct{}{}
		<-goOn
		w.WriteHeader(http.StatusBadRequest) // which is final
	})
	run := r.started(hook(rc.URL, ""))
	r.orders(1)
	<-started
	r.pauseObserver("hook")
	r.obeyed("observer", "hook", true, run)
	close(goOn)
	r.await("its end", func() bool { return r.jobs(deadLetter) == "1" })
	rc.behave(nil)

	act, err := ops.NewDeadLetters(r.conn).RetryAll(t.Context(), ops.Filter{}, ops.Bulk{})
	if err != nil {
		t.Fatalf("%+v, %v", act, err)
	}
	r.await("it to be set aside", func() bool { return r.jobs("state = 'pending' AND metadata ? 'weir_paused' AND attempt = 0") == "1" })
	reports, err := ops.DebugLast(t.Context(), r.conn, 1, ops.Question{})
	if err != nil || len(reports) != 1 || len(reports[0].Deliveries) != 1 {
		t.Fatalf("%+v, %v", reports, err)
	}
	if p := reports[0].Deliveries[0].Paused; p == nil || p.Scope != ops.ScopeObserver || p.Name != "hook" {
		t.Errorf("held by %+v, want the pause of the observer", p)
	}
	if n := len(rc.seen()); n != 1 {
		t.Errorf("%d calls, want 1", n)
	}
	r.resume(ops.Targets{Observers: []string{"hook"}})
	r.await("the delivery", func() bool { return r.jobs("state = 'completed' AND attempt = 1") == "1" })
}
