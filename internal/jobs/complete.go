package jobs

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivertype"

	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/store"
)

// errNotOurs says that somebody else has taken the job over: it has another id by now, or has been concluded.
var errNotOurs = errors.New("the delivery is no longer this attempt's: another worker has taken it over")

// idleInTransaction is how long the transaction that completes a job may stand still between two statements. The worker
// has nothing to do there, so a longer pause means that it was stopped; its lock on the job must not stay.
const idleInTransaction = 5 * time.Second

// completeTx does work in the transaction that completes the job. Who does not find the job running under its id in there
// has lost it to somebody else, and must not do the work: the lock keeps it from being given away before the COMMIT.
func completeTx(ctx context.Context, pool *pgxpool.Pool, job *rivertype.JobRow, work func(context.Context, pgx.Tx) error) error {
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if err := limit(ctx, tx); err != nil {
			return err
		}
		_, err := store.New().LockRunningJob(ctx, tx, job.ID)
		if errors.Is(err, pgx.ErrNoRows) {
			return errNotOurs
		}
		if err != nil {
			return fmt.Errorf("lock the job: %w", err)
		}
		if err := work(ctx, tx); err != nil {
			return err
		}
		_, err = river.JobCompleteTx[*riverpgxv5.Driver](ctx, tx, &river.Job[anyArgs]{JobRow: job})
		return err
	})
}

// limit bounds the transaction on the server's side, too, which does not notice when its client is stopped. One that is not
// stopped knows better why time is up, so it comes first.
func limit(ctx context.Context, tx pgx.Tx) error {
	milliseconds := func(d time.Duration) string { return strconv.FormatInt(max(1, d.Milliseconds()), 10) }
	statement := "0"
	if deadline, ok := ctx.Deadline(); ok {
		statement = milliseconds(time.Until(deadline) + time.Second)
	}
	_, err := tx.Exec(ctx, `
		SELECT set_config('statement_timeout', $1, true), set_config('idle_in_transaction_session_timeout', $2, true)`,
		statement, milliseconds(idleInTransaction))
	if err != nil {
		return fmt.Errorf("limit the transaction: %w", err)
	}
	return nil
}

// anyArgs stand for arguments that nobody looks at.
type anyArgs struct{}

// Kind is never used.
func (anyArgs) Kind() string { return "" }

// completeTx is what an action that runs in the database gets as Call.CompleteTx. The outcome is recorded before the job is
// completed: what is recorded later finds no running job.
func (r *runner) completeTx(ctx context.Context, d *delivery, work func(context.Context, pgx.Tx) (event.Outcome, error)) error {
	err := completeTx(ctx, r.functions, d.job, func(ctx context.Context, tx pgx.Tx) error {
		out, err := work(ctx, tx)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "RESET ROLE"); err != nil { // a function may have taken another, which may not complete jobs
			return err
		}
		out.DurationMS = time.Since(d.began).Milliseconds()
		return river.RecordOutput(ctx, output{Result: delivered, Outcome: out})
	})
	d.completed = err == nil
	return away(err)
}
