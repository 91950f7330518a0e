package ops

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/jobs"
	"github.com/fraiseql/weir/internal/store"
)

// ErrNoDeadLetter says that a job is not, or no longer, a dead letter.
var ErrNoDeadLetter = errors.New("no dead letter")

// bulkSize is how many dead letters one transaction changes: few enough to hold no lock for long.
const bulkSize = 500

// maxPage bounds a page of List.
const maxPage = 1000

// DeadLetters are the deliveries that failed for good, and the changes that could not become events.
type DeadLetters struct{ db DB }

// NewDeadLetters works on the database of River's tables.
func NewDeadLetters(db DB) DeadLetters { return DeadLetters{db: db} }

// Filter chooses dead letters; what is not set lets everything through.
type Filter struct {
	Observer string
	Action   string
	Since    time.Time // when they became dead letters
	Error    string    // a part of the last error, in any case
}

func (f Filter) page(before *int64, size int) store.ListDeadLettersParams {
	p := store.ListDeadLettersParams{
		BeforeID: before, Observer: optional(f.Observer), Action: optional(f.Action), Error: optional(f.Error),
		MaxRows: int32(size),
	}
	if !f.Since.IsZero() {
		p.Since = &f.Since
	}
	return p
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// DeadLetterPage is a part of the list, the newest job first.
type DeadLetterPage struct {
	DeadLetters []Delivery `json:"dead_letters"` // of this page
	// After is what names the next page; 0 when there is none.
	After int64 `json:"after"`
}

// List returns up to limit dead letters (1000 at the most) that come after the job named; 0 begins with the newest.
func (d DeadLetters) List(ctx context.Context, filter Filter, after int64, limit int) (DeadLetterPage, error) {
	limit = min(max(limit, 1), maxPage)
	rows, err := d.rows(ctx, filter, after, limit+1)
	if err != nil {
		return DeadLetterPage{}, err
	}
	page := DeadLetterPage{DeadLetters: []Delivery{}}
	for i, row := range rows {
		if i == limit {
			page.After = rows[i-1].ID
			break
		}
		one, err := ofDeadLetter(row)
		if err != nil {
			return DeadLetterPage{}, err
		}
		page.DeadLetters = append(page.DeadLetters, one)
	}
	return page, nil
}

func (d DeadLetters) rows(ctx context.Context, filter Filter, after int64, limit int) ([]store.DeadLetter, error) {
	var before *int64
	if after != 0 {
		before = &after
	}
	rows, err := store.New().ListDeadLetters(ctx, d.db, filter.page(before, limit))
	if err != nil {
		return nil, fmt.Errorf("list dead letters: %w", err)
	}
	return rows, nil
}

// DeadLetter is one with its event.
type DeadLetter struct {
	Delivery
	// Event is as receivers get it; null for a change that is no event, and when it is no longer stored.
	Event json.RawMessage `json:"event"`
	// Waiting counts the deliveries of its entity that wait for their turn (ordering: entity): for this one to be retried or
	// removed, if it is the first.
	Waiting int64 `json:"waiting"`
}

// Show returns one dead letter. The error wraps ErrNoDeadLetter when the job is none.
func (d DeadLetters) Show(ctx context.Context, id int64) (DeadLetter, error) {
	row, err := store.New().GetDeadLetter(ctx, d.db, id)
	if notFound(err) {
		return DeadLetter{}, fmt.Errorf("job %d: %w", id, ErrNoDeadLetter)
	}
	if err != nil {
		return DeadLetter{}, fmt.Errorf("read job %d: %w", id, err)
	}
	delivery, err := ofDeadLetter(row)
	if err != nil {
		return DeadLetter{}, err
	}
	key, err := delivery.eventKey()
	if err != nil {
		return DeadLetter{}, err
	}
	found, err := store.New().GetEvent(ctx, d.db, key)
	if err != nil && !notFound(err) {
		return DeadLetter{}, fmt.Errorf("read event %s: %w", key.ID, err)
	}
	waiting, err := store.New().CountInLine(ctx, d.db, store.CountInLineParams{
		Observer: delivery.Observer, Entity: delivery.Entity, EntityID: delivery.EntityID,
	})
	if err != nil {
		return DeadLetter{}, fmt.Errorf("count what waits behind job %d: %w", id, err)
	}
	return DeadLetter{Delivery: delivery, Event: found.Payload, Waiting: waiting}, nil
}

// Act says what an act on dead letters did.
type Act struct {
	// DryRun: nothing was changed; Matched says what would have been.
	DryRun bool `json:"dry_run"`
	// Matched is how many dead letters were meant.
	Matched int `json:"matched"`
	// Changed is how many were retried or removed. It is less than Matched when somebody else was quicker.
	Changed int `json:"changed"`
	// Missing are the jobs named that are no dead letters.
	Missing []int64 `json:"missing"`
}

// change does something to the dead letters among the ids, in a transaction, and returns those that it found.
type change func(ctx context.Context, tx pgx.Tx, ids []int64) ([]int64, error)

// Retry gives the jobs a fresh budget of attempts and lets workers take them up at once. Each keeps its delivery's id.
func (d DeadLetters) Retry(ctx context.Context, ids []int64, dryRun bool) (Act, error) {
	return d.named(ctx, ids, dryRun, retry)
}

// Remove deletes the jobs for good. What became of the deliveries stays in the history.
func (d DeadLetters) Remove(ctx context.Context, ids []int64, dryRun bool) (Act, error) {
	return d.named(ctx, ids, dryRun, remove)
}

// Bulk says how to act on many.
type Bulk struct {
	DryRun bool
	// Progress is told, after each transaction, how many have been changed so far (or looked at, in a dry run).
	Progress func(done int)
}

// RetryAll is Retry for all that the filter chooses, batch by batch, the newest first. After an error the batches before
// stay done, and it may be called again.
func (d DeadLetters) RetryAll(ctx context.Context, filter Filter, bulk Bulk) (Act, error) {
	return d.all(ctx, filter, bulk, retry)
}

// RemoveAll is Remove for all that the filter chooses, as RetryAll does it.
func (d DeadLetters) RemoveAll(ctx context.Context, filter Filter, bulk Bulk) (Act, error) {
	return d.all(ctx, filter, bulk, remove)
}

func (d DeadLetters) named(ctx context.Context, ids []int64, dryRun bool, do change) (Act, error) {
	ids = slices.Clone(ids)
	slices.Sort(ids)
	ids = slices.Compact(ids)
	act := Act{DryRun: dryRun, Missing: []int64{}}
	tx, err := d.db.Begin(ctx)
	if err != nil {
		return act, err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	if dryRun {
		do = existing
	}
	found, err := do(ctx, tx, ids)
	if err != nil {
		return act, err
	}
	for _, id := range ids {
		if !slices.Contains(found, id) {
			act.Missing = append(act.Missing, id)
		}
	}
	act.Matched = len(found)
	if dryRun {
		return act, nil
	}
	act.Changed = len(found)
	return act, tx.Commit(ctx)
}

func (d DeadLetters) all(ctx context.Context, filter Filter, bulk Bulk, do change) (Act, error) {
	act := Act{DryRun: bulk.DryRun, Missing: []int64{}}
	after := int64(0)
	for {
		rows, err := d.rows(ctx, filter, after, bulkSize)
		if err != nil || len(rows) == 0 {
			return act, err
		}
		ids := make([]int64, len(rows))
		for i, row := range rows {
			ids[i] = row.ID
		}
		after = ids[len(ids)-1]
		act.Matched += len(ids)
		if !bulk.DryRun {
			changed, err := d.inTx(ctx, ids, do)
			if err != nil {
				return act, err
			}
			act.Changed += changed
		}
		if bulk.Progress != nil {
			bulk.Progress(act.Matched)
		}
	}
}

func (d DeadLetters) inTx(ctx context.Context, ids []int64, do change) (changed int, err error) {
	err = pgx.BeginFunc(ctx, d.db, func(tx pgx.Tx) error {
		found, err := do(ctx, tx, ids)
		changed = len(found)
		return err
	})
	return changed, err
}

// existing changes nothing.
func existing(ctx context.Context, tx pgx.Tx, ids []int64) ([]int64, error) {
	found := []int64{}
	for _, id := range ids {
		_, err := store.New().GetDeadLetter(ctx, tx, id)
		switch {
		case notFound(err):
		case err != nil:
			return nil, fmt.Errorf("read job %d: %w", id, err)
		default:
			found = append(found, id)
		}
	}
	return found, nil
}

func remove(ctx context.Context, tx pgx.Tx, ids []int64) ([]int64, error) {
	if err := store.New().LockOutcomes(ctx, tx); err != nil {
		return nil, err
	}
	rows, err := store.New().DeleteDeadLetters(ctx, tx, ids)
	if err != nil {
		return nil, fmt.Errorf("remove dead letters: %w", err)
	}
	found := make([]int64, len(rows))
	same := make([]store.TakeCompletedRow, len(rows))
	for i, row := range rows {
		found[i], same[i] = row.ID, store.TakeCompletedRow(row)
	}
	if err := jobs.RecordRemoved(ctx, tx, same); err != nil {
		return nil, fmt.Errorf("record what is removed: %w", err)
	}
	return found, nil
}

// retry makes jobs available and tells River's clients as an insert would: they fetch when the transaction commits.
func retry(ctx context.Context, tx pgx.Tx, ids []int64) ([]int64, error) {
	rows, err := store.New().RetryDeadLetters(ctx, tx, ids)
	if err != nil {
		return nil, fmt.Errorf("retry dead letters: %w", err)
	}
	found := make([]int64, len(rows))
	queues := []string{}
	for i, row := range rows {
		found[i] = row.ID
		if !slices.Contains(queues, row.Queue) {
			queues = append(queues, row.Queue)
		}
	}
	err = store.New().NotifyQueues(ctx, tx, queues)
	if err != nil {
		return nil, fmt.Errorf("notify River: %w", err)
	}
	return found, nil
}

// DeadLetterStats are dead letters by observer, action and reason, the largest group first.
type DeadLetterStats struct {
	Total  int64             `json:"total"`  // of all groups
	Groups []DeadLetterGroup `json:"groups"` // by observer, action and reason
}

// DeadLetterGroup are dead letters that failed in the same way.
type DeadLetterGroup struct {
	Observer string     `json:"observer"` // "" for rows that are no events
	Action   string     `json:"action"`   // "" for changes that could not be matched
	Reason   string     `json:"reason"`   // a short code, as in Delivery
	Count    int64      `json:"count"`    // how many
	Oldest   event.Time `json:"oldest"`   // when the first of them failed
	Newest   event.Time `json:"newest"`   // when the last of them failed
}

// Stats counts all dead letters.
func (d DeadLetters) Stats(ctx context.Context) (DeadLetterStats, error) {
	rows, err := store.New().DeadLetterStats(ctx, d.db)
	if err != nil {
		return DeadLetterStats{}, fmt.Errorf("count dead letters: %w", err)
	}
	stats := DeadLetterStats{Groups: []DeadLetterGroup{}}
	for _, row := range rows {
		if row.Reason == "exhausted" {
			row.Reason = exhausted
		}
		stats.Total += row.Jobs
		stats.Groups = append(stats.Groups, DeadLetterGroup{
			Observer: row.Observer, Action: row.Action, Reason: row.Reason, Count: row.Jobs,
			Oldest: event.Time(row.Oldest), Newest: event.Time(row.Newest),
		})
	}
	return stats, nil
}
