package index

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/fraiseql/weir/internal/store"
)

// reading is what a round reads, and how far it comes.
type reading struct {
	db      store.DBTX
	version int64
	at      store.WeirHistory
	full    bool // there may be more

	found []Document
	ended []Finished
	known map[Key]Document // events of this round
}

// events reads the events that come next.
func (r *reading) events(ctx context.Context) error {
	r.known = map[Key]Document{}
	sizes, err := store.New().EventSizes(ctx, r.db, store.EventSizesParams{After: r.at.EventSeq, MaxRows: roundRows})
	if err != nil {
		return fmt.Errorf("look for events: %w", err)
	}
	bytes, until := 0, r.at.EventSeq
	for i, one := range sizes {
		if bytes += int(one.Bytes); i > 0 && bytes > roundBytes {
			r.full = true
			break
		}
		until = one.Seq
	}
	r.full = r.full || len(sizes) == roundRows
	if until == r.at.EventSeq {
		return nil
	}
	rows, err := store.New().EventsBetween(ctx, r.db, store.EventsBetweenParams{After: r.at.EventSeq, Until: until})
	if err != nil {
		return fmt.Errorf("read events: %w", err)
	}
	for _, row := range rows {
		r.addEvent(row)
	}
	r.at.EventSeq = until
	return nil
}

func (r *reading) addEvent(row store.EventsBetweenRow) {
	d := documentOf(row, r.version)
	r.known[d.Key] = d
	r.found = append(r.found, d)
}

func documentOf(row store.EventsBetweenRow, version int64) Document {
	return Document{
		Key: Key{Day: row.Day, ID: row.ID, PK: row.PK}, Seq: row.Seq, At: row.CreatedAt, IngestedAt: row.IngestedAt,
		EventType: row.EventType, EntityType: row.EntityType, EntityID: row.EntityID, Payload: json.RawMessage(row.Payload),
		Version: version,
	}
}

// outcomes reads those that come next in weir.outcome.
func (r *reading) outcomes(ctx context.Context) error {
	rows, err := store.New().OutcomesAfter(ctx, r.db, store.OutcomesAfterParams{After: r.at.OutcomeSeq, MaxRows: roundRows})
	if err != nil {
		return fmt.Errorf("read outcomes: %w", err)
	}
	for _, row := range rows {
		r.ended = append(r.ended, finishedOf(row))
		r.at.OutcomeSeq = row.Seq
	}
	r.full = r.full || len(rows) == roundRows
	return nil
}

func finishedOf(row store.OutcomesAfterRow) Finished {
	o := Outcome{
		DeliveryID: row.DeliveryID, Observer: row.Observer, Action: row.Action, ActionType: row.ActionType, Endpoint: row.Endpoint,
		State: OutcomeState(row.State, row.Cached, row.DuplicateOf), Attempts: int(row.Attempts), StartedAt: row.StartedAt,
		FinishedAt: row.FinishedAt, DurationMS: row.DurationMS, ResponseStatus: row.ResponseStatus, DuplicateOf: row.DuplicateOf,
	}
	if row.Error != nil {
		o.Error = *row.Error
	}
	return Finished{Key: Key{Day: row.Day, ID: row.EventID, PK: row.EventPK}, Outcome: o}
}

// OutcomeState tells deliveries that called nobody from those that did.
func OutcomeState(state string, cached bool, duplicateOf *uuid.UUID) string {
	switch {
	case state == "delivered" && duplicateOf != nil:
		return "duplicate"
	case state == "delivered" && cached:
		return "cached"
	default:
		return state
	}
}

// documents are those of the events and, with their events, of the deliveries. Of two of one delivery the one that was read
// later stays.
func (r *reading) documents(ctx context.Context) ([]Document, error) {
	if err := r.findEvents(ctx); err != nil {
		return nil, err
	}
	last := map[uuid.UUID]int{}
	for i, one := range r.ended {
		last[one.Outcome.DeliveryID] = i
	}
	for i, one := range r.ended {
		d, ok := r.known[one.Key]
		if !ok || last[one.Outcome.DeliveryID] != i {
			continue // an event that is recorded no more takes what became of it along
		}
		d.Outcome, d.Version = &one.Outcome, r.version
		r.found = append(r.found, d)
	}
	return r.found, nil
}

// findEvents reads those events of deliveries that are not known.
func (r *reading) findEvents(ctx context.Context) error {
	asked := map[Key]bool{}
	var p store.EventsByKeyParams
	for _, one := range r.ended {
		if _, ok := r.known[one.Key]; ok || asked[one.Key] {
			continue
		}
		asked[one.Key] = true
		p.Days, p.IDs, p.PKs = append(p.Days, one.Key.Day), append(p.IDs, one.Key.ID), append(p.PKs, one.Key.PK)
	}
	if len(p.IDs) == 0 {
		return nil
	}
	rows, err := store.New().EventsByKey(ctx, r.db, p)
	if err != nil {
		return fmt.Errorf("read the events of deliveries: %w", err)
	}
	for _, row := range rows {
		d := documentOf(store.EventsBetweenRow(row), r.version)
		r.known[d.Key] = d
	}
	return nil
}

const (
	// freshBack is how far a look goes back before what was seen last: completions of one moment become visible out of order.
	freshBack = 2 * time.Second
	// lateBack is how far a thorough look goes back, and lateEvery how often there is one: a worker's clock may be wrong, and a
	// completion may have waited for the database.
	lateBack  = 5 * time.Minute
	lateEvery = 30 * time.Second
	// freshMost bounds how many jobs are remembered. Those that are forgotten are stored again, which changes nothing.
	freshMost = 200_000
)

// fresh finds deliveries that have just finished.
type fresh struct {
	stored map[int64]time.Time // jobs, by when they ended
	next   time.Time           // of the next thorough look
	busy   bool                // the last look has left something
}

func newFresh() fresh { return fresh{stored: map[int64]time.Time{}} }

// isDue says that a thorough look is due.
func (f *fresh) isDue(now time.Time) bool { return f.busy || !now.Before(f.next) }

// read reads what has finished. What it returns is to be called when that is stored.
func (f *fresh) read(
	ctx context.Context, r *reading,
	finished func(ctx context.Context, db store.DBTX, since time.Time, afterID int64, limit int) ([]Finished, error),
) (stored func(), err error) {
	since, thorough := r.at.FinishedAt.Add(-freshBack), !time.Now().Before(f.next)
	if thorough {
		since = r.at.FinishedAt.Add(-lateBack)
	}
	var found []Finished
	f.busy = false
	for after := int64(0); ; {
		page, err := finished(ctx, r.db, since, after, roundRows)
		if err != nil {
			return nil, fmt.Errorf("read finished deliveries: %w", err)
		}
		for _, one := range page {
			if at, ok := f.stored[one.JobID]; !ok || !at.Equal(one.FinishedAt) {
				found = append(found, one)
			}
			since, after = one.FinishedAt, one.JobID
			// A clock that is ahead must not make the look pass over the others.
			if since.After(r.at.FinishedAt) && !since.After(r.at.UpdatedAt) {
				r.at.FinishedAt = since
			}
		}
		if len(page) < roundRows {
			break
		}
		if len(found) >= roundRows {
			f.busy, r.full = true, true
			break
		}
	}
	r.ended = append(r.ended, found...)
	return func() { f.keep(found, r.at.FinishedAt, thorough) }, nil
}

func (f *fresh) keep(found []Finished, until time.Time, thorough bool) {
	for _, one := range found {
		f.stored[one.JobID] = one.FinishedAt
	}
	if thorough && !f.busy {
		f.next = time.Now().Add(lateEvery)
		for id, at := range f.stored {
			if until.Sub(at) > lateBack+freshBack {
				delete(f.stored, id)
			}
		}
	}
	if len(f.stored) > freshMost {
		clear(f.stored)
	}
}
