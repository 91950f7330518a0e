package ops

import (
	"context"
	"fmt"

	"github.com/fraiseql/weir/internal/capture"
	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/store"
)

// Snapshot is a snapshot of a directly captured table that is not at its end yet.
type Snapshot struct {
	Table string `json:"table"` // schema.table
	// Joins is where the stream takes over; null: the snapshot has not begun, it waits for a worker or for open transactions.
	Joins   *event.LSN `json:"joins_lsn"`
	Rows    int64      `json:"rows"`     // that have become events so far
	AskedAt event.Time `json:"asked_at"` // when it was asked for
}

// readSnapshots leaves out what no worker is going to take: see capture.CapturedTable.Lacks.
func readSnapshots(ctx context.Context, db DB, cfg capture.Config) ([]Snapshot, error) {
	rows, err := store.New().CapturedTables(ctx, db)
	if err != nil {
		return nil, fmt.Errorf("how far snapshots are: %w", err)
	}
	named := map[string]capture.CapturedTable{}
	for _, t := range cfg.Tables {
		named[t.Table.String()] = t
	}
	found := []Snapshot{}
	for _, row := range rows {
		if t, captured := named[row.Name]; !captured || !t.Lacks(row) {
			continue
		}
		s := Snapshot{Table: row.Name, Rows: row.Rows, AskedAt: event.Time(row.AskedAt)}
		if joins := lsnOf(row.Joined); joins > 0 {
			s.Joins = &joins
		}
		found = append(found, s)
	}
	return found, nil
}
