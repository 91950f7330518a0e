package breaker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fraiseql/weir/internal/setting"
	"github.com/fraiseql/weir/internal/store"
)

// Options is what a Panel needs.
type Options struct {
	DB       store.DBTX
	ClientID string // has a lease for as long as Run runs
	// Turned is called after an endpoint may be called, or may no longer be called, by as many as before. It must not block.
	Turned func()
	// QueueOf names the queue of an endpoint, by which it is paused. nil: it has the endpoint's name.
	QueueOf func(endpoint string) string
	// Resumed is called when an observer is not paused any more, and StreamPaused with each look at which the stream is. They must
	// not block. Optional.
	Resumed, StreamPaused func()
	Logger                *slog.Logger
	Registerer            prometheus.Registerer
}

// Endpoint is what an endpoint is configured to be.
type Endpoint struct {
	Breaker   Config // with defaults
	RateLimit setting.Rate
}

// Action names an action of an observer.
type Action struct{ Observer, Action string }

// Panel is the breakers and limits of all endpoints of a worker. Safe for concurrent use.
type Panel struct {
	db      store.DBTX
	me      string
	turned  func()
	log     *slog.Logger
	metrics *metrics
	kick    chan struct{} // asks Run to look before its time

	queueOf               func(endpoint string) string
	resumed, streamPaused func()

	mu       sync.Mutex // guards the rest
	circuits map[string]*circuit
	limiters map[string]*limiter
	targets  map[Action]string // configured, by fingerprint
	gone     map[Action]string // of those, whose target is gone: its fingerprint
	unsaid   map[Action]string // what of gone is not written down yet

	pauses    map[held]pause
	observers []string        // in force
	counted   map[held]string // what has a series of the metric
}

// New makes a Panel of no endpoints: Configure it, Follow once, then Run it.
func New(o Options) *Panel {
	if o.QueueOf == nil {
		o.QueueOf = func(endpoint string) string { return endpoint }
	}
	return &Panel{
		queueOf: o.QueueOf, resumed: o.Resumed, streamPaused: o.StreamPaused,
		db: o.DB, me: o.ClientID, turned: o.Turned, log: o.Logger.With("component", "breaker"), metrics: newMetrics(o.Registerer),
		kick: make(chan struct{}, 1), circuits: map[string]*circuit{}, limiters: map[string]*limiter{},
		gone: map[Action]string{}, unsaid: map[Action]string{},
	}
}

// Configure puts endpoints in force, and the targets of the actions that may be gone, by fingerprint. An endpoint that was there
// before keeps its state. It needs no database.
func (p *Panel) Configure(endpoints map[string]Endpoint, targets map[Action]string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, e := range endpoints {
		if c := p.circuits[name]; c != nil {
			c.configure(e.Breaker)
			p.limiters[name].configure(e.RateLimit)
			continue
		}
		c := newCircuit(name, e.Breaker)
		c.hold(p.queuePaused(p.queueOf(name)))
		p.circuits[name] = c
		p.limiters[name] = newLimiter(e.RateLimit, p.log.With("endpoint", name), p.reserver(name))
		p.metrics.expect(name)
	}
	for name := range p.circuits {
		if _, ok := endpoints[name]; !ok {
			delete(p.circuits, name)
			delete(p.limiters, name)
			p.metrics.forget(name)
		}
	}
	for a := range p.targets {
		if _, ok := targets[a]; !ok {
			p.metrics.gone.DeleteLabelValues(a.Observer, a.Action)
		}
	}
	for a := range p.targets {
		if _, ok := targets[a]; !ok {
			p.metrics.gone.DeleteLabelValues(a.Observer, a.Action)
		}
	}
	p.targets = targets
	p.countGone()
	p.countPaused()
	p.ask()
}

// ask has Run look at once.
func (p *Panel) ask() {
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

func (p *Panel) circuit(endpoint string) *circuit {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.circuits[endpoint]
}

// Allowed is how many deliveries to an endpoint may run at once in this worker, of so many that are configured: none while its
// breaker is open, while another worker probes, or while it is paused.
func (p *Panel) Allowed(endpoint string, concurrency int) int {
	c := p.circuit(endpoint)
	if c == nil {
		return concurrency
	}
	return c.allowed(concurrency)
}

// Limited says that an endpoint has a rate limit.
func (p *Panel) Limited(endpoint string) bool {
	p.mu.Lock()
	l := p.limiters[endpoint]
	p.mu.Unlock()
	return l != nil && l.limited()
}

// Enter asks for the permission to call an endpoint. The error is a *RefusedError.
func (p *Panel) Enter(endpoint string) (*Pass, error) {
	p.mu.Lock()
	c, l := p.circuits[endpoint], p.limiters[endpoint]
	stopped := p.queuePaused(p.queueOf(endpoint))
	p.mu.Unlock()
	if c == nil && stopped {
		return nil, &RefusedError{Endpoint: endpoint, Paused: true}
	}
	if c == nil {
		return &Pass{panel: p}, nil // of a configuration that is not in force any more
	}
	pass := c.enter()
	if pass == nil {
		return nil, c.refused()
	}
	pass.panel, pass.limiter = p, l
	return pass, nil
}

// ErrStopping says that the worker stops.
var ErrStopping = errors.New("the worker stops")

// Wait waits for the moment of the call, under the rate limit. It is over early when the context ends, when stopping is closed
// (ErrStopping) and when the state of the breaker changes (*RefusedError).
func (w *Pass) Wait(ctx context.Context, stopping <-chan struct{}) error {
	if w.limiter == nil || !w.limiter.limited() {
		return nil
	}
	began := time.Now()
	outer := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	var watching sync.WaitGroup
	watching.Go(func() {
		select {
		case <-w.shut:
			cancel(w.circuit.refused())
		case <-stopping:
			cancel(ErrStopping)
		case <-ctx.Done():
		}
	})
	err := w.limiter.wait(ctx)
	cancel(nil)
	watching.Wait()
	switch {
	case err == nil:
		w.panel.metrics.wait.Observe(time.Since(began).Seconds())
		return nil
	case outer.Err() != nil:
		return outer.Err() // not its cause: what was canceled is told by that
	default:
		return err
	}
}

// Report says what the call said of the endpoint; why is for people.
func (w *Pass) Report(v Verdict, why string) {
	if w.circuit == nil || !w.circuit.report(w.shut, v, why) {
		return
	}
	d, _ := w.circuit.decided()
	w.panel.metrics.turned(w.circuit.name, d.state)
	if d.state == Open {
		w.panel.log.Warn("circuit breaker opens: no deliveries to this endpoint for a while",
			"endpoint", w.circuit.name, "reason", d.reason, "for", d.openFor.Round(time.Millisecond))
	} else {
		w.panel.log.Info("circuit breaker closes", "endpoint", w.circuit.name, "reason", d.reason)
	}
	w.panel.ask()
	w.panel.turned()
}

// IsGone says that the target of an action has answered 410 Gone, and is still the same.
func (p *Panel) IsGone(a Action, target string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return target != "" && p.gone[a] == target
}

// Gone says that the target of an action has answered 410 Gone: the action is disabled until it has another target, or somebody
// closes it.
func (p *Panel) Gone(a Action, target string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if target == "" || p.targets[a] != target || p.gone[a] == target {
		return
	}
	p.gone[a], p.unsaid[a] = target, target
	p.countGone()
	p.sayGone(a)
	p.ask()
}

func (p *Panel) sayGone(a Action) {
	p.log.Error("the target of an action is gone (410): its deliveries become dead letters until its URL changes or it is closed",
		"observer", a.Observer, "action", a.Action, "mend", "weir breaker close "+a.Observer+"/"+a.Action)
}

// countGone sets the metric. The caller holds mu.
func (p *Panel) countGone() {
	for a, target := range p.targets {
		n := 0.0
		if p.gone[a] == target {
			n = 1
		}
		p.metrics.gone.WithLabelValues(a.Observer, a.Action).Set(n)
	}
}

// Degraded lists, for people, what is not being delivered.
func (p *Panel) Degraded() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	degraded := []string{}
	for name, c := range p.circuits {
		if state, reason := c.now(); state != Closed {
			degraded = append(degraded, fmt.Sprintf("endpoint %s: circuit breaker %s: %s", name, state, reason))
		}
	}
	for a, target := range p.targets {
		if p.gone[a] == target {
			degraded = append(degraded, fmt.Sprintf("action %s/%s: its target is gone (410)", a.Observer, a.Action))
		}
	}
	degraded = append(degraded, p.degradedByPauses()...)
	slices.Sort(degraded)
	return degraded
}

func (p *Panel) reserver(name string) reserve {
	return func(ctx context.Context, gap time.Duration, calls int) (time.Time, bool, error) {
		r, err := store.New().ReserveCalls(ctx, p.db, store.ReserveCallsParams{
			Name: name, Gap: gap.Seconds(), Calls: int32(calls), Ahead: ahead.Seconds(),
		})
		if err != nil {
			return time.Time{}, false, fmt.Errorf("reserve calls to endpoint %s: %w", name, err)
		}
		return time.Now().Add(r.First.Sub(r.Now)), r.Reserved, nil
	}
}
