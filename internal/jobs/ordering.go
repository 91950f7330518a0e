package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/observer"
	"github.com/fraiseql/weir/internal/store"
)

// How deliveries keep an order (ordering: entity). Those of one observer and entity are a sequence, in the order of their
// positions (commit LSN, index). The first of a sequence that is not finished is available, as any job is; those behind it have
// River's state pending, which River leaves alone. The actions of one event share a position: they run in parallel.
//
//   - Ingest inserts what nothing has to be waited for as available, and the rest as pending.
//   - A delivery asks, before it acts, whether it is its turn, and goes back to pending if it is not: a click on Retry makes any
//     job available. One that was delivered is not sent again, and one that was overtaken is a dead letter.
//   - When one has ended, the next is called: by whoever has ended it, after the COMMIT. Whoever inserts or puts back a pending
//     job calls, too, after the COMMIT: of the two, the later one sees what both have done. What is lost with a worker between
//     a COMMIT and the call is found by the sweep.

const (
	// markOrdered is the metadata of a job that keeps an order, and markByHand that of one which a person wants delivered though it
	// is late.
	markOrdered = `{"weir_ordered":true}`
	markByHand  = `{"weir_ordered":true,"weir_by_hand":true}`
	// codeOvertaken is that of a dead letter which waits for a person since later ones have been delivered.
	codeOvertaken = "overtaken"
	// callBatch is how many sequences are called at a time, and sweepPage how many the sweep looks at.
	callBatch = 1000
	sweepPage = 1000
	callTime  = 5 * time.Second
	// eventBuffer is how many ends of jobs River keeps for us. What does not fit is left to the sweep.
	eventBuffer = 10_000
)

// sequence names the deliveries that run one event after the other.
type sequence struct{ observer, entity, entityID string }

func sequenceOf(a Args) sequence { return sequence{a.Observer, a.Entity, a.EntityID} }

// turns calls deliveries whose turn it is. Safe for concurrent use, but for sweep.
type turns struct {
	pool *pgxpool.Pool
	set  *atomic.Pointer[observer.Set]
	log  *slog.Logger
	// paused says of an observer that nothing of it is to be called.
	paused func(observer string) bool

	mu    sync.Mutex // guards named
	named map[sequence]struct{}
	woken chan struct{}

	swept sequence // where the sweep has come to
}

func newTurns(pool *pgxpool.Pool, set *atomic.Pointer[observer.Set], log *slog.Logger) *turns {
	return &turns{
		pool: pool, set: set, log: log, paused: func(string) bool { return false },
		named: map[sequence]struct{}{}, woken: make(chan struct{}, 1),
	}
}

// first asks whether a delivery is the first of its sequence.
func (t *turns) first(ctx context.Context, a Args) (store.FirstInLineRow, error) {
	ctx, cancel := context.WithTimeout(ctx, loadTime)
	defer cancel()
	return store.New().FirstInLine(ctx, t.pool, store.FirstInLineParams{
		Observer: a.Observer, Entity: a.Entity, EntityID: a.EntityID, LSN: int64(a.LSN), TxIndex: a.TxIndex,
		SkipDead: t.skips(a.Observer),
	})
}

func (t *turns) skips(name string) bool {
	_, onDeadLetter, _ := t.set.Load().Order(name)
	return onDeadLetter == observer.DeadLetterSkipped
}

// arrange makes pending, of new jobs in the order of their positions, those that have to wait, and returns their sequences.
func (t *turns) arrange(ctx context.Context, tx pgx.Tx, params []river.InsertManyParams) ([]sequence, error) {
	var names []sequence
	seen := map[sequence]bool{}
	for _, p := range params {
		a, ok := ordered(p)
		if seq := sequenceOf(a); ok && !seen[seq] {
			seen[seq] = true
			names = append(names, seq)
		}
	}
	if len(names) == 0 {
		return nil, nil
	}
	held, err := t.held(ctx, tx, names)
	if err != nil {
		return nil, err
	}
	return wait(params, held), nil
}

// wait marks what has to wait behind what is held, or behind an earlier one of params.
func wait(params []river.InsertManyParams, held map[sequence]bool) (waiting []sequence) {
	first := map[sequence]event.Position{}
	waits := map[sequence]bool{}
	for _, p := range params {
		a, ok := ordered(p)
		if !ok {
			continue
		}
		seq, at := sequenceOf(a), a.position()
		if _, ok := first[seq]; !ok {
			first[seq] = at
		}
		if _, change := p.Args.(changeArgs); change || !held[seq] && first[seq] == at {
			continue // a change is only looked at again; nothing is sent
		}
		p.InsertOpts.Pending = true
		if !waits[seq] {
			waits[seq] = true
			waiting = append(waiting, seq)
		}
	}
	return waiting
}

// ordered are the arguments of a new job that keeps an order.
func ordered(p river.InsertManyParams) (a Args, ok bool) {
	args, ok := p.Args.(deliveryArgs)
	if !ok || p.InsertOpts.Metadata == nil {
		return Args{}, false
	}
	return args.args(), true
}

// held are those of the sequences that hold something which has to be waited for.
func (t *turns) held(ctx context.Context, tx pgx.Tx, names []sequence) (map[sequence]bool, error) {
	p := t.params(names)
	rows, err := store.New().HeldSequences(ctx, tx, store.HeldSequencesParams(p))
	if err != nil {
		return nil, fmt.Errorf("look for deliveries that have to be waited for: %w", err)
	}
	held := make(map[sequence]bool, len(rows))
	for _, row := range rows {
		held[sequence{row.Observer, row.Entity, row.EntityID}] = true
	}
	return held, nil
}

func (t *turns) params(names []sequence) store.CallNextParams {
	var p store.CallNextParams
	for _, s := range names {
		p.Observers, p.Entities = append(p.Observers, s.observer), append(p.Entities, s.entity)
		p.EntityIDs, p.SkipDead = append(p.EntityIDs, s.entityID), append(p.SkipDead, t.skips(s.observer))
	}
	return p
}

// markOvertaken leaves a mark on the dead letters that came before deliveries which leave the table: a click on Retry would not
// find anymore that they are late.
func markOvertaken(ctx context.Context, tx pgx.Tx, moved []store.TakeCompletedRow) error {
	last := map[sequence]event.Position{}
	for _, row := range moved {
		var a Args
		if !readMark(row.Metadata).Ordered || json.Unmarshal(row.Args, &a) != nil {
			continue
		}
		s := sequenceOf(a)
		if at, ok := last[s]; !ok || at.Compare(a.position()) < 0 {
			last[s] = a.position()
		}
	}
	if len(last) == 0 {
		return nil
	}
	var p store.MarkOvertakenParams
	for s, at := range last {
		p.Observers, p.Entities = append(p.Observers, s.observer), append(p.Entities, s.entity)
		p.EntityIDs = append(p.EntityIDs, s.entityID)
		p.LSNs, p.TxIndexes = append(p.LSNs, int64(at.LSN)), append(p.TxIndexes, at.Index)
	}
	if err := store.New().MarkOvertaken(ctx, tx, p); err != nil {
		return fmt.Errorf("mark the dead letters that were overtaken: %w", err)
	}
	return nil
}

// call has the next deliveries of these sequences called soon.
func (t *turns) call(names ...sequence) {
	if len(names) == 0 {
		return
	}
	t.mu.Lock()
	for _, s := range names {
		t.named[s] = struct{}{}
	}
	t.mu.Unlock()
	select {
	case t.woken <- struct{}{}:
	default:
	}
}

func (t *turns) take() []sequence {
	t.mu.Lock()
	defer t.mu.Unlock()
	names := make([]sequence, 0, min(len(t.named), callBatch))
	for s := range t.named {
		if len(names) == callBatch {
			break
		}
		names = append(names, s)
		delete(t.named, s)
	}
	return names
}

// start calls whenever it is asked to, or a delivery has ended without success, until the function that it returns is called.
func (t *turns) start(ctx context.Context, client *river.Client[pgx.Tx]) (stop func()) {
	ends, unsubscribe := client.SubscribeConfig(&river.SubscribeConfig{
		ChanSize: eventBuffer, Kinds: []river.EventKind{river.EventKindJobCancelled, river.EventKindJobFailed},
	})
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { t.run(ctx, ends) })
	return func() {
		cancel()
		running.Wait()
		unsubscribe()
	}
}

func (t *turns) run(ctx context.Context, ends <-chan *river.Event) {
	for {
		select {
		case <-ctx.Done():
			return
		case end, ok := <-ends:
			if !ok {
				ends = nil
				continue
			}
			t.ended(end.Job)
		case <-t.woken:
		}
		for names := t.take(); len(names) > 0; names = t.take() {
			if err := t.callNow(ctx, names); err != nil {
				t.log.Warn("the next deliveries in order were not called, the sweep will", "error", err)
			}
		}
	}
}

// ended calls whoever waits behind a delivery that was given up.
func (t *turns) ended(job *rivertype.JobRow) {
	given := job.State == rivertype.JobStateCancelled || job.State == rivertype.JobStateDiscarded
	var args Args
	if given && readMark(job.Metadata).Ordered && json.Unmarshal(job.EncodedArgs, &args) == nil {
		t.call(sequenceOf(args))
	}
}

func (t *turns) callNow(ctx context.Context, names []sequence) error {
	// When it is resumed, the sweep calls.
	names = slices.DeleteFunc(names, func(s sequence) bool { return t.paused(s.observer) })
	if len(names) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	queues, err := store.New().CallNext(ctx, t.pool, t.params(names))
	if err != nil {
		return fmt.Errorf("call the next deliveries in order: %w", err)
	}
	return announce(ctx, t.pool, queues)
}

// sweep looks at a page of the sequences that are not finished, and calls what waits though nothing is before it: a worker has
// died before it could call, or somebody has removed what was before it. Whoever keeps no order any more is let go. It returns
// true when it has come to the end.
func (t *turns) sweep(ctx context.Context) (done bool, err error) {
	rows, err := store.New().SequencesAfter(ctx, t.pool, store.SequencesAfterParams{
		Observer: t.swept.observer, Entity: t.swept.entity, EntityID: t.swept.entityID, MaxRows: sweepPage,
	})
	if err != nil {
		return false, fmt.Errorf("list deliveries that keep an order: %w", err)
	}
	var keep, free, unknown []sequence
	for _, row := range rows {
		s := sequence{row.Observer, row.Entity, row.EntityID}
		switch ordering, _, ok := t.set.Load().Order(row.Observer); {
		case t.paused(row.Observer):
		case !ok:
			unknown = append(unknown, s)
		case ordering == observer.OrderingEntity:
			keep = append(keep, s)
		default:
			free = append(free, s)
		}
	}
	if len(keep) > 0 {
		err = t.callNow(ctx, keep)
	}
	// A delivery of an unknown observer dies when it is an hour old, also one that waits for its turn.
	moreFree, freeErr := t.letGo(ctx, free, 0)
	moreUnknown, unknownErr := t.letGo(ctx, unknown, unknownGrace)
	if err := errors.Join(err, freeErr, unknownErr); err != nil {
		return false, err
	}
	if moreFree || moreUnknown {
		return false, nil // the same page again
	}
	if len(rows) < sweepPage {
		t.swept = sequence{}
		return true, nil
	}
	last := rows[len(rows)-1]
	t.swept = sequence{last.Observer, last.Entity, last.EntityID}
	return false, nil
}

// letGo returns whether there is more to let go.
func (t *turns) letGo(ctx context.Context, names []sequence, age time.Duration) (more bool, err error) {
	if len(names) == 0 {
		return false, nil
	}
	p := t.params(names)
	queues, err := store.New().LetGo(ctx, t.pool, store.LetGoParams{
		Observers: p.Observers, Entities: p.Entities, EntityIDs: p.EntityIDs, Age: age, MaxRows: releaseBatch,
	})
	if err != nil {
		return false, fmt.Errorf("let deliveries go that keep no order any more: %w", err)
	}
	return len(queues) == releaseBatch, announce(ctx, t.pool, queues)
}
