package index

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/internal/store"
)

// Forget says whose data is to be removed.
type Forget struct {
	EntityType, EntityID string
	// By is who asked for it, for the receipt.
	By string
	// Elasticsearch is that of the configuration, nil: there is none.
	Elasticsearch *Elasticsearch
}

// Forgotten is how much was removed.
type Forgotten struct {
	Events      int64 `json:"events"`       // of the entity
	Outcomes    int64 `json:"outcomes"`     // of its deliveries
	Jobs        int64 `json:"jobs"`         // of all states
	Unfinished  int64 `json:"unfinished"`   // of Jobs: deliveries that are not made any more
	DeadLetters int64 `json:"dead_letters"` // of Jobs
	Documents   int64 `json:"documents"`    // in PostgreSQL
	// Elasticsearch is how many documents were removed there; null without one.
	Elasticsearch *int64 `json:"elasticsearch"`
}

// Receipt is what stays of what was removed.
type Receipt struct {
	ID          int64     `json:"receipt"`      // of the row in weir.forgotten
	ForgottenAt time.Time `json:"forgotten_at"` // when it was removed
}

// Remove removes an entity's data from events, outcomes, jobs and documents, and leaves a receipt. Nobody stores documents
// meanwhile. Should Elasticsearch fail, what was in PostgreSQL is gone, the error says so, and it may be called again.
func (f Forget) Remove(ctx context.Context, conn *pgx.Conn) (removed Forgotten, receipt Receipt, err error) {
	err = exclusively(ctx, conn, storePostgres, true, func() error {
		return exclusively(ctx, conn, storeElasticsearch, true, func() error {
			err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
				if err := f.inPostgres(ctx, tx, &removed); err != nil {
					return err
				}
				receipt, err = f.receipt(ctx, tx, removed)
				return err
			})
			if err != nil || f.Elasticsearch == nil {
				return err
			}
			n, err := f.Elasticsearch.Forget(ctx, f.EntityType, f.EntityID)
			if err != nil {
				return fmt.Errorf("what is in PostgreSQL is removed, but not what is in Elasticsearch, call it again: %w", err)
			}
			removed.Elasticsearch = &n
			return f.complete(ctx, conn, receipt, removed)
		})
	})
	return removed, receipt, err
}

// inPostgres goes from what is made of events to the events.
func (f Forget) inPostgres(ctx context.Context, tx pgx.Tx, removed *Forgotten) error {
	q := store.New()
	if err := q.LockOutcomes(ctx, tx); err != nil {
		return err
	}
	jobs, err := q.DeleteJobsOfEntity(ctx, tx, store.DeleteJobsOfEntityParams{EntityType: f.EntityType, EntityID: f.EntityID})
	if err != nil {
		return fmt.Errorf("remove jobs: %w", err)
	}
	for _, job := range jobs {
		removed.Jobs++
		if job.Dead {
			removed.DeadLetters++
		}
		if job.Unfinished {
			removed.Unfinished++
		}
	}
	removed.Outcomes, err = q.DeleteOutcomes(ctx, tx, store.DeleteOutcomesParams{EntityType: f.EntityType, EntityID: f.EntityID})
	if err != nil {
		return fmt.Errorf("remove outcomes: %w", err)
	}
	removed.Documents, err = q.DeleteDocuments(ctx, tx, store.DeleteDocumentsParams{EntityType: f.EntityType, EntityID: f.EntityID})
	if err != nil {
		return fmt.Errorf("remove documents: %w", err)
	}
	removed.Events, err = q.DeleteEvents(ctx, tx, store.DeleteEventsParams{EntityType: f.EntityType, EntityID: f.EntityID})
	if err != nil {
		return fmt.Errorf("remove events: %w", err)
	}
	return nil
}

func (f Forget) receipt(ctx context.Context, tx pgx.Tx, removed Forgotten) (Receipt, error) {
	raw, err := json.Marshal(removed)
	if err != nil {
		return Receipt{}, err
	}
	row, err := store.New().InsertForgotten(ctx, tx, store.InsertForgottenParams{
		EntityType: f.EntityType, EntityID: f.EntityID, ForgottenBy: f.By, Removed: raw,
	})
	if err != nil {
		return Receipt{}, fmt.Errorf("write the receipt: %w", err)
	}
	return Receipt{ID: row.ID, ForgottenAt: row.ForgottenAt}, nil
}

// complete adds to the receipt what was removed elsewhere.
func (f Forget) complete(ctx context.Context, conn *pgx.Conn, r Receipt, removed Forgotten) error {
	raw, err := json.Marshal(removed)
	if err != nil {
		return err
	}
	return store.New().CompleteForgotten(ctx, conn, store.CompleteForgottenParams{ID: r.ID, Removed: raw})
}

// Count is what Remove would remove, but for what is in Elasticsearch.
func (f Forget) Count(ctx context.Context, db store.DBTX) (Forgotten, error) {
	n, err := store.New().CountOfEntity(ctx, db, store.CountOfEntityParams{EntityType: f.EntityType, EntityID: f.EntityID})
	if err != nil {
		return Forgotten{}, fmt.Errorf("count what there is: %w", err)
	}
	return Forgotten{
		Events: n.Events, Outcomes: n.Outcomes, Jobs: n.Jobs, Unfinished: n.Unfinished, DeadLetters: n.DeadLetters,
		Documents: n.Documents,
	}, nil
}
