package ops

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/jobs"
	"github.com/fraiseql/weir/internal/store"
)

// Delivery is a River job as a person sees it: one action of one observer for one event, or a change that could not be
// matched (kind weir_change).
type Delivery struct {
	JobID int64 `json:"job_id"` // of the job in weir.river_job
	// DeliveryID is what receivers get as webhook-id; null for a change that could not be matched.
	DeliveryID *uuid.UUID `json:"delivery_id"`
	// ReplayOf is the delivery that this one repeats, made by a replay; null for one that repeats none.
	ReplayOf *uuid.UUID `json:"replay_of"`
	Kind     string     `json:"kind"`     // River's kind: weir_webhook, weir_log …
	Observer string     `json:"observer"` // "" for a row that is no event
	Action   string     `json:"action"`   // "" for a change that could not be matched
	Queue    string     `json:"queue"`    // the endpoint's; of a delivery that has moved, the endpoint
	// State is River's: available, running, scheduled, retryable, pending, completed, cancelled, discarded.
	State      string `json:"state"`
	DeadLetter bool   `json:"dead_letter"` // it failed for good and waits for somebody
	// Moved: it has left River's table and is in weir.outcome alone; JobID is what it was.
	Moved bool `json:"moved"`
	// Reason is a short code that says why it is a dead letter, "" for a delivery that is none.
	Reason      string     `json:"reason"`
	Attempt     int        `json:"attempt"`      // attempts so far
	MaxAttempts int        `json:"max_attempts"` // how many it may have
	CreatedAt   event.Time `json:"created_at"`   // of the job
	AttemptedAt event.Time `json:"attempted_at"` // begin of the last attempt; null before the first
	// NextAttemptAt is null when no further attempt is planned.
	NextAttemptAt event.Time `json:"next_attempt_at"`
	FinalizedAt   event.Time `json:"finalized_at"` // when it ended; null before

	EventID   uuid.UUID  `json:"event_id"` // id of the event
	EventType event.Type `json:"event_type"`
	Entity    string     `json:"entity"`    // type of the entity
	EntityID  string     `json:"entity_id"` // id of the entity
	LSN       event.LSN  `json:"lsn"`       // of the commit
	TxIndex   int64      `json:"tx_index"`  // place within the transaction
	PK        int64      `json:"pk"`        // of the row in the change log, 0 without one

	// WaitsFor is the job that comes first, of a delivery that waits for its turn (ordering: entity); null otherwise.
	WaitsFor *WaitsFor `json:"waits_for"`
	// Paused is what holds a delivery that is not finished, of what people have paused: the observer, its endpoint, or all
	// deliveries; null for nothing.
	Paused *Pause `json:"paused"`
	// Outcome is what the last attempt recorded; null before the first one has ended.
	Outcome *Outcome `json:"outcome"`
	// Errors are those of all attempts, the oldest first; `weir dlq retry` keeps them.
	Errors []AttemptError `json:"errors"`
	// LastError is the newest of Errors.
	LastError string `json:"last_error"`

	day string
}

// WaitsFor is what a delivery waits for.
type WaitsFor struct {
	JobID      int64  `json:"job_id"`      // of the job
	State      string `json:"state"`       // River's
	DeadLetter bool   `json:"dead_letter"` // it is one, so somebody has to act
}

// Outcome is what an attempt left behind.
type Outcome struct {
	Result string `json:"result"` // delivered, duplicate, cached, retried, waiting, dead, dropped or stopped
	event.Outcome
}

// AttemptError is one failed attempt.
type AttemptError struct {
	At      event.Time `json:"at"`              // when it failed
	Attempt int        `json:"attempt"`         // from 1
	Error   string     `json:"error"`           // without secrets
	Trace   string     `json:"trace,omitempty"` // of a panic
}

// exhausted is the reason of a dead letter that River gave up itself.
const exhausted = "attempts_exhausted"

const (
	stateDiscarded = "discarded"
	stateCancelled = "cancelled"
)

// jobArgs are the arguments of every kind; those of a change that could not be matched have a reason, too.
type jobArgs struct {
	jobs.Args
	Reason string `json:"reason"`
}

func ofDeadLetter(row store.DeadLetter) (Delivery, error) {
	return ofJob(store.JobsOfEventRow{
		ID: row.ID, Kind: row.Kind, Queue: row.Queue, State: row.State, Attempt: row.Attempt, MaxAttempts: row.MaxAttempts,
		CreatedAt: row.CreatedAt, AttemptedAt: row.AttemptedAt, FinalizedAt: row.FinalizedAt,
		Args: row.Args, Metadata: row.Metadata, Errors: row.Errors,
	})
}

func ofJob(row store.JobsOfEventRow) (Delivery, error) {
	var args jobArgs
	if err := json.Unmarshal(row.Args, &args); err != nil {
		return Delivery{}, fmt.Errorf("arguments of job %d: %w", row.ID, err)
	}
	d := Delivery{
		JobID: row.ID, Kind: row.Kind, Queue: row.Queue, State: row.State, Observer: args.Observer, Action: args.Action,
		Attempt: int(row.Attempt), MaxAttempts: int(row.MaxAttempts),
		CreatedAt: event.Time(row.CreatedAt), AttemptedAt: timeOf(row.AttemptedAt), FinalizedAt: timeOf(row.FinalizedAt),
		EventID: args.EventID, EventType: args.EventType, Entity: args.Entity, EntityID: args.EntityID,
		LSN: args.LSN, TxIndex: args.TxIndex, PK: args.PK, day: args.Day,
	}
	if jobs.IsDelivery(row.Kind) {
		d.identify(args.DeliveryID())
	}
	switch row.State {
	case "available", "scheduled", "retryable":
		d.NextAttemptAt = event.Time(row.ScheduledAt)
	}
	if err := d.readMetadata(row); err != nil {
		return Delivery{}, err
	}
	if err := d.readErrors(row); err != nil {
		return Delivery{}, err
	}
	if d.LastError == "" {
		d.LastError = args.Reason // not worked yet: what was found when the change was read
	}
	return d, nil
}

// identify gives the delivery its id, which also tells whether it repeats another: it is not the one that its parts make.
func (d *Delivery) identify(id uuid.UUID) {
	d.DeliveryID = &id
	if first := event.DeliveryID(d.EventID, d.PK, d.Observer, d.Action); first != id {
		d.ReplayOf = &first
	}
}

func (d *Delivery) readMetadata(row store.JobsOfEventRow) error {
	var meta map[string]json.RawMessage
	if err := json.Unmarshal(row.Metadata, &meta); err != nil {
		return fmt.Errorf("metadata of job %d: %w", row.ID, err)
	}
	if raw, ok := meta["output"]; ok {
		if err := json.Unmarshal(raw, &d.Outcome); err != nil {
			return fmt.Errorf("output of job %d: %w", row.ID, err)
		}
	}
	mark, marked := meta[jobs.MetaDeadLetter]
	d.DeadLetter = row.State == stateDiscarded || (row.State == stateCancelled && marked)
	if !d.DeadLetter {
		return nil
	}
	d.Reason = exhausted
	if marked {
		if err := json.Unmarshal(mark, &d.Reason); err != nil {
			return fmt.Errorf("%s of job %d: %w", jobs.MetaDeadLetter, row.ID, err)
		}
	}
	return nil
}

func (d *Delivery) readErrors(row store.JobsOfEventRow) error {
	d.Errors = make([]AttemptError, len(row.Errors))
	for i, raw := range row.Errors {
		if err := json.Unmarshal(raw, &d.Errors[i]); err != nil {
			return fmt.Errorf("errors of job %d: %w", row.ID, err)
		}
		d.Errors[i].Error = jobs.Plain(d.Errors[i].Error)
		d.LastError = d.Errors[i].Error
	}
	return nil
}

// eventKey names the row of weir.event that the delivery is about.
func (d *Delivery) eventKey() (store.GetEventParams, error) {
	day, err := time.Parse(time.DateOnly, d.day)
	if err != nil {
		return store.GetEventParams{}, fmt.Errorf("argument day of job %d: %w", d.JobID, err)
	}
	return store.GetEventParams{Day: day, ID: d.EventID, PK: d.PK}, nil
}
