package capture

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/store"
)

const (
	// recoveryChunk is how many rows are looked up, and at the most ingested, at a time.
	recoveryChunk = 2000
	recoveryTell  = 5 * time.Second
)

// recovery reads the change log once, as the snapshot of the new slot shows it.
type recovery struct {
	stream    *Stream
	src, dst  *pgx.Conn
	committer committer
	epoch     int64
	made      exported
	since     time.Time // older rows are not looked at

	known       map[rowKey]struct{} // rows that were no events
	index       int64               // of the newest recovered row, at the position before the slot's point
	total, read int64
	fresh       int64
	forgotten   int64
	told        time.Time
}

// rowKey is what tells a row of the change log from others.
type rowKey struct {
	id uuid.UUID
	pk int64
}

func keyOf(c *event.Change) rowKey { return rowKey{c.ID, c.PK} }

func (r *recovery) run(ctx context.Context) error {
	log, began := *r.stream.cfg.ChangeLog, time.Now()
	if log == (Table{}) {
		return nil // somebody has accepted that
	}
	tx, err := beginAt(ctx, r.src, r.made.snapshot)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // it has only read
	var first int64
	bounds := "SELECT count(*), coalesce(min(pk_entity_change_log), 0) FROM " + log.SQL() + " WHERE created_at >= $1"
	err = tx.QueryRow(ctx, bounds, r.since).Scan(&r.total, &first)
	if err != nil {
		return deniedRows(err, r.src, log)
	}
	if err := r.loadKnown(ctx, first); err != nil {
		return err
	}
	if err := r.tell(ctx, true); err != nil {
		return err
	}
	if err := r.readRows(ctx, tx, log, first); err != nil {
		return err
	}
	if err := r.tell(ctx, true); err != nil {
		return err
	}
	r.stream.log.Info("recovered from the change log", "rows", r.read, "recovered", r.fresh, "forgotten", r.forgotten,
		"since", r.since.UTC(), "point", r.made.point.String(), "took", time.Since(began).Round(time.Millisecond))
	return nil
}

// readRows streams the rows, the database's pace being that of the ingest: while a chunk is ingested, the server waits.
func (r *recovery) readRows(ctx context.Context, tx pgx.Tx, log Table, first int64) error {
	names, err := columnNames(ctx, tx, log)
	if err != nil {
		return err
	}
	var got row
	var selected []string
	var into []any
	for _, c := range columns {
		if slices.Contains(names, c.name) {
			selected = append(selected, pgx.Identifier{c.name}.Sanitize()+"::text")
			into = append(into, c.field(&got))
		}
	}
	// By the column and not by the output of its name, which is a text.
	rows, err := tx.Query(ctx, fmt.Sprintf("SELECT %s FROM %s l WHERE created_at >= $1 AND pk_entity_change_log >= $2 "+
		"ORDER BY l.pk_entity_change_log", strings.Join(selected, ", "), log.SQL()), r.since, first)
	if err != nil {
		return err
	}
	defer rows.Close()
	chunk, size := []event.Change{}, 0
	for rows.Next() {
		got = row{}
		if err := rows.Scan(into...); err != nil {
			return err
		}
		chunk = append(chunk, r.change(&got))
		size += len(got.data) + len(got.before)
		if len(chunk) < recoveryChunk && size < batchBytes {
			continue
		}
		if err := r.ingest(ctx, chunk); err != nil {
			return err
		}
		chunk, size = []event.Change{}, 0
	}
	if err := rows.Err(); err != nil {
		return err
	}
	return r.ingest(ctx, chunk)
}

// change has its place before everything that the new slot brings, and behind everything that was ingested. When it was
// committed is not known any more: its transaction began at created_at.
func (r *recovery) change(got *row) event.Change {
	c := got.change(event.Position{LSN: r.made.point - 1}, time.Now())
	c.CommitTime = c.Timestamp
	return c
}

// ingest stores those of the rows that are not known.
func (r *recovery) ingest(ctx context.Context, chunk []event.Change) error {
	read := int64(len(chunk))
	fresh, err := r.unknown(ctx, chunk)
	if err != nil {
		return fmt.Errorf("look for what is known: %w", err)
	}
	known := read - int64(len(fresh))
	remembered := len(fresh)
	if fresh, err = r.unforgotten(ctx, fresh); err != nil {
		return fmt.Errorf("look for what was forgotten: %w", err)
	}
	forgotten := int64(remembered - len(fresh))
	for i := range fresh {
		r.index++
		fresh[i].TxIndex = r.index
	}
	if len(fresh) > 0 {
		if err := r.committer.ingest(ctx, fresh, event.Position{}, time.Time{}, nil); err != nil {
			return fmt.Errorf("ingest %d rows: %w", len(fresh), err)
		}
	}
	r.read, r.fresh, r.forgotten = r.read+read, r.fresh+int64(len(fresh)), r.forgotten+forgotten
	m := r.stream.metrics.recovered
	m.WithLabelValues("recovered").Add(float64(len(fresh)))
	m.WithLabelValues("known").Add(float64(known))
	m.WithLabelValues("forgotten").Add(float64(forgotten))
	return r.tell(ctx, false)
}

// loadKnown reads which rows have become a change that is no event: once, since nobody but us adds to them now.
func (r *recovery) loadKnown(ctx context.Context, first int64) error {
	rows, err := store.New().KnownChanges(ctx, r.dst, first)
	if err != nil {
		return fmt.Errorf("look for rows that were no events: %w", err)
	}
	r.known = make(map[rowKey]struct{}, len(rows))
	for _, row := range rows {
		r.known[rowKey{row.EventID, row.PK}] = struct{}{}
	}
	return nil
}

// unknown leaves out what weir.event has, first by the rows' days, which are its partitions, and then the rest in all of them.
func (r *recovery) unknown(ctx context.Context, chunk []event.Change) ([]event.Change, error) {
	left := slices.DeleteFunc(chunk, func(c event.Change) bool { _, known := r.known[keyOf(&c)]; return known })
	ask := keysOf(left)
	rows, err := store.New().KnownEvents(ctx, r.dst, ask)
	if err != nil {
		return nil, err
	}
	ledger := make(map[rowKey]struct{}, len(rows))
	for _, row := range rows {
		ledger[rowKey{row.ID, row.PK}] = struct{}{}
	}
	isKnown := func(c event.Change) bool { _, known := ledger[keyOf(&c)]; return known }
	if left = slices.DeleteFunc(left, isKnown); len(left) == 0 {
		return left, nil
	}
	ask = keysOf(left)
	more, err := store.New().KnownEventsOfAnyDay(ctx, r.dst, store.KnownEventsOfAnyDayParams{IDs: ask.IDs, PKs: ask.PKs})
	if err != nil {
		return nil, err
	}
	for _, row := range more {
		ledger[rowKey{row.ID, row.PK}] = struct{}{}
	}
	return slices.DeleteFunc(left, isKnown), nil
}

func keysOf(changes []event.Change) (keys store.KnownEventsParams) {
	for i := range changes {
		c := &changes[i]
		keys.IDs, keys.PKs = append(keys.IDs, c.ID), append(keys.PKs, c.PK)
		if day := c.Day(); !slices.Contains(keys.Days, day) {
			keys.Days = append(keys.Days, day)
		}
	}
	return keys
}

// unforgotten leaves out rows of entities that were forgotten after them: they are not known any more, but they were.
func (r *recovery) unforgotten(ctx context.Context, changes []event.Change) ([]event.Change, error) {
	if len(changes) == 0 {
		return changes, nil
	}
	type entity struct{ kind, id string }
	var ask store.ForgottenEntitiesParams
	for i := range changes {
		ask.EntityTypes = append(ask.EntityTypes, changes[i].EntityType)
		ask.EntityIDs = append(ask.EntityIDs, changes[i].EntityID)
	}
	rows, err := store.New().ForgottenEntities(ctx, r.dst, ask)
	if err != nil {
		return nil, err
	}
	forgotten := make(map[entity]time.Time, len(rows))
	for _, row := range rows {
		forgotten[entity{row.EntityType, row.EntityID}] = row.ForgottenAt
	}
	return slices.DeleteFunc(changes, func(c event.Change) bool {
		at, ok := forgotten[entity{c.EntityType, c.EntityID}]
		return ok && !time.Time(c.Timestamp).After(at)
	}), nil
}

// tell says how far it is, from time to time, and finds out whether it is still ours.
func (r *recovery) tell(ctx context.Context, now bool) error {
	if !now && time.Since(r.told) < recoveryTell {
		return nil
	}
	r.told = time.Now()
	ours, err := store.New().TellRecovery(ctx, r.dst, store.TellRecoveryParams{RowsRead: r.read, RowsInAll: r.total, Epoch: r.epoch})
	switch {
	case err != nil:
		return err
	case ours != 1:
		return errFenced
	}
	r.stream.log.Info("recovering from the change log", "read", r.read, "of_about", r.total, "recovered", r.fresh)
	return nil
}

// readable makes sure that the change log, if there is one, can be read, whole.
func readable(ctx context.Context, src *pgx.Conn, log Table) error {
	if log == (Table{}) {
		return nil
	}
	err := pgx.BeginTxFunc(ctx, src, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SET LOCAL row_security = off"); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "SELECT FROM "+log.SQL()+" LIMIT 1")
		return err
	})
	return deniedRows(err, src, log)
}

// deniedRows turns the refusal to read the change log, or all of it, into what mends it.
func deniedRows(err error, src *pgx.Conn, log Table) error {
	var refused *pgconn.PgError
	if !errors.As(err, &refused) || refused.Code != "42501" {
		return err
	}
	role := pgx.Identifier{src.Config().User}.Sanitize()
	if refused.Routine == "check_enable_rls" {
		return &SetupError{
			fmt.Sprintf("a lost slot cannot be made up for: role %s is subject to policies of %s, which could hide rows from it",
				src.Config().User, log), fmt.Sprintf("ALTER ROLE %s BYPASSRLS;", role),
		}
	}
	return &SetupError{
		fmt.Sprintf("a lost slot cannot be made up for: role %s may not read %s (%s)", src.Config().User, log, refused.Message),
		fmt.Sprintf("GRANT USAGE ON SCHEMA %s TO %s; GRANT SELECT ON %s TO %[2]s;",
			pgx.Identifier{log.Schema}.Sanitize(), role, log.SQL()),
	}
}
