package worker_test

import (
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fraiseql/weir/internal/sandbox"
)

// through is the configuration of a worker whose connections go through a relay.
func (r *rig) through(t *testing.T, rest string) (rl *relay, config string) {
	t.Helper()
	direct := r.url
	rl, r.url = newRelay(t, direct)
	config = r.write(rest)
	r.url = direct
	return rl, config
}

func (r *rig) orders(n int) {
	r.t.Helper()
	r.exec(`INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data)
		SELECT 'Order', 'INSERT', gen_random_uuid(), '{"total": 1}' FROM generate_series(1, $1)`, n)
}

// functionsOf counts the functions that a client runs: a webhook of the same event may be its from the beginning.
func (r *rig) functionsOf(client string) string {
	r.t.Helper()
	return r.one(`SELECT count(*)::text FROM job
		WHERE kind = 'weir_database' AND state = 'running' AND attempted_by[array_upper(attempted_by, 1)] = $1`, client)
}

// A worker is cut off with deliveries running. Another has them all running again within 10 s; when the network is back, the
// first begins anew, whatever became of its old connections, and stops in time.
func TestCrashCutOff(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rc, answer := hanging(t)
	rest := hook(rc.URL, ", timeout: 2m")
	rl, config := r.through(t, rest)
	cutOff := r.spawn(t, config)
	old := cutOff.clientID()
	r.orders(30)
	r.await("30 running deliveries", func() bool { return len(rc.seen()) == 30 })
	r.spawn(t, r.write(rest))
	time.Sleep(9 * time.Second) // the second has to have been there for as long as a lease holds
	rl.freeze("")
	began := time.Now()
	r.awaitFor(time.Minute, "all 30 again", func() bool { return len(rc.seen()) == 60 })
	if took := time.Since(began); took > takeover {
		t.Errorf("took %s, more than %s", took, takeover)
	}
	time.Sleep(5 * time.Second)
	rl.lead(host(t, r.url))
	r.awaitFor(20*time.Second, "another life", func() bool { return cutOff.clientID() != old })
	answer()
	r.await("the end", func() bool { return r.jobs("state = 'completed' AND attempt = 1") == "30" })
	cutOff.signal(t, syscall.SIGTERM)
	select {
	case <-cutOff.Exited():
	case <-time.After(15 * time.Second):
		t.Error("it does not stop for its dead connections")
	}
}

// A router forgets a worker's connections, and lets new ones pass. The lease, on a new one, lives on, so everything else has to
// notice as well: the worker still rescues others.
func TestCrashForgottenConnections(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rc, _ := hanging(t)
	rest := hook(rc.URL, ", timeout: 2m")
	victim := r.spawn(t, r.write(rest))
	r.orders(20)
	r.await("20 running deliveries", func() bool { return len(rc.seen()) == 20 })
	rl, config := r.through(t, rest)
	r.spawn(t, config)
	time.Sleep(9 * time.Second)
	rl.freeze(host(t, r.url))
	if err := victim.Kill(); err != nil {
		t.Fatal(err)
	}
	// A little longer than otherwise: that a connection is dead shows when it has not answered for a while.
	r.awaitFor(20*time.Second, "the rescue", func() bool { return r.jobs("(metadata->>'weir_deaths')::int = 1") == "20" })
}

const onlyOnce = `
outbound: {allow: ["127.0.0.1"]}
observers:
  once:
    entity: Order
    on_failure: alert
    retry: {max_attempts: 1}
    actions:
      - {type: database, function_name: app.on_order, params: {note: x}, timeout: 1m}
      - {type: webhook, url: %q}
`

// What Weir's own database interrupts is not the receiver's failure: it costs no attempt, makes no dead letter and alerts nobody.
func TestCrashCostsNoAttempt(t *testing.T) {
	t.Parallel()
	for name, interrupt := range map[string]func(*testing.T, *sandbox.Postgres, *process){
		"a worker that stood still": func(t *testing.T, _ *sandbox.Postgres, w *process) {
			t.Helper()
			w.signal(t, syscall.SIGSTOP)
			time.Sleep(9 * time.Second)
			w.signal(t, syscall.SIGCONT)
		},
		"a server that restarts": func(t *testing.T, server *sandbox.Postgres, _ *process) {
			t.Helper()
			if err := server.Restart(t.Context(), sandbox.Fast); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, r := ownServer(t, nil)
			r.exec(effects)
			rc := newReceiver(t, func(http.ResponseWriter, *http.Request) { time.Sleep(20 * time.Millisecond) })
			w := r.spawn(t, r.write(fmt.Sprintf(onlyOnce, rc.URL)))
			r.orders(2000)
			r.await("some", func() bool { return len(rc.seen()) > 100 })
			interrupt(t, server, w)
			r.reconnect()
			r.await("the end", func() bool { return r.jobs("state IN ('completed', 'cancelled', 'discarded')") == "4000" })
			if n := r.jobs("state = 'completed' AND attempt = 1"); n != "4000" {
				t.Errorf("%s of 4000 deliveries succeeded; the others: %s", n, r.one(
					"SELECT coalesce(json_agg(DISTINCT errors[1]->>'error'), '[]')::text FROM job WHERE state <> 'completed'"))
			}
			if n := r.one("SELECT count(*) || ' ' || count(DISTINCT event) FROM app.effect"); n != "2000 2000" {
				t.Errorf("effects and events with one: %s", n)
			}
			if n := w.metric(t, "weir_alerts_total"); n != 0 {
				t.Errorf("%v alerts", n)
			}
		})
	}
}

// A worker whose delivery was given to another while it stood still has nothing to say of how it ended.
func TestCrashStoppedWorkerAlertsNobody(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.exec(effects)
	rc := newReceiver(t, nil)
	config := r.write(fmt.Sprintf(onlyOnce, rc.URL))
	lock := rigOn(t, r.url)
	lock.exec("SELECT pg_advisory_lock(42)")
	stopped := r.spawn(t, config)
	old := stopped.clientID()
	r.orders(1)
	r.await("the function", func() bool { return r.jobs("kind = 'weir_database' AND state = 'running'") == "1" })
	stopped.signal(t, syscall.SIGSTOP)
	other := r.spawn(t, config)
	r.await("the takeover", func() bool { return r.functionsOf(other.clientID()) == "1" })
	stopped.signal(t, syscall.SIGCONT)
	r.await("another life", func() bool { return stopped.clientID() != old })
	lock.exec("SELECT pg_advisory_unlock(42)")
	r.await("the end", func() bool { return r.jobs("state = 'completed'") == "2" })
	// Metrics begin anew with a life; the line that goes with the alert stays.
	if said := stopped.log.String() + other.log.String(); strings.Contains(said, "failed for good") {
		t.Errorf("an alert for a delivery that succeeded:\n%s", said)
	}
}

// The queue of a place that the configuration no longer names is worked all the same when its worker has died.
func TestCrashRescueIntoAnotherConfiguration(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	first, _ := hanging(t)
	victim := r.spawn(t, r.write(hook(first.URL, ", timeout: 2m")))
	r.orders(5)
	r.await("5 running deliveries", func() bool { return len(first.seen()) == 5 })
	second := newReceiver(t, nil)
	killed := time.Now()
	if err := victim.Kill(); err != nil {
		t.Fatal(err)
	}
	r.spawn(t, r.write(hook(second.URL, ", timeout: 2m")))
	r.awaitFor(time.Minute, "all 5 again", func() bool { return len(second.seen()) == 5 })
	if took := time.Since(killed); took > takeover {
		t.Errorf("took %s, more than %s", took, takeover)
	}
}

// What a function leaves in its session is gone when the next one runs in it.
func TestFunctionsDoNotMeet(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.exec(effects)
	r.exec(`CREATE FUNCTION app.untidy(message jsonb) RETURNS text LANGUAGE plpgsql AS $$
		DECLARE
			found text := concat_ws(' ', nullif(current_setting('my.tenant', true), ''), to_regclass('leftover')::text,
				(SELECT 'lock' FROM pg_locks WHERE locktype = 'advisory' AND objid = 77 AND pid = pg_backend_pid()));
		BEGIN
			PERFORM set_config('my.tenant', 'acme', false), set_config('default_transaction_read_only', 'on', false),
				set_config('search_path', 'app', false), pg_advisory_lock(77);
			CREATE TEMP TABLE leftover ();
			SET LOCAL ROLE pg_monitor;
			RETURN found;
		END $$`)
	r.started(strings.ReplaceAll(callFunction, "app.on_order", "app.untidy"))
	for n := range 3 {
		r.orders(1)
		r.await("the delivery", func() bool { return r.jobs("state = 'completed' AND attempt = 1") == fmt.Sprint(n+1) })
	}
	if found := r.one("SELECT coalesce(string_agg(metadata->'output'->>'body', ''), '') FROM job"); found != "" {
		t.Errorf("a function found %q", found)
	}
}

// While a worker runs, another server takes the place of its own: a dump of it that was restored elsewhere, with the worker's
// lease and an unfinished delivery. Nothing is delivered from there.
func TestAnotherServerInItsPlace(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rc := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	rl, config := r.through(t, hook(rc.URL, "", "retry: {initial_delay: 1s, backoff: fixed}"))
	w := r.spawn(t, config)
	r.orders(5)
	r.await("deliveries that fail", func() bool { return r.jobs("attempt > 0") == "5" })
	server, twin := ownServer(t, nil)
	twin.restore(t, r)
	_ = twin.conn.Close(t.Context())
	rigOn(t, server.URL("postgres")).exec(fmt.Sprintf("ALTER DATABASE %s RENAME TO %s", twin.slot, r.slot))
	rl.lead("")
	rl.cut()
	time.Sleep(4 * time.Second)
	rc.behave(nil)
	before := len(rc.seen())
	rl.lead(host(t, twin.url))
	select {
	case <-w.Exited():
	case <-time.After(40 * time.Second):
		t.Fatalf("the worker goes on:\n%s", w.log)
	}
	if n := len(rc.seen()) - before; n > 0 {
		t.Errorf("%d requests of a copy", n)
	}
	if said := w.log.String(); !strings.Contains(said, "another cluster") || !strings.Contains(said, "weir adopt") {
		t.Errorf("it said:\n%s", said)
	}
}
