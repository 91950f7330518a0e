package breaker

import (
	"errors"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

func (r *rig) pauseQueue(name string) {
	r.exec(`INSERT INTO weir.river_queue (name, paused_at, updated_at) VALUES ($1, now(), now())
		ON CONFLICT (name) DO UPDATE SET paused_at = now()`, name)
}

// While an endpoint is paused nobody calls it and nobody probes it; the state of its breaker stays what it was.
func TestPausedEndpointIsNotProbed(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a, b := r.seat("a", erp(quick)), r.seat("b", erp(quick))
	pass, err := a.Enter("erp")
	if err != nil {
		t.Fatal(err)
	}
	r.pauseQueue("erp")
	a.follow()
	a.want(Closed, 0)
	if a.turns.Load() != 1 {
		t.Errorf("told of %d turns, want 1", a.turns.Load())
	}
	var refused *RefusedError
	if _, err := a.Enter("erp"); !errors.As(err, &refused) || !refused.Paused || refused.After != 0 {
		t.Errorf("got %v, want a refusal for the pause", err)
	}
	pass.Report(Sick, "it had begun before") // counts for nothing, and breaks nothing

	r.exec("UPDATE weir.endpoint SET state = 'open', changed_by = 'a', open_until = now() - interval '1 s'")
	b.follow()
	a.follow()
	b.want(Open, 0)
	r.wantRow("open a ")
	r.exec("UPDATE weir.river_queue SET paused_at = NULL")
	b.follow()
	r.wantRow("half-open b ")
	b.want(HalfOpen, 1)
}

// A pause of the prober's endpoint ends nothing but the calls: it is the prober still when the pause is over.
func TestProberWaits(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a := r.seat("a", erp(quick))
	r.exec("UPDATE weir.endpoint SET state = 'open', changed_by = 'b', open_until = now() - interval '1 s'")
	a.follow()
	probe, err := a.Enter("erp")
	if err != nil {
		t.Fatal(err)
	}
	r.pauseQueue("erp")
	a.follow()
	probe.Report(Healthy, "")
	a.want(HalfOpen, 0)
	r.exec("UPDATE weir.river_queue SET paused_at = NULL")
	a.follow()
	a.want(HalfOpen, 1)
	if !a.call(Healthy) {
		t.Fatal("no probe after the pause")
	}
	a.want(Closed, 50)
}

// An endpoint that a reload brings is held by the pause of all, and so is one of a configuration that is not in force any more.
// The metric has the names in force, and no others.
func TestPausesAcrossAReload(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.exec("INSERT INTO weir.pause (scope, name) VALUES ('deliveries', ''), ('observer', 'o'), ('observer', 'unheard-of')")
	a := r.seat("a", erp(quick))
	a.Watch([]string{"o", "p"})
	if n := a.Allowed("erp", 50); n != 0 {
		t.Errorf("%d may run of a worker that has just started", n)
	}
	wantPaused := func(want float64, scope scope, name string) {
		t.Helper()
		if got := testutil.ToFloat64(a.metrics.paused.WithLabelValues(string(scope), name)); got != want {
			t.Errorf("weir_paused of %s %s is %v, want %v", scope, name, got, want)
		}
	}
	wantPaused(1, allDeliveries, "")
	wantPaused(0, pausedEndpoint, "erp")
	wantPaused(1, pausedObserver, "o")
	wantPaused(0, pausedObserver, "p")
	wantPaused(0, pausedStream, "")

	a.Configure(map[string]Endpoint{"crm": {Breaker: quick}}, nil)
	a.Watch([]string{"p"})
	for _, name := range []string{"erp", "crm"} {
		if _, err := a.Enter(name); err == nil {
			t.Errorf("%s may be called", name)
		}
	}
	if n := testutil.CollectAndCount(a.metrics.paused); n != 4 { // deliveries, stream, crm, p
		t.Errorf("%d series, want 4", n)
	}
	if !a.ObserverPaused("unheard-of") || a.ObserverPaused("p") {
		t.Error("not the observers that are paused")
	}
	r.exec("DELETE FROM weir.pause")
	a.follow()
	if n := a.Allowed("crm", 50); n != 50 {
		t.Errorf("%d may run after the pause", n)
	}
}
