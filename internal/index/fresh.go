package index

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/fraiseql/weir/internal/store"
)

const (
	// freshBack is how far a look goes back before what was seen last: completions of one moment become visible out of order.
	freshBack = 2 * time.Second
	// lateBack is how far a thorough look goes back, and lateEvery how often there is one: a worker's clock may be wrong, and a
	// completion may have waited for the database.
	lateBack  = 5 * time.Minute
	lateEvery = 30 * time.Second
	// freshMost bounds how many jobs are remembered; a thorough look goes back to the oldest of them at most.
	freshMost = 100_000
	// lookRows is how many jobs a look reads at a time: of each it wants to know when it ended, and no more.
	lookRows = 5000
)

// fresh finds deliveries that have just finished.
type fresh struct {
	stored map[int64]time.Time // jobs, by when they ended
	oldest time.Time           // what ended before that has been forgotten
	next   time.Time           // of the next thorough look
	busy   bool                // the last look has left something
}

func newFresh() fresh { return fresh{stored: map[int64]time.Time{}} }

// isNew says that a job has not been stored as it ended then, as far as is known.
func (f *fresh) isNew(id int64, ended time.Time) bool {
	at, ok := f.stored[id]
	return !ok || !at.Equal(ended)
}

// look goes through the jobs that have ended, in the order in which they did, from a moment on, for as long as do wants.
func look(ctx context.Context, db store.DBTX, since time.Time, do func(id int64, ended time.Time) (more bool)) error {
	for after := int64(0); ; {
		page, err := store.New().EndedJobs(ctx, db, store.EndedJobsParams{Since: &since, AfterID: after, MaxRows: lookRows})
		if err != nil {
			return fmt.Errorf("look for finished deliveries: %w", err)
		}
		for _, one := range page {
			since, after = *one.FinalizedAt, one.ID
			if !do(after, since) {
				return nil
			}
		}
		if len(page) < lookRows {
			return nil
		}
	}
}

// missed takes a thorough look from time to time, and says whether it finds something.
func (f *fresh) missed(ctx context.Context, db store.DBTX, until time.Time) (found bool, err error) {
	if f.busy || time.Now().Before(f.next) {
		return f.busy, nil
	}
	err = look(ctx, db, f.back(until), func(id int64, ended time.Time) bool {
		found = f.isNew(id, ended)
		return !found
	})
	if err == nil && !found {
		f.looked(until)
	}
	return found, err
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
	var ids []int64
	busy := false
	err = look(ctx, r.db, since, func(id int64, ended time.Time) bool {
		if f.isNew(id, ended) {
			if busy = len(ids) == roundRows; busy {
				return false
			}
			ids = append(ids, id)
		}
		// A clock that is ahead must not make the look pass over the others.
		if ended.After(r.at.FinishedAt) && !ended.After(r.at.UpdatedAt) {
			r.at.FinishedAt = ended
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	found, err := finished(ctx, r.db, ids)
	if err != nil {
		return nil, fmt.Errorf("read finished deliveries: %w", err)
	}
	for _, one := range found {
		if one.Outcome.DeliveryID != uuid.Nil {
			r.ended = append(r.ended, one)
		}
	}
	r.full = r.full || busy
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

type finishedFunc func(ctx context.Context, db store.DBTX, ids []int64) ([]Finished, error)
