package capture

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fraiseql/weir/internal/event"
)

// ErrRowGone says that a row is no longer in the change log.
var ErrRowGone = errors.New("the row is no longer in the change log")

// Reader reads rows of the change log again, after somebody has corrected them. Safe for concurrent use.
type Reader struct {
	pool      *pgxpool.Pool
	changeLog Table
}

// NewReader makes a reader that connects when it is first used. Close it.
func NewReader(ctx context.Context, sourceURL, clientID string, cfg Config) (*Reader, error) {
	pc, err := pgxpool.ParseConfig(sourceURL)
	if err != nil {
		return nil, fmt.Errorf("source.url: %w", err)
	}
	setSession(&pc.ConnConfig.Config, clientID)
	pc.ConnConfig.DialFunc = Dial
	pc.ConnConfig.RuntimeParams["row_security"] = "off" // an error, never an empty answer
	pc.MaxConns, pc.MinConns, pc.MaxConnIdleTime = 2, 0, time.Minute
	pool, err := pgxpool.NewWithConfig(ctx, pc)
	if err != nil {
		return nil, err
	}
	return &Reader{pool: pool, changeLog: *cfg.WithDefaults().ChangeLog}, nil
}

// Close closes the reader's connections.
func (r *Reader) Close() { r.pool.Close() }

// Read returns the row with this key as a change at the given position, or ErrRowGone.
func (r *Reader) Read(ctx context.Context, pk int64, pos event.Position, committed time.Time) (event.Change, error) {
	present, err := r.columns(ctx)
	if err != nil {
		return event.Change{}, err
	}
	var got row
	var names []string
	var into []any
	for _, c := range columns {
		if present[c.name] {
			names = append(names, pgx.Identifier{c.name}.Sanitize()+"::text")
			into = append(into, c.field(&got))
		}
	}
	sql := "SELECT " + strings.Join(names, ", ") + " FROM " + r.changeLog.SQL() + " WHERE pk_entity_change_log = $1"
	err = r.pool.QueryRow(ctx, sql, pk).Scan(into...)
	if errors.Is(err, pgx.ErrNoRows) {
		return event.Change{}, ErrRowGone
	}
	if err != nil {
		return event.Change{}, fmt.Errorf("read row %d of %s: %w", pk, r.changeLog, err)
	}
	return got.change(pos, committed), nil
}

func (r *Reader) columns(ctx context.Context) (map[string]bool, error) {
	names, err := columnNames(ctx, r.pool, r.changeLog)
	present := make(map[string]bool, len(names))
	for _, name := range names {
		present[name] = true
	}
	return present, err
}

type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

func columnNames(ctx context.Context, db querier, t Table) ([]string, error) {
	rows, err := db.Query(ctx, `
		SELECT attname::text FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
		 WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped`,
		t.Schema, t.Name)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}
