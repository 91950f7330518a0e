package worker_test

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
)

// watchAttempts makes the database write down each attempt that ends, whatever happens to its job afterwards.
func (r *rig) watchAttempts() {
	r.t.Helper()
	r.exec(`
		CREATE TABLE public.attempt (job bigint, attempt int, state text, began timestamptz, next timestamptz, ended timestamptz);
		CREATE FUNCTION public.attempt() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			INSERT INTO public.attempt
			VALUES (NEW.id, NEW.attempt, NEW.state, NEW.attempted_at, NEW.scheduled_at, clock_timestamp());
			RETURN NULL; END $$;
		CREATE TRIGGER attempt AFTER UPDATE ON weir.river_job FOR EACH ROW
			WHEN (OLD.state = 'running' AND NEW.state <> 'running') EXECUTE FUNCTION public.attempt()`)
}

// With the default policy the wait after attempt n is 2^(n-1) s, at most 12 h, give or take 10 %, and the 22nd attempt
// is the last.
func TestDefaultRetrySchedule(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.watchAttempts()
	// Each of 22 deliveries begins as if it had failed once more than the one before: nobody waits for three days.
	r.exec(`
		CREATE SEQUENCE public.failed MINVALUE 0;
		CREATE FUNCTION public.failed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			NEW.attempt := nextval('public.failed');
			RETURN NEW; END $$;
		CREATE TRIGGER failed BEFORE INSERT ON weir.river_job FOR EACH ROW EXECUTE FUNCTION public.failed()`)
	rc := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	r.started(rc.unbroken(t) + hook(rc.URL, ""))
	r.exec(`INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data)
		SELECT 'Order', 'INSERT', gen_random_uuid(), '{}' FROM generate_series(1, 22)`)
	r.await("a failure of each attempt", func() bool { return r.one("SELECT count(DISTINCT attempt)::text FROM attempt") == "22" })
	// The wait is counted from a moment between the attempt's begin and the end that the database saw.
	wrong := r.one(`
		SELECT coalesce(string_agg(format('attempt %s (%s): began %s, ended %s, next %s', attempt, state, began, ended, next), E'\n'), '')
		  FROM attempt, least(power(2, attempt - 1), 12 * 3600) wait
		 WHERE attempt < 22 AND (state NOT IN ('available', 'retryable')
		    OR next < began + 0.9 * wait * interval '1 s' - interval '1 ms'
		    OR next > ended + 1.1 * wait * interval '1 s' + interval '1 ms')
		    OR attempt >= 22 AND (state <> 'discarded' OR attempt > 22)`)
	if wrong != "" {
		t.Error(wrong)
	}
}

// A receiver that asks for a pause, by 429 or by 503, gets it at no attempt, for a day from the first time; then each
// try costs one.
func TestRetryAfterIsFreeForADay(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var calls atomic.Int64
	rc := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "1")
		w.WriteHeader([]int{http.StatusTooManyRequests, http.StatusServiceUnavailable}[calls.Add(1)%2])
	})
	run := r.started(hook(rc.URL, "", "retry: {max_attempts: 2, initial_delay: 100ms, backoff: fixed}"))
	r.watchAttempts()
	ended := func() int {
		n, _ := strconv.Atoi(r.one("SELECT count(*)::text FROM attempt"))
		return n
	}
	r.order(`{}`)
	r.await("two pauses", func() bool { return ended() >= 2 })
	r.waitingSince("23 h 59 min")
	before := ended()
	r.await("two more before the day is over", func() bool { return ended() >= before+2 })
	if got := r.one("SELECT string_agg(DISTINCT attempt || ' ' || state, ', ') FROM attempt"); got != "0 available" {
		t.Errorf("pauses end as %s, want no attempt used", got)
	}
	if got := r.one(`SELECT bool_and(next BETWEEN began + interval '1 s' AND ended + interval '1 s')::text FROM attempt`); got != "true" {
		t.Error("the pause is not what the receiver asked for")
	}
	if got := r.jobs("errors IS NULL AND metadata #>> '{output,result}' = 'waiting'"); got != "1" {
		t.Errorf("the job: %s", r.one("SELECT j::text FROM job j"))
	}
	r.waitingSince("24 h 1 min")
	r.await("the dead letter", func() bool { return r.jobs("state = 'discarded'") == "1" })
	if got := r.one("SELECT string_agg(attempt || ' ' || state, ', ' ORDER BY ended) FROM attempt WHERE attempt > 0"); got != "1 available, 2 discarded" {
		t.Errorf("after a day the attempts are %s", got)
	}
	texts := r.one("SELECT string_agg(e->>'error', ', ' ORDER BY e->>'error') FROM job, unnest(errors) e")
	if want := rc.URL + " answered 429 Too Many Requests, " + rc.URL + " answered 503 Service Unavailable"; texts != want {
		t.Errorf("its errors: %s, want %s", texts, want)
	}
	metrics := run.get(t, "/metrics").body
	for outcome, n := range map[string]int{"waiting": ended() - 2, "retried": 1, "dead": 1} {
		if line := fmt.Sprintf(`weir_deliveries_total{action_type="webhook",observer="hook",outcome=%q} %d`, outcome, n); !strings.Contains(metrics, line) {
			t.Errorf("/metrics lacks %s", line)
		}
	}
	if n := len(rc.seen()); n != ended() {
		t.Errorf("%d calls, but %d attempts ended", n, ended())
	}
}

// waitingSince sets back when the receiver first asked for a pause.
func (r *rig) waitingSince(ago string) {
	r.t.Helper()
	r.exec(`UPDATE weir.river_job SET metadata = jsonb_set(metadata, '{weir_waiting_since}',
		to_jsonb(to_char((now() - $1::interval) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')), false)`, ago)
	if r.jobs("metadata ? 'weir_waiting_since'") != "1" {
		r.t.Fatalf("the job does not say since when it waits: %s", r.one("SELECT metadata::text FROM job"))
	}
}

// Jobs of an observer that the worker does not know (a rolling deploy, a removal) wait at no attempt until they are an
// hour old; then they are dead letters that say so, and go out when the observer is back.
func TestUnknownObserverWaitsForAnHour(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rc := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	both := func(condition string) string {
		return hook(rc.URL, "", "retry: {initial_delay: 10h}") + "  picky: {entity: Order, condition: " + condition + ", actions: [{type: log}]}\n"
	}
	run := r.started(both("totl > 1"))
	r.order(`{"total": 5}`)
	r.await("a failed delivery", func() bool { return r.jobs("kind = 'weir_webhook' AND state = 'retryable'") == "1" })
	r.await("a failed condition", func() bool { return r.jobs("kind = 'weir_change' AND state = 'cancelled'") == "1" })
	run.stop(t)

	again := func(age string) {
		r.exec(`UPDATE weir.river_job SET state = 'available', attempt = 1, finalized_at = NULL, scheduled_at = now(),
			created_at = now() - $1::interval, metadata = metadata - 'weir_dead_letter'`, age)
	}
	again("1 min")
	run = r.started("observers: {}\n")
	waiting := func(times int) func() bool {
		return func() bool {
			return r.jobs("state = 'scheduled' AND attempt = 1 AND (metadata->>'snoozes')::int >= "+strconv.Itoa(times)) == "2"
		}
	}
	r.await("both wait", waiting(1))
	again("59 min")
	r.await("both wait at 59 minutes", waiting(2))
	again("61 min")
	r.await("two dead letters", func() bool { return r.jobs(deadLetter) == "2" })
	for observer, kind := range map[string]string{"hook": "weir_webhook", "picky": "weir_change"} {
		if got := r.jobs(`metadata->>'weir_dead_letter' = 'unknown_observer' AND args->>'observer' = '` + observer + `' AND kind = '` + kind +
			`' AND errors[array_upper(errors, 1)]->>'error' LIKE '%no observer ` + observer + `%'`); got != "1" {
			t.Errorf("%s: the dead letter does not say why: %s", observer, r.one("SELECT string_agg(j::text, E'\n') FROM job j"))
		}
	}
	run.stop(t)

	rc.behave(nil)
	before := len(rc.seen())
	r.started(both("total > 1"))
	r.exec(retryAll)
	r.await("both delivered", func() bool { return r.jobs("state = 'completed'") == "3" }) // the change made a delivery
	if calls := len(rc.seen()) - before; calls != 1 {
		t.Errorf("%d calls, want 1", calls)
	}
}
