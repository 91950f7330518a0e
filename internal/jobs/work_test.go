package jobs

import (
	"log/slog"
	"math"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"github.com/fraiseql/weir/internal/breaker"
	"github.com/fraiseql/weir/internal/observer"
)

// River asks the worker when to try again: by default after initial_delay·2^(n-1), at most 12 h, give or take 10 %.
func TestNextRetryIsTheObserversPolicy(t *testing.T) {
	t.Parallel()
	var set atomic.Pointer[observer.Set]
	set.Store(observerSet(t, `
usual: {entity: Order, actions: [{type: log}]}
steady: {entity: Order, retry: {initial_delay: 40s, backoff: fixed}, actions: [{type: log}]}
`))
	panel := breaker.New(breaker.Options{Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry()})
	w := newWorker[logArgs](&runner{set: &set, panel: panel})
	next := func(observer string, attempt int) time.Time {
		args := logArgs{Args{Observer: observer, Action: "log"}}
		return w.NextRetry(&river.Job[logArgs]{JobRow: &rivertype.JobRow{Attempt: attempt}, Args: args})
	}
	for attempt := 1; attempt < 22; attempt++ {
		usual := min(time.Duration(math.Pow(2, float64(attempt-1)))*time.Second, 12*time.Hour)
		for observer, wait := range map[string]time.Duration{"usual": usual, "steady": 40 * time.Second} {
			before := time.Now()
			at := next(observer, attempt)
			if at.Before(before.Add(wait*9/10)) || at.After(time.Now().Add(wait*11/10)) {
				t.Errorf("%s after attempt %d: %s from now, want %s", observer, attempt, time.Until(at), wait)
			}
		}
	}
	// River's own policy for what nobody knows: it cannot be that it is tried again at once.
	if at := next("nobody", 1); !at.IsZero() {
		t.Errorf("unknown observer: %s", at)
	}
	// Longer than the action's own, which says who took too long; never none, with which River rescues nothing.
	for observer, want := range map[string]time.Duration{"usual": 90 * time.Second, "nobody": time.Minute} {
		args := logArgs{Args{Observer: observer, Action: "log"}}
		if timeout := w.Timeout(&river.Job[logArgs]{JobRow: &rivertype.JobRow{}, Args: args}); timeout != want {
			t.Errorf("River's timeout for observer %s is %s, want %s", observer, timeout, want)
		}
	}
}

// An action that panics fails its delivery, which is tried again by the policy, and nothing else.
func TestPanicIsAFailure(t *testing.T) {
	t.Parallel()
	// The rig's webhooks have no HTTP client, so they panic.
	r := newRig(t, `
fine: {entity: Order, actions: [{type: log}]}
panics:
  entity: Order
  retry: {max_attempts: 3, initial_delay: 1h, backoff: fixed}
  actions: [{type: webhook, url: "https://example.org/"}]
`)
	r.commit(order(1, `{}`))
	r.run()
	r.await("a failure", `SELECT EXISTS (SELECT FROM weir.river_job WHERE kind = 'weir_webhook' AND state = 'retryable')`)
	r.commit(order(2, `{}`))
	r.await("the others", `SELECT count(*) = 2 FROM weir.river_job WHERE kind = 'weir_log' AND state = 'completed'`)
	r.await("the second failure", `SELECT count(*) = 2 FROM weir.river_job WHERE kind = 'weir_webhook' AND state = 'retryable'`)
	got := r.lines(`
		SELECT concat_ws(' ', attempt, max_attempts, scheduled_at BETWEEN now() + '50 min' AND now() + '70 min', errors[1]->>'error')
		  FROM weir.river_job WHERE kind = 'weir_webhook'`)
	for _, line := range got {
		if !strings.HasPrefix(line, "1 3 t ") || !strings.Contains(line, "nil pointer") {
			t.Errorf("got %s", line)
		}
	}
	if n := r.metric("weir_deliveries_total", "observer", "panics", "action_type", "webhook", "outcome", "retried"); n != 2 {
		t.Errorf("%v failures counted, want 2", n)
	}
	if n := r.lines(`SELECT state::text FROM weir.river_job WHERE kind <> 'weir_housekeeping' AND state = 'running'`); len(n) != 0 {
		t.Errorf("still running: %s", n)
	}
}

// A budget of attempts that is lowered also holds for deliveries that are queued already.
func TestLoweredMaxAttempts(t *testing.T) {
	t.Parallel()
	policy := func(attempts string) string {
		return `o: {entity: Order, retry: {max_attempts: ` + attempts + `, initial_delay: 1h, backoff: fixed}, actions: [{type: webhook, url: "https://example.org/"}]}`
	}
	r := newRig(t, policy("5"))
	r.commit(order(1, `{}`), order(2, `{}`))
	r.exec("UPDATE weir.river_job SET attempt = 2 WHERE args->>'pk' = '1'")
	r.exec("UPDATE weir.river_job SET attempt = 4 WHERE args->>'pk' = '2'")
	r.q.Swap(observerSet(t, policy("3")), nil)
	r.run()
	r.await("two dead letters", `SELECT count(*) = 2 FROM weir.dead_letter WHERE state = 'discarded'`)
	if n := r.metric("weir_deliveries_total", "observer", "o", "action_type", "webhook", "outcome", "dead"); n != 2 {
		t.Errorf("%v dead letters counted, want 2", n)
	}
}

// What is wrong with a row is evaluated again; when the row is gone, the dead letter still has the first reason.
func TestChangeOfARowThatIsGone(t *testing.T) {
	t.Parallel()
	r := newRig(t, `all: {entity: Order, actions: [{type: log}]}`)
	bad := order(3, `{}`)
	bad.Reason = "unknown modification_type"
	r.commit(bad)
	r.run()
	r.await("the dead letter", `SELECT EXISTS (SELECT FROM weir.river_job WHERE kind <> 'weir_housekeeping' AND state = 'cancelled')`)
	got := r.lines(`SELECT concat_ws(' | ', metadata->>'weir_dead_letter', errors[1]->>'error') FROM weir.river_job WHERE kind <> 'weir_housekeeping'`)
	if len(got) != 1 || !strings.HasPrefix(got[0], "row_gone | ") || !strings.Contains(got[0], bad.Reason) {
		t.Errorf("got %s", got)
	}
}

// A change that was corrected makes its jobs once, also when somebody runs its finished job again.
func TestCorrectedChangeIsDeliveredOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t, `all: {entity: Order, actions: [{type: log}]}`)
	_, err := r.pool.Exec(t.Context(), `INSERT INTO core.tb_entity_change_log
		(pk_entity_change_log, object_type, modification_type, object_id, object_data) OVERRIDING SYSTEM VALUE
		VALUES (3, 'Order', 'INSERT', gen_random_uuid(), '{}')`)
	check(t, err)
	was := order(3, `{}`)
	was.Reason = "unknown modification_type"
	r.commit(was)
	r.run()
	r.await("the delivery", `SELECT count(*) = 2 FROM weir.river_job WHERE kind <> 'weir_housekeeping' AND state = 'completed'`)
	_, err = r.pool.Exec(t.Context(), `UPDATE weir.river_job SET state = 'available', finalized_at = NULL, attempt = 0
		WHERE kind = 'weir_change'`)
	check(t, err)
	r.await("the repeat", `SELECT state IN ('cancelled', 'completed') FROM weir.river_job WHERE kind = 'weir_change'`)
	got := r.lines(`SELECT concat_ws(' ', kind, state, args->>'pk') FROM weir.river_job WHERE kind NOT IN ('weir_change', 'weir_housekeeping')`)
	if len(got) != 1 || got[0] != "weir_log completed 3" {
		t.Errorf("deliveries: %s", got)
	}
	if n := r.lines(`SELECT count(*)::text FROM weir.event`); n[0] != "1" {
		t.Errorf("%s events", n[0])
	}
}

// The same for a condition that was corrected: Retry in River UI works also a job that is completed.
func TestCorrectedConditionIsDeliveredOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t, `all: {entity: Order, condition: totl > 1, actions: [{type: log}]}`)
	r.commit(order(4, `{"total": 5}`))
	r.q.set.Store(observerSet(t, `all: {entity: Order, condition: total > 1, actions: [{type: log}]}`))
	r.run()
	r.await("the delivery", `SELECT count(*) = 2 FROM weir.river_job WHERE kind <> 'weir_housekeeping' AND state = 'completed'`)
	_, err := r.pool.Exec(t.Context(), `UPDATE weir.river_job SET state = 'available', finalized_at = NULL, attempt = 0
		WHERE kind = 'weir_change'`)
	check(t, err)
	r.await("the repeat", `SELECT state = 'completed' FROM weir.river_job WHERE kind = 'weir_change'`)
	if got := r.lines(`SELECT concat_ws(' ', kind, args->>'pk') FROM weir.river_job WHERE kind NOT IN ('weir_change', 'weir_housekeeping')`); len(got) != 1 {
		t.Errorf("deliveries: %s", got)
	}
}
