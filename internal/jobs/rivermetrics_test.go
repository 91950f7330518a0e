package jobs

import (
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
)

// The leader counts what waits, up to a bound, and says for how long. Who does not lead says nothing, also when it led before.
func TestGaugesOfTheLeader(t *testing.T) {
	t.Parallel()
	r := newRig(t, `all: {entity: Order, actions: [{type: log}]}`)
	g := newGauges(r.pool, "one", func() []string { return []string{"idle", "empty"} }, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	r.lines(`INSERT INTO weir.river_job (kind, queue, max_attempts, state, finalized_at, priority, scheduled_at, args)
		SELECT 'weir_log', queue, 1, state::weir.river_job_state, CASE state WHEN 'completed' THEN now() END,
		       priority, now() - make_interval(secs => age), '{}'
		  FROM (VALUES ('busy', 'available', 1, 10, 10500), ('busy', 'available', 4, 60, 1), ('busy', 'retryable', 1, -30, 2),
		               ('idle', 'scheduled', 1, -30, 3), ('done', 'completed', 1, 30, 5), ('weir_housekeeping', 'available', 1, 5, 1))
		       AS v (queue, state, priority, age, n), generate_series(1, n)
		RETURNING 'x'`)
	lead := func(who string, left string) {
		r.lines(`INSERT INTO weir.river_leader (name, leader_id, elected_at, expires_at)
			VALUES ('default', $1, now() - interval '1 hour', now() + $2::interval)
			ON CONFLICT (name) DO UPDATE SET leader_id = excluded.leader_id, expires_at = excluded.expires_at
			RETURNING 'x'`, who, left)
		check(t, g.look(t.Context()))
	}
	lead("one", "10 s")
	if n := testutil.CollectAndCount(g.jobs); n != 2+2*len(unfinished) {
		t.Errorf("%d queues and states, want 2 of busy, and all of idle and empty", n)
	}
	for _, want := range []struct {
		queue, state string
		jobs         float64
	}{{"busy", "available", mostCounted}, {"busy", "retryable", 2}, {"idle", "scheduled", 3}, {"empty", "available", 0}} {
		if n := testutil.ToFloat64(g.jobs.WithLabelValues(want.queue, want.state)); n != want.jobs {
			t.Errorf("%v jobs of %s are %s, want %v", n, want.queue, want.state, want.jobs)
		}
	}
	if age := testutil.ToFloat64(g.oldest.WithLabelValues("busy")); age < 60 || age > 90 {
		t.Errorf("the oldest waits for %v s, want 60: of any priority", age)
	}
	if age := testutil.ToFloat64(g.oldest.WithLabelValues("idle")); age != 0 {
		t.Errorf("what is not due yet waits for %v s", age)
	}
	if testutil.ToFloat64(g.leader) != 1 || testutil.ToFloat64(g.workers) != 1 {
		t.Error("not the leader of one worker")
	}
	for who, left := range map[string]string{"another": "10 s", "one": "-1 s"} {
		lead("one", "10 s")
		lead(who, left)
		if testutil.ToFloat64(g.leader) != 0 || testutil.CollectAndCount(g.jobs) != 0 || testutil.CollectAndCount(g.oldest) != 0 {
			t.Errorf("it leads, or counts, although %s is the leader for %s", who, left)
		}
	}
	lead("one", "10 s")
	r.lines("ALTER TABLE weir.worker RENAME TO elsewhere")
	if err := g.look(t.Context()); err == nil || testutil.ToFloat64(g.leader) != 0 || testutil.CollectAndCount(g.jobs) != 0 {
		t.Errorf("a look that failed leaves what was: %v", err)
	}
	r.lines("ALTER TABLE weir.elsewhere RENAME TO worker")
}

// Jobs that end are counted by River's word for it, and a delivery's attempts when it has ended.
func TestEndsAndAttempts(t *testing.T) {
	t.Parallel()
	r := newRig(t, `all: {entity: Order, retry: {max_attempts: 2, initial_delay: 1ms}, actions: [
		{type: log}, {type: webhook, url: "https://a.example/"}]}`)
	r.commit(order(1, `{}`))
	r.run()
	r.await("both to have ended", `SELECT count(*) = 2 FROM weir.river_job WHERE state IN ('completed', 'discarded') AND kind <> 'weir_housekeeping'`)
	g := r.q.gauges
	for kind, want := range map[string]float64{"completed": 1, "failed": 2} {
		for deadline := time.Now().Add(time.Minute); testutil.ToFloat64(g.ends.WithLabelValues(kind)) < want; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%v ends are %s, want %v", testutil.ToFloat64(g.ends.WithLabelValues(kind)), kind, want)
			}
		}
	}
	for action, want := range map[string]float64{"log": 1, "webhook": 2} {
		if n := sumOf(t, r.q.runner.metrics.attempts.WithLabelValues(action)); n != want {
			t.Errorf("%s has used %v attempts, want %v", action, n, want)
		}
	}
}

// sumOf is that of what a histogram has observed.
func sumOf(t *testing.T, o prometheus.Observer) float64 {
	t.Helper()
	var m dto.Metric
	check(t, o.(prometheus.Metric).Write(&m))
	return m.GetHistogram().GetSampleSum()
}
