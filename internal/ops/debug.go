package ops

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/google/uuid"

	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/observer"
	"github.com/fraiseql/weir/internal/rule"
	"github.com/fraiseql/weir/internal/store"
)

// ErrNoEvent says that nothing is known of an event: neither itself nor a delivery.
var ErrNoEvent = errors.New("no such event")

// EventReport is an event, what each observer makes of it now, and what became of it.
type EventReport struct {
	ID uuid.UUID `json:"id"` // of the event
	PK int64     `json:"pk"` // of the row in the change log, 0 without one
	// Event is as receivers get it; null when it is not stored: the row is no event, or it is older than the history.
	Event      json.RawMessage `json:"event"`
	LSN        event.LSN       `json:"lsn"`         // of the commit
	TxIndex    int64           `json:"tx_index"`    // place within the transaction
	IngestedAt event.Time      `json:"ingested_at"` // when it was recorded; null when it is not stored
	// Explained: Observers were evaluated. It takes a configuration, and the event.
	Explained bool `json:"explained"`
	// Observers say by the present configuration whether the event matches. It may have been another one at its time.
	Observers []observer.Explanation `json:"observers"`
	// Deliveries are the jobs that exist, and what became of those that were finished long ago.
	Deliveries []Delivery `json:"deliveries"`
}

// Question says which observers are asked about an event.
type Question struct {
	Observers *observer.Set // nil: there is no configuration, nothing is explained
	Only      string        // one observer; "" for all
}

// DebugEvent reports on the events with the id: more than one is possible, since the change log's id is not unique. The
// error wraps ErrNoEvent when there is no trace of it.
func DebugEvent(ctx context.Context, db DB, id uuid.UUID, q Question) ([]EventReport, error) {
	rows, err := store.New().FindEventsByID(ctx, db, id)
	if err != nil {
		return nil, fmt.Errorf("find event %s: %w", id, err)
	}
	reports := []EventReport{}
	for _, row := range rows {
		report, err := q.report(ctx, db, store.LastEventsRow(row))
		if err != nil {
			return nil, err
		}
		reports = append(reports, report)
	}
	orphans, err := q.withoutEvent(ctx, db, id, reports)
	if err != nil {
		return nil, err
	}
	if reports = append(reports, orphans...); len(reports) == 0 {
		return nil, fmt.Errorf("%w: %s", ErrNoEvent, id)
	}
	return reports, nil
}

// DebugLast reports on the newest n events, the newest first.
func DebugLast(ctx context.Context, db DB, n int, q Question) ([]EventReport, error) {
	rows, err := store.New().LastEvents(ctx, db, int32(min(n, maxPage)))
	if err != nil {
		return nil, fmt.Errorf("read the newest events: %w", err)
	}
	reports := make([]EventReport, len(rows))
	for i, row := range rows {
		if reports[i], err = q.report(ctx, db, row); err != nil {
			return nil, err
		}
	}
	return reports, nil
}

func (q Question) report(ctx context.Context, db DB, row store.LastEventsRow) (EventReport, error) {
	report := EventReport{
		ID: row.ID, PK: row.PK, Event: row.Payload, LSN: lsnOf(row.LSN), TxIndex: row.TxIndex,
		IngestedAt: event.Time(row.IngestedAt), Observers: []observer.Explanation{},
	}
	if q.Observers != nil {
		e, err := stored(row.Payload, row.PK, row.TxIndex)
		if err != nil {
			return report, err
		}
		report.Explained, report.Observers = true, q.explain(e)
	}
	all, err := q.deliveries(ctx, db, row.ID)
	if err != nil {
		return report, err
	}
	report.Deliveries = slices.DeleteFunc(all, func(d Delivery) bool { return d.PK != row.PK })
	return report, nil
}

func (q Question) explain(e *event.Event) []observer.Explanation {
	all := q.Observers.Explain(rule.NewEnv(e), e)
	if q.Only != "" {
		all = slices.DeleteFunc(all, func(x observer.Explanation) bool { return x.Observer != q.Only })
	}
	return all
}

func (q Question) deliveries(ctx context.Context, db DB, id uuid.UUID) ([]Delivery, error) {
	rows, err := store.New().JobsOfEvent(ctx, db, id.String())
	if err != nil {
		return nil, fmt.Errorf("find the deliveries of event %s: %w", id, err)
	}
	paused, err := ReadPaused(ctx, db)
	if err != nil {
		return nil, err
	}
	deliveries := []Delivery{}
	for _, row := range rows {
		d, err := ofJob(row)
		if err != nil {
			return nil, err
		}
		if q.Only != "" && q.Only != d.Observer {
			continue
		}
		if d.WaitsFor, err = q.waitsFor(ctx, db, d); err != nil {
			return nil, err
		}
		d.Paused = d.heldBy(paused)
		deliveries = append(deliveries, d)
	}
	return q.moved(ctx, db, id, deliveries)
}

// waitsFor finds what has to end before a pending delivery has its turn.
func (q Question) waitsFor(ctx context.Context, db DB, d Delivery) (*WaitsFor, error) {
	if d.State != "pending" {
		return nil, nil //nolint:nilnil // nothing
	}
	skip := false
	if q.Observers != nil {
		_, onDeadLetter, _ := q.Observers.Order(d.Observer)
		skip = onDeadLetter == observer.DeadLetterSkipped
	}
	first, err := store.New().FirstOfSequence(ctx, db, store.FirstOfSequenceParams{
		Observer: d.Observer, Entity: d.Entity, EntityID: d.EntityID, SkipDead: skip,
	})
	switch {
	case notFound(err) || first.ID == d.JobID:
		return nil, nil //nolint:nilnil // it is about to be called
	case err != nil:
		return nil, fmt.Errorf("find what job %d waits for: %w", d.JobID, err)
	}
	return &WaitsFor{JobID: first.ID, State: first.State, DeadLetter: first.Dead}, nil
}

// moved adds the deliveries that have left River's table. One that is in both is River's: it was retried by hand after its
// move, or moved between the two queries.
func (q Question) moved(ctx context.Context, db DB, id uuid.UUID, known []Delivery) ([]Delivery, error) {
	rows, err := store.New().OutcomesOfEvent(ctx, db, id)
	if err != nil {
		return nil, fmt.Errorf("find the outcomes of event %s: %w", id, err)
	}
	for _, row := range rows {
		same := func(d Delivery) bool { return d.DeliveryID != nil && *d.DeliveryID == row.DeliveryID }
		if (q.Only != "" && q.Only != row.Observer) || slices.ContainsFunc(known, same) {
			continue
		}
		d, err := ofOutcome(row)
		if err != nil {
			return nil, err
		}
		known = append(known, d)
	}
	return known, nil
}

// withoutEvent reports on jobs whose event is not stored: rows that are no events, one report for each row.
func (q Question) withoutEvent(ctx context.Context, db DB, id uuid.UUID, known []EventReport) ([]EventReport, error) {
	all, err := q.deliveries(ctx, db, id)
	if err != nil {
		return nil, err
	}
	var reports []EventReport
	for _, d := range all {
		samePK := func(r EventReport) bool { return r.PK == d.PK }
		if slices.ContainsFunc(known, samePK) {
			continue
		}
		i := slices.IndexFunc(reports, samePK)
		if i < 0 {
			i = len(reports)
			reports = append(reports, EventReport{
				ID: id, PK: d.PK, LSN: d.LSN, TxIndex: d.TxIndex, Observers: []observer.Explanation{},
			})
		}
		reports[i].Deliveries = append(reports[i].Deliveries, d)
	}
	return reports, nil
}
