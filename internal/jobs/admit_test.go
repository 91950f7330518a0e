package jobs

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"github.com/fraiseql/weir/internal/action"
	"github.com/fraiseql/weir/internal/breaker"
	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/index"
	"github.com/fraiseql/weir/internal/setting"
)

// Which endpoints have a breaker unless told otherwise, and how many places their queues have.
func TestPlaces(t *testing.T) {
	t.Parallel()
	perSecond, perMinute := setting.Rate{Count: 50, Per: time.Second}, setting.Rate{Count: 2, Per: time.Minute}
	got := places(observerSet(t, `
o:
  entity: Order
  actions:
    - {type: log}
    - {type: log, name: b, endpoint: mixed}
    - {type: database, function_name: app.f}
    - {type: webhook, name: c, endpoint: mixed, url: "https://a.example.org"}
    - {type: webhook, name: d, url: "https://b.example.org", timeout: 10s}
    - {type: webhook, name: e, url: "https://c.example.org", timeout: 55s}
    - {type: webhook, name: f, url: "https://d.example.org"}
`), map[string]EndpointConfig{
		"b.example.org": {RateLimit: perSecond, Breaker: breaker.Config{Probes: 7}},
		"c.example.org": {RateLimit: perMinute, Concurrency: 20},
		"d.example.org": {Breaker: breaker.Config{Off: true}},
		"log":           {Breaker: breaker.Config{Window: time.Minute}},
	})
	for name, want := range map[string]struct {
		concurrency int
		off         bool
		probes      int
	}{
		"log": {50, false, 3}, "mixed": {50, false, 3}, "database": {10, true, 3}, "b_example_org": {50, false, 7},
		"c_example_org": {2, false, 3}, // 2 calls a minute are what a minute can use
		"d_example_org": {50, true, 3},
	} {
		at := got[name]
		if b := at.settings.Breaker; at.concurrency != want.concurrency || b.Off != want.off || b.Probes != want.probes {
			t.Errorf("%s: concurrency %d, breaker %+v; want %+v", name, at.concurrency, b, want)
		}
	}
	if r := got["b_example_org"].settings.RateLimit; r != perSecond {
		t.Errorf("rate limit %s", r)
	}
}

// What an attempt says of its endpoint.
func TestVerdict(t *testing.T) {
	t.Parallel()
	sick := &action.Error{Code: "status_503", Sick: true, Err: errors.New("503")}
	later := &action.Error{Class: action.ClassLater, Code: "status_429", After: time.Second, Sick: true, Err: errors.New("429")}
	for name, tt := range map[string]struct {
		status int
		err    error
		want   breaker.Verdict
	}{
		"delivered":            {200, nil, breaker.Healthy},
		"delivered, no status": {0, nil, breaker.Healthy}, // by SMTP
		"refused by receiver":  {422, action.Final("status_422", errors.New("422")), breaker.Healthy},
		"503":                  {503, sick, breaker.Sick},
		"429":                  {429, fmt.Errorf("wrapped: %w", later), breaker.Sick},
		"no connection":        {0, &action.Error{Code: "connect", Sick: true, Err: errors.New("refused")}, breaker.Sick},
		"template":             {0, action.Final("template", errors.New("no such key")), breaker.Silent},
		"blocked address":      {0, action.Final("blocked_address", errors.New("private")), breaker.Silent},
		"canceled":             {0, action.Retry("canceled", context.Canceled), breaker.Silent},
		"database away":        {0, awayError{errors.New("no connection")}, breaker.Silent},
		"no event":             {0, action.Final("event_gone", index.ErrNotFound), breaker.Silent},
	} {
		d := &delivery{out: event.Outcome{ResponseStatus: tt.status}}
		if got, _ := d.verdict(tt.err); got != tt.want {
			t.Errorf("%s: %d, want %d", name, got, tt.want)
		}
	}
}

// What is not let through goes back at no attempt: soon, and in its place.
func TestPostponed(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		err         error
		low, high   time.Duration
		how         string
		notPutAside bool
	}{
		"opens for a while":      {err: &breaker.RefusedError{After: 2 * time.Second}, low: 2 * time.Second, high: 2500 * time.Millisecond, how: waiting},
		"opens for long":         {err: &breaker.RefusedError{After: time.Hour}, low: refusedWait, high: 5 * time.Second, how: waiting},
		"opens until who knows":  {err: &breaker.RefusedError{}, low: time.Second, high: 1500 * time.Millisecond, how: waiting},
		"the worker stops":       {err: breaker.ErrStopping, how: stopped},
		"anything else is not":   {err: errors.New("x"), notPutAside: true},
		"nor is what went right": {notPutAside: true},
	} {
		how, verb := postponed(tt.err)
		var snooze *rivertype.JobSnoozeError
		if errors.As(verb, &snooze) == tt.notPutAside || how != tt.how {
			t.Errorf("%s: %q, %v", name, how, verb)
		}
		if snooze != nil && (snooze.Duration < tt.low || snooze.Duration > tt.high) {
			t.Errorf("%s: put off for %s, want %s to %s", name, snooze.Duration, tt.low, tt.high)
		}
	}
}

// River's timeout would cut off what waits for a limit; the action's own begins after the wait.
func TestNoTimeoutWhileWaitingForALimit(t *testing.T) {
	t.Parallel()
	r := newRig(t, `o: {entity: Order, actions: [{type: log}]}`)
	w := newWorker[logArgs](r.q.runner)
	job := &river.Job[logArgs]{JobRow: &rivertype.JobRow{}, Args: logArgs{Args{Observer: "o", Action: "log"}}}
	if d := w.Timeout(job); d != 90*time.Second {
		t.Errorf("without a limit: %s", d)
	}
	limit := map[string]EndpointConfig{"log": {RateLimit: setting.Rate{Count: 1, Per: time.Hour}}}
	r.q.Swap(r.q.set.Load(), limit)
	if d := w.Timeout(job); d != -1 {
		t.Errorf("with a limit: %s", d)
	}
}

// setBreaker is what a person says about the endpoint log.
func (r *rig) setBreaker(state, until string) {
	r.t.Helper()
	_, err := r.pool.Exec(r.t.Context(), `
		INSERT INTO weir.endpoint (name, state, open_until, manual) VALUES ('log', $1::text, $2::text::timestamptz, true)
		ON CONFLICT (name) DO UPDATE SET state = excluded.state, open_until = excluded.open_until, manual = true`, state, until)
	check(r.t, err)
}

// untouched fails unless all jobs that are left are as they were.
func (r *rig) untouched() {
	r.t.Helper()
	got := r.lines(`SELECT DISTINCT state || ' ' || attempt FROM weir.river_job WHERE kind = 'weir_log' AND state <> 'completed'`)
	if strings.Join(got, ", ") != "available 0" {
		r.t.Errorf("the jobs are %s", got)
	}
}

// What was fetched before its queue had no producer any more holds its place for a moment and goes back at no attempt. If it went
// at once, it would make room for the next, and the whole backlog would be put off.
func TestFetchedBeforeItOpened(t *testing.T) {
	t.Parallel()
	const concurrency, backlog = 2, 60
	r := newRig(t, `o: {entity: Order, actions: [{type: log}]}`)
	r.setBreaker("open", "infinity")
	r.q.Swap(r.q.set.Load(), map[string]EndpointConfig{"log": {Concurrency: concurrency}})
	r.q.producers.allowed = func(_ string, n int) int { return n } // the producer goes on
	changes := make([]event.Change, backlog)
	for i := range changes {
		changes[i] = order(int64(i), `{}`)
	}
	r.commit(changes...)
	began := time.Now()
	r.run()
	r.await("some that are put off", `SELECT count(*) > 2 FROM weir.river_job WHERE metadata ? 'snoozes'`)
	put := len(r.lines(`SELECT id::text FROM weir.river_job WHERE metadata ? 'snoozes'`))
	if most := concurrency * (int(time.Since(began)/refusedHold) + 1); put > most {
		t.Errorf("%d of %d were put off within %s, want at most %d", put, backlog, time.Since(began), most)
	}
	if got := r.metric("weir_deliveries_total", "observer", "o", "outcome", "waiting"); got < float64(put) {
		t.Errorf("%v deliveries counted as waiting, want at least %d", got, put)
	}
	if used := r.lines(`SELECT DISTINCT attempt::text FROM weir.river_job WHERE kind = 'weir_log' AND state <> 'running'`); len(used) != 1 || used[0] != "0" {
		t.Errorf("attempts used: %v, want none", used)
	}
}

// A queue whose endpoint must not be called is not served: at the start, after a transition, and also when something in it would
// have it served as one that has no endpoint.
func TestQueueOfAnOpenBreakerIsNotServed(t *testing.T) {
	t.Parallel()
	r := newRig(t, `o: {entity: Order, actions: [{type: log}]}`)
	r.setBreaker("open", "infinity")
	r.commit(order(1, `{}`))
	r.run()
	r.await("the worker", `SELECT count(*) > 0 FROM weir.river_queue WHERE name = 'weir_change'`)
	for range 3 {
		r.q.wake()
		r.swept()
	}
	r.untouched()
	r.setBreaker("closed", "-infinity")
	r.await("the delivery", `SELECT count(*) = 1 FROM weir.river_job WHERE kind = 'weir_log' AND state = 'completed'`)
	r.setBreaker("open", "infinity")
	for deadline := time.Now().Add(10 * time.Second); len(r.q.Degraded()) == 0 && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	r.swept()
	r.commit(order(2, `{}`))
	r.q.wake()
	r.swept()
	r.untouched()
}
