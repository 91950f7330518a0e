package capture

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"go.opentelemetry.io/otel/trace"

	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/store"
	"github.com/fraiseql/weir/internal/telemetry"
)

// committer is the one writer: it stores batches in order, each in a transaction with the checkpoint.
type committer struct {
	conn      *pgx.Conn
	sink      Sink
	committed func() // optional
	epoch     int64
	beside    bool           // the changes come not from the stream: the position stays where it is
	pos       event.Position // as stored
	stored    *confirmations // read by the stream
	queued    *atomic.Int32  // batches that the stream has handed over and that are not stored yet
	patient   bool           // what was stored is confirmed when the server sends what lies behind it: see confirmations
	metrics   *metrics
	log       *slog.Logger
}

func (c *committer) run(ctx context.Context, batches <-chan *batch) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case b := <-batches:
			if err := c.store(ctx, b); err != nil {
				return err
			}
			c.queued.Add(-1)
		}
	}
}

func (c *committer) store(ctx context.Context, b *batch) error {
	began := time.Now()
	if len(b.changes) > 0 {
		c.metrics.commitSince.Store(time.Time(b.changes[0].CommitTime).UnixNano())
		defer c.metrics.commitSince.Store(0)
	}
	var err error
	if b.prepared.Passed != nil || len(b.changes) == 0 {
		err = c.pass(ctx, b.changes, b.end, b.committed)
	} else {
		err = c.ingest(ctx, b.changes, b.end, b.committed, b.prepared.Commit)
	}
	if err != nil {
		return fmt.Errorf("ingest %d changes: %w", len(b.changes), err)
	}
	if b.prepared.Passed != nil {
		b.prepared.Passed()
	}
	c.metrics.storedAt.Store(time.Now().UnixNano())
	if len(b.changes) > 0 {
		c.metrics.batch.Observe(float64(len(b.changes)))
		c.metrics.commit.Observe(time.Since(began).Seconds())
	}
	return nil
}

// ingest commits the changes and moves the position to end. What the database refuses is found by halving the batch;
// the culprit goes in as a change without its contents, so that one bad row never stops the stream. prepared is what the sink has
// made of these changes, or nil.
func (c *committer) ingest(
	ctx context.Context, changes []event.Change, end event.Position, committed time.Time,
	prepared func(context.Context, pgx.Tx) error,
) error {
	err := c.commit(ctx, changes, end, committed, prepared)
	if err == nil || !Refused(err) || len(changes) == 0 {
		return err
	}
	if len(changes) == 1 {
		c.refused(&changes[0], err)
		return c.commit(ctx, []event.Change{withoutContents(changes[0], err)}, end, committed, nil)
	}
	half := middle(changes)
	if half == 0 {
		return c.ingestTogether(ctx, changes, end, committed, err)
	}
	if err := c.ingest(ctx, changes[:half], changes[half-1].Position(), committed, nil); err != nil {
		return err
	}
	return c.ingest(ctx, changes[half:], end, committed, nil)
}

// pass moves the position over changes of which nothing is to be stored: one statement, which commits by itself, where commit
// takes three and the sink's.
func (c *committer) pass(ctx context.Context, changes []event.Change, end event.Position, committed time.Time) error {
	if err := c.advance(ctx, c.conn, changes, end, committed); err != nil {
		return err
	}
	c.metrics.changes.WithLabelValues("event").Add(float64(len(changes)))
	return c.reached(ctx, end)
}

// refused says what the database has not taken.
func (c *committer) refused(change *event.Change, err error) {
	attrs := []any{"event_id", change.ID, "position", change.Position().String()}
	if id := telemetry.TraceID(trace.SpanContext{}, change.TraceContext); id != "" {
		attrs = append(attrs, "trace_id", id)
	}
	c.log.Warn("the database refuses a change, it becomes a dead letter", append(attrs, "error", err)...)
}

// middle is where to part changes: as near to the half as leaves together what has one position, since the checkpoint is moved
// over all of it or none. 0: nowhere.
func middle(changes []event.Change) int {
	parts := func(i int) bool {
		return i > 0 && i < len(changes) && changes[i-1].Position() != changes[i].Position()
	}
	half := len(changes) / 2
	for away := range half + 1 {
		switch {
		case parts(half - away):
			return half - away
		case parts(half + away):
			return half + away
		}
	}
	return 0
}

// ingestTogether commits changes of one position, of which the database has refused one, or several. A single one is found by
// leaving each in turn without its contents; of several all are.
func (c *committer) ingestTogether(
	ctx context.Context, changes []event.Change, end event.Position, committed time.Time, refused error,
) error {
	c.refused(&changes[0], refused)
	for i := range changes {
		without := slices.Clone(changes)
		without[i] = withoutContents(changes[i], refused)
		if err := c.commit(ctx, without, end, committed, nil); err == nil || !Refused(err) {
			return err
		}
	}
	without := make([]event.Change, len(changes))
	for i := range changes {
		without[i] = withoutContents(changes[i], refused)
	}
	return c.commit(ctx, without, end, committed, nil)
}

// commit is the transaction that the guarantees rest on: compare-and-swap of the checkpoint on position and epoch,
// events and jobs. After it, and only when it ended a source transaction, the position may be confirmed.
func (c *committer) commit(
	ctx context.Context, changes []event.Change, end event.Position, committed time.Time,
	prepared func(context.Context, pgx.Tx) error,
) error {
	err := pgx.BeginFunc(ctx, c.conn, func(tx pgx.Tx) error {
		if err := c.advance(ctx, tx, changes, end, committed); err != nil {
			return err
		}
		switch {
		case len(changes) == 0:
			return nil
		case prepared != nil:
			return prepared(ctx, tx)
		default:
			return c.sink.Commit(ctx, tx, changes)
		}
	})
	if err != nil {
		return err
	}
	if !c.beside {
		if err := c.reached(ctx, end); err != nil {
			return err
		}
	}
	bad := rejected(changes)
	c.metrics.changes.WithLabelValues("rejected").Add(float64(bad))
	c.metrics.changes.WithLabelValues("event").Add(float64(len(changes) - bad))
	if c.committed != nil && len(changes) > 0 {
		c.committed()
	}
	return nil
}

// advance moves the checkpoint, or fails for who does not own it any more.
func (c *committer) advance(
	ctx context.Context, db store.DBTX, changes []event.Change, end event.Position, committed time.Time,
) error {
	var moved int64
	var err error
	if c.beside {
		moved, err = store.New().CountIngested(ctx, db, store.CountIngestedParams{Epoch: c.epoch, Events: int64(len(changes))})
	} else {
		moved, err = store.New().AdvanceCheckpoint(ctx, db, store.AdvanceCheckpointParams{
			FromLSN: int64(c.pos.LSN), FromTxIndex: c.pos.Index, Epoch: c.epoch,
			LSN: int64(end.LSN), TxIndex: end.Index, Events: int64(len(changes)),
			CommitTime: commitTime(changes, committed),
		})
	}
	if err != nil {
		return fmt.Errorf("advance the checkpoint: %w", err)
	}
	if moved != 1 {
		return errFenced
	}
	return nil
}

// reached is told what has been committed. Only the end of a whole source transaction may be confirmed.
func (c *committer) reached(ctx context.Context, end event.Position) error {
	c.pos = end
	if end.Index != 0 {
		return nil
	}
	c.metrics.stored.Store(uint64(end.LSN))
	var behind event.LSN
	if c.patient {
		var err error
		if behind, err = walEnd(ctx, c.conn); err != nil {
			return err
		}
	}
	c.stored.stored(end.LSN, behind)
	return nil
}

func rejected(changes []event.Change) int {
	n := 0
	for _, ch := range changes {
		if ch.Reason != "" {
			n++
		}
	}
	return n
}

// commitTime is that of the newest change; a heartbeat alone leaves the stored one as it is.
func commitTime(changes []event.Change, committed time.Time) *time.Time {
	if len(changes) == 0 {
		return nil
	}
	return &committed
}

// Refused says that the database did not accept the data itself: no retry of the same data can succeed.
func Refused(err error) bool {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return false
	}
	switch pg.Code[:2] {
	case "21", "22", "23", "54": // cardinality, data exception, integrity constraint, program limit (an index row's size)
		return true
	}
	return false
}

// withoutContents keeps what names the change and drops what the database may have refused.
func withoutContents(c event.Change, err error) event.Change {
	reason := c.Reason
	if reason == "" {
		reason = "the database refuses to store the event: " + err.Error()
		var pg *pgconn.PgError
		if errors.As(err, &pg) {
			reason = "the database refuses to store the event: " + pg.Message + " (SQLSTATE " + pg.Code + ")"
		}
	}
	return event.Change{
		Reason: reason,
		Event: event.Event{
			ID: c.ID, PK: c.PK, Type: c.Type, EntityType: clip(c.EntityType), EntityID: clip(c.EntityID), Timestamp: c.Timestamp,
			CommitTime: c.CommitTime, LSN: c.LSN, TxIndex: c.TxIndex,
		},
	}
}

// clip bounds a text that was perhaps refused for its length.
func clip(s string) string {
	const limit = 200
	if r := []rune(s); len(r) > limit {
		return string(r[:limit])
	}
	return s
}
