package index

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/fraiseql/weir/internal/store"
)

// ledger is for how long PostgreSQL keeps events and outcomes whose history is elsewhere at the least: who finds out about
// something the next day can still retry it.
const ledger = 48 * time.Hour

// ledgerMargin is by how much the ledger reaches further back than a recovery: partitions are days, and clocks differ.
const ledgerMargin = 24 * time.Hour

// Kept is for how long PostgreSQL keeps events and outcomes: for the retention, or, when the history is in Elasticsearch alone,
// as long as they are needed, which is not before Elasticsearch has them. And always as long as a lost slot would be made up for
// with their help: from a recovery's window before the newest ingested change on, however long ago that was.
func Kept(ctx context.Context, db store.DBTX, c Config, recovery time.Duration) (time.Duration, error) {
	retention := c.WithDefaults().Retention.Std()
	age, err := store.New().NewestChangeAge(ctx, db)
	if err != nil {
		return retention, fmt.Errorf("when the newest change was ingested: %w", err)
	}
	needed := max(age, 0) + recovery + ledgerMargin
	if c.InPostgres() || retention <= ledger {
		return max(retention, needed), nil
	}
	day, err := store.New().OldestMissing(ctx, db, storeElasticsearch)
	if err != nil {
		return max(retention, needed), fmt.Errorf("what Elasticsearch lacks: %w", err)
	}
	return max(min(max(ledger, time.Since(day)), retention), needed), nil
}

// Again stores the document of an event or, with an outcome, of a delivery once more. refused says why it cannot be stored. The
// error is ErrNotFound when the event is recorded no more. version is that of the document that was refused.
func (e *Elasticsearch) Again(
	ctx context.Context, db store.DBTX, key Key, outcome *Outcome, version int64,
) (refused string, err error) {
	rows, err := store.New().EventsByKey(ctx, db, store.EventsByKeyParams{
		Days: []time.Time{key.Day}, IDs: []uuid.UUID{key.ID}, PKs: []int64{key.PK},
	})
	switch {
	case err != nil:
		return "", fmt.Errorf("load event %s: %w", key.ID, err)
	case len(rows) == 0:
		return "", ErrNotFound
	}
	doc := documentOf(store.EventsBetweenRow(rows[0]), version)
	doc.Outcome = outcome
	refusals, err := e.put(ctx, []Document{doc}, true)
	if err != nil || len(refusals) == 0 {
		return "", err
	}
	return refusals[0].Reason, nil
}
