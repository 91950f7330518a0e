package index

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/google/uuid"

	"github.com/fraiseql/weir/internal/store"
)

// reading is what a round reads, and how far it comes.
type reading struct {
	db      store.DBTX
	version int64
	at      store.WeirHistory
	full    bool // there may be more

	found []Document
	ended []Finished
	known map[Key]Document // events of this round
}

// events reads the events that come next.
func (r *reading) events(ctx context.Context) error {
	r.known = map[Key]Document{}
	sizes, err := store.New().EventSizes(ctx, r.db, store.EventSizesParams{After: r.at.EventSeq, MaxRows: roundRows})
	if err != nil {
		return fmt.Errorf("look for events: %w", err)
	}
	bytes, until := 0, r.at.EventSeq
	for i, one := range sizes {
		if bytes += int(one.Bytes); i > 0 && bytes > roundBytes {
			r.full = true
			break
		}
		until = one.Seq
	}
	r.full = r.full || len(sizes) == roundRows
	if until == r.at.EventSeq {
		return nil
	}
	rows, err := store.New().EventsBetween(ctx, r.db, store.EventsBetweenParams{After: r.at.EventSeq, Until: until})
	if err != nil {
		return fmt.Errorf("read events: %w", err)
	}
	for _, row := range rows {
		r.addEvent(row)
	}
	r.at.EventSeq = until
	return nil
}

func (r *reading) addEvent(row store.EventsBetweenRow) {
	d := documentOf(row, r.version)
	r.known[d.Key] = d
	r.found = append(r.found, d)
}

func documentOf(row store.EventsBetweenRow, version int64) Document {
	return Document{
		Key: Key{Day: row.Day, ID: row.ID, PK: row.PK}, Seq: row.Seq, At: row.CreatedAt, IngestedAt: row.IngestedAt,
		EventType: row.EventType, EntityType: row.EntityType, EntityID: row.EntityID, Payload: json.RawMessage(row.Payload),
		Version: version,
	}
}

// outcomes reads those that come next in weir.outcome.
func (r *reading) outcomes(ctx context.Context) error {
	rows, err := store.New().OutcomesAfter(ctx, r.db, store.OutcomesAfterParams{After: r.at.OutcomeSeq, MaxRows: roundRows})
	if err != nil {
		return fmt.Errorf("read outcomes: %w", err)
	}
	for _, row := range rows {
		r.ended = append(r.ended, finishedOf(row))
		r.at.OutcomeSeq = row.Seq
	}
	r.full = r.full || len(rows) == roundRows
	return nil
}

func finishedOf(row store.OutcomesAfterRow) Finished {
	o := Outcome{
		DeliveryID: row.DeliveryID, Observer: row.Observer, Action: row.Action, ActionType: row.ActionType, Endpoint: row.Endpoint,
		State: OutcomeState(row.State, row.Cached, row.DuplicateOf), Attempts: int(row.Attempts), StartedAt: row.StartedAt,
		FinishedAt: row.FinishedAt, DurationMS: row.DurationMS, ResponseStatus: row.ResponseStatus, DuplicateOf: row.DuplicateOf,
	}
	if row.Error != nil {
		o.Error = *row.Error
	}
	return Finished{Key: Key{Day: row.Day, ID: row.EventID, PK: row.EventPK}, Outcome: o}
}

// OutcomeState tells deliveries that called nobody from those that did.
func OutcomeState(state string, cached bool, duplicateOf *uuid.UUID) string {
	switch {
	case state == "delivered" && duplicateOf != nil:
		return "duplicate"
	case state == "delivered" && cached:
		return "cached"
	default:
		return state
	}
}

// documents hands out those of the events and, with their events, of the deliveries, some at a time.
func (r *reading) documents(ctx context.Context, do func([]Document) error) error {
	if len(r.found) > 0 {
		if err := do(r.found); err != nil {
			return err
		}
	}
	groups, err := r.groups(ctx, latest(r.ended))
	if err != nil {
		return err
	}
	for _, group := range groups {
		events, err := r.eventsOf(ctx, group)
		if err != nil {
			return err
		}
		docs := make([]Document, 0, len(group))
		for i := range group {
			d, ok := events[group[i].Key]
			if !ok {
				continue // an event that is recorded no more takes what became of it along
			}
			d.Outcome, d.Version = &group[i].Outcome, r.version
			docs = append(docs, d)
		}
		if len(docs) == 0 {
			continue
		}
		if err := do(docs); err != nil {
			return err
		}
	}
	return nil
}

// latest are the deliveries; of two of one, the one that was read later.
func latest(ended []Finished) []Finished {
	last := make(map[uuid.UUID]int, len(ended))
	for i, one := range ended {
		last[one.Outcome.DeliveryID] = i
	}
	only := make([]Finished, 0, len(last))
	for i, one := range ended {
		if last[one.Outcome.DeliveryID] == i {
			only = append(only, one)
		}
	}
	return only
}

// groups cuts deliveries into groups whose events can be held at once.
func (r *reading) groups(ctx context.Context, ended []Finished) (groups [][]Finished, err error) {
	sizes := map[Key]int{}
	if p := r.unknown(ended); len(p.IDs) > 0 {
		rows, err := store.New().EventSizesByKey(ctx, r.db, store.EventSizesByKeyParams(p))
		if err != nil {
			return nil, fmt.Errorf("look for the events of deliveries: %w", err)
		}
		for _, row := range rows {
			sizes[Key{Day: row.Day, ID: row.ID, PK: row.PK}] = int(row.Bytes)
		}
	}
	first, bytes := 0, 0
	for i, one := range ended {
		size := sizes[one.Key] + len(r.known[one.Key].Payload)
		if i-first == roundRows || (i > first && bytes+size > roundBytes) {
			groups = append(groups, ended[first:i])
			first, bytes = i, 0
		}
		bytes += size
	}
	if first < len(ended) {
		groups = append(groups, ended[first:])
	}
	return groups, nil
}

// unknown names the events of deliveries that are not of this round.
func (r *reading) unknown(ended []Finished) (p store.EventsByKeyParams) {
	asked := map[Key]bool{}
	for _, one := range ended {
		if _, known := r.known[one.Key]; !known && !asked[one.Key] {
			asked[one.Key] = true
			p.Days, p.IDs, p.PKs = append(p.Days, one.Key.Day), append(p.IDs, one.Key.ID), append(p.PKs, one.Key.PK)
		}
	}
	return p
}

// eventsOf are the events of deliveries: those of this round, and others, which are read.
func (r *reading) eventsOf(ctx context.Context, ended []Finished) (map[Key]Document, error) {
	events := map[Key]Document{}
	for _, one := range ended {
		if d, ok := r.known[one.Key]; ok {
			events[one.Key] = d
		}
	}
	p := r.unknown(ended)
	if len(p.IDs) == 0 {
		return events, nil
	}
	rows, err := store.New().EventsByKey(ctx, r.db, p)
	if err != nil {
		return nil, fmt.Errorf("read the events of deliveries: %w", err)
	}
	for _, row := range rows {
		d := documentOf(store.EventsBetweenRow(row), r.version)
		events[d.Key] = d
	}
	return events, nil
}
