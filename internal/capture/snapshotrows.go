package capture

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/store"
)

// snapshotWriter stores a table's rows in batches.
type snapshotWriter struct {
	*snapshots
	pending
	relation  *relation
	committer committer
	at        time.Time // of the view
	about     int64     // rows of the table, as the statistics have it
	read      int64
	logged    time.Time
}

// Commit stores changes and counts them, in one transaction.
func (w *snapshotWriter) Commit(ctx context.Context, tx pgx.Tx, changes []event.Change) error {
	if err := w.stream.opts.Sink.Commit(ctx, tx, changes); err != nil {
		return err
	}
	return store.New().CountSnapshot(ctx, tx, store.CountSnapshotParams{Name: w.Table.String(), Rows: int64(len(changes))})
}

// copyRows has the server send the rows as fast as they are stored, in the text form that the stream has, too.
func (w *snapshotWriter) copyRows(ctx context.Context, conn *pgconn.PgConn) error {
	names := make([]string, len(w.relation.columns))
	for i, c := range w.relation.columns {
		names[i] = c.name
	}
	sql := "SELECT " + quoted(names) + " FROM " + w.Table.SQL()
	if w.Where != "" {
		sql += " WHERE (" + w.Where + ")"
	}
	results := conn.Exec(ctx, sql)
	var b batch
	for results.NextResult() {
		rows := results.ResultReader()
		for rows.NextRow() {
			change, size := w.change(rows.Values())
			b.changes, b.bytes = append(b.changes, change), b.bytes+size
			if !b.full() {
				continue
			}
			if err := w.store(ctx, b.changes); err != nil {
				_ = results.Close()
				return err
			}
			b = batch{} // who takes changes may keep them
		}
		if _, err := rows.Close(); err != nil {
			_ = results.Close()
			return err
		}
	}
	if err := results.Close(); err != nil {
		return err
	}
	return w.store(ctx, b.changes)
}

// change is a row's. Its place is behind all that was ingested before, and before what the stream brings.
func (w *snapshotWriter) change(values [][]byte) (c event.Change, size int) {
	tuple := make([]datum, len(values))
	for i, v := range values {
		tuple[i] = datum{kind: pglogrepl.TupleDataTypeText, text: v}
		if v == nil {
			tuple[i].kind = pglogrepl.TupleDataTypeNull
		}
		size += len(v)
	}
	source := snapshotSource
	c.Event = event.Event{
		Type: event.Insert, EntityType: w.Entity, LSN: w.joined - below, Timestamp: event.Time(w.at), CommitTime: event.Time(w.at),
		CDCSource: &source,
	}
	if err := w.relation.fill(&c.Event, images{new: tuple}); err != nil {
		c.Reason = fmt.Sprintf("snapshot of table %s: %s", w.Table, err)
	}
	c.ID = uuid.NewSHA1(eventNamespace, []byte(strings.Join([]string{
		w.cp.System, "snapshot", w.Table.String(), strconv.Itoa(int(w.number)), c.EntityID, string(c.Data),
	}, "\x00")))
	return c, size
}

// store ingests a batch, without what is an event already: of a snapshot that was broken off, or of a row that is the same in
// all of its columns, where a table has no key.
func (w *snapshotWriter) store(ctx context.Context, changes []event.Change) error {
	w.read += int64(len(changes))
	changes, err := w.unknown(ctx, changes)
	if err != nil || len(changes) == 0 {
		return err
	}
	for i := range changes {
		changes[i].TxIndex = w.rows + int64(i) + 1
	}
	if err := w.committer.ingest(ctx, changes, event.Position{}, w.at, nil); err != nil {
		return err
	}
	w.rows += int64(len(changes))
	w.stream.metrics.snapshotRows.Add(float64(len(changes)))
	if now := time.Now(); now.Sub(w.logged) > reportEvery {
		w.logged = now
		w.log.Info("snapshot under way", "table", w.Table.String(), "rows", w.read, "rows_about", max(w.about, w.read))
	}
	return nil
}

func (w *snapshotWriter) unknown(ctx context.Context, changes []event.Change) ([]event.Change, error) {
	ids := make([]uuid.UUID, len(changes))
	for i := range changes {
		ids[i] = changes[i].ID
	}
	found, err := store.New().KnownRows(ctx, w.dst, store.KnownRowsParams{IDs: ids, Since: w.asked.UTC().AddDate(0, 0, -1)})
	if err != nil {
		return nil, fmt.Errorf("look for events of the snapshot before: %w", err)
	}
	known := make(map[uuid.UUID]bool, len(found))
	for _, id := range found {
		known[id] = true
	}
	return slices.DeleteFunc(changes, func(c event.Change) bool {
		twice := known[c.ID]
		known[c.ID] = true
		return twice
	}), nil
}
