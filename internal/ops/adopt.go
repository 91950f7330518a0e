package ops

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/internal/capture"
	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/lease"
	"github.com/fraiseql/weir/internal/store"
)

// Unfinished says what an adoption does with deliveries that came along unfinished: in a copy they are the original's.
type Unfinished string

// There is no default: sent twice or not at all, only people can tell which is worse.
const (
	KeepUnfinished   Unfinished = "keep"
	CancelUnfinished Unfinished = "cancel"
)

// Adoption is what it takes to let workers go on where they refuse to.
type Adoption struct {
	capture.Adoption

	// Since is when the last change that was ingested had been committed; what is missing is newer. Without a checkpoint it
	// is when the newest event was ingested, null when there is none.
	Since event.Time `json:"since"`
	// Unfinished is how many deliveries are unfinished. With Foreign they came along, to be sent from here or not.
	Unfinished int64 `json:"unfinished_deliveries"`
	// Done is false for a plan. Cancelled is how many deliveries it has cancelled.
	Done      bool  `json:"done"`
	Cancelled int64 `json:"cancelled_deliveries"` // deliveries that were cancelled

	db     DB
	source *pgx.Conn
	cfg    capture.Config
}

// cancelBatch is how many jobs one transaction cancels.
const cancelBatch = 1000

// PlanAdoption looks at both databases, changes nothing, and says what Apply would do. Nothing is to be done when Problem
// is empty.
func PlanAdoption(
	ctx context.Context, db DB, source *pgx.Conn, cfg capture.Config, opts capture.AdoptOptions,
) (*Adoption, error) {
	if _, err := CheckMigrated(ctx, db); err != nil {
		return nil, err
	}
	a := &Adoption{db: db, source: source, cfg: cfg.WithDefaults()}
	plan, err := capture.PlanAdoption(ctx, source, db, cfg, opts)
	if err != nil {
		return nil, err
	}
	a.Adoption = *plan
	if a.Since, err = a.lastIngested(ctx); err != nil {
		return nil, err
	}
	if a.Unfinished, err = store.New().CountUnfinished(ctx, db); err != nil {
		return nil, fmt.Errorf("count the unfinished deliveries: %w", err)
	}
	return a, nil
}

func (a *Adoption) lastIngested(ctx context.Context) (event.Time, error) {
	if a.Checkpoint == nil {
		last, err := store.New().LastEvents(ctx, a.db, 1)
		if err != nil || len(last) == 0 {
			return event.Time{}, err
		}
		return event.Time(last[0].IngestedAt), nil
	}
	row, err := store.New().GetCheckpoint(ctx, a.db)
	switch {
	case err != nil:
		return event.Time{}, fmt.Errorf("read the checkpoint: %w", err)
	case row.CommitTime == nil:
		return event.Time(row.CreatedAt), nil
	default:
		return timeOf(row.CommitTime), nil
	}
}

// Apply does what the plan says. No worker may be running: it waits for the leases of those that have just ended. After an
// error it may be planned and applied again.
func (a *Adoption) Apply(ctx context.Context, unfinished Unfinished, logger *slog.Logger) error {
	if err := a.awaitNobody(ctx); err != nil {
		return err
	}
	if unfinished == CancelUnfinished {
		if err := a.cancel(ctx); err != nil {
			return err
		}
	}
	if a.Problem != "" && !a.Continuous {
		if _, err := store.New().AgeOrdered(ctx, a.db); err != nil {
			return fmt.Errorf("put the deliveries that keep an order before those to come: %w", err)
		}
	}
	if err := a.Adoption.Apply(ctx, a.source, a.db, a.cfg, logger); err != nil {
		return err
	}
	a.Done = true
	return nil
}

// awaitNobody returns when no worker holds a lease.
func (a *Adoption) awaitNobody(ctx context.Context) error {
	deadline := time.Now().Add(lease.Expiry + time.Second)
	for {
		rows, err := store.New().ListWorkers(ctx, a.db)
		if err != nil {
			return fmt.Errorf("read the workers: %w", err)
		}
		var alive []string
		for _, row := range rows {
			if row.Now.Sub(row.SeenAt).Abs() <= lease.Expiry {
				alive = append(alive, fmt.Sprintf("%s (process %d on %s)", row.ClientID, row.PID, row.Hostname))
			}
		}
		if len(alive) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return &capture.SetupError{
				Problem: "workers are running: " + strings.Join(alive, ", "), Hint: "stop them, then run weir adopt again",
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

func (a *Adoption) cancel(ctx context.Context) error {
	for {
		n, err := store.New().CancelUnfinished(ctx, a.db, cancelBatch)
		if err != nil {
			return fmt.Errorf("cancel unfinished deliveries: %w", err)
		}
		a.Cancelled += n
		if n > 0 {
			continue
		}
		left, err := store.New().CountUnfinished(ctx, a.db)
		if err == nil && left > 0 {
			err = errors.New("another session holds locks on them: end it, then run weir adopt again")
		}
		if err != nil {
			return fmt.Errorf("cancel the last %d unfinished deliveries: %w", left, err)
		}
		return nil
	}
}

// MissingChanges is a query that shows which changes are missing, "" when it cannot be written.
func (a *Adoption) MissingChanges() string {
	if a.Continuous || time.Time(a.Since).IsZero() {
		return ""
	}
	return capture.MissingChanges(a.cfg, time.Time(a.Since))
}
