package jobs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"github.com/fraiseql/weir/internal/capture"
	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/index"
	"github.com/fraiseql/weir/internal/store"
)

// changeWorker works changes that could not be matched when they were read. It evaluates them again: what has been
// corrected since (the row, the condition) is delivered, what has not is a dead letter.
type changeWorker struct {
	river.WorkerDefaults[changeArgs]
	queue  *Queue
	reader *capture.Reader
}

// Timeout bounds the database's work.
func (w *changeWorker) Timeout(*river.Job[changeArgs]) time.Duration { return time.Minute }

// Work evaluates the change again.
func (w *changeWorker) Work(ctx context.Context, job *river.Job[changeArgs]) error {
	if job.Args.Observer != "" {
		return w.rematch(ctx, job)
	}
	if job.Args.PK == 0 {
		return w.bury(ctx, job, nil, "no_row", errors.New(job.Args.Reason+" (it has no row in the change log that could be read "+
			"again: send it again in a corrected form, or remove the dead letter)"))
	}
	c, err := w.reader.Read(ctx, job.Args.PK, job.Args.position(), job.Args.CommitTime)
	switch {
	case errors.Is(err, capture.ErrRowGone):
		return w.bury(ctx, job, nil, "row_gone", errors.New(job.Args.Reason+" (and "+err.Error()+")"))
	case err != nil:
		return err
	case c.Reason != "":
		return w.bury(ctx, job, &c.Event, "bad_row", errors.New(c.Reason))
	}
	var found tally
	err = w.deliver(ctx, job, func(ctx context.Context, tx pgx.Tx) ([]river.InsertManyParams, error) {
		if err := index.Late(ctx, tx); err != nil {
			return nil, err
		}
		params := w.queue.match(&c.Event, "", &found)
		return params, w.queue.index.Record(ctx, tx, []index.Ingested{{Event: &c.Event, Matched: len(params) > 0}})
	})
	if capture.Refused(err) {
		return w.bury(ctx, job, &c.Event, "refused", err)
	}
	if err == nil {
		found.count(w.queue.runner.metrics)
	}
	return err
}

// rematch evaluates one observer's condition again.
func (w *changeWorker) rematch(ctx context.Context, job *river.Job[changeArgs]) error {
	set := w.queue.set.Load()
	if !set.Has(job.Args.Observer) {
		if wait := w.queue.runner.await(ctx, job.JobRow, job.Args.Args); wait != nil {
			return wait
		}
		return w.bury(ctx, job, nil, "unknown_observer",
			fmt.Errorf("no observer %s in the configuration, and the change is an hour old", job.Args.Observer))
	}
	w.queue.runner.known(ctx, job.JobRow)
	rec, err := loadEvent(ctx, w.queue.runner.pool, w.queue.index, job.Args.Args)
	if errors.Is(err, index.ErrNotFound) {
		return w.bury(ctx, job, nil, "event_gone", err)
	}
	if err != nil {
		return err
	}
	e := *rec.Event
	e.LSN, e.TxIndex = job.Args.LSN, job.Args.TxIndex // its place in the order, also after weir adopt
	var found tally
	params := w.queue.match(&e, job.Args.Observer, &found)
	for _, p := range params {
		if again, failed := p.Args.(changeArgs); failed {
			return w.bury(ctx, job, &e, "condition", errors.New(again.Reason))
		}
	}
	found.count(w.queue.runner.metrics)
	return w.deliver(ctx, job, func(ctx context.Context, tx pgx.Tx) ([]river.InsertManyParams, error) {
		// A click on Retry in River UI works a completed job again. There is one job for a delivery, also then.
		made, err := store.New().DeliveriesOf(ctx, tx, store.DeliveriesOfParams{
			EventText: job.Args.EventID.String(), PK: job.Args.PK, Observer: job.Args.Observer, IDs: deliveryIDs(params),
		})
		if err != nil || made > 0 {
			return nil, err
		}
		return params, nil
	})
}

// deliver completes the change's job in the transaction that inserts its deliveries.
func (w *changeWorker) deliver(
	ctx context.Context, job *river.Job[changeArgs], jobs func(context.Context, pgx.Tx) ([]river.InsertManyParams, error),
) error {
	var waiting []sequence
	err := completeTx(ctx, w.queue.runner.pool, job.JobRow, func(ctx context.Context, tx pgx.Tx) error {
		params, err := jobs(ctx, tx)
		if err != nil {
			return err
		}
		if readMark(job.Metadata).ByHand {
			byHand(params)
		}
		waiting, err = w.queue.insert(ctx, tx, params)
		return err
	})
	if err == nil {
		// What waited behind the change itself may wait no more, either.
		w.queue.turns.call(append(waiting, sequenceOf(job.Args.Args))...)
	}
	return err
}

// bury makes the change a dead letter. The event is what has been read of it, nil for nothing.
func (w *changeWorker) bury(ctx context.Context, job *river.Job[changeArgs], e *event.Event, code string, err error) error {
	d := delivery{job: job.JobRow, args: job.Args.Args, rec: index.Record{Event: e}}
	w.queue.log.Warn("a change could not be matched, it is a dead letter", append(d.attrs(), "error", short(err.Error()))...)
	return bury(ctx, code, err)
}

// deliveryIDs are the ids of new deliveries.
func deliveryIDs(params []river.InsertManyParams) []uuid.UUID {
	var ids []uuid.UUID
	for _, p := range params {
		if a, ok := p.Args.(deliveryArgs); ok {
			ids = append(ids, a.args().DeliveryID())
		}
	}
	return ids
}
