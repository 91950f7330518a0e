package jobs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"github.com/fraiseql/weir/internal/index"
	"github.com/fraiseql/weir/internal/store"
)

const (
	housekeepingEvery = time.Minute
	housekeepingPoll  = 10 * time.Second // for want of a notification
	// housekeepingTime bounds one job: what is left is the next one's.
	housekeepingTime = 30 * time.Minute
	// partitionDays is how many days ahead partitions are made.
	partitionDays = 7
	pruneBatch    = 10_000
)

// KindHousekeeping is the kind of the periodic job that moves finished jobs, and makes and drops partitions.
const KindHousekeeping = "weir_housekeeping"

type housekeepingArgs struct{}

// Kind is River's name for the type.
func (housekeepingArgs) Kind() string { return KindHousekeeping }

// InsertOpts keeps jobs from piling up: there is one, or one that is about to be tried again.
func (housekeepingArgs) InsertOpts() river.InsertOpts {
	return river.InsertOpts{Queue: KindHousekeeping, UniqueOpts: river.UniqueOpts{ByState: []rivertype.JobState{
		rivertype.JobStateAvailable, rivertype.JobStatePending, rivertype.JobStateRetryable, rivertype.JobStateRunning,
		rivertype.JobStateScheduled,
	}}}
}

// periodic is what River's leader inserts from time to time.
func periodic() []*river.PeriodicJob {
	return []*river.PeriodicJob{river.NewPeriodicJob(
		river.PeriodicInterval(housekeepingEvery),
		func() (river.JobArgs, *river.InsertOpts) { return housekeepingArgs{}, nil },
		&river.PeriodicJobOpts{RunOnStart: true},
	)}
}

// housekeeper works the periodic job. What fails is logged and left to the next one: housekeeping is never a dead letter.
type housekeeper struct {
	river.WorkerDefaults[housekeepingArgs]
	queue *Queue
}

// Timeout bounds the whole of it.
func (h *housekeeper) Timeout(*river.Job[housekeepingArgs]) time.Duration { return housekeepingTime }

// Work does what is due.
func (h *housekeeper) Work(ctx context.Context, job *river.Job[housekeepingArgs]) error {
	history := h.queue.history.Load().WithDefaults()
	today := time.Now().UTC().Truncate(24 * time.Hour)
	oldest := time.Now().UTC().Add(-history.Retention.Std()).Truncate(24 * time.Hour)
	err := errors.Join(
		h.makePartitions(ctx, today),
		h.move(ctx, *history.FinishedJobs),
		h.dropPartitions(ctx, oldest),
		h.prune(ctx, oldest),
	)
	if ctx.Err() != nil {
		return err // stopped: another worker goes on
	}
	if err != nil {
		h.queue.log.Warn("housekeeping is not done, the next one goes on", "error", err, "again_in", housekeepingEvery)
	}
	// One a minute would be in everybody's way. River does not mind a job that is gone when it is to be completed.
	if err := store.New().DeleteHousekeeping(ctx, h.queue.runner.pool, job.ID); err != nil {
		h.queue.log.Warn("housekeeping has not tidied up after itself", "error", err)
	}
	return nil
}

func (h *housekeeper) makePartitions(ctx context.Context, today time.Time) error {
	_, err := store.New().EnsurePartitions(ctx, h.queue.runner.pool, store.EnsurePartitionsParams{
		First: today.AddDate(0, 0, -1), Last: today.AddDate(0, 0, partitionDays),
	})
	if err != nil {
		return fmt.Errorf("make partitions: %w", err)
	}
	return nil
}

// dropPartitions drops those that lie before a day, each in a transaction of its own.
func (h *housekeeper) dropPartitions(ctx context.Context, before time.Time) error {
	for {
		name, err := store.New().DropPartition(ctx, h.queue.runner.pool, before)
		if err != nil {
			return fmt.Errorf("drop a partition: %w", err)
		}
		if name == "" {
			return nil
		}
		h.queue.log.Info("dropped a partition that is older than the history's retention", "partition", "weir."+name)
		h.queue.runner.metrics.partitions.Inc()
	}
}

// prune removes what is old from the default partitions: events of dropped days that jobs needed until now, and rows whose
// dates nobody expected.
func (h *housekeeper) prune(ctx context.Context, before time.Time) error {
	_, err := store.New().PruneEvents(ctx, h.queue.runner.pool, store.PruneEventsParams{Before: before, MaxRows: pruneBatch})
	if err != nil {
		return fmt.Errorf("remove old events: %w", err)
	}
	_, err = store.New().PruneOutcomes(ctx, h.queue.runner.pool, store.PruneOutcomesParams{Before: before, MaxRows: pruneBatch})
	if err != nil {
		return fmt.Errorf("remove old outcomes: %w", err)
	}
	return nil
}

// setHistory is for New and Swap.
func (q *Queue) setHistory(c index.Config) { q.history.Store(&c) }
