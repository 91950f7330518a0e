package worker_test

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// arrivals are the times at which a receiver was called.
type arrivals struct {
	mu sync.Mutex // guards at
	at []time.Time
}

func (a *arrivals) now() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.at = append(a.at, time.Now())
}

func (a *arrivals) all() []time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.at)
}

// span returns how many arrivals the fullest and the emptiest span of this length held, between the first and the last.
func spans(at []time.Time, length time.Duration) (most, least int) {
	least = len(at)
	for i, begin := range at {
		end := begin.Add(length)
		if end.After(at[len(at)-1]) {
			break
		}
		n := 0
		for _, t := range at[i:] {
			if t.Before(end) {
				n++
			}
		}
		most, least = max(most, n), min(least, n)
	}
	return most, least
}

// TestChaosRateLimit: three workers share a rate limit of 50/s, with 1,000 deliveries that wait. One of them is killed: it takes
// no more of the limit along than it had reserved, and what it was running follows.
func TestChaosRateLimit(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var got arrivals
	rc := newReceiver(t, func(http.ResponseWriter, *http.Request) { got.now() })
	endpoint := rc.endpoint(t)
	path := r.write(fmt.Sprintf("endpoints: {%q: {rate_limit: 50/s}}", endpoint) + hook(rc.URL, ""))
	r.exec("INSERT INTO weir.endpoint (name, state, open_until, manual) VALUES ($1, 'open', 'infinity', true)", endpoint)
	workers := []*process{r.spawn(t, path), r.spawn(t, path), r.spawn(t, path)}
	const orders = 1000
	r.exec(`INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data)
		SELECT 'Order', 'INSERT', gen_random_uuid(), '{}' FROM generate_series(1, $1)`, orders)
	r.await("the backlog", func() bool { return r.jobs("state = 'available'") == strconv.Itoa(orders) })
	if n := len(got.all()); n != 0 {
		t.Fatalf("%d calls of an endpoint that a person has closed off", n)
	}
	r.exec("UPDATE weir.endpoint SET state = 'closed', open_until = NULL")
	r.await("a quarter of the calls", func() bool { return len(got.all()) >= orders/4 })
	if running := r.number("SELECT count(DISTINCT attempted_by[array_upper(attempted_by, 1)])::text FROM job"); running != len(workers) {
		t.Errorf("%d workers share the deliveries, want %d", running, len(workers))
	}
	if err := workers[1].Kill(); err != nil {
		t.Fatal(err)
	}
	r.await("all deliveries", func() bool { return r.jobs("state = 'completed'") == strconv.Itoa(orders) })

	at := got.all()
	slices.SortFunc(at, time.Time.Compare)
	took := at[len(at)-1].Sub(at[0])
	most, least := spans(at, 5*time.Second)
	t.Logf("%d calls within %s: %.1f/s; in 5 s %d to %d", len(at), took.Round(time.Millisecond), float64(len(at)-1)/took.Seconds(), least, most)
	if most > 275 || least < 225 {
		t.Errorf("%d to %d calls in 5 s, want 250 within 10 %%", least, most)
	}
	if rate := float64(len(at)-1) / took.Seconds(); rate < 45 || rate > 55 {
		t.Errorf("%.1f calls a second, want 50 within 10 %%", rate)
	}
	if put := r.jobs("(metadata ->> 'snoozes')::int > 0"); put != "0" {
		t.Errorf("%s deliveries were put off for the rate limit", put)
	}
	if used := r.jobs("attempt <> 1"); used != "0" {
		t.Errorf("%s deliveries used more than one attempt", used)
	}
}

// A worker that stops does not wait for the moments of its deliveries, which cost no attempt; the rate that a reload brings holds
// for those who wait.
func TestRateLimitLetsGo(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rc := newReceiver(t, nil)
	limited := func(rate string) string {
		return fmt.Sprintf("endpoints: {%q: {rate_limit: %s}}", rc.endpoint(t), rate) + hook(rc.URL, "")
	}
	run := r.started(limited("1/h"))
	for range 3 {
		r.order(`{}`)
	}
	r.await("a call", func() bool { return len(rc.seen()) == 1 })
	r.await("one delivery that waits for its moment", func() bool {
		return r.jobs("state = 'completed'") == "1" && r.jobs("state = 'running'") == "1"
	})
	if held := r.jobs("state IN ('available', 'running')"); held != "2" {
		t.Errorf("%s deliveries wait, want 2", held)
	}
	began := time.Now()
	run.stop(t)
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("a worker whose deliveries wait for an hour took %s to stop", took)
	}
	if got := r.jobs("state = 'available' AND attempt = 0"); got != "2" {
		t.Errorf("%s deliveries are as they were, want 2", got)
	}
	r.started(limited("10/s"))
	r.await("all deliveries", func() bool { return r.jobs("state = 'completed' AND attempt = 1") == "3" })
}

// A worker that was stopped while its deliveries waited for their moments does not call when it goes on: others have taken over.
func TestCrashStoppedWhileItWaits(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rc := newReceiver(t, nil)
	path := r.write(fmt.Sprintf("endpoints: {%q: {rate_limit: 10/s}}", rc.endpoint(t)) + hook(rc.URL, ""))
	stopped := r.spawn(t, path)
	const orders = 40
	r.exec(`INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data)
		SELECT 'Order', 'INSERT', gen_random_uuid(), '{}' FROM generate_series(1, $1)`, orders)
	r.await("a call", func() bool { return len(rc.seen()) > 5 })
	stopped.signal(t, syscall.SIGSTOP)
	r.spawn(t, path)
	r.awaitFor(time.Minute, "all deliveries", func() bool { return r.jobs("state = 'completed'") == strconv.Itoa(orders) })
	before := len(rc.seen())
	stopped.signal(t, syscall.SIGCONT)
	r.await("its next life", func() bool { return strings.Count(stopped.log.String(), `msg="worker started"`) == 2 })
	if n := len(rc.seen()) - before; n > 0 {
		t.Errorf("%d calls by a worker that was taken for dead", n)
	}
}

// A delivery that only waits for its moment is not what kills its workers.
func TestDeathsWhileItWaits(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rc := newReceiver(t, nil)
	limited := func(rate string) string {
		return fmt.Sprintf("endpoints: {%q: {rate_limit: %s}}", rc.endpoint(t), rate) + hook(rc.URL, "")
	}
	run := r.started(limited("1/h"))
	r.order(`{}`)
	r.await("the only call", func() bool { return r.jobs("state = 'completed'") == "1" })
	r.order(`{}`)
	r.await("one that waits", func() bool { return r.jobs("state = 'running'") == "1" })
	run.stop(t)
	r.exec(`UPDATE weir.river_job SET metadata = metadata || '{"weir_deaths": 4}' WHERE state = 'available'`)
	run = r.started(limited("1/h"))
	r.await("it says that it waits", func() bool { return r.jobs("state = 'running' AND metadata ? 'weir_waits'") == "1" })
	r.exec("UPDATE weir.river_job SET attempted_by = '{ghost}' WHERE state = 'running'")
	r.await("its rescue", func() bool { return r.jobs("errors[1]->>'error' LIKE 'interrupted%'") == "1" })
	if got := r.jobs(deadLetter); got != "0" {
		t.Error("it is a dead letter, since its worker died while it waited")
	}
	run.stop(t)
	r.started(limited("10/s"))
	r.await("the delivery", func() bool { return r.jobs("state = 'completed' AND NOT metadata ? 'weir_waits'") == "2" })
}
