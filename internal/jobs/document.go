package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/index"
	"github.com/fraiseql/weir/internal/store"
)

// KindDocument is the kind of a document of the history that its store refused: a dead letter once it has been worked.
const KindDocument = "weir_document"

// IsDelivery says that jobs of a kind are deliveries: one action for one event.
func IsDelivery(kind string) bool {
	return kind != KindChange && kind != KindDocument && kind != KindHousekeeping
}

// documentArgs name a document: that of an event or, with an outcome, of a delivery. Working the job stores it again.
type documentArgs struct {
	Args
	Outcome *index.Outcome `json:"outcome,omitempty"`
	Version int64          `json:"version"` // of two outcomes of a delivery the one with the greater is newer
	Reason  string         `json:"reason"`  // as the store gave it first
}

// Kind is River's name for the type.
func (documentArgs) Kind() string { return KindDocument }

// InsertRefused keeps documents that a store refused, in the caller's transaction.
func (q *Queue) InsertRefused(ctx context.Context, tx pgx.Tx, refused []index.Refusal) error {
	params := make([]river.InsertManyParams, len(refused))
	for i, r := range refused {
		d := r.Document
		a := documentArgs{
			Args: Args{
				Entity: d.EntityType, EntityID: d.EntityID, EventType: event.Type(d.EventType), EventID: d.ID,
				Day: d.Day.Format(dayLayout), PK: d.PK,
			},
			Version: d.Version, Reason: short(r.Reason),
		}
		if d.Outcome != nil {
			o := *d.Outcome
			o.Error = short(o.Error)
			a.Outcome, a.Observer, a.Action = &o, o.Observer, o.Action
		}
		params[i] = river.InsertManyParams{Args: a, InsertOpts: &river.InsertOpts{Queue: KindDocument}}
	}
	_, err := q.insert(ctx, tx, params)
	return err
}

// documentWorker stores documents again that were refused: what has been mended since gets in, what has not is a dead letter.
type documentWorker struct {
	river.WorkerDefaults[documentArgs]
	queue *Queue
	store func(ctx context.Context, key index.Key, outcome *index.Outcome, version int64) (refused string, err error)
}

// Timeout bounds the store's work.
func (w *documentWorker) Timeout(*river.Job[documentArgs]) time.Duration { return time.Minute }

// Work stores the document again.
func (w *documentWorker) Work(ctx context.Context, job *river.Job[documentArgs]) error {
	if w.store == nil {
		return w.bury(ctx, job, "no_store", errors.New("there is no Elasticsearch in the configuration that would take it"))
	}
	day, err := time.Parse(dayLayout, job.Args.Day)
	if err != nil {
		return w.bury(ctx, job, "arguments", err)
	}
	reason, err := w.store(ctx, index.Key{Day: day, ID: job.Args.EventID, PK: job.Args.PK}, job.Args.Outcome, job.Args.Version)
	switch {
	case errors.Is(err, index.ErrNotFound):
		return w.bury(ctx, job, "event_gone", err)
	case err != nil:
		return errors.New(short(err.Error()))
	case reason != "":
		return w.bury(ctx, job, "document_refused", errors.New(reason))
	}
	return nil
}

func (w *documentWorker) bury(ctx context.Context, job *river.Job[documentArgs], code string, err error) error {
	d := delivery{job: job.JobRow, args: job.Args.Args}
	w.queue.log.Warn("a document of the history could not be stored, it is a dead letter",
		append(d.attrs(), "error", short(err.Error()))...)
	return bury(ctx, code, err)
}

// Finished returns those of the jobs that have ended and are still River's, in no order. One that is no delivery has no
// DeliveryID.
func (q *Queue) Finished(ctx context.Context, db store.DBTX, ids []int64) ([]index.Finished, error) {
	return FinishedJobs(ctx, db, q.places(), ids)
}

// FinishedJobs is Queue.Finished for who has no queue. places are the names of endpoints that are known, by those of their
// queues.
func FinishedJobs(ctx context.Context, db store.DBTX, places map[string]string, ids []int64) ([]index.Finished, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	rows, err := store.New().FinishedJobs(ctx, db, ids)
	if err != nil {
		return nil, err
	}
	found := make([]index.Finished, len(rows))
	for i, row := range rows {
		found[i] = index.Finished{JobID: row.ID, FinishedAt: *row.FinalizedAt}
		if !IsDelivery(row.Kind) {
			continue
		}
		if one, err := finishedOf(store.TakeCompletedRow(row), places); err == nil { // else it is the mover that says so
			found[i] = one
		}
	}
	return found, nil
}

func finishedOf(row store.TakeCompletedRow, places map[string]string) (index.Finished, error) {
	o, err := outcomeOf(row, places)
	if err != nil {
		return index.Finished{}, err
	}
	if row.State == "discarded" || isMarkedDead(row.Metadata) {
		o.State = dead
		o.Error = lastError(row.Errors)
	}
	out := index.Outcome{
		DeliveryID: o.DeliveryID, Observer: o.Observer, Action: o.Action, ActionType: o.ActionType, Endpoint: o.Endpoint,
		State: index.OutcomeState(o.State, o.Cached, o.DuplicateOf), Attempts: int(o.Attempts), StartedAt: o.StartedAt,
		FinishedAt: o.FinishedAt, DurationMS: o.DurationMS, ResponseStatus: o.ResponseStatus, DuplicateOf: o.DuplicateOf,
	}
	if o.Error != nil {
		out.Error = *o.Error
	}
	return index.Finished{
		JobID: row.ID, FinishedAt: *row.FinalizedAt, Key: index.Key{Day: o.Day, ID: o.EventID, PK: o.EventPK}, Outcome: out,
	}, nil
}

func isMarkedDead(metadata []byte) bool {
	var meta map[string]json.RawMessage
	if err := json.Unmarshal(metadata, &meta); err != nil {
		return false
	}
	_, marked := meta[MetaDeadLetter]
	return marked
}

// RecordRemoved records dead letters that a person has removed as outcomes: they are in weir.outcome alone then. The transaction
// has called LockOutcomes, before it locked their jobs.
func RecordRemoved(ctx context.Context, tx pgx.Tx, rows []store.TakeCompletedRow) error {
	var outcomes []store.RecordOutcomeParams
	for _, row := range rows {
		if !IsDelivery(row.Kind) {
			continue
		}
		o, err := outcomeOf(row, nil)
		if err != nil {
			return fmt.Errorf("outcome of job %d: %w", row.ID, err)
		}
		o.State, o.Error = dead, lastError(row.Errors)
		outcomes = append(outcomes, o)
	}
	return record(ctx, tx, outcomes)
}

// FinishedOf returns the finished deliveries of some events that are still River's jobs.
func FinishedOf(ctx context.Context, db store.DBTX, events []index.Key) ([]index.Finished, error) {
	ids := make([]string, len(events))
	for i, key := range events {
		ids[i] = key.ID.String()
	}
	rows, err := store.New().FinishedJobsOf(ctx, db, ids)
	if err != nil {
		return nil, err
	}
	var found []index.Finished
	for _, row := range rows {
		if !IsDelivery(row.Kind) {
			continue
		}
		one, err := finishedOf(store.TakeCompletedRow(row), nil)
		if err != nil {
			return nil, fmt.Errorf("job %d: %w", row.ID, err)
		}
		found = append(found, one)
	}
	return found, nil
}
