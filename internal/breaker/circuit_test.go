package breaker

import (
	"testing"
	"testing/synctest"
	"time"
)

var usual = Config{FailureRatio: 0.5, MinRequests: 4, Window: 10 * time.Second, OpenFor: 30 * time.Second, Probes: 2}

// call makes one call of the circuit, and says whether it was let through.
func call(c *circuit, v Verdict) (through bool) {
	pass := c.enter()
	if pass == nil {
		return false
	}
	c.report(pass.shut, v, "status 500")
	return true
}

func calls(c *circuit, verdicts ...Verdict) {
	for _, v := range verdicts {
		call(c, v)
	}
}

func wantState(t *testing.T, c *circuit, want State, allowed int) {
	t.Helper()
	if got, reason := c.now(); got != want {
		t.Errorf("the breaker is %s (%s), want %s", got, reason, want)
	}
	if got := c.allowed(50); got != allowed {
		t.Errorf("%d of 50 deliveries may run, want %d", got, allowed)
	}
}

func TestWindow(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		verdicts []Verdict
		cfg      Config
		want     State
	}{
		"too few calls":               {[]Verdict{Sick, Sick, Sick}, usual, Closed},
		"half of them fail":           {[]Verdict{Healthy, Sick, Healthy, Sick}, usual, Open},
		"fewer than half of them":     {[]Verdict{Healthy, Sick, Healthy, Healthy, Sick}, usual, Closed},
		"what says nothing":           {[]Verdict{Sick, Silent, Silent, Silent, Sick, Silent, Sick}, usual, Closed},
		"what says nothing, then all": {[]Verdict{Sick, Silent, Sick, Sick, Silent, Sick}, usual, Open},
		"off":                         {[]Verdict{Sick, Sick, Sick, Sick, Sick, Sick}, Config{Off: true}.WithDefaults(), Closed},
	} {
		c := newCircuit("erp", tt.cfg)
		calls(c, tt.verdicts...)
		if got, reason := c.now(); got != tt.want {
			t.Errorf("%s: %s (%s), want %s", name, got, reason, tt.want)
		}
	}
}

func TestWindowSlides(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCircuit("erp", usual)
		calls(c, Sick, Sick, Sick)
		time.Sleep(11 * time.Second)
		calls(c, Sick, Sick, Sick)
		wantState(t, c, Closed, 50)
		time.Sleep(5 * time.Second)
		calls(c, Sick)
		wantState(t, c, Open, 0)
		if e := c.refused(); e.After != usual.OpenFor {
			t.Errorf("asked again after %s, want %s", e.After, usual.OpenFor)
		}
		d, unsaid := c.decided()
		if want := "4 of 4 calls within 10s failed, the last one: status 500"; !unsaid || d.reason != want || d.from != Closed || d.openFor != usual.OpenFor {
			t.Errorf("decided %+v, %t; want the reason %q", d, unsaid, want)
		}
		time.Sleep(usual.OpenFor + time.Hour) // only the row lets probes through
		wantState(t, c, Open, 0)
	})
}

// halfOpen is a circuit whose probes are this worker's.
func halfOpen(t *testing.T) *circuit {
	t.Helper()
	c := newCircuit("erp", usual)
	if !c.adopt(row{state: HalfOpen, probing: true, left: -1}) {
		t.Fatal("not adopted")
	}
	wantState(t, c, HalfOpen, usual.Probes)
	return c
}

func TestProbes(t *testing.T) {
	t.Parallel()
	c := halfOpen(t)
	calls(c, Healthy, Silent)
	wantState(t, c, HalfOpen, 2)
	calls(c, Healthy)
	wantState(t, c, Closed, 50)
	if d, _ := c.decided(); d.from != HalfOpen || d.reason != "2 probes succeeded" {
		t.Errorf("decided %+v", d)
	}

	c = halfOpen(t)
	calls(c, Healthy, Sick)
	wantState(t, c, Open, 0)

	c = halfOpen(t)
	one, two := c.enter(), c.enter()
	if one == nil || two == nil || c.enter() != nil {
		t.Error("not exactly two probes at once")
	}
	c.report(one.shut, Silent, "")
	if c.enter() == nil {
		t.Error("a probe that said nothing keeps its place")
	}
}

func TestOthersProbe(t *testing.T) {
	t.Parallel()
	c := newCircuit("erp", usual)
	c.adopt(row{state: HalfOpen, left: -1})
	wantState(t, c, HalfOpen, 0)
	if c.enter() != nil {
		t.Error("two workers probe")
	}
}

// What was called before a transition says nothing about the state after it.
func TestLateResults(t *testing.T) {
	t.Parallel()
	c := newCircuit("erp", usual)
	late := []*Pass{c.enter(), c.enter(), c.enter(), c.enter(), c.enter()}
	calls(c, Sick, Sick, Sick, Sick)
	d, _ := c.decided()
	c.said(d)
	for i, r := range []row{{state: HalfOpen, probing: true, left: -1}, {state: Closed, left: -1}} {
		c.adopt(r)
		for range 2 {
			c.report(late[2*i].shut, Sick, "late")
			c.report(late[2*i+1].shut, Healthy, "late")
		}
		if state, _ := c.now(); state != r.state {
			t.Errorf("after late results the breaker is %s, want %s", state, r.state)
		}
	}
	calls(c, Sick, Sick, Sick)
	wantState(t, c, Closed, 50) // a new window
}

// A worker's own decision holds until it is written down, whatever the table says meanwhile.
func TestDecisionHolds(t *testing.T) {
	t.Parallel()
	c := newCircuit("erp", usual)
	calls(c, Sick, Sick, Sick, Sick)
	c.adopt(row{state: Closed, left: -1})
	wantState(t, c, Open, 0)
	d, _ := c.decided()
	c.said(decision{shut: make(chan struct{})}) // of an earlier one
	c.adopt(row{state: Closed, left: -1})
	wantState(t, c, Open, 0)
	c.said(d)
	c.adopt(row{state: Closed, left: -1})
	wantState(t, c, Closed, 50)
}

func TestShutWakesThoseWhoWait(t *testing.T) {
	t.Parallel()
	c := newCircuit("erp", usual)
	pass := c.enter()
	calls(c, Sick, Sick, Sick, Sick)
	select {
	case <-pass.shut:
	default:
		t.Error("a call that waits is not told that the breaker opens")
	}
}
