package breaker

import (
	"fmt"
	"sync"
	"time"

	"github.com/failsafe-go/failsafe-go/circuitbreaker"
)

// State is that of a circuit breaker.
type State string

// The states, as weir.endpoint has them.
const (
	Closed   State = "closed"
	HalfOpen State = "half-open"
	Open     State = "open"
)

// Verdict is what a call says of the endpoint.
type Verdict int

// The verdicts.
const (
	Silent  Verdict = iota // it was not asked, or something else failed
	Healthy                // it answered, whatever it said
	Sick                   // its own fault
)

// circuit is an endpoint's breaker, as this worker sees it. It decides and keeps no clock but the window's; what it decides is
// written down by the Panel.
type circuit struct {
	name string

	mu      sync.Mutex // guards the rest
	cfg     Config
	state   State
	probing bool      // half-open, and it is this worker that probes
	until   time.Time // of an open one; the zero time: nobody knows
	reason  string
	by      string
	since   time.Time
	manual  bool
	held    bool // paused: nothing is let through, whatever the state
	// shut is closed when the state changes. It is also what tells one state from the next: a result counts only for the one
	// in which its call began.
	shut     chan struct{}
	inFlight int                                // probes
	window   circuitbreaker.CircuitBreaker[any] // of the state; nil where nothing is counted
	unsaid   bool                               // the state is this worker's own decision, and has to be written down
	from     State                              // what the row says until then
}

func newCircuit(name string, cfg Config) *circuit {
	c := &circuit{name: name, cfg: cfg, state: Closed, shut: make(chan struct{})}
	c.window = c.newWindow()
	return c
}

// never is longer than any breaker stays open: when to go on is the row's to say, not the library's.
const never = 100 * 365 * 24 * time.Hour

// newWindow is the library's breaker, which counts for one state.
func (c *circuit) newWindow() circuitbreaker.CircuitBreaker[any] {
	if c.cfg.Off {
		return nil
	}
	w := circuitbreaker.NewBuilder[any]().
		WithFailureRateThreshold(c.cfg.FailureRatio, uint(c.cfg.MinRequests), c.cfg.Window).
		WithSuccessThreshold(uint(c.cfg.Probes)).
		WithDelay(never).
		Build()
	if c.probing {
		w.HalfOpen()
	}
	return w
}

// hold pauses the endpoint, or lets it go. It ends what waits for its moment; what has begun counts for nothing any more.
func (c *circuit) hold(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held != on {
		c.held = on
		c.turn(c.state, c.probing)
	}
}

func (c *circuit) holds() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.held
}

// configure puts other settings in force. The state stays; what was counted by the old ones is forgotten.
func (c *circuit) configure(cfg Config) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cfg == cfg {
		return
	}
	c.cfg = cfg
	c.window = c.newWindow()
}

// turn changes the state. The caller holds mu.
func (c *circuit) turn(state State, probing bool) {
	c.state, c.probing, c.inFlight = state, probing, 0
	c.window = c.newWindow()
	close(c.shut)
	c.shut = make(chan struct{})
}

// Pass is the permission to make a call, for as long as the state is what it was. Report must be called once.
type Pass struct {
	circuit *circuit
	shut    chan struct{}
	panel   *Panel
	limiter *limiter
}

// RefusedError says that an endpoint must not be called now.
type RefusedError struct {
	Endpoint string
	// After is when to ask again; 0: nobody knows.
	After time.Duration
	// Paused is true where a person has paused it.
	Paused bool
}

// Error names the endpoint.
func (e *RefusedError) Error() string {
	if e.Paused {
		return fmt.Sprintf("deliveries to endpoint %s are paused", e.Endpoint)
	}
	return fmt.Sprintf("the circuit breaker of endpoint %s is open", e.Endpoint)
}

// enter asks for a call. nil: not now.
func (c *circuit) enter() *Pass {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.held:
		return nil
	case c.state == Closed:
	case c.probing && c.inFlight < c.cfg.Probes:
		c.inFlight++
	default:
		return nil
	}
	return &Pass{circuit: c, shut: c.shut}
}

// refused says when to ask again.
func (c *circuit) refused() *RefusedError {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := &RefusedError{Endpoint: c.name, Paused: c.held}
	if !c.held && !c.until.IsZero() {
		e.After = max(0, time.Until(c.until))
	}
	return e
}

// allowed is how many calls may run at once, of so many that are configured.
func (c *circuit) allowed(concurrency int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.held:
		return 0
	case c.state == Closed:
		return concurrency
	case c.probing:
		return min(c.cfg.Probes, concurrency)
	default:
		return 0
	}
}

// report takes account of a call that was let through in the state that shut stands for. It returns whether that has changed the
// state.
func (c *circuit) report(shut chan struct{}, v Verdict, why string) (turned bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if shut != c.shut {
		return false
	}
	if c.probing {
		c.inFlight--
	}
	if v == Silent || c.window == nil {
		return false
	}
	if v == Sick {
		c.window.RecordFailure()
	} else {
		c.window.RecordSuccess()
	}
	switch {
	case c.state == Closed && c.window.IsOpen():
		m := c.window.Metrics()
		c.decide(Open, fmt.Sprintf("%d of %d calls within %s failed, the last one: %s",
			m.Failures(), m.Executions(), c.cfg.Window, why))
	case c.state == HalfOpen && c.window.IsOpen():
		c.decide(Open, "a probe failed: "+why)
	case c.state == HalfOpen && c.window.IsClosed():
		c.decide(Closed, fmt.Sprintf("%d probes succeeded", c.cfg.Probes))
	default:
		return false
	}
	return true
}

// decide is a transition that this worker makes: it acts on it at once. The caller holds mu.
func (c *circuit) decide(state State, reason string) {
	if !c.unsaid {
		c.from = c.state
	}
	c.reason, c.since, c.until, c.manual, c.unsaid = reason, time.Now(), time.Time{}, false, true
	if state == Open {
		c.until = c.since.Add(c.cfg.OpenFor)
	}
	c.turn(state, false)
}

// row is an endpoint's row of weir.endpoint.
type row struct {
	state   State
	probing bool          // half-open, and the prober is this worker
	left    time.Duration // of an open one; less than 0: nobody knows
	reason  string
	by      string
	since   time.Time
	manual  bool
}

// adopt takes over what the row says, unless this worker has decided something that is not written down yet. It returns whether
// that has changed the state.
func (c *circuit) adopt(r row) (turned bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.unsaid {
		return false
	}
	c.reason, c.by, c.since, c.manual, c.until = r.reason, r.by, r.since, r.manual, time.Time{}
	if r.state == Open && r.left >= 0 {
		c.until = time.Now().Add(r.left)
	}
	if c.state == r.state && c.probing == r.probing {
		return false
	}
	c.turn(r.state, r.probing)
	return true
}

// decision is what has to be written down.
type decision struct {
	shut    chan struct{} // which one it is
	from    State         // what the row is expected to say
	state   State
	reason  string
	openFor time.Duration
}

// decided returns what has yet to be written down.
func (c *circuit) decided() (decision, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return decision{c.shut, c.from, c.state, c.reason, max(0, time.Until(c.until))}, c.unsaid
}

// said says that a decision is written down, or that somebody else was first: the row's word holds again.
func (c *circuit) said(d decision) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.shut == d.shut {
		c.unsaid = false
	}
}

// now is the state, for people.
func (c *circuit) now() (State, string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state, c.reason
}

// prober says that it is this worker that probes.
func (c *circuit) prober() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.probing
}

func (c *circuit) off() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cfg.Off
}
