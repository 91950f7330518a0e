package jobs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"
	"go.opentelemetry.io/otel/trace"

	"github.com/fraiseql/weir/internal/action"
	"github.com/fraiseql/weir/internal/breaker"
	"github.com/fraiseql/weir/internal/cache"
	"github.com/fraiseql/weir/internal/dedup"
	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/index"
	"github.com/fraiseql/weir/internal/lease"
	"github.com/fraiseql/weir/internal/observer"
	"github.com/fraiseql/weir/internal/rule"
)

// MetaDeadLetter is the metadata key that marks a job which we gave up at once (River calls it cancelled) as a dead
// letter, and tells it from one that a person cancelled. Its value is a short code of the reason.
const MetaDeadLetter = "weir_dead_letter"

const (
	metaFirstWait = "weir_waiting_since" // when the receiver first asked us to come back later
	// freeWaiting is how long a receiver may put us off (429, 503 with Retry-After) before it costs attempts.
	freeWaiting = 24 * time.Hour
	// awayPause is how long a delivery waits that Weir's own database has interrupted.
	awayPause = time.Second
	// loadTime is how long the event may take to be read.
	loadTime = 10 * time.Second
)

// runner works deliveries. What differs from one type of action to the next is in the action.
type runner struct {
	pool      *pgxpool.Pool
	functions *pgxpool.Pool
	lease     *lease.Lease
	index     *index.Index
	set       *atomic.Pointer[observer.Set]
	turns     *turns
	panel     *breaker.Panel
	claims    dedup.Claims
	marks     *dedup.Marks    // nil without Redis
	results   *cache.Results  // nil without Redis
	made      *made           // nil without Redis
	ending    <-chan struct{} // closed when the worker stops
	strangers strangers       // for whom deliveries wait
	metrics   *metrics
	tracer    trace.Tracer // nil: nothing is traced
	log       *slog.Logger
}

// delivery is one attempt on its way through the chain.
type delivery struct {
	job   *rivertype.JobRow
	args  Args
	bound *observer.Bound
	rec   index.Record
	env   *rule.Env // of rec
	out   event.Outcome
	began time.Time

	span    trace.SpanContext // of the attempt; not valid when traces are off
	how     string            // the outcome of the attempt
	failure error             // and why

	called    bool // with success
	completed bool // by the action, in its own transaction

	as    uuid.UUID                     // the identity, if it is not that of args
	of    uuid.UUID                     // what a replay repeats, then
	asked time.Time                     // when holds were asked for
	holds []func(context.Context) error // ask again for what others share
}

// id is the delivery's identity for everybody outside.
func (d *delivery) id() uuid.UUID {
	if d.as != uuid.Nil {
		return d.as
	}
	return d.args.DeliveryID()
}

// replayOf is the delivery that a replay repeats.
func (d *delivery) replayOf() uuid.UUID {
	if d.as != uuid.Nil {
		return d.of
	}
	return d.args.ReplayOf()
}

type step func(context.Context, *delivery) error

// chain is what happens around an action, the outermost first. The order is the design.
func (r *runner) chain() step {
	s := r.act
	for _, wrap := range slices.Backward([]func(step) step{
		r.unpaused, // whether a person has paused the observer
		r.traced,   // the attempt, as a span
		r.resolve,  // which action, in the configuration of now
		r.inOrder,  // whether it is the delivery's turn
		r.conclude, // River's verb, outcome, metrics
		r.once,     // whether an earlier attempt got through
		r.deduped,  // whether another delivery has made the call, or makes it
		r.cached,   // whether another delivery has left its result
		r.admit,    // breaker and rate limit
		r.stillHeld,
		r.load,     // the event
		r.deadline, // the action's timeout
		r.calling,  // the call, as a span
	}) {
		s = wrap(s)
	}
	return s
}

// resolve finds the action by name in the current configuration, so that a corrected URL also helps deliveries that
// are already queued. What nobody knows waits, then dies.
func (r *runner) resolve(next step) step {
	return func(ctx context.Context, d *delivery) error {
		bound, ok := r.set.Load().Lookup(d.args.Observer, d.args.Action)
		if ok {
			d.bound = bound
			r.known(ctx, d.job)
			return next(ctx, d)
		}
		if wait := r.await(ctx, d.job, d.args); wait != nil {
			d.how = waiting
			return wait
		}
		err := fmt.Errorf("no observer %s with an action %s in the configuration, and the delivery is an hour old",
			d.args.Observer, d.args.Action)
		r.metrics.deliveries.WithLabelValues("", actionType(d.job.Kind), dead).Inc()
		d.how, d.failure = dead, err
		return bury(ctx, "unknown_observer", err)
	}
}

// conclude turns what came of the attempt into River's verbs, and records it with the job.
func (r *runner) conclude(next step) step {
	return func(ctx context.Context, d *delivery) error {
		d.began, d.asked = time.Now(), time.Now()
		r.metrics.queueWait.WithLabelValues(d.bound.Action.Type()).Observe(seconds(d.began.Sub(d.job.ScheduledAt)))
		err := next(ctx, d)
		if _, verb := postponed(err); verb == nil {
			r.metrics.duration.WithLabelValues(d.bound.Action.Type()).Observe(seconds(time.Since(d.began)))
		}
		how, verb := r.judge(ctx, d, err)
		d.how, d.failure = how, err
		r.metrics.deliveries.WithLabelValues(d.args.Observer, d.bound.Action.Type(), how).Inc()
		if isSuccess(how) || how == dead || how == dropped {
			r.metrics.attempts.WithLabelValues(d.bound.Action.Type()).Observe(float64(d.job.Attempt))
		}
		d.out.DurationMS = time.Since(d.began).Milliseconds()
		if recErr := river.RecordOutput(ctx, output{Result: how, Outcome: d.out}); recErr != nil {
			r.log.Error("outcome not recorded", append(d.attrs(), "error", recErr)...)
		}
		return verb
	}
}

// output is what a job keeps of its last attempt.
type output struct {
	Result string `json:"result"`
	event.Outcome
}

// judge says how the attempt ended and what River is to do.
func (r *runner) judge(ctx context.Context, d *delivery, err error) (how string, verb error) {
	failure := &action.Error{Err: err} // what is not classified is tried again
	errors.As(err, &failure)
	// The budget is in the job's row. A configuration that has less now also holds for what is queued: River discards by this row.
	d.job.MaxAttempts = min(d.job.MaxAttempts, d.bound.Retry.MaxAttempts)
	if how, verb := postponed(err); verb != nil {
		return how, verb
	}
	switch {
	case err == nil:
		how = success(d.out)
		if how == delivered && d.rec.Event != nil && d.args.Replay == uuid.Nil {
			r.metrics.latency.WithLabelValues(d.bound.Action.Type()).
				Observe(seconds(time.Since(time.Time(d.rec.Event.CommitTime))))
		}
		return how, nil
	case errors.Is(err, errNotOurs), ctx.Err() != nil && errors.Is(err, context.Canceled):
		return stopped, err // River makes the job available again, at no attempt
	case r.lease.Check() != nil:
		return stopped, river.JobSnooze(awayPause) // perhaps somebody else's by now, who is to say how it ended
	case interruptedFree(ctx, d, err):
		r.log.Info("Weir's own database went away, the delivery starts again", append(d.attrs(), "error", short(err.Error()))...)
		return stopped, river.JobSnooze(awayPause)
	case failure.Class == action.ClassLater && r.waitsFree(ctx, d):
		r.log.Info("the receiver asks for a pause", append(d.attrs(), "error", failure.Error(), "pause", failure.After)...)
		return waiting, river.JobSnooze(failure.After)
	case failure.Class == action.ClassFinal:
		if r.giveUp(d, err) {
			return dead, bury(ctx, failure.Code, err)
		}
		return dropped, river.JobCancel(errors.New(short(err.Error())))
	case d.job.Attempt >= d.job.MaxAttempts:
		if r.giveUp(d, err) {
			return dead, errors.New(short(err.Error())) // River discards it
		}
		return dropped, river.JobCancel(errors.New(short(err.Error())))
	default:
		r.log.Info("delivery failed, it will be tried again", append(d.attrs(), "error", short(err.Error()))...)
		return retried, errors.New(short(err.Error()))
	}
}

// success names how a delivery has come to its end without a failure.
func success(out event.Outcome) string {
	switch {
	case out.DuplicateOf != nil:
		return duplicate
	case out.Cached:
		return cachedResult
	default:
		return delivered
	}
}

// waitsFree says that the receiver may put this delivery off at no cost: for a day from the first time.
func (r *runner) waitsFree(ctx context.Context, d *delivery) bool {
	since := time.Now()
	if t, ok := metaTime(d.job.Metadata, metaFirstWait); ok {
		since = t
	} else if err := river.MetadataSet(ctx, metaFirstWait, since.UTC().Format(time.RFC3339)); err != nil {
		r.log.Error("waiting time not recorded", append(d.attrs(), "error", err)...)
	}
	return time.Since(since) < freeWaiting
}

// giveUp does what the observer's on_failure says about a delivery that failed for good, and returns whether it is kept
// as a dead letter.
func (r *runner) giveUp(d *delivery, err error) (keep bool) {
	attrs := append(d.attrs(), "error", short(err.Error()))
	switch d.bound.OnFailure {
	case observer.OnFailureLog:
		r.log.Error("delivery failed for good and is not kept (on_failure: log)", attrs...)
		return false
	case observer.OnFailureAlert:
		r.metrics.alerts.WithLabelValues(d.args.Observer).Inc()
		r.log.Error("delivery failed for good (on_failure: alert), it is a dead letter", attrs...)
	case observer.OnFailureDLQ:
		r.log.Warn("delivery failed for good, it is a dead letter", attrs...)
	}
	return true
}

// bury makes the job a dead letter at once.
func bury(ctx context.Context, code string, err error) error {
	if metaErr := river.MetadataSet(ctx, MetaDeadLetter, code); metaErr != nil {
		return fmt.Errorf("mark the dead letter: %w", metaErr)
	}
	return river.JobCancel(errors.New(short(err.Error())))
}

// load reads the event that the job names.
func (r *runner) load(next step) step {
	return func(ctx context.Context, d *delivery) error {
		if err := r.fetch(ctx, d); err != nil {
			return err
		}
		return next(ctx, d)
	}
}

// fetch reads the event unless that has been done.
func (r *runner) fetch(ctx context.Context, d *delivery) error {
	if d.rec.Event != nil {
		return nil
	}
	rec, err := r.loadInTime(ctx, d.args)
	if errors.Is(err, index.ErrNotFound) {
		return action.Final("event_gone", err)
	}
	if err == nil {
		d.rec, d.env = rec, rule.NewEnv(rec.Event)
	}
	return err
}

func (r *runner) loadInTime(ctx context.Context, a Args) (index.Record, error) {
	ctx, cancel := context.WithTimeout(ctx, loadTime)
	defer cancel()
	rec, err := loadEvent(ctx, r.pool, r.index, a)
	if errors.Is(err, context.DeadlineExceeded) { // this one's, or that of the query that others wait for, too
		return rec, awayError{fmt.Errorf("the database did not answer within %s: %w", loadTime, err)}
	}
	return rec, away(err)
}

// deadline is the action's own timeout; River's, which is longer, would not tell who took too long.
func (r *runner) deadline(next step) step {
	return func(ctx context.Context, d *delivery) error {
		timeout := d.bound.Action.Timeout()
		ctx, cancel := context.WithTimeoutCause(ctx, timeout, timeoutError(timeout))
		defer cancel()
		return next(ctx, d)
	}
}

// timeoutError is an action's timeout, as the error of who has reached it.
type timeoutError time.Duration

func (t timeoutError) Error() string {
	return fmt.Sprintf("the action took longer than its timeout of %s", time.Duration(t))
}

// act runs the action. One that panics has failed like any other: River would keep the panic's trace with each attempt,
// and nobody would count it.
func (r *runner) act(ctx context.Context, d *delivery) (err error) {
	defer func() {
		if p := recover(); p != nil {
			r.log.Error("an action panicked", append(d.attrs(), "panic", p, "stack", string(debug.Stack()))...)
			err = action.Retry("panic", fmt.Errorf("the action panicked: %v", p))
		}
	}()
	out, err := d.bound.Action.Do(ctx, action.Call{
		Event: d.rec.Event, Payload: d.rec.Payload, Env: d.env,
		Observer: d.args.Observer, Action: d.args.Action, DeliveryID: d.id(), ReplayOf: d.replayOf(),
		Attempt: d.job.Attempt,
		CompleteTx: func(ctx context.Context, work func(context.Context, pgx.Tx) (event.Outcome, error)) error {
			return r.completeTx(ctx, d, work)
		},
		Refresh: func(ctx context.Context, observer, act string) (event.Outcome, error) {
			return r.refresh(ctx, d, observer, act)
		},
	})
	d.out, d.called = out, err == nil
	return err
}

// attrs are what every line about a delivery says. The trace is named where the event has been loaded and has one.
func (d *delivery) attrs() []any {
	attrs := []any{
		"observer", d.args.Observer, "action", d.args.Action, "event_id", d.args.EventID, "delivery_id", d.id(),
		"job_id", d.job.ID, "attempt", d.job.Attempt, "max_attempts", d.job.MaxAttempts,
	}
	if id := d.traceID(); id != "" {
		attrs = append(attrs, "trace_id", id)
	}
	return attrs
}
