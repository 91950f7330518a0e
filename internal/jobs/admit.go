package jobs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/riverqueue/river"

	"github.com/fraiseql/weir/internal/action"
	"github.com/fraiseql/weir/internal/breaker"
	"github.com/fraiseql/weir/internal/store"
)

const (
	// refusedHold is how long a delivery keeps its place that was fetched for an endpoint which must not be called: until its
	// queue has no producer any more. At once, it would make room for the next one, and the backlog would be put off.
	refusedHold = 300 * time.Millisecond
	// refusedWait bounds how long it is put off then. It is fetched again when its queue has a producer again, not before.
	// Up to 5 s River leaves the job in its place; above that it writes it a second time.
	refusedWait = 4 * time.Second
)

// errGone is why an action's delivery is a dead letter without a call.
var errGone = errors.New("the target of the action is gone (410): give it another URL, or see weir breaker")

// admit lets a delivery through when its endpoint may be called: not while the breaker is open, nor when the target is gone, and
// under a rate limit when its moment has come. It waits here, holding its place in the queue, before its event is loaded and its
// time runs. What came of the call is the breaker's to know.
func (r *runner) admit(next step) step {
	return func(ctx context.Context, d *delivery) error {
		act := breaker.Action{Observer: d.args.Observer, Action: d.args.Action}
		target := targetOf(d.bound.Action)
		if r.panel.IsGone(act, target) {
			r.note(ctx, "breaker", "gone")
			return action.Final(action.CodeGone, errGone)
		}
		pass, err := r.panel.Enter(d.bound.Action.Endpoint())
		if err != nil {
			r.note(ctx, "breaker", "refused")
			return r.hold(ctx, err)
		}
		verdict, why := breaker.Silent, "" // also of a panic
		defer func() { pass.Report(verdict, why) }()
		if err := r.wait(ctx, d, pass); err != nil {
			return err
		}
		r.note(ctx, "breaker", "admitted")
		if r.panel.IsGone(act, target) { // since it waits
			r.note(ctx, "breaker", "gone")
			return action.Final(action.CodeGone, errGone)
		}
		if err := r.stillUnpaused(d); err != nil {
			return err
		}
		d.began = time.Now()
		err = next(ctx, d)
		if verdict, why = d.verdict(err); verdict == breaker.Healthy && isGone(err) {
			r.panel.Gone(act, target)
		}
		return err
	}
}

// wait waits for the moment of the call. A delivery that has lost a worker before says meanwhile that it only waits: should this
// worker die, too, it is not to blame. The first death makes no dead letter either way, and most deliveries have none.
func (r *runner) wait(ctx context.Context, d *delivery, pass *breaker.Pass) error {
	var meta struct {
		Deaths int  `json:"weir_deaths"`
		Waits  bool `json:"weir_waits"`
	}
	if bytes.Contains(d.job.Metadata, []byte("weir_deaths")) { // hardly ever, and each delivery asks
		_ = json.Unmarshal(d.job.Metadata, &meta) // none is 0
	}
	if meta.Deaths == 0 || (!meta.Waits && !r.limited(d.bound.Action)) {
		return r.waitHolding(ctx, d, pass)
	}
	if err := r.markWaiting(ctx, d, true); err != nil {
		return err
	}
	if err := r.waitHolding(ctx, d, pass); err != nil {
		return err
	}
	return r.markWaiting(ctx, d, false)
}

func (r *runner) markWaiting(ctx context.Context, d *delivery, waits bool) error {
	n, err := store.New().MarkWaiting(ctx, r.pool, store.MarkWaitingParams{ID: d.job.ID, Waits: waits})
	if err == nil && n == 0 {
		err = errNotOurs
	}
	return away(err)
}

// hold keeps a refused delivery in its place for a moment.
func (r *runner) hold(ctx context.Context, err error) error {
	timer := time.NewTimer(refusedHold)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	case <-r.ending:
	}
	return err
}

// verdict is what an attempt says of its endpoint. What has no answer and is not the endpoint's fault says nothing: a template
// that fails, an address that is refused, our own database, a worker that stops.
func (d *delivery) verdict(err error) (v breaker.Verdict, why string) {
	var failure *action.Error
	switch {
	case errors.As(err, &failure) && failure.Sick:
		return breaker.Sick, failure.Error()
	case err == nil, d.out.ResponseStatus != 0:
		return breaker.Healthy, ""
	default:
		return breaker.Silent, ""
	}
}

func isGone(err error) bool {
	var failure *action.Error
	return errors.As(err, &failure) && failure.Code == action.CodeGone
}

// targetOf is the fingerprint of what the action goes to, "" for one that cannot be gone.
func targetOf(a action.Action) string {
	if t, ok := a.(interface{ Target() string }); ok {
		return t.Target()
	}
	return ""
}

// postponed says what River is to do with a delivery that was not let through, and nil for others. It costs no attempt.
func postponed(err error) (how string, verb error) {
	if err == nil {
		return "", nil
	}
	var refused *breaker.RefusedError
	var busy *busyError
	switch {
	case errors.Is(err, breaker.ErrStopping):
		return stopped, river.JobSnooze(0)
	case errors.As(err, &refused):
		wait := min(max(refused.After, time.Second), refusedWait)
		return waiting, river.JobSnooze(wait + time.Duration(rand.Float64()*float64(time.Second)/2))
	case errors.As(err, &busy):
		return waiting, river.JobSnooze(busy.after + time.Duration(rand.Float64()*float64(busy.after)/4))
	default:
		return "", nil
	}
}

// limited says that deliveries of an action may wait for their moment for any length of time.
func (r *runner) limited(a action.Action) bool { return r.panel.Limited(a.Endpoint()) }

// Degraded lists, for people, which endpoints and actions get no deliveries.
func (q *Queue) Degraded() []string { return q.runner.panel.Degraded() }

// followFirst asks which endpoints may be called, before any of them is.
func (q *Queue) followFirst(ctx context.Context) error {
	if err := q.runner.panel.Follow(ctx); err != nil {
		return fmt.Errorf("circuit breakers: %w", err)
	}
	return nil
}
