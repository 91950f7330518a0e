package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/fraiseql/weir/internal/action"
	"github.com/fraiseql/weir/internal/breaker"
	"github.com/fraiseql/weir/internal/cache"
	"github.com/fraiseql/weir/internal/dedup"
	"github.com/fraiseql/weir/internal/event"
)

// What keeps a call from being made twice: the mark that a delivery has been made, the claim that deliveries with the same key
// share, and the result that an earlier one has left. All three may be lost at any moment, with Redis, which costs repeated
// calls and nothing else.

const (
	// heldSlack is how much longer than the action's own timeout a claim lasts: what it takes to ask, and to say how it ended.
	heldSlack = 10 * time.Second
	// heldFresh is how old a claim may be when the call begins. One that has waited longer, for a rate limit, is asked for again.
	heldFresh = time.Second
	// heldParts is into how many parts the lease of what is held is divided: it is asked for again after each.
	heldParts = 3
	// resultWait is how long a delivery waits in its place for another one's result, before it is put off.
	resultWait = time.Second
	// concludeTime bounds what is said about a call that has ended.
	concludeTime = 2 * time.Second
	// busyFirst is the first pause of a delivery that meets another's claim. It doubles up to busyMost: more would make River write
	// the job twice.
	busyFirst = 250 * time.Millisecond
	busyMost  = 4 * time.Second
	busyLeast = 50 * time.Millisecond
	// requiredPause is that of a delivery that must not go on without dedup.
	requiredPause = 3 * time.Second
)

// Results of a look, for weir_dedup_lookups_total.
const (
	lookupNew         = "new"
	lookupBusy        = "busy"
	lookupDuplicate   = "duplicate"
	lookupRepeat      = "repeat"
	lookupUnavailable = "unavailable"
)

// busyError puts a delivery off that shares its call with another one, which is making it, or that must not go on without dedup.
type busyError struct {
	after  time.Duration
	reason string
}

func (e *busyError) Error() string { return e.reason }

// busy puts a delivery off for no longer than the claim that it has met lasts.
func busy(d *delivery, left time.Duration, reason string) error {
	pause := min(left, busyFirst<<min(snoozes(d.job.Metadata), 8), busyMost)
	return &busyError{after: max(pause, busyLeast), reason: reason}
}

// settledError says, from within, that a call is not to be made any more: it was made while the delivery waited for its moment.
type settledError struct{ answer dedup.Answer }

func (e *settledError) Error() string { return "another delivery has made the call meanwhile" }

// unmarked are the types of actions that need no mark: they take effect once anyway, or again without harm. Elasticsearch refuses
// the repeat of a search action by its version.
var unmarked = map[string]bool{"database": true, "log": true, "cache": true, "search": true}

// once drops the repeat of a call that has succeeded: its worker died before the delivery was completed. A first attempt repeats
// nothing, so only others look; nor does one of a delivery that was completed, which a person wants again.
func (r *runner) once(next step) step {
	return func(ctx context.Context, d *delivery) error {
		if r.marks == nil || unmarked[d.bound.Action.Type()] {
			return next(ctx, d)
		}
		if len(d.job.AttemptedBy) > 1 && !isSuccess(readMark(d.job.Metadata).Output.Result) {
			status, made, err := r.marks.Has(ctx, d.id())
			switch {
			case err != nil:
				r.lookedUp(ctx, lookupUnavailable)
			case made:
				r.lookedUp(ctx, lookupRepeat)
				d.out.ResponseStatus = status
				return r.settle(d, dedup.Answer{State: dedup.Repeat})
			}
		}
		err := next(ctx, d)
		if err == nil && d.called {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), concludeTime)
			defer cancel()
			if markErr := r.marks.Set(ctx, d.id(), d.out.ResponseStatus); markErr != nil {
				r.log.Debug("delivery not marked as made", append(d.attrs(), "error", markErr)...)
			}
		}
		return err
	}
}

// lookedUp counts what a look has found.
func (r *runner) lookedUp(ctx context.Context, result string) {
	r.metrics.dedup.WithLabelValues(result).Inc()
	r.note(ctx, "dedup", result)
}

// deduped lets one of the deliveries with the same key make the call.
func (r *runner) deduped(next step) step {
	return func(ctx context.Context, d *delivery) error {
		asked := d.bound.Action.Dedup()
		if asked == nil {
			return next(ctx, d)
		}
		if err := r.fetch(ctx, d); err != nil {
			return err
		}
		key, err := asked.Render(d.env)
		if err != nil {
			return err
		}
		c := &claim{
			runner: r, of: d, required: asked.Required,
			key:    dedup.Key{Observer: d.args.Observer, Action: d.args.Action, Key: key},
			holder: dedup.Holder{Delivery: d.id(), Attempt: uuid.New()},
		}
		if err = c.take(ctx); err == nil {
			d.holds = append(d.holds, c.take)
			err = next(ctx, d)
			c.conclude(ctx, err, asked.Window.Std())
		}
		var settled *settledError
		if errors.As(err, &settled) {
			return r.settle(d, settled.answer)
		}
		return err
	}
}

// settle concludes a delivery whose call was made before.
func (r *runner) settle(d *delivery, answer dedup.Answer) error {
	if answer.State == dedup.Duplicate {
		d.out.DuplicateOf = &answer.Of
		return nil
	}
	r.log.Info("an earlier attempt of the delivery got through, it is not repeated", d.attrs()...)
	return nil
}

// claim is a delivery's claim to the call that it shares with others.
type claim struct {
	runner   *runner
	of       *delivery
	key      dedup.Key
	holder   dedup.Holder
	required bool
	held     bool
}

// take asks for the claim, or again for one that is held. Its error says what is to become of the delivery. Who was stopped and
// may have been declared dead does not ask: the delivery may have another attempt by now, whose claim it would take and give
// back.
func (c *claim) take(ctx context.Context) error {
	if err := c.runner.lease.Check(); err != nil {
		return away(err)
	}
	count := func(result string) { c.runner.lookedUp(ctx, result) }
	timed, cancel := context.WithTimeout(ctx, loadTime)
	defer cancel()
	answer, err := c.runner.claims.Claim(timed, c.key, c.holder, c.of.bound.Action.Timeout()+heldSlack)
	var redisAway *cache.AwayError
	switch {
	case errors.As(err, &redisAway) && ctx.Err() == nil:
		count(lookupUnavailable)
		if c.required {
			return &busyError{after: requiredPause, reason: "dedup is required, and " + err.Error()}
		}
		return nil
	case err != nil && ctx.Err() != nil:
		return ctx.Err() // not what failed for that reason: it would count as an attempt
	case err != nil && timed.Err() != nil:
		return awayError{fmt.Errorf("dedup: the database did not answer within %s: %w", loadTime, err)}
	case err != nil:
		return away(fmt.Errorf("dedup: %w", err))
	}
	switch answer.State {
	case dedup.Busy:
		count(lookupBusy)
		return busy(c.of, answer.After, "delivery "+answer.Of.String()+" makes the call")
	case dedup.Duplicate:
		count(lookupDuplicate)
		return &settledError{answer}
	case dedup.Repeat:
		count(lookupRepeat)
		return &settledError{answer}
	case dedup.Claimed:
		if !c.held {
			count(lookupNew)
		}
		c.held = true
	}
	return nil
}

// conclude begins the window, or gives the claim back: also when it was never had, since Redis may be back, and may have
// done what it did not answer to. Who was stopped and may have been declared dead gives nothing back: the call that it was making
// may have arrived, and it is for the delivery's next attempt, which takes the claim over at once, to find that out.
func (c *claim) conclude(ctx context.Context, failure error, window time.Duration) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), concludeTime)
	defer cancel()
	var err error
	switch {
	case failure == nil:
		err = c.runner.claims.Done(ctx, c.key, c.holder, window)
	case c.runner.lease.Check() == nil:
		err = c.runner.claims.Release(ctx, c.key, c.holder)
	}
	if err != nil {
		c.runner.log.Debug("claim not concluded", append(c.of.attrs(), "error", err)...)
	}
}

// cached takes the result of an earlier delivery with the same key, or keeps this one's for later ones.
func (r *runner) cached(next step) step {
	return func(ctx context.Context, d *delivery) error {
		asked := d.bound.Action.ResultCache()
		if asked == nil || r.results == nil {
			return next(ctx, d)
		}
		if err := r.fetch(ctx, d); err != nil {
			return err
		}
		key, tags, err := asked.Render(d.env)
		if err != nil {
			return err
		}
		lease := d.bound.Action.Timeout() + heldSlack
		found := r.results.Get(ctx, cache.Key{Observer: d.args.Observer, Action: d.args.Action, Key: key}, tags, lease, resultWait)
		switch found.Found {
		case cache.Hit:
			if json.Unmarshal(found.Value, &d.out) == nil {
				d.out.Cached = true
				r.note(ctx, "cache", "hit")
				return nil
			}
			return next(ctx, d) // of another version of this program
		case cache.Busy:
			r.note(ctx, "cache", "busy")
			return busy(d, found.After, "another delivery gets the result")
		case cache.Away:
			r.note(ctx, "cache", "unavailable")
			return next(ctx, d)
		case cache.Miss:
			r.note(ctx, "cache", "miss")
		}
		d.holds = append(d.holds, func(ctx context.Context) error {
			found.Fill.Hold(ctx, lease) // lost, the call is made all the same, and its result not kept
			return nil
		})
		err = next(ctx, d)
		r.keep(ctx, d, found.Fill, err, asked.TTL.Std())
		return err
	}
}

// keep stores a result, or lets the next one make the call.
func (r *runner) keep(ctx context.Context, d *delivery, fill *cache.Fill, failure error, ttl time.Duration) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), concludeTime)
	defer cancel()
	value, err := json.Marshal(d.out)
	if failure != nil || err != nil || !d.called {
		fill.Abandon(ctx)
		return
	}
	fill.Store(ctx, value, ttl)
}

// stillHeld asks again for what has been held for a while.
func (r *runner) stillHeld(next step) step {
	return func(ctx context.Context, d *delivery) error {
		if err := r.lease.Check(); err != nil {
			return away(err) // it may be somebody else's call by now
		}
		if time.Since(d.asked) > heldFresh {
			if err := d.hold(ctx); err != nil {
				return err
			}
		}
		return next(ctx, d)
	}
}

// hold asks again for what is held.
func (d *delivery) hold(ctx context.Context) error {
	for _, hold := range d.holds {
		if err := hold(ctx); err != nil {
			return err
		}
	}
	return nil
}

// waitHolding waits for the moment of the call and goes on holding what is held. If leases ran out meanwhile, others would come
// in and wait for a moment of their own; whose moment had come would find another one's claim, and nobody would ever call.
func (r *runner) waitHolding(ctx context.Context, d *delivery, pass *breaker.Pass) error {
	if len(d.holds) == 0 {
		return pass.Wait(ctx, r.ending)
	}
	waiting, cancel := context.WithCancel(ctx)
	var lost error
	var holding sync.WaitGroup
	holding.Go(func() {
		tick := time.NewTicker((d.bound.Action.Timeout() + heldSlack) / heldParts)
		defer tick.Stop()
		for lost == nil {
			select {
			case <-waiting.Done():
				return
			case <-tick.C:
				lost = d.hold(ctx) // not cut off by the end of the wait: that would break a connection
			}
		}
		cancel()
	})
	err := pass.Wait(waiting, r.ending)
	cancel()
	holding.Wait()
	if lost != nil {
		return lost
	}
	return err
}

// refresh makes another action's call for this delivery's event and puts its result in the place of the one that is kept. The
// call is this delivery's: the receiver would drop that of the other one as a repeat.
func (r *runner) refresh(ctx context.Context, d *delivery, observer, act string) (event.Outcome, error) {
	bound, ok := r.set.Load().Lookup(observer, act)
	if !ok || bound.Action.ResultCache() == nil || r.results == nil {
		return event.Outcome{}, action.Final("not_cached", fmt.Errorf("%s/%s keeps no result", observer, act))
	}
	asked := bound.Action.ResultCache()
	key, tags, err := asked.Render(d.env)
	if err != nil {
		return event.Outcome{}, err
	}
	other := &delivery{
		job: d.job, args: d.args, bound: bound, rec: d.rec, env: d.env, as: d.id(), of: d.replayOf(),
		span: d.span,
	}
	other.args.Observer, other.args.Action = observer, act
	var renewal *cache.Renewal
	var away error
	call := func(ctx context.Context, other *delivery) error {
		key := cache.Key{Observer: observer, Action: act, Key: key}
		if renewal, away = r.results.Renew(ctx, key, tags, bound.Action.Timeout()+heldSlack); away != nil {
			return away // before a call whose result would be lost
		}
		return r.deadline(r.calling(r.act))(ctx, other)
	}
	err = r.admit(call)(ctx, other)
	switch {
	case away != nil:
		return other.out, action.RedisAway(ctx, away)
	case err != nil:
		return other.out, notOurEndpoint(err)
	}
	value, err := json.Marshal(other.out)
	if err != nil {
		return other.out, err
	}
	err = renewal.Store(ctx, value, asked.TTL.Std())
	if err != nil && !errors.Is(err, cache.ErrTooLarge) { // another call would not make it smaller; the old one is gone
		return other.out, action.RedisAway(ctx, err)
	}
	return other.out, nil
}

// notOurEndpoint is a failure that says nothing about the endpoint, nor the target, of the action that has asked for the call.
func notOurEndpoint(err error) error {
	var failure *action.Error
	if !errors.As(err, &failure) {
		return err
	}
	theirs := *failure
	theirs.Sick, theirs.Code = false, "refresh_"+failure.Code
	return &theirs
}

// snoozes is how often River has put a job off.
func snoozes(metadata []byte) int {
	var meta struct {
		Snoozes int `json:"snoozes"`
	}
	_ = json.Unmarshal(metadata, &meta) // none is 0
	return meta.Snoozes
}
