package ops

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/internal/capture"
	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/index"
	"github.com/fraiseql/weir/internal/store"
)

const (
	passTime  = 30 * time.Second // see Patience
	passEvery = 50 * time.Millisecond
)

// errNotPassed says that the stream may still bring rows that were read.
var errNotPassed = errors.New("the stream has not come past these rows yet")

// changeLog replays rows of the change log. Those that were never ingested are recorded with their deliveries, so that nobody
// makes them once more: not a recovery of the stream, nor a later replay.
func (r *replaying) changeLog(ctx context.Context) error {
	if err := r.open(ctx); err != nil {
		return err
	}
	if err := r.sameSource(ctx); err != nil {
		return err
	}
	rows := capture.LogRange{Since: r.Since, Until: r.Until, Entity: r.Entity}
	total, first, last, err := r.log.Span(ctx, rows)
	if err != nil {
		return err
	}
	r.said.Total = total
	for after := first - 1; total > 0; {
		page, err := r.log.After(ctx, rows, after, last)
		if err != nil || len(page.Changes) == 0 {
			return err
		}
		if err := r.deliverRows(ctx, page); err != nil {
			return err
		}
		after = page.Changes[len(page.Changes)-1].PK
		r.progress(len(page.Changes))
	}
	return nil
}

// errNoStream: an event without a checkpoint would be what a checkpoint that somebody has lost leaves behind.
var errNoStream = errors.New("no worker has ever read the stream: start one first, then the change log can be replayed beside it")

// sameSource refuses a checkpoint of another server, whose positions mean nothing here.
func (r *replaying) sameSource(ctx context.Context) error {
	here, err := r.log.SystemIdentifier(ctx)
	if err != nil {
		return err
	}
	at, err := store.New().GetCheckpoint(ctx, r.db)
	switch {
	case notFound(err) && r.DryRun:
		return nil
	case notFound(err):
		return errNoStream
	case err != nil:
		return fmt.Errorf("read the checkpoint: %w", err)
	case at.SystemIdentifier != here:
		return fmt.Errorf("the checkpoint is of another server (%s) than source.url (%s): run weir adopt first",
			at.SystemIdentifier, here)
	}
	return nil
}

// deliverRows makes the deliveries of a page, once the stream brings none of its rows any more.
func (r *replaying) deliverRows(ctx context.Context, page capture.LogPage) error {
	events := r.eventsOf(page)
	if r.DryRun {
		out, err := r.planRows(ctx, events)
		if err == nil {
			r.count(out)
		}
		return err
	}
	patience := cmp.Or(r.Patience, passTime)
	for deadline := time.Now().Add(patience); ; {
		err := r.inTx(ctx, func(tx pgx.Tx) (*outcome, error) { return r.insertRows(ctx, tx, events, page.Before) })
		if !errors.Is(err, errNotPassed) {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("no worker has read the stream for %s, which may still bring rows of the change log: start a worker, "+
				"or replay the recorded events alone (--source events)", patience)
		}
		if err := r.waitForStream(ctx, page.Before); err != nil {
			return err
		}
	}
}

// eventsOf are the rows that are events.
func (r *replaying) eventsOf(page capture.LogPage) []*event.Event {
	var events []*event.Event
	for i := range page.Changes {
		c := &page.Changes[i]
		if c.Reason == "" {
			events = append(events, &c.Event)
			continue
		}
		r.said.NotEvents++
		if len(r.said.BadRows) < mostBadRows {
			r.said.BadRows = append(r.said.BadRows, ReplayBadRow{PK: c.PK, Reason: c.Reason})
		}
	}
	return events
}

// waitForStream waits a moment for the stream to come past a position.
func (r *replaying) waitForStream(ctx context.Context, past event.LSN) error {
	if err := r.log.Nudge(ctx); err != nil {
		return fmt.Errorf("have the stream move on: %w", err)
	}
	tick := time.NewTicker(passEvery)
	defer tick.Stop()
	for deadline := time.Now().Add(time.Second); time.Now().Before(deadline); {
		at, err := store.New().GetCheckpoint(ctx, r.db)
		if err != nil && !notFound(err) {
			return fmt.Errorf("read the checkpoint: %w", err)
		}
		if err == nil && lsnOf(at.LSN) >= past {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return nil
}

// insertRows records what is not recorded, and inserts the deliveries of all.
func (r *replaying) insertRows(ctx context.Context, tx pgx.Tx, rows []*event.Event, before event.LSN) (*outcome, error) {
	passed, err := r.passed(ctx, tx, before)
	if err != nil {
		return nil, err
	}
	by, err := r.sort(ctx, tx, rows)
	if err != nil {
		return nil, err
	}
	if len(by.late) > 0 && !passed {
		return nil, errNotPassed
	}
	late, forgotten, err := r.withoutForgotten(ctx, tx, by.late)
	if err != nil {
		return nil, err
	}
	out, err := r.insert(ctx, tx, by.known, by.restored, late)
	if err != nil {
		return nil, err
	}
	out.forgotten = forgotten
	return out, nil
}

// passed says whether the stream has come past a position. It stays where it is until the end of the transaction.
func (r *replaying) passed(ctx context.Context, tx pgx.Tx, before event.LSN) (bool, error) {
	at, err := store.New().LockStream(ctx, tx)
	switch {
	case err != nil:
		return false, fmt.Errorf("lock the checkpoint: %w", err)
	case at.State != string(StreamStreaming):
		return false, fmt.Errorf("the stream is not streaming (%s): what it brings is not known; see weir status", at.State)
	}
	return lsnOf(at.LSN) >= before, nil
}

// sorted are rows of the change log: those that are recorded, as they were recorded, of them those that have got back what
// they had lost, and those that are late.
type sorted struct{ known, restored, late []*event.Event }

// sort tells rows that are recorded from those that are not.
func (r *replaying) sort(ctx context.Context, db store.DBTX, rows []*event.Event) (by sorted, err error) {
	recorded, err := index.Named(ctx, db, r.History, keysOf(rows))
	if err != nil {
		return by, err
	}
	for _, row := range rows {
		was, ok := recorded[index.KeyOf(row).Identity()]
		switch {
		case !ok:
			by.late = append(by.late, row)
		case was.Lacks:
			was.Event.Data, was.Event.Changes = row.Data, row.Changes
			by.known, by.restored = append(by.known, was.Event), append(by.restored, was.Event)
		default:
			by.known = append(by.known, was.Event)
		}
	}
	return by, nil
}

// withoutForgotten leaves out of late rows those from before their entity was forgotten, and counts them.
func (r *replaying) withoutForgotten(
	ctx context.Context, db store.DBTX, late []*event.Event,
) (kept []*event.Event, n int64, err error) {
	forgotten, err := index.ForgottenOf(ctx, db, late)
	if err != nil {
		return nil, 0, err
	}
	for _, e := range late {
		if at, ok := forgotten[[2]string{e.EntityType, e.EntityID}]; ok && !time.Time(e.Timestamp).After(at) {
			n++
			continue
		}
		kept = append(kept, e)
	}
	return kept, n, nil
}

// planRows is insertRows that changes nothing.
func (r *replaying) planRows(ctx context.Context, rows []*event.Event) (*outcome, error) {
	by, err := r.sort(ctx, r.db, rows)
	if err != nil {
		return nil, err
	}
	late, forgotten, err := r.withoutForgotten(ctx, r.db, by.late)
	if err != nil {
		return nil, err
	}
	m, err := r.jobs.Match(ctx, r.db, append(by.known, late...))
	if err != nil {
		return nil, err
	}
	return &outcome{match: m, restored: by.restored, recorded: r.recordedOf(late, m), forgotten: forgotten}, nil
}
