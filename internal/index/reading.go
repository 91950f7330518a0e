package index

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
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

// documents hands out those of the events and, with their events, of the deliveries, some at a time. Of two of one delivery the
// one that was read later stays.
func (r *reading) documents(ctx context.Context, do func([]Document) error) error {
	docs, bytes := r.found, 0
	if len(docs) > 0 {
		if err := do(docs); err != nil {
			return err
		}
	}
	last := map[uuid.UUID]int{}
	for i, one := range r.ended {
		last[one.Outcome.DeliveryID] = i
	}
	docs = nil
	for first := 0; first < len(r.ended); first += lookRows {
		some := r.ended[first:min(first+lookRows, len(r.ended))]
		events, err := r.eventsOf(ctx, some)
		if err != nil {
			return err
		}
		for i, one := range some {
			d, ok := events[one.Key]
			if !ok || last[one.Outcome.DeliveryID] != first+i {
				continue // an event that is recorded no more takes what became of it along
			}
			d.Outcome, d.Version = &one.Outcome, r.version
			docs, bytes = append(docs, d), bytes+len(d.Payload)
		}
		if isLast := first+lookRows >= len(r.ended); len(docs) > 0 && (isLast || len(docs) >= roundRows || bytes >= roundBytes) {
			if err := do(docs); err != nil {
				return err
			}
			docs, bytes = nil, 0
		}
	}
	return nil
}

// eventsOf are the events of deliveries: those of this round, and others, which are read.
func (r *reading) eventsOf(ctx context.Context, ended []Finished) (map[Key]Document, error) {
	events := map[Key]Document{}
	var p store.EventsByKeyParams
	for _, one := range ended {
		if d, ok := r.known[one.Key]; ok {
			events[one.Key] = d
		} else if _, asked := events[one.Key]; !asked {
			events[one.Key] = Document{}
			p.Days, p.IDs, p.PKs = append(p.Days, one.Key.Day), append(p.IDs, one.Key.ID), append(p.PKs, one.Key.PK)
		}
	}
	if len(p.IDs) == 0 {
		return events, nil
	}
	rows, err := store.New().EventsByKey(ctx, r.db, p)
	if err != nil {
		return nil, fmt.Errorf("read the events of deliveries: %w", err)
	}
	maps.DeleteFunc(events, func(_ Key, d Document) bool { return d.Seq == 0 }) // those that were asked for
	for _, row := range rows {
		d := documentOf(store.EventsBetweenRow(row), r.version)
		events[d.Key] = d
	}
	return events, nil
}

const (
	// freshBack is how far a look goes back before what was seen last: completions of one moment become visible out of order.
	freshBack = 2 * time.Second
	// lateBack is how far a thorough look goes back, and lateEvery how often there is one: a worker's clock may be wrong, and a
	// completion may have waited for the database.
	lateBack  = 5 * time.Minute
	lateEvery = 30 * time.Second
	// freshMost bounds how many jobs are remembered; a thorough look goes back to the oldest of them at most.
	freshMost = 100_000
)

// fresh finds deliveries that have just finished.
type fresh struct {
	stored map[int64]time.Time // jobs, by when they ended
	oldest time.Time           // what ended before that has been forgotten
	next   time.Time           // of the next thorough look
	busy   bool                // the last look has left something
}

func newFresh() fresh { return fresh{stored: map[int64]time.Time{}} }

type finishedFunc func(ctx context.Context, db store.DBTX, since time.Time, afterID int64, limit int) ([]Finished, error)

// isNew says that a delivery has not been stored, as far as is known.
func (f *fresh) isNew(one Finished) bool {
	at, ok := f.stored[one.JobID]
	return one.Outcome.DeliveryID != uuid.Nil && (!ok || !at.Equal(one.FinishedAt))
}

// missed takes a thorough look from time to time, and says whether it finds something.
func (f *fresh) missed(ctx context.Context, db store.DBTX, until time.Time, finished finishedFunc) (bool, error) {
	if f.busy || time.Now().Before(f.next) {
		return f.busy, nil
	}
	since, after := f.back(until), int64(0)
	for {
		page, err := finished(ctx, db, since, after, roundRows)
		if err != nil {
			return false, fmt.Errorf("look for finished deliveries: %w", err)
		}
		for _, one := range page {
			if f.isNew(one) {
				return true, nil
			}
			since, after = one.FinishedAt, one.JobID
		}
		if len(page) < roundRows {
			f.looked(until)
			return false, nil
		}
	}
}

// looked says that a thorough look has found all.
func (f *fresh) looked(until time.Time) {
	f.next = time.Now().Add(lateEvery)
	f.forget(until.Add(-lateBack - freshBack))
}

// forget forgets what ended before a moment.
func (f *fresh) forget(before time.Time) {
	if before.After(f.oldest) {
		f.oldest = before
	}
	for id, at := range f.stored {
		if at.Before(before) {
			delete(f.stored, id)
		}
	}
}

// back is where a thorough look begins.
func (f *fresh) back(until time.Time) time.Time {
	if since := until.Add(-lateBack); since.After(f.oldest) {
		return since
	}
	return f.oldest
}

// read reads what has finished. What it returns is to be called when that is stored.
func (f *fresh) read(ctx context.Context, r *reading, finished finishedFunc) (stored func(), err error) {
	since, thorough := r.at.FinishedAt.Add(-freshBack), !time.Now().Before(f.next)
	if thorough {
		since = f.back(r.at.FinishedAt)
	}
	var found []Finished
	busy := false
	for after := int64(0); ; {
		page, err := finished(ctx, r.db, since, after, roundRows)
		if err != nil {
			return nil, fmt.Errorf("read finished deliveries: %w", err)
		}
		for _, one := range page {
			if f.isNew(one) {
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
			busy, r.full = true, true
			break
		}
	}
	r.ended = append(r.ended, found...)
	return func() {
		for _, one := range found {
			f.stored[one.JobID] = one.FinishedAt
		}
		if f.busy = busy; thorough && !busy {
			f.looked(r.at.FinishedAt)
		}
		for keep := lateBack / 2; len(f.stored) > freshMost && keep > freshBack; keep /= 2 {
			f.forget(r.at.FinishedAt.Add(-keep))
		}
	}, nil
}
