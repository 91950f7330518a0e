package index

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/store"
)

// What a page of a replay holds at most: rows, and bytes but for its first row.
const (
	replayRows  = 500
	replayBytes = 8 << 20
)

// Within chooses recorded events.
type Within struct {
	// Since and Until bound the event's timestamp, Until itself excluded.
	Since, Until time.Time
	// Entity is an entity type, "" for any.
	Entity string
}

// Recorded is an event as it is recorded.
type Recorded struct {
	Event *event.Event
	Seq   int64
	// Lacks: what history.redact leaves out may be missing, since no job has named the event for a while. An event that never
	// had the field cannot be told from one that has lost it.
	Lacks bool
}

// Count counts the events, and returns the number of the last one that is recorded so far.
func (w Within) Count(ctx context.Context, db store.DBTX) (events, last int64, err error) {
	row, err := store.New().CountEventsWithin(ctx, db, store.CountEventsWithinParams{
		FirstDay: dayOf(w.Since), LastDay: dayOf(w.Until), Since: w.Since, Until: w.Until, Entity: w.Entity,
	})
	if err != nil {
		return 0, 0, fmt.Errorf("count the events: %w", err)
	}
	return row.Events, row.Last, nil
}

// After returns a page of the events in the order in which they were recorded, those with a number above after, and at most
// last.
func (w Within) After(ctx context.Context, db store.DBTX, c Config, after, last int64) ([]Recorded, error) {
	rows, err := store.New().EventsWithin(ctx, db, store.EventsWithinParams{
		FirstDay: dayOf(w.Since), LastDay: dayOf(w.Until), Since: w.Since, Until: w.Until, Entity: w.Entity, After: after, Last: last,
		MaxRows: replayRows, MaxBytes: replayBytes,
	})
	if err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	page := make([]Recorded, len(rows))
	for i, row := range rows {
		if page[i], err = recorded(c, row.FullPayload, row.PK, row.TxIndex, row.Whole); err != nil {
			return nil, err
		}
		page[i].Seq = row.Seq
	}
	return page, nil
}

// Named returns those of the events that are recorded.
func Named(ctx context.Context, db store.DBTX, c Config, keys []Key) (map[Identity]Recorded, error) {
	found := make(map[Identity]Recorded, len(keys))
	if len(keys) == 0 {
		return found, nil
	}
	var p store.EventsNamedParams
	for _, key := range keys {
		p.Days, p.IDs, p.PKs = append(p.Days, key.Day), append(p.IDs, key.ID), append(p.PKs, key.PK)
	}
	rows, err := store.New().EventsNamed(ctx, db, p)
	if err != nil {
		return nil, fmt.Errorf("find recorded events: %w", err)
	}
	for _, row := range rows {
		if found[Identity{row.ID, row.PK}], err = recorded(c, row.FullPayload, row.PK, row.TxIndex, row.Whole); err != nil {
			return nil, err
		}
	}
	return found, nil
}

func recorded(c Config, payload []byte, pk, txIndex int64, whole bool) (Recorded, error) {
	e, err := event.Parse(payload)
	if err != nil {
		return Recorded{}, err
	}
	e.PK, e.TxIndex = pk, txIndex
	r := Recorded{Event: e}
	if whole {
		return r, nil
	}
	for _, p := range c.Redact {
		r.Lacks = r.Lacks || p.Concerns(e.EntityType) && !holds(e.Data, p.path)
	}
	return r, nil
}

// holds says whether a path leads anywhere in a JSON text: in a list, in one of its elements.
func holds(raw json.RawMessage, path []string) bool {
	if len(path) == 0 {
		return true
	}
	switch start := bytes.TrimLeft(raw, " \t\r\n"); {
	case len(start) > 0 && start[0] == '[':
		var list []json.RawMessage
		_ = json.Unmarshal(raw, &list) // what is no list holds nothing
		for _, one := range list {
			if holds(one, path) {
				return true
			}
		}
	case len(start) > 0 && start[0] == '{':
		var fields map[string]json.RawMessage
		_ = json.Unmarshal(raw, &fields)
		inner, ok := fields[path[0]]
		return ok && holds(inner, path[1:])
	}
	return false
}

// Restore gives an event back what it had lost to history.redact. The transaction inserts a job that names it.
func Restore(ctx context.Context, tx pgx.Tx, e *event.Event) error {
	payload, err := e.JSON()
	if err != nil {
		return err
	}
	key := KeyOf(e)
	_, err = store.New().RestoreEvent(ctx, tx, store.RestoreEventParams{Payload: payload, Day: key.Day, ID: key.ID, PK: key.PK})
	if err != nil {
		return fmt.Errorf("restore event %s: %w", e.ID, err)
	}
	return nil
}

// ForgottenOf are the events' entities that were forgotten, and when last: type and id.
func ForgottenOf(ctx context.Context, db store.DBTX, events []*event.Event) (map[[2]string]time.Time, error) {
	if len(events) == 0 {
		return map[[2]string]time.Time{}, nil
	}
	var p store.ForgottenSinceParams
	for _, e := range events {
		p.EntityTypes, p.EntityIDs = append(p.EntityTypes, e.EntityType), append(p.EntityIDs, e.EntityID)
	}
	rows, err := store.New().ForgottenSince(ctx, db, p)
	if err != nil {
		return nil, fmt.Errorf("look for entities that were forgotten: %w", err)
	}
	found := make(map[[2]string]time.Time, len(rows))
	for _, row := range rows {
		found[[2]string{row.EntityType, row.EntityID}] = row.ForgottenAt
	}
	return found, nil
}

func dayOf(t time.Time) time.Time { return t.UTC().Truncate(24 * time.Hour) }
