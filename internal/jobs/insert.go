package jobs

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"go.opentelemetry.io/otel/trace"

	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/observer"
	"github.com/fraiseql/weir/internal/rule"
)

// insertSlice is about how many jobs are held at once, and once more of the batch that is prepared: some 4 MB each with what
// River makes of them. Larger slices are hardly quicker.
const insertSlice = 2000

// matching is what a batch of changes leads to, as far as it has been matched: each of its changes may lead to any number of
// deliveries, which are made and inserted by slices.
type matching struct {
	changes []event.Change
	next    int                      // the first that is not matched yet
	params  []river.InsertManyParams // of those before it, not inserted yet
	made    []bool
	waiting []sequence // those in which something that was inserted waits
	tally   tally
	spans   []trace.Span // of the changes; nothing when traces are off
}

// some matches further changes, until they have led to a slice of jobs or there are no more.
func (m *matching) some(ctx context.Context, q *Queue) {
	clear(m.params)
	m.params = m.params[:0]
	for m.next < len(m.changes) && len(m.params) < insertSlice {
		c, before := &m.changes[m.next], len(m.params)
		if c.Reason != "" {
			m.params = append(m.params, changeJob(&c.Event, "", c.Reason, observer.OrderingNone))
		} else {
			m.params = append(m.params, q.match(&c.Event, "", &m.tally)...)
		}
		m.made = append(m.made, len(m.params) > before)
		if span := q.span(ctx, c, m.params[before:]); span != nil {
			m.spans = append(m.spans, span)
		}
		m.next++
	}
}

// Prepared is a batch whose turn has not come yet, with what could be done for it without the database.
type Prepared struct {
	q *Queue
	m *matching
}

// Prepare matches a batch, beside the transactions of those before. Either Insert or Passed follows, or neither.
func (q *Queue) Prepare(ctx context.Context, changes []event.Change) Prepared {
	m := &matching{changes: changes, made: make([]bool, 0, len(changes))}
	m.some(ctx, q)
	return Prepared{q, m}
}

// Made says, for each of the changes, whether there will be a job for it; nil when so many come of them that Insert has to do the
// rest.
func (p Prepared) Made() []bool {
	if p.m.next < len(p.m.changes) {
		return nil
	}
	return p.m.made
}

// Passed is to be called when the checkpoint has moved over a batch without a job.
func (p Prepared) Passed() {
	p.q.uncommitted = p.m
	p.q.Committed()
}

// Insert is the queue's, for what was prepared. It is called once.
func (p Prepared) Insert(ctx context.Context, tx pgx.Tx) (made []bool, err error) {
	q, m := p.q, p.m
	q.uncommitted = m
	for {
		waiting, err := q.insert(ctx, tx, m.params)
		if err != nil {
			return nil, err
		}
		m.waiting = append(m.waiting, waiting...)
		if m.next == len(m.changes) {
			return m.made, nil
		}
		m.some(ctx, q)
	}
}

// Insert matches the changes and inserts one job for each delivery, in the caller's transaction: they exist exactly
// when the checkpoint has moved over their changes. A change that is no event, and an event for which a condition
// fails, becomes a job of kind weir_change.
//
// One transaction at a time: Committed, or the next Insert, comes before any other.
//
// It returns, for each of the changes, whether there is a job for it.
func (q *Queue) Insert(ctx context.Context, tx pgx.Tx, changes []event.Change) (made []bool, err error) {
	return q.Prepare(ctx, changes).Insert(ctx, tx)
}

// Committed is to be called after the COMMIT of what Insert was called in.
func (q *Queue) Committed() {
	m := q.uncommitted
	if m == nil {
		return
	}
	q.uncommitted = nil
	m.tally.count(q.runner.metrics)
	q.turns.call(m.waiting...)
	for _, span := range m.spans {
		span.End()
	}
}

// insert inserts jobs and returns the sequences in which some of them wait for their turn: after the COMMIT, turns.call has to
// be told, since what they wait for may have ended meanwhile without seeing them.
func (q *Queue) insert(ctx context.Context, tx pgx.Tx, params []river.InsertManyParams) (waiting []sequence, err error) {
	if len(params) == 0 {
		return nil, nil
	}
	if waiting, err = q.turns.arrange(ctx, tx, params); err != nil {
		return nil, err
	}
	if _, err := q.inserter.InsertManyFastTx(ctx, tx, params); err != nil {
		return nil, fmt.Errorf("insert %d jobs: %w", len(params), err)
	}
	return waiting, nil
}

// tally is what matching has found. It counts when it is committed: a batch that the database refuses is matched again.
type tally struct {
	matches, misses, errors []string // observers
	events, unmatched       int
}

func (t *tally) count(m *metrics) {
	for _, observer := range t.matches {
		m.matches.WithLabelValues(observer).Inc()
	}
	for _, observer := range t.misses {
		m.misses.WithLabelValues(observer).Inc()
	}
	for _, observer := range t.errors {
		m.condErrors.WithLabelValues(observer).Inc()
	}
	m.events.Add(float64(t.events))
	m.unmatched.Add(float64(t.unmatched))
}

// match makes the jobs of an event, of all observers or of one.
func (q *Queue) match(e *event.Event, only string, t *tally) []river.InsertManyParams {
	matched := q.set.Load().Match(rule.NewEnv(e), e)
	var params []river.InsertManyParams
	last := ""
	for _, b := range matched.Deliveries {
		if only != "" && b.Observer != only {
			continue
		}
		if b.Observer != last {
			t.matches = append(t.matches, b.Observer)
			last = b.Observer
		}
		params = append(params, deliveryJob(e, b))
	}
	for _, failed := range matched.Errors {
		if only != "" && failed.Observer != only {
			continue
		}
		if only == "" { // who asks for one observer asks again
			t.errors = append(t.errors, failed.Observer)
		}
		ordering, _, _ := q.set.Load().Order(failed.Observer)
		params = append(params, changeJob(e, failed.Observer, failed.Err.Error(), ordering))
	}
	if only != "" {
		return params
	}
	t.events++
	t.misses = slices.AppendSeq(t.misses, matched.Misses())
	if len(params) == 0 {
		t.unmatched++
	}
	return params
}

func deliveryJob(e *event.Event, b *observer.Bound) river.InsertManyParams {
	return river.InsertManyParams{
		Args: typedArgs(b.Action.Type(), argsOf(e, b.Observer, b.Action.Name())),
		InsertOpts: &river.InsertOpts{
			Queue: QueueName(b.Action.Endpoint()), Priority: b.Action.Priority(), MaxAttempts: b.Retry.MaxAttempts,
			Metadata: markOf(e, b.Ordering),
		},
	}
}

func typedArgs(actionType string, a Args) river.JobArgs {
	switch actionType {
	case "webhook":
		return webhookArgs{a}
	case "slack":
		return slackArgs{a}
	case "email":
		return emailArgs{a}
	case "sms":
		return smsArgs{a}
	case "push":
		return pushArgs{a}
	case "search":
		return searchArgs{a}
	case "cache":
		return cacheArgs{a}
	case "database":
		return databaseArgs{a}
	case "log":
		return logArgs{a}
	default:
		panic("jobs: no job arguments for action type " + actionType)
	}
}

func changeJob(e *event.Event, obs, reason string, ordering observer.Ordering) river.InsertManyParams {
	return river.InsertManyParams{
		Args:       changeArgs{Args: argsOf(e, obs, ""), CommitTime: time.Time(e.CommitTime), Reason: short(reason)},
		InsertOpts: &river.InsertOpts{Queue: queueChange, Metadata: markOf(e, ordering)},
	}
}
