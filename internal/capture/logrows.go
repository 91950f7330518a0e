package capture

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/internal/event"
)

// What a page of the change log holds at most: rows, and bytes but for its first row.
const (
	logRows  = 500
	logBytes = 8 << 20
)

// LogRows reads rows of the change log by the time that stands in them, for who delivers them again. It sees what is
// committed, and reads in the order of the keys, which is not that of the commits.
type LogRows struct {
	conn    *pgx.Conn
	log     Table
	columns []readColumn
}

// LogRange chooses rows.
type LogRange struct {
	// Since and Until bound created_at, Until itself excluded.
	Since, Until time.Time
	// Entity is an entity type, "" for any.
	Entity string
}

// LogPage is some rows.
type LogPage struct {
	Changes []event.Change // without a position; their commit time is created_at
	// Before is a position in the WAL that every row's commit comes before.
	Before event.LSN
}

// OpenLog looks which columns there are. A *SetupError says that there is no change log that could be read.
func OpenLog(ctx context.Context, conn *pgx.Conn, cfg Config) (*LogRows, error) {
	log := *cfg.WithDefaults().ChangeLog
	if log == (Table{}) {
		return nil, &SetupError{"the configuration has no change log (source.change_log is empty)", "-- replay the recorded events"}
	}
	names, err := columnNames(ctx, conn, log)
	if err != nil {
		return nil, err
	}
	l := &LogRows{conn: conn, log: log}
	present := map[string]bool{}
	for _, name := range names {
		present[name] = true
	}
	for _, c := range columns {
		switch {
		case present[c.name]:
			l.columns = append(l.columns, c)
		case c.required:
			return nil, &SetupError{
				fmt.Sprintf("%s is no change log: it has no column %s", log, c.name), "weir doctor # tells what mends it",
			}
		}
	}
	return l, nil
}

// Span counts the rows, and says which keys the first and the last have.
func (l *LogRows) Span(ctx context.Context, r LogRange) (rows, first, last int64, err error) {
	err = l.inTx(ctx, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, fmt.Sprintf(`
			SELECT count(*), coalesce(min(pk_entity_change_log), 0)::bigint, coalesce(max(pk_entity_change_log), 0)::bigint
			  FROM %s WHERE created_at >= $1 AND created_at < $2 AND ($3 = '' OR object_type::text = $3)`, l.log.SQL()),
			r.Since, r.Until, r.Entity).Scan(&rows, &first, &last)
	})
	return rows, first, last, err
}

// After is a page of the rows whose keys are above after, and at most last.
func (l *LogRows) After(ctx context.Context, r LogRange, after, last int64) (page LogPage, err error) {
	err = l.inTx(ctx, func(tx pgx.Tx) error {
		page.Changes, err = l.read(ctx, tx, `created_at >= $1 AND created_at < $2 AND ($3 = '' OR object_type::text = $3)
			AND pk_entity_change_log > $4 AND pk_entity_change_log <= $5`, r.Since, r.Until, r.Entity, after, last)
		if err != nil {
			return err
		}
		var now string
		if err := tx.QueryRow(ctx, "SELECT pg_current_wal_insert_lsn()::text").Scan(&now); err != nil {
			return err
		}
		page.Before, err = event.ParseLSN(now)
		return err
	})
	return page, err
}

// Named are the rows with these keys that are still there.
func (l *LogRows) Named(ctx context.Context, keys []int64) (changes []event.Change, err error) {
	err = l.inTx(ctx, func(tx pgx.Tx) error {
		for after := int64(math.MinInt64); ; { // page by page
			page, err := l.read(ctx, tx, `pk_entity_change_log = ANY($1) AND pk_entity_change_log > $2`, keys, after)
			if err != nil || len(page) == 0 {
				return err
			}
			changes, after = append(changes, page...), page[len(page)-1].PK
		}
	})
	return changes, err
}

func (l *LogRows) read(ctx context.Context, tx pgx.Tx, where string, args ...any) ([]event.Change, error) {
	var texts, sizes []string
	for _, c := range l.columns {
		name := pgx.Identifier{c.name}.Sanitize()
		texts = append(texts, name+"::text")
		if c.name == "object_data" || c.name == "object_data_before" {
			sizes = append(sizes, "coalesce(octet_length("+name+"::text), 0)")
		}
	}
	size := strings.Join(sizes, " + ")
	rows, err := tx.Query(ctx, fmt.Sprintf(`
		SELECT %s FROM (
			SELECT page.*, sum(%s) OVER (ORDER BY pk_entity_change_log) - (%[2]s) AS weir_before
			  FROM (SELECT * FROM %s WHERE %s ORDER BY pk_entity_change_log LIMIT %d) page
		) sized WHERE weir_before < %d ORDER BY sized.pk_entity_change_log`,
		strings.Join(texts, ", "), size, l.log.SQL(), where, logRows, logBytes), args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(raw pgx.CollectableRow) (event.Change, error) {
		var got row
		into := make([]any, len(l.columns))
		for i, c := range l.columns {
			into[i] = c.field(&got)
		}
		if err := raw.Scan(into...); err != nil {
			return event.Change{}, err
		}
		c := got.change(event.Position{}, time.Time{})
		c.CommitTime, c.TxIndex = c.Timestamp, c.PK // a place before whatever the stream brings, in the order of the keys
		return c, nil
	})
}

// inTx reads as a worker does: row-level security makes it fail rather than hide rows, and texts are in the form that row
// reads.
func (l *LogRows) inTx(ctx context.Context, do func(pgx.Tx) error) error {
	err := pgx.BeginTxFunc(ctx, l.conn, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "SET LOCAL row_security = off; SET LOCAL timezone = 'UTC'; SET LOCAL datestyle = 'ISO'")
		if err != nil {
			return err
		}
		return do(tx)
	})
	if err != nil {
		return fmt.Errorf("read %s: %w", l.log, err)
	}
	return nil
}

// Nudge has the stream move past what is committed now, if somebody reads it: a heartbeat, as the workers send them.
func (l *LogRows) Nudge(ctx context.Context) error {
	_, err := l.conn.Exec(ctx, `SELECT pg_logical_emit_message(true, $1, '')`, heartbeatPrefix)
	return err
}

// SystemIdentifier is the server's.
func (l *LogRows) SystemIdentifier(ctx context.Context) (id string, err error) {
	err = l.conn.QueryRow(ctx, `SELECT system_identifier::text FROM pg_control_system()`).Scan(&id)
	if err == nil && id == "" {
		err = errors.New("the source has no system identifier")
	}
	return id, err
}
