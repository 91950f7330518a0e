package jobs

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/observer"
	"github.com/fraiseql/weir/internal/rule"
	"github.com/fraiseql/weir/internal/store"
)

// replayPriority is River's last: what happens now is delivered before what is delivered again.
const replayPriority = 4

// Replayer makes jobs of events once more, on purpose. It inserts only: workers do the rest. One goroutine at a time.
type Replayer struct {
	id     uuid.UUID
	only   string
	set    *observer.Set
	client *river.Client[pgx.Tx]
	turns  *turns
}

// NewReplayer makes a replayer for all observers, or for the one named. The id is the replay's: what it has made once it does
// not make again.
func NewReplayer(id uuid.UUID, set *observer.Set, only string) (*Replayer, error) {
	client, err := clientOfTx()
	if err != nil {
		return nil, err
	}
	current := &atomic.Pointer[observer.Set]{}
	current.Store(set)
	return &Replayer{id: id, only: only, set: set, client: client, turns: newTurns(nil, current, slog.New(slog.DiscardHandler))}, nil
}

// Replay is what some events lead to.
type Replay struct {
	Matched  map[*event.Event]bool // the events that have a delivery
	Made     []*observer.Bound     // what is delivered: one entry for each delivery
	Existing int                   // deliveries that the replay had made before
	Failed   []observer.ConditionError

	params  []river.InsertManyParams
	waiting []sequence
}

// Match evaluates the observers, and leaves out what the replay has made already.
func (r *Replayer) Match(ctx context.Context, db store.DBTX, events []*event.Event) (*Replay, error) {
	out := &Replay{Matched: map[*event.Event]bool{}}
	var all []*observer.Bound
	var params []river.InsertManyParams
	for _, e := range events {
		matched := r.set.Match(rule.NewEnv(e), e)
		for _, failed := range matched.Errors {
			if r.only == "" || r.only == failed.Observer {
				out.Failed = append(out.Failed, failed)
			}
		}
		for _, b := range matched.Deliveries {
			if r.only == "" || r.only == b.Observer {
				out.Matched[e] = true
				all, params = append(all, b), append(params, r.job(e, b))
			}
		}
	}
	existing, err := r.existing(ctx, db, params)
	if err != nil {
		return nil, err
	}
	for i, p := range params {
		if existing[argsIn(p).DeliveryID()] {
			out.Existing++
			continue
		}
		out.Made, out.params = append(out.Made, all[i]), append(out.params, p)
	}
	return out, nil
}

// job is a delivery that is made again. It keeps the order of its entity, and is not held back because later events have been
// delivered: they had been before.
func (r *Replayer) job(e *event.Event, b *observer.Bound) river.InsertManyParams {
	p := deliveryJob(e, b)
	a := argsIn(p)
	a.Replay = r.id
	p.Args = typedArgs(b.Action.Type(), a)
	p.InsertOpts.Priority = replayPriority
	byHand([]river.InsertManyParams{p})
	return p
}

func argsIn(p river.InsertManyParams) Args {
	a, ok := p.Args.(deliveryArgs)
	if !ok {
		panic("jobs: no delivery")
	}
	return a.args()
}

// existing finds deliveries that exist. A job that is moved meanwhile is found in the one place or in the other: jobs are
// looked for first.
func (r *Replayer) existing(ctx context.Context, db store.DBTX, params []river.InsertManyParams) (map[uuid.UUID]bool, error) {
	found := map[uuid.UUID]bool{}
	if len(params) == 0 {
		return found, nil
	}
	var events []string
	p := store.OutcomesNamedParams{}
	seen := map[string]bool{}
	days := map[string]bool{}
	for _, one := range params {
		a := argsIn(one)
		p.IDs = append(p.IDs, a.DeliveryID())
		if id := a.EventID.String(); !seen[id] {
			seen[id] = true
			events = append(events, id)
		}
		if day, err := time.Parse(dayLayout, a.Day); err == nil && !days[a.Day] {
			days[a.Day] = true
			p.Days = append(p.Days, day)
		}
	}
	rows, err := store.New().ReplayedJobs(ctx, db, store.ReplayedJobsParams{EventIds: events, Replay: r.id.String()})
	if err != nil {
		return nil, fmt.Errorf("find what the replay has made already: %w", err)
	}
	for _, raw := range rows {
		var a Args
		if err := json.Unmarshal(raw, &a); err != nil {
			return nil, fmt.Errorf("find what the replay has made already: %w", err)
		}
		found[a.DeliveryID()] = true
	}
	ended, err := store.New().OutcomesNamed(ctx, db, p)
	if err != nil {
		return nil, fmt.Errorf("find what the replay has made already: %w", err)
	}
	for _, id := range ended {
		found[id] = true
	}
	return found, nil
}

// Insert inserts the jobs of a match, which was made in the same transaction. Inserted has to be called after the COMMIT.
func (r *Replayer) Insert(ctx context.Context, tx pgx.Tx, m *Replay) (err error) {
	if len(m.params) == 0 {
		return nil
	}
	if m.waiting, err = r.turns.arrange(ctx, tx, m.params); err != nil {
		return err
	}
	if _, err := r.client.InsertManyFastTx(ctx, tx, m.params); err != nil {
		return fmt.Errorf("insert %d jobs: %w", len(m.params), err)
	}
	return nil
}

// Inserted calls the next of deliveries that keep an order: what they wait for may have ended before it could see them.
// Should it fail, then the workers' sweep calls them.
func (r *Replayer) Inserted(ctx context.Context, db store.DBTX, m *Replay) error {
	if len(m.waiting) == 0 {
		return nil
	}
	queues, err := store.New().CallNext(ctx, db, r.turns.params(m.waiting))
	if err != nil {
		return fmt.Errorf("call the next deliveries in order: %w", err)
	}
	return announce(ctx, db, queues)
}
