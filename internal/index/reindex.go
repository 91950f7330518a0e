package index

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/internal/store"
)

// Reindex says what of the history is to be stored again from PostgreSQL.
type Reindex struct {
	// From and To are the first and the last day, UTC midnights, of the events' timestamps.
	From, To time.Time
	// Elasticsearch is where to, nil: PostgreSQL's own documents.
	Elasticsearch *Elasticsearch
	// Finished returns the outcomes of deliveries that are still River's jobs, of some events.
	Finished func(ctx context.Context, db store.DBTX, events []Key) ([]Finished, error)
	// Progress is told after each step how many of about how many events have been done. Optional.
	Progress func(done, total int64)
}

// Reindexed is how much was stored again.
type Reindexed struct {
	Days       int   `json:"days"`       // that had events
	Events     int64 `json:"events"`     // stored again
	Deliveries int64 `json:"deliveries"` // finished ones, stored with their events
	Refused    int64 `json:"refused"`    // documents that the store refused
	// Reason is why the first one was refused, "" if none was.
	Reason string `json:"reason"`
}

// Run stores the documents again, page by page. Workers go on meanwhile: they take turns. It may be stopped and run again.
func (r Reindex) Run(ctx context.Context, conn *pgx.Conn) (done Reindexed, err error) {
	days, err := store.New().HistoryDays(ctx, conn, store.HistoryDaysParams{First: r.From, Last: r.To})
	if err != nil {
		return done, fmt.Errorf("list the days of the history: %w", err)
	}
	var total int64
	for _, day := range days {
		total += day.Events
	}
	for _, day := range days {
		for after := int64(-1); ; {
			rows := 0
			err := exclusively(ctx, conn, r.name(), true, func() error {
				rows, after, err = r.page(ctx, conn, day.Day, after, &done)
				return err
			})
			if err != nil {
				return done, err
			}
			if r.Progress != nil && rows > 0 {
				r.Progress(done.Events, max(total, done.Events))
			}
			if rows < roundRows {
				break
			}
		}
		done.Days++
	}
	return done, nil
}

func (r Reindex) name() string {
	if r.Elasticsearch != nil {
		return storeElasticsearch
	}
	return storePostgres
}

// page stores some events of a day, and what became of their deliveries.
func (r Reindex) page(
	ctx context.Context, conn *pgx.Conn, day time.Time, after int64, done *Reindexed,
) (rows int, last int64, err error) {
	at, err := store.New().BeginRound(ctx, conn, r.name())
	if err != nil {
		return 0, after, fmt.Errorf("begin a round: %w", err)
	}
	some, err := store.New().EventsOfDay(ctx, conn, store.EventsOfDayParams{Day: day, After: after, MaxRows: roundRows})
	if err != nil {
		return 0, after, fmt.Errorf("read events of %s: %w", day.Format(time.DateOnly), err)
	}
	if len(some) == 0 {
		return 0, after, nil
	}
	reading := reading{db: conn, version: at.Version, known: map[Key]Document{}}
	keys := make([]Key, len(some))
	for i, row := range some {
		reading.addEvent(store.EventsBetweenRow(row))
		keys[i], after = Key{Day: row.Day, ID: row.ID, PK: row.PK}, row.Seq
	}
	if err := r.deliveries(ctx, &reading, keys); err != nil {
		return 0, after, err
	}
	err = reading.documents(ctx, func(docs []Document) error {
		done.Deliveries += int64(len(docs))
		return r.store(ctx, conn, docs, done)
	})
	done.Events += int64(len(some))
	done.Deliveries -= int64(len(some))
	return len(some), after, err
}

// deliveries reads what became of the events' deliveries: of those that have been moved, and of those that are still jobs.
func (r Reindex) deliveries(ctx context.Context, reading *reading, keys []Key) error {
	ids := make([]uuid.UUID, len(keys))
	for i, key := range keys {
		ids[i] = key.ID
	}
	finished, err := r.Finished(ctx, reading.db, keys)
	if err != nil {
		return fmt.Errorf("read finished deliveries: %w", err)
	}
	moved, err := store.New().OutcomesOfEvents(ctx, reading.db, ids)
	if err != nil {
		return fmt.Errorf("read outcomes: %w", err)
	}
	reading.ended = finished
	for _, row := range moved {
		reading.ended = append(reading.ended, finishedOf(store.OutcomesAfterRow(row)))
	}
	return nil
}

func (r Reindex) store(ctx context.Context, conn *pgx.Conn, docs []Document, done *Reindexed) error {
	if r.Elasticsearch == nil {
		return putDocuments(ctx, conn, docs)
	}
	refused, err := r.Elasticsearch.put(ctx, docs, true)
	if done.Refused += int64(len(refused)); len(refused) > 0 && done.Reason == "" {
		done.Reason = refused[0].Reason
	}
	return err
}
