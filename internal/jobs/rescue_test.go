package jobs

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

const oneLog = `o: {entity: Order, actions: [{type: log}]}`

// ghost is a client that has no lease: it died.
const runByGhost = `UPDATE weir.river_job SET state = 'running', attempt = 1, attempted_at = now(), attempted_by = '{ghost}', finalized_at = NULL
	WHERE kind <> 'weir_housekeeping'`

func (r *rig) exec(sql string, args ...any) {
	r.t.Helper()
	_, err := r.pool.Exec(r.t.Context(), sql, args...)
	check(r.t, err)
}

func TestRescueGivesANewIDAndTheAttemptBack(t *testing.T) {
	t.Parallel()
	r := newRig(t, oneLog)
	r.commit(order(1, `{}`), order(2, `{}`))
	r.exec(runByGhost)
	before := r.lines("SELECT id::text FROM weir.river_job WHERE kind <> 'weir_housekeeping' ORDER BY id")
	const places = "SELECT scheduled_at::text FROM weir.river_job WHERE kind <> 'weir_housekeeping' ORDER BY args->>'pk'"
	inLine := r.lines(places)
	r.run()
	r.await("rescue and delivery", `SELECT count(*) = 2 FROM weir.river_job WHERE kind <> 'weir_housekeeping' AND state = 'completed' AND attempt = 1`)
	for _, id := range r.lines("SELECT id::text FROM weir.river_job WHERE kind <> 'weir_housekeeping' ORDER BY id") {
		if id == before[0] || id == before[1] {
			t.Errorf("job %s has kept its id: what the dead attempt still concludes would find it", id)
		}
	}
	if now := r.lines(places); !slices.Equal(now, inLine) {
		t.Errorf("scheduled at %v, before %v: behind a backlog they would wait for all of it", now, inLine)
	}
	for _, line := range r.lines("SELECT array_length(errors, 1) || ' ' || (errors[1]->>'error') FROM weir.river_job WHERE kind <> 'weir_housekeeping'") {
		if line != "1 interrupted: worker ghost died, hung or was cut off (1 of 5 times)" {
			t.Errorf("error %q", line)
		}
	}
}

// A worker that was stopped in the middle of a transaction still locks a job's row: that must not hold up the others, and
// ends with its session.
func TestRescueEndsTheSessionsOfTheDead(t *testing.T) {
	t.Parallel()
	r := newRig(t, oneLog)
	r.commit(order(1, `{}`), order(2, `{}`))
	r.exec(runByGhost)
	cfg := r.pool.Config().ConnConfig.Copy()
	cfg.RuntimeParams["application_name"] = "weir:ghost"
	ghost, err := pgx.ConnectConfig(t.Context(), cfg)
	check(t, err)
	t.Cleanup(func() { _ = ghost.Close(context.WithoutCancel(t.Context())) })
	_, err = ghost.Exec(t.Context(), "BEGIN; SELECT FROM weir.river_job WHERE args->>'pk' = '1' FOR UPDATE")
	check(t, err)
	r.run()
	r.await("both", `SELECT count(*) = 2 FROM weir.river_job WHERE kind <> 'weir_housekeeping' AND state = 'completed'`)
	if _, err := ghost.Exec(t.Context(), "COMMIT"); err == nil {
		t.Error("the dead worker's transaction went on")
	}
}

func TestFiveDeathsMakeADeadLetter(t *testing.T) {
	t.Parallel()
	r := newRig(t, `o: {entity: Order, on_failure: alert, actions: [{type: log}]}`)
	r.commit(order(1, `{}`))
	r.run()
	r.await("the end", `SELECT state = 'completed' FROM weir.river_job WHERE kind <> 'weir_housekeeping'`)
	for range 4 {
		r.exec(runByGhost)
		r.await("rescue and delivery", `SELECT state = 'completed' FROM weir.river_job WHERE kind <> 'weir_housekeeping'`)
	}
	r.exec(runByGhost)
	r.await("the dead letter", `SELECT count(*) = 1 FROM weir.dead_letter WHERE metadata->>'weir_dead_letter' = 'interrupted'`)
	if got := r.lines("SELECT last_error FROM weir.dead_letter"); !strings.Contains(got[0], "5 of 5 times") {
		t.Errorf("error %s", got)
	}
	if n := r.metric("weir_alerts_total", "observer", "o"); n != 1 {
		t.Errorf("%v alerts, want 1", n)
	}
	if n := r.metric("weir_rescued_total"); n != 5 {
		t.Errorf("%v rescued, want 5", n)
	}
}

// A fetch whose answer was lost leaves jobs that run for the database alone. The worker finds its own; they do not count as
// deaths.
func TestRescueOfWhatGotLostOnTheWay(t *testing.T) {
	t.Parallel()
	r := newRig(t, oneLog)
	r.commit(order(1, `{}`))
	r.exec(strings.ReplaceAll(runByGhost, "ghost", "test"))
	r.run()
	r.await("rescue and delivery", `SELECT count(*) = 1 FROM weir.river_job
		WHERE kind <> 'weir_housekeeping' AND state = 'completed' AND attempt = 1 AND metadata->>'weir_deaths' = '0' AND errors[1]->>'error' LIKE '%lost it on the way'`)
}

// What is being worked, and what River has yet to conclude, is not lost.
func TestAttempts(t *testing.T) {
	t.Parallel()
	a := newAttempts()
	a.begin(1, 1)
	a.begin(2, 1)
	a.end(2, 1)
	mark := a.mark()
	a.begin(3, 1)
	a.end(3, 1)
	a.forget(mark, nil)
	for id, want := range map[int64]bool{1: true, 2: false, 3: true} {
		if a.has(id, 1) != want {
			t.Errorf("job %d: known is %v", id, !want)
		}
	}
	if a.has(1, 2) {
		t.Error("another attempt of the same job counts as this one")
	}
	a.forget(a.mark(), nil)
	if len(a.now) != 1 {
		t.Errorf("kept %v, want the running one alone", a.now)
	}
}
