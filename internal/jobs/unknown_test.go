package jobs

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/fraiseql/weir/internal/sandbox"
)

func TestUnknownWaitGrows(t *testing.T) {
	t.Parallel()
	var waited time.Duration
	rounds := 0
	for ; unknownWait(waited, waited) > 0; rounds++ {
		waited += unknownWait(waited, waited)
	}
	if waited != unknownGrace || rounds > 40 {
		t.Errorf("waited %s in %d rounds, want %s in no more than 40", waited, rounds, unknownGrace)
	}
	for _, c := range []struct{ age, waited, want time.Duration }{
		{0, 0, 15 * time.Second},
		{15 * time.Second, 15 * time.Second, 15 * time.Second},
		{time.Minute, time.Minute, time.Minute},
		{30 * time.Minute, 0, 15 * time.Second},
		{30 * time.Minute, 20 * time.Minute, 2 * time.Minute},
		{59*time.Minute + 58*time.Second, 0, 2 * time.Second},
		{2 * time.Hour, 0, 0},
	} {
		if got := unknownWait(c.age, c.waited); got != c.want {
			t.Errorf("%s old, after %s: %s, want %s", c.age, c.waited, got, c.want)
		}
	}
}

// What waits for its observer says so, and goes on as soon as a configuration has it again; what waits for another does not.
func TestUnknownObserverComesBack(t *testing.T) {
	t.Parallel()
	r := newRig(t, `
o: {entity: Order, actions: [{type: log}]}
fails: {entity: Order, condition: totl > 1, actions: [{type: log}]}
other: {entity: Order, actions: [{type: log}]}
`)
	r.commit(order(1, `{}`), order(2, `{}`))
	var log sandbox.Output
	r.q.runner.log = slog.New(slog.NewTextHandler(&log, nil))
	r.q.Swap(observerSet(t, `{}`), nil)
	r.run()
	r.await("all wait", `SELECT count(*) = 6 FROM weir.river_job WHERE metadata ? 'weir_unknown' AND state IN ('available', 'scheduled')
		AND (metadata->>'snoozes')::int >= 1`)
	if n := r.metric("weir_deliveries_total", "observer", "", "action_type", "log", "outcome", "waiting"); n < 4 {
		t.Errorf("%v waits counted, want 4", n)
	}
	r.q.Swap(observerSet(t, `
o: {entity: Order, actions: [{type: log}]}
fails: {entity: Order, condition: has_field('x'), actions: [{type: log}]}
`), nil)
	r.await("what is known", `SELECT count(*) = 4 FROM weir.river_job WHERE args->>'observer' IN ('o', 'fails') AND state = 'completed'`)
	r.await("the rest waits as before", `SELECT count(*) = 2 AND bool_and((metadata->>'snoozes')::int <= 2) FROM weir.river_job
		WHERE args->>'observer' = 'other' AND metadata ? 'weir_unknown' AND state = 'scheduled'`)
	if n := strings.Count(log.String(), "deliveries wait"); n != 3 {
		t.Errorf("said %d times, want once for each of the three:\n%s", n, log.String())
	}
}

// The jobs of an endpoint that nothing goes to any more go to the queue of the one that their action has now, save those of an
// observer that nobody knows. None goes back to where it has been.
func TestQueueOfAnEndpointThatIsGoneDrains(t *testing.T) {
	t.Parallel()
	r := newRig(t, `
moves: {entity: Order, actions: [{type: log, endpoint: here}]}
goes: {entity: Order, actions: [{type: log, endpoint: here}]}
`)
	r.commit(order(1, `{}`), order(2, `{}`))
	r.exec("UPDATE weir.river_job SET state = 'retryable', scheduled_at = now() + '1 h'")
	r.exec("UPDATE weir.river_job SET metadata = '{\"weir_moved_from\": [\"there\"]}' WHERE args->>'pk' = '2'")
	r.q.Swap(observerSet(t, `moves: {entity: Order, actions: [{type: log, endpoint: there}]}`), nil)
	r.run()
	r.await("the move", `SELECT EXISTS (SELECT FROM weir.river_job WHERE queue = 'there')`)
	got := r.lines(`SELECT concat_ws(' ', args->>'observer', args->>'pk', queue, metadata->'weir_moved_from') FROM weir.river_job
		WHERE kind = 'weir_log' ORDER BY args->>'observer', args->>'pk'`)
	want := []string{`goes 1 here`, `goes 2 here ["there"]`, `moves 1 there ["here"]`, `moves 2 here ["there"]`}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	r.exec("UPDATE weir.river_job SET scheduled_at = now(), state = 'available' WHERE kind = 'weir_log'")
	r.await("both deliveries", `SELECT count(*) = 2 FROM weir.river_job WHERE args->>'observer' = 'moves' AND state = 'completed'`)
}
