package jobs

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/observer"
	"github.com/fraiseql/weir/internal/store"
)

// mark is what a job's metadata says about its order.
type mark struct {
	Ordered bool `json:"weir_ordered"`
	ByHand  bool `json:"weir_by_hand"`
	// Overtaken says that a later delivery has left the table meanwhile, and Code why this one was given up the last time.
	Overtaken bool   `json:"weir_overtaken"`
	Code      string `json:"weir_dead_letter"`
	Output    struct {
		Result string `json:"result"`
	} `json:"output"`
}

func readMark(metadata []byte) mark {
	var m mark
	_ = json.Unmarshal(metadata, &m) // none keeps no order
	return m
}

// markOf is the metadata of a new job. An event without an entity has no order.
func markOf(e *event.Event, ordering observer.Ordering) []byte {
	if ordering != observer.OrderingEntity || e.EntityID == "" {
		return nil
	}
	return []byte(markOrdered)
}

// byHand marks new jobs that a person wants though they come late.
func byHand(params []river.InsertManyParams) {
	for _, p := range params {
		if p.InsertOpts.Metadata != nil {
			p.InsertOpts.Metadata = []byte(markByHand)
		}
	}
}

// inOrder lets a delivery run when it is its turn.
func (r *runner) inOrder(next step) step {
	return func(ctx context.Context, d *delivery) error {
		if d.bound.Ordering != observer.OrderingEntity {
			return next(ctx, d)
		}
		m := readMark(d.job.Metadata)
		if !m.Ordered {
			return next(ctx, d)
		}
		if isSuccess(m.Output.Result) {
			d.how = m.Output.Result
			r.log.Info("a delivery that keeps an order is not repeated", d.attrs()...)
			return nil
		}
		first, err := r.turns.first(ctx, d.args)
		switch {
		case err != nil:
			r.log.Warn("whose turn it is could not be found out, trying again", append(d.attrs(), "error", err)...)
			return river.JobSnooze(awayPause)
		case r.lease.Check() != nil: // stopped while asking: what was true then need not be any more
			return river.JobSnooze(awayPause)
		case first.Waits:
			return r.waitInLine(ctx, d)
		case first.LaterRuns: // it goes back to wait, or what comes of it decides
			return river.JobSnooze(awayPause)
		case !m.ByHand && (first.Overtaken || m.Overtaken || m.Code == codeOvertaken):
			r.metrics.deliveries.WithLabelValues(d.args.Observer, d.bound.Action.Type(), dead).Inc()
			d.how, d.failure = dead, errors.New("later events of this entity have been delivered already, and this one "+
				"would come out of order; weir dlq retry sends it all the same")
			return bury(ctx, codeOvertaken, d.failure)
		}
		if err := next(ctx, d); err != nil {
			return err
		}
		r.finish(ctx, d)
		return nil
	}
}

// waitInLine puts the job back.
func (r *runner) waitInLine(ctx context.Context, d *delivery) error {
	_, err := store.New().WaitInLine(ctx, r.pool, d.job.ID)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return errNotOurs
	case err != nil:
		r.log.Warn("a delivery whose turn it is not could not be put back, trying again", append(d.attrs(), "error", err)...)
		return river.JobSnooze(awayPause)
	}
	r.metrics.deliveries.WithLabelValues(d.args.Observer, d.bound.Action.Type(), waiting).Inc()
	d.how = waiting
	r.note(ctx, "ordering", "an earlier delivery of the entity comes first")
	r.turns.call(sequenceOf(d.args))
	return river.JobSnooze(awayPause) // River finds no job of this id to put off
}

// finish completes a delivery at once, for the sake of the next one: River's completer would take up to a quarter of a second.
// Should it fail, then River completes the job, and the sweep calls the next.
func (r *runner) finish(ctx context.Context, d *delivery) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTime)
	defer cancel()
	if !d.completed {
		err := pgx.BeginFunc(ctx, r.pool, func(tx pgx.Tx) error {
			_, err := river.JobCompleteTx[*riverpgxv5.Driver](ctx, tx, &river.Job[anyArgs]{JobRow: d.job})
			return err
		})
		if err != nil {
			r.log.Debug("delivery not completed at once (not an error)", append(d.attrs(), "error", err)...)
			return
		}
	}
	r.made.add(d.id())
	r.turns.call(sequenceOf(d.args))
}
