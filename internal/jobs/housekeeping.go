package jobs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"github.com/fraiseql/weir/internal/capture"
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
	// missingDays is how many partitions of days gone by are made at a time, which moves their rows out of the default ones.
	missingDays = 31
	pruneBatch  = 10_000
)

// errEnding says that housekeeping stopped between two batches, since the worker is stopping. Another one goes on.
var errEnding = errors.New("the worker is stopping")

// endingPause is for how long: until this worker fetches nothing more.
const endingPause = 2 * time.Second

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

// Work does what is due. Ages and days are by the database's clock.
func (h *housekeeper) Work(ctx context.Context, job *river.Job[housekeepingArgs]) error {
	history := h.queue.index.Config().WithDefaults()
	retention, err := index.Kept(ctx, h.queue.runner.pool, history, h.queue.recovery)
	for _, step := range []func() error{
		func() error { return h.makePartitions(ctx, retention) },
		func() error { return h.move(ctx, *history.FinishedJobs) },
		func() error { return h.dropPartitions(ctx, retention) },
		func() error { return h.prune(ctx, retention, history) },
		func() error { return h.forgetEndpoints(ctx) },
		func() error { return h.forgetClaims(ctx) },
		func() error { return keepPauses(ctx, h.queue.runner.pool) },
		// Who had begun to make deliveries available after a pause may have died, with rows that others passed over as locked.
		func() error { h.queue.resumed(); return nil },
	} {
		if h.queue.isEnding() {
			err = errors.Join(err, errEnding)
			break
		}
		err = errors.Join(err, step())
	}
	switch {
	case errors.Is(err, errEnding):
		return river.JobSnooze(endingPause)
	case ctx.Err() != nil:
		return err // stopped: another worker goes on
	}
	if err != nil {
		err = capture.Denied(err, h.queue.runner.pool.Config().ConnConfig.User) // with the grants that mend it
		h.queue.log.Warn("housekeeping is not done, the next one goes on", "error", err, "again_in", housekeepingEvery)
	}
	// One a minute would be in everybody's way. River does not mind a job that is gone when it is to be completed.
	if err := store.New().DeleteHousekeeping(ctx, h.queue.runner.pool, job.ID); err != nil {
		h.queue.log.Warn("housekeeping has not tidied up after itself", "error", err)
	}
	return nil
}

// makePartitions makes those of the days to come, and those of days gone by that were missed: the worker was stopped for long,
// or a change came with a timestamp of long ago.
func (h *housekeeper) makePartitions(ctx context.Context, retention time.Duration) error {
	db := h.queue.runner.pool
	if err := store.New().MakePartitions(ctx, db, partitionDays); err != nil {
		return fmt.Errorf("make partitions: %w", err)
	}
	days, err := store.New().MissingDays(ctx, db, store.MissingDaysParams{Retention: retention, MaxRows: missingDays})
	if err != nil {
		return fmt.Errorf("list the days without a partition: %w", err)
	}
	for _, day := range days { // each in a transaction of its own
		if _, err := store.New().EnsurePartitions(ctx, db, store.EnsurePartitionsParams{First: day, Last: day}); err != nil {
			return fmt.Errorf("make the partitions of %s: %w", day.Format(time.DateOnly), err)
		}
	}
	return nil
}

// dropPartitions drops those that are older than the retention, each in a transaction of its own.
func (h *housekeeper) dropPartitions(ctx context.Context, retention time.Duration) error {
	for {
		name, err := store.New().DropPartition(ctx, h.queue.runner.pool, retention)
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

// prune removes what is old from the default partitions: what was to be kept of days that were dropped, until now, and rows
// whose dates nobody expected.
func (h *housekeeper) prune(ctx context.Context, retention time.Duration, history index.Config) error {
	db := h.queue.runner.pool
	_, err := store.New().PruneEvents(ctx, db, store.PruneEventsParams{
		Retention: retention, Stay: history.FinishedJobs.Std(), MaxRows: pruneBatch,
	})
	if err != nil {
		return fmt.Errorf("remove old events: %w", err)
	}
	_, err = store.New().PruneOutcomes(ctx, db, store.PruneOutcomesParams{Retention: retention, MaxRows: pruneBatch})
	if err != nil {
		return fmt.Errorf("remove old outcomes: %w", err)
	}
	_, err = store.New().PruneDocuments(ctx, db, store.PruneDocumentsParams{Retention: retention, MaxRows: pruneBatch})
	if err != nil {
		return fmt.Errorf("remove old documents: %w", err)
	}
	_, err = store.New().PruneDiscardedChanges(ctx, db, store.PruneDiscardedChangesParams{Retention: retention, MaxRows: pruneBatch})
	if err != nil {
		return fmt.Errorf("remove old discarded changes: %w", err)
	}
	_, err = store.New().RedactEvents(ctx, db, store.RedactEventsParams{Stay: history.FinishedJobs.Std(), MaxRows: pruneBatch})
	if err != nil {
		return fmt.Errorf("redact events that no job names any more: %w", err)
	}
	return nil
}

// forgetEndpoints removes what people would look at in vain: an endpoint that was open when its name left the configuration would
// stay so.
func (h *housekeeper) forgetEndpoints(ctx context.Context) error {
	configured := []string{}
	for _, at := range *h.queue.producers.wanted.Load() {
		configured = append(configured, at.name)
	}
	names, err := store.New().ForgetEndpoints(ctx, h.queue.runner.pool, configured)
	if err != nil {
		return fmt.Errorf("forget endpoints: %w", err)
	}
	if len(names) > 0 {
		h.queue.log.Info("forgot endpoints that are not configured any more", "endpoints", names)
	}
	return nil
}

// forgetClaims removes dedup's claims and windows that are over.
func (h *housekeeper) forgetClaims(ctx context.Context) error {
	for !h.queue.isEnding() {
		n, err := store.New().DeleteExpiredDedup(ctx, h.queue.runner.pool, pruneBatch)
		if err != nil {
			return fmt.Errorf("remove old claims of dedup: %w", err)
		}
		if n < pruneBatch {
			return nil
		}
	}
	return errEnding
}
