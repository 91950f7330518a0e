package ops

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/internal/capture"
	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/store"
)

// Gap is a place in the stream at which changes are missing that the change log cannot make up for.
type Gap struct {
	// Problem is what the stream lost its continuity by, "" when there is no gap.
	Problem string `json:"problem"`
	// Since is when the newest ingested change had been committed: what is missing is newer. null before the first.
	Since event.Time `json:"since"`
	// FoundAt is when a worker found the gap. Nothing has been captured since.
	FoundAt event.Time `json:"found_at"`
	// Tables are those of source.tables with snapshot: true that had one, of which another one can be taken.
	Tables []string `json:"tables"`
	// Accepted is false for a plan. Snapshots is how many snapshots were asked for.
	Accepted  bool  `json:"accepted"`
	Snapshots int64 `json:"snapshots"` // snapshots that were asked for

	db    DB
	epoch int64
}

// ReadGap looks whether there is a gap, and changes nothing.
func ReadGap(ctx context.Context, db DB, cfg capture.Config) (*Gap, error) {
	if _, err := CheckMigrated(ctx, db); err != nil {
		return nil, err
	}
	g := &Gap{db: db, Tables: []string{}}
	row, err := store.New().GetCheckpoint(ctx, db)
	switch {
	case notFound(err):
		return g, nil
	case err != nil:
		return nil, fmt.Errorf("read the checkpoint: %w", err)
	case row.State != string(StreamGap):
		return g, nil
	}
	g.Problem, g.Since, g.FoundAt, g.epoch = row.Problem, timeOf(row.CommitTime), timeOf(row.OwnedSince), row.Epoch
	known, err := store.New().CapturedTables(ctx, db)
	if err != nil {
		return nil, fmt.Errorf("list the tables: %w", err)
	}
	for _, t := range known {
		if cfg.WantsSnapshot(t.Name) {
			g.Tables = append(g.Tables, t.Name)
		}
	}
	return g, nil
}

// Accept lets workers go on: they recover from the change log what it holds, and capture from then on. With snapshots, Tables
// are read again.
func (g *Gap) Accept(ctx context.Context, snapshots bool) error {
	return pgx.BeginFunc(ctx, g.db, func(tx pgx.Tx) error {
		accepted, err := store.New().AcceptGap(ctx, tx, g.epoch)
		switch {
		case err != nil:
			return fmt.Errorf("accept the gap: %w", err)
		case accepted != 1:
			return errors.New("something has changed meanwhile: run weir accept-gap again")
		}
		if snapshots {
			if g.Snapshots, err = store.New().SnapshotAgain(ctx, tx, g.Tables); err != nil {
				return fmt.Errorf("ask for snapshots: %w", err)
			}
		}
		g.Accepted = true
		return nil
	})
}
