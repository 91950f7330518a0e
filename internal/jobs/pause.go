package jobs

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"github.com/fraiseql/weir/internal/breaker"
	"github.com/fraiseql/weir/internal/store"
)

// What people pause, and who obeys:
//
//   - all deliveries, an endpoint: the queues have no producer meanwhile, as with an open breaker (producers.go), so nothing is
//     fetched and nothing is written. A queue's pause is River's, so that River UI shows it, and lifts it. River tells its
//     producers at once; that they are taken away within a second also serves where the notification was lost.
//   - an observer: its deliveries share queues with others', so they are fetched, and then set aside, each once: they get
//     River's state pending and a mark. Those that keep an order need none: they wait in their sequences, in which nothing is
//     called meanwhile. Whoever sees that the pause is over makes them available: with the sweep, at the start, too.

// unpaused sets deliveries aside whose observer is paused, also such as nobody knows: they do not become too old meanwhile.
func (r *runner) unpaused(next step) step {
	return func(ctx context.Context, d *delivery) error {
		if !r.panel.ObserverPaused(d.args.Observer) {
			return next(ctx, d)
		}
		is, err := store.New().SetAside(ctx, r.pool, store.SetAsideParams{Observer: d.args.Observer, ID: d.job.ID})
		switch {
		case err != nil:
			r.log.Warn("a delivery of a paused observer was not set aside, trying again", append(d.attrs(), "error", err)...)
			return river.JobSnooze(awayPause)
		case !is.Paused: // not any more
			return next(ctx, d)
		case !is.Moved:
			return errNotOurs
		}
		observer := d.args.Observer
		if _, _, known := r.set.Load().Order(observer); !known {
			observer = ""
		}
		r.metrics.deliveries.WithLabelValues(observer, actionType(d.job.Kind), waiting).Inc()
		return river.JobSnooze(awayPause) // River finds no job of this id to put off
	}
}

// stillUnpaused asks again after a wait.
func (r *runner) stillUnpaused(d *delivery) error {
	if r.panel.ObserverPaused(d.args.Observer) {
		return &breaker.RefusedError{Endpoint: d.bound.Action.Endpoint(), Paused: true}
	}
	return nil
}

// releasePaused makes deliveries available that were set aside and whose observer is not paused any more. It returns false when
// there are more.
func (q *Queue) releasePaused(ctx context.Context) (done bool, err error) {
	queues, err := store.New().ReleasePaused(ctx, q.runner.pool, releaseBatch)
	if err == nil {
		err = announce(ctx, q.runner.pool, queues)
	}
	if err != nil {
		return false, fmt.Errorf("make deliveries available that were set aside: %w", err)
	}
	return len(queues) < releaseBatch, nil
}

// resumed is called when an observer is not paused any more.
func (q *Queue) resumed() {
	q.unreleased.Store(true)
	q.wake()
}

// keepPauses keeps River from forgetting the pauses of queues that nobody serves.
func keepPauses(ctx context.Context, db store.DBTX) error {
	if err := store.New().KeepPausedQueues(ctx, db); err != nil {
		return fmt.Errorf("keep the pauses of queues: %w", err)
	}
	return nil
}

// PauseQueue pauses a queue for all of River's clients, those with other programs, too: producers hear of it with the COMMIT. Of
// one that is paused already, nothing changes.
func PauseQueue(ctx context.Context, tx pgx.Tx, name, by, reason string) error {
	client, err := clientOfTx()
	if err != nil {
		return err
	}
	if err := store.New().AddQueue(ctx, tx, name); err != nil {
		return fmt.Errorf("add queue %s: %w", name, err)
	}
	if err := client.QueuePauseTx(ctx, tx, name, nil); err != nil {
		return fmt.Errorf("pause queue %s: %w", name, err)
	}
	err = store.New().SignQueuePause(ctx, tx, store.SignQueuePauseParams{Name: name, PausedBy: by, Reason: reason})
	if err != nil {
		return fmt.Errorf("sign the pause of queue %s: %w", name, err)
	}
	return nil
}

// ResumeQueue lifts the pause of a queue, whoever has made it.
func ResumeQueue(ctx context.Context, tx pgx.Tx, name string) error {
	client, err := clientOfTx()
	if err != nil {
		return err
	}
	if err := client.QueueResumeTx(ctx, tx, name, nil); err != nil {
		return fmt.Errorf("resume queue %s: %w", name, err)
	}
	return nil
}

// clientOfTx is a client that works nothing, says nothing, and has no connection but a caller's transaction.
func clientOfTx() (*river.Client[pgx.Tx], error) {
	client, err := river.NewClient(riverpgxv5.New(nil), &river.Config{Schema: Schema, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, fmt.Errorf("make River's client: %w", err)
	}
	return client, nil
}

// OwnQueue says that a queue is no endpoint's but Weir's own.
func OwnQueue(name string) bool { return isOurs(name) }
