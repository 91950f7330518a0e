package breaker

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/fraiseql/weir/internal/store"
)

const (
	// followEvery is how often the table is read.
	followEvery = time.Second
	// followTime bounds a look: a connection may be dead without anybody having said so.
	followTime = 5 * time.Second
	// handBackTime bounds what a worker still does about its probes when it stops.
	handBackTime = 2 * time.Second
)

// Run keeps the panel and the table in step until the context ends, and hands back what this worker probes then.
func (p *Panel) Run(ctx context.Context) {
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	logged := ""
	for {
		select {
		case <-ctx.Done():
			p.handBack(context.WithoutCancel(ctx))
			return
		case <-tick.C:
		case <-p.kick:
		}
		err := p.Follow(ctx)
		switch {
		case err == nil:
			logged = ""
		case ctx.Err() == nil && err.Error() != logged:
			p.log.Warn("circuit breakers not followed, trying again", "error", err)
			logged = err.Error()
		}
	}
}

// Follow writes down what this worker has decided, takes over what others have, and probes endpoints whose time has come.
func (p *Panel) Follow(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, followTime, fmt.Errorf("the database did not answer within %s", followTime))
	defer cancel()
	if err := p.settle(ctx); err != nil {
		return err
	}
	rows, err := p.look(ctx)
	if err != nil {
		return err
	}
	acted, err := p.act(ctx, rows)
	if err != nil || !acted {
		return err
	}
	_, err = p.look(ctx)
	return err
}

// look reads the table and takes it over.
func (p *Panel) look(ctx context.Context) ([]store.FollowEndpointsRow, error) {
	rows, err := store.New().FollowEndpoints(ctx, p.db)
	if err != nil {
		return nil, fmt.Errorf("read the circuit breakers: %w", err)
	}
	rows = p.takePauses(rows)
	gone := map[Action]string{}
	for _, r := range rows {
		if r.Action != "" {
			gone[Action{r.Endpoint, r.Action}] = r.Reason
			continue
		}
		if c := p.circuit(r.Endpoint); c != nil && c.adopt(p.rowOf(r)) {
			p.sayAdopted(r)
		}
	}
	p.adoptGone(gone)
	return rows, nil
}

func (p *Panel) rowOf(r store.FollowEndpointsRow) row {
	one := row{
		state: State(r.State), reason: r.Reason, by: r.ChangedBy, since: r.ChangedAt, manual: r.Manual,
		probing: State(r.State) == HalfOpen && r.ChangedBy == p.me, left: -1,
	}
	if r.OpenUntil.Unix() > 0 {
		one.left = max(0, r.OpenUntil.Sub(r.Now))
	}
	return one
}

func (p *Panel) sayAdopted(r store.FollowEndpointsRow) {
	p.metrics.turned(r.Endpoint, State(r.State))
	p.log.Info("circuit breaker changes", "endpoint", r.Endpoint, "state", r.State, "reason", r.Reason, "by", r.ChangedBy)
	p.turned()
}

// adoptGone takes over which actions are gone, save those that this worker has yet to write down.
func (p *Panel) adoptGone(gone map[Action]string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for a, target := range p.unsaid {
		gone[a] = target
	}
	for a, target := range gone {
		if p.targets[a] == target && p.gone[a] != target {
			p.sayGone(a)
		}
	}
	p.gone = gone
	p.countGone()
}

// act does what is this worker's to do about the rows. It returns whether some may have changed.
func (p *Panel) act(ctx context.Context, rows []store.FollowEndpointsRow) (acted bool, err error) {
	if err := p.addMissing(ctx, rows); err != nil {
		return false, err
	}
	for _, r := range rows {
		var n int64
		switch c := p.circuit(r.Endpoint); {
		case r.Action != "":
			n, err = p.forgetTarget(ctx, r)
		case State(r.State) == Closed:
		case c == nil:
			if r.ChangedBy == p.me && State(r.State) == HalfOpen {
				n, err = p.conclude(ctx, r.Endpoint, Open, 0, "handed back: the prober's configuration has no such endpoint any more")
			}
		case c.off():
			if State(r.State) == HalfOpen || r.Due || !r.Manual {
				n, err = store.New().SwitchOff(ctx, p.db, store.SwitchOffParams{
					Name: r.Endpoint, Me: p.me, Reason: "the configuration has no breaker here",
				})
			}
		case c.holds(): // nothing would be let through: who probes is left as it is
		case r.Due, r.Orphan:
			n, err = store.New().ProbeEndpoint(ctx, p.db, store.ProbeEndpointParams{Name: r.Endpoint, Me: p.me, Was: r.ChangedBy})
		}
		if err != nil {
			return false, fmt.Errorf("write the circuit breaker of endpoint %s: %w", r.Endpoint, err)
		}
		acted = acted || n > 0
	}
	return acted, nil
}

// addMissing makes rows for endpoints that have none, so that people see them and the rate limit has its row.
func (p *Panel) addMissing(ctx context.Context, rows []store.FollowEndpointsRow) error {
	p.mu.Lock()
	missing := map[string]bool{}
	for name := range p.circuits {
		missing[name] = true
	}
	p.mu.Unlock()
	for _, r := range rows {
		if r.Action == "" {
			delete(missing, r.Endpoint)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	if err := store.New().AddEndpoints(ctx, p.db, slices.Collect(maps.Keys(missing))); err != nil {
		return fmt.Errorf("add endpoints: %w", err)
	}
	return nil
}

// forgetTarget removes an action that is gone and has another target by now.
func (p *Panel) forgetTarget(ctx context.Context, r store.FollowEndpointsRow) (int64, error) {
	p.mu.Lock()
	target, known := p.targets[Action{r.Endpoint, r.Action}]
	p.mu.Unlock()
	if !known || target == r.Reason {
		return 0, nil
	}
	n, err := store.New().RemoveGone(ctx, p.db, store.RemoveGoneParams{Observer: r.Endpoint, Action: r.Action, Target: &r.Reason})
	if n > 0 {
		p.log.Info("an action that was gone has another target: it delivers again", "observer", r.Endpoint, "action", r.Action)
	}
	return n, err
}

// settle writes down what this worker has decided. Where somebody else was first, the row's word holds.
func (p *Panel) settle(ctx context.Context) error {
	p.mu.Lock()
	circuits := slices.Collect(maps.Values(p.circuits))
	unsaid := maps.Clone(p.unsaid)
	p.mu.Unlock()
	for _, c := range circuits {
		d, ok := c.decided()
		if !ok {
			continue
		}
		if err := p.write(ctx, c.name, d); err != nil {
			return fmt.Errorf("write the circuit breaker of endpoint %s: %w", c.name, err)
		}
		c.said(d)
	}
	for a, target := range unsaid {
		err := store.New().AddGone(ctx, p.db, store.AddGoneParams{Observer: a.Observer, Action: a.Action, Target: target})
		if err != nil {
			return fmt.Errorf("write that an action is gone: %w", err)
		}
		p.mu.Lock()
		if p.unsaid[a] == target {
			delete(p.unsaid, a)
		}
		p.mu.Unlock()
	}
	return nil
}

func (p *Panel) write(ctx context.Context, name string, d decision) (err error) {
	switch {
	case d.from == Closed && d.state == Open:
		_, err = store.New().TripBreaker(ctx, p.db, store.TripBreakerParams{
			Name: name, Me: p.me, Reason: d.reason, OpenFor: d.openFor.Seconds(),
		})
	case d.from == HalfOpen:
		_, err = p.conclude(ctx, name, d.state, d.openFor, d.reason)
	}
	return err
}

// conclude ends this worker's probes.
func (p *Panel) conclude(ctx context.Context, name string, to State, openFor time.Duration, reason string) (int64, error) {
	params := store.ConcludeProbesParams{Name: name, Me: p.me, State: string(to), Reason: reason}
	if to == Open {
		s := openFor.Seconds()
		params.OpenFor = &s
	}
	return store.New().ConcludeProbes(ctx, p.db, params)
}

// handBack leaves to others what this worker was probing: it stops.
func (p *Panel) handBack(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, handBackTime)
	defer cancel()
	err := p.settle(ctx)
	p.mu.Lock()
	var probed []string
	for name, c := range p.circuits {
		if c.prober() {
			probed = append(probed, name)
		}
	}
	p.mu.Unlock()
	for _, name := range probed {
		if err == nil {
			_, err = p.conclude(ctx, name, Open, 0, "handed back: the prober stops")
		}
	}
	if err != nil {
		p.log.Info("circuit breakers not handed back, others will notice", "error", err)
	}
}
