package jobs

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/internal/setting"
	"github.com/fraiseql/weir/internal/store"
)

const (
	// moveBatch is how many jobs one transaction moves: few enough that nobody waits for it.
	moveBatch = 1000
	// movePause is how long the mover rests after a batch at the most. It rests for as long as the batch took, so that
	// ingest and deliveries have the server for at least half of the time.
	movePause = 200 * time.Millisecond
)

// States of an outcome.
const (
	outcomeDelivered = delivered
	outcomeDropped   = dropped     // failed for good, on_failure: log
	outcomeCancelled = "cancelled" // by a person
)

// move takes finished jobs out of River's table and records what became of their deliveries, both in one transaction: a
// delivery is in the one or in the other. Dead letters stay. Any number of movers may run, and each may die at any point.
func (h *housekeeper) move(ctx context.Context, age setting.Duration) error {
	completed := func(ctx context.Context, tx pgx.Tx) ([]store.TakeCompletedRow, error) {
		rows, err := store.New().TakeCompleted(ctx, tx, store.TakeCompletedParams{Age: age.Std(), MaxRows: moveBatch})
		if err == nil {
			err = markOvertaken(ctx, tx, rows)
		}
		return rows, err
	}
	cancelled := func(ctx context.Context, tx pgx.Tx) ([]store.TakeCompletedRow, error) {
		rows, err := store.New().TakeCancelled(ctx, tx, store.TakeCancelledParams{Age: age.Std(), MaxRows: moveBatch})
		same := make([]store.TakeCompletedRow, len(rows))
		for i, row := range rows {
			same[i] = store.TakeCompletedRow(row)
		}
		return same, err
	}
	return errors.Join(h.moveAll(ctx, completed), h.moveAll(ctx, cancelled))
}

type take func(context.Context, pgx.Tx) ([]store.TakeCompletedRow, error)

// moveAll moves batch after batch until none is due.
func (h *housekeeper) moveAll(ctx context.Context, some take) error {
	for {
		began := time.Now()
		moved := 0
		err := pgx.BeginFunc(ctx, h.queue.runner.pool, func(tx pgx.Tx) error {
			// Before any job is locked: who removes an entity's jobs and outcomes does it in this order, too.
			if err := store.New().LockOutcomes(ctx, tx); err != nil {
				return err
			}
			rows, err := some(ctx, tx)
			if err != nil {
				return err
			}
			moved = len(rows)
			return record(ctx, tx, h.outcomes(rows))
		})
		if err != nil {
			return fmt.Errorf("move finished jobs: %w", err)
		}
		h.queue.runner.metrics.moved.Add(float64(moved))
		if moved < moveBatch {
			return nil
		}
		rest := time.NewTimer(min(time.Since(began), movePause))
		select {
		case <-ctx.Done():
		case <-h.queue.ending: // the worker does not wait for a big move: the next one goes on
		case <-rest.C:
		}
		rest.Stop()
		if h.queue.isEnding() {
			return errEnding
		}
	}
}

func record(ctx context.Context, tx pgx.Tx, outcomes []store.RecordOutcomeParams) error {
	var failed error
	store.New().RecordOutcome(ctx, tx, outcomes).Exec(func(_ int, err error) {
		if failed == nil {
			failed = err
		}
	})
	return failed
}

// outcomes are those of the jobs that are deliveries. Changes that were matched at last leave none.
func (h *housekeeper) outcomes(rows []store.TakeCompletedRow) []store.RecordOutcomeParams {
	var outcomes []store.RecordOutcomeParams
	places := h.queue.places()
	for _, row := range rows {
		if !IsDelivery(row.Kind) {
			continue
		}
		o, err := outcomeOf(row, places)
		if err != nil {
			h.queue.log.Error("a finished job that is no delivery was removed", "job_id", row.ID, "kind", row.Kind, "error", err)
			continue
		}
		outcomes = append(outcomes, o)
	}
	return outcomes
}

// places are the names of endpoints by those of their queues.
func (q *Queue) places() map[string]string {
	places := map[string]string{}
	for _, endpoint := range q.set.Load().Endpoints() {
		places[QueueName(endpoint)] = endpoint
	}
	return places
}

// OutcomePayload is what weir.outcome keeps of a delivery beside its columns.
type OutcomePayload struct {
	Output json.RawMessage   `json:"output,omitempty"` // of its last attempt
	Errors []json.RawMessage `json:"errors,omitempty"` // of all attempts, the oldest first
	JobID  int64             `json:"job_id"`           // while it was River's
}

// outcomeOf makes the outcome of a finished job. places are the names of endpoints that are known, by those of their queues; an
// endpoint that is not is named as its queue.
func outcomeOf(row store.TakeCompletedRow, places map[string]string) (store.RecordOutcomeParams, error) {
	var args Args
	if err := json.Unmarshal(row.Args, &args); err != nil {
		return store.RecordOutcomeParams{}, fmt.Errorf("arguments: %w", err)
	}
	day, err := time.Parse(dayLayout, args.Day)
	if err != nil {
		return store.RecordOutcomeParams{}, fmt.Errorf("arguments: %w", err)
	}
	var meta struct {
		Raw json.RawMessage `json:"output"`
	}
	var last output
	if err := json.Unmarshal(row.Metadata, &meta); err != nil {
		return store.RecordOutcomeParams{}, fmt.Errorf("metadata: %w", err)
	}
	if meta.Raw != nil {
		if err := json.Unmarshal(meta.Raw, &last); err != nil {
			return store.RecordOutcomeParams{}, fmt.Errorf("output: %w", err)
		}
	}
	payload := OutcomePayload{Output: meta.Raw, JobID: row.ID}
	o := store.RecordOutcomeParams{
		Day: day, DeliveryID: args.DeliveryID(), EventID: args.EventID, EventPK: args.PK, Observer: args.Observer,
		Action: args.Action, ActionType: actionType(row.Kind), Endpoint: cmp.Or(places[row.Queue], row.Queue), EntityType: args.Entity,
		EntityID: args.EntityID, State: outcomeState(row.State, last.Result), Attempts: int32(row.Attempt),
		StartedAt: row.AttemptedAt, FinishedAt: row.FinalizedAt, Cached: last.Cached, DuplicateOf: last.DuplicateOf,
	}
	if meta.Raw != nil {
		o.DurationMS = &last.DurationMS
	}
	if last.ResponseStatus != 0 {
		status := int32(last.ResponseStatus)
		o.ResponseStatus = &status
	}
	for _, raw := range row.Errors {
		payload.Errors = append(payload.Errors, raw)
	}
	if o.State != outcomeDelivered { // what went wrong before it was delivered is in the payload
		o.Error = lastError(row.Errors)
	}
	o.Payload, err = json.Marshal(payload)
	return o, err
}

func outcomeState(state, result string) string {
	switch {
	case state == "completed":
		return outcomeDelivered
	case result == dropped:
		return outcomeDropped
	default:
		return outcomeCancelled
	}
}

func lastError(errs [][]byte) *string {
	if len(errs) == 0 {
		return nil
	}
	var last struct {
		Error string `json:"error"`
	}
	if json.Unmarshal(errs[len(errs)-1], &last) != nil {
		return nil
	}
	text := Plain(last.Error)
	return &text
}

// Plain takes away the words that River puts before the error of a job that was given up.
func Plain(text string) string { return strings.TrimPrefix(text, "JobCancelError: ") }
