package capture

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/store"
)

// A slot that has lost something is made up for from the change log: docs/recovery.md tells the whole of it.
//
//  1. The checkpoint is taken, state recovering: that fences everybody, also who reads this.
//  2. The slot is made again, and exports the snapshot of exactly what was committed before its point.
//  3. Under that snapshot the change log is read, and what is not known yet is ingested, batch by batch, beside the stream.
//  4. The checkpoint takes the slot's point, and the stream begins there.
//
// Killed at any point it begins again at 1: what was ingested is known then.

// interrupted is what to do about a stream whose continuity is lost: recover, or stop at a gap, unless that is another's.
func (s *Stream) interrupted(ctx context.Context, src, dst *pgx.Conn, seen *sight, todo ruling) error {
	s.once.Do(func() { close(s.verified) }) // it is the checkpoint's source: what is queued may be delivered
	if seen.checkpoint.State == stateGap {
		return s.awaitAcceptance(ctx, dst, todo.problem)
	}
	may, over, err := s.mayInterrupt(ctx, src, dst, seen)
	if err != nil {
		return err
	}
	if !may {
		s.standBy()
		sleep(ctx, standbyPoll)
		return nil
	}
	s.warnOfTimeline(seen)
	if todo.verdict == stopAtTheGap {
		if err := endSessions(ctx, over, src, dst); err != nil {
			return err
		}
		_, err := s.interrupt(ctx, dst, seen, stateGap, todo.problem)
		if errors.Is(err, errChanged) {
			return nil
		}
		if err != nil {
			return err
		}
		return s.dropSlot(ctx, src) // it would hold WAL that nobody is going to read
	}
	return s.recover(ctx, src, dst, seen, todo, over)
}

// mayInterrupt says that nobody who is alive recovers the stream, or reads it, and whose sessions are to be ended before: those
// of its owner, and of who has the slot, if their time is up. They may hold the checkpoint's row, or the slot.
func (s *Stream) mayInterrupt(ctx context.Context, src, dst *pgx.Conn, seen *sight) (may bool, over []string, err error) {
	owner, reader := seen.checkpoint.Owner, ""
	if seen.slot != nil && seen.slot.Active {
		h, err := readHolder(ctx, src, s.cfg.Slot)
		if err != nil || h == nil { // gone by now: look again
			return false, nil, err
		}
		if reader = h.client(); reader == "" { // a stranger
			return false, nil, nil
		}
		if reader == s.opts.ClientID { // on a connection that is dead without the server knowing
			_, err := (&standby{Stream: s, src: src, watch: watch{holder: *h}}).endHolder(ctx)
			return false, nil, err
		}
	}
	for _, id := range slices.Compact([]string{owner, reader}) {
		if id == "" || id == s.opts.ClientID {
			continue
		}
		switch isOver, err := s.isOver(ctx, dst, id); {
		case err != nil:
			return false, nil, err
		case isOver:
			over = append(over, id)
		case id == reader || seen.checkpoint.State == stateRecovering:
			return false, nil, nil
		}
	}
	return true, over, nil
}

// isOver says that a worker is dead to others, or that it owns the stream and has given no sign of life of its source for the
// time of a lease: one that recovers and was cut off from the source, or whose slot was lost meanwhile.
func (s *Stream) isOver(ctx context.Context, dst *pgx.Conn, client string) (bool, error) {
	t, err := readTestimony(ctx, dst, client)
	if err != nil || !t.worker {
		return err == nil, err
	}
	return t.owner && s.mayBury(t) && t.said != nil && t.now.Sub(*t.said) >= s.cfg.Lease.Std(), nil
}

// interrupt takes the checkpoint of a stream that cannot go on as it is.
func (s *Stream) interrupt(ctx context.Context, dst *pgx.Conn, seen *sight, state, problem string) (*checkpoint, error) {
	var row store.InterruptStreamRow
	err := taking(ctx, dst, seen.checkpoint.Owner, func(tx pgx.Tx) (err error) {
		row, err = store.New().InterruptStream(ctx, tx, store.InterruptStreamParams{
			Owner: s.opts.ClientID, State: state, Problem: problem, Epoch: seen.checkpoint.Epoch,
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	return checkpointOf(store.GetCheckpointRow(row)), nil
}

// awaitAcceptance captures nothing until somebody has accepted the gap (weir accept-gap).
func (s *Stream) awaitAcceptance(ctx context.Context, dst *pgx.Conn, problem string) error {
	if s.Health().State != Gap {
		s.log.Error("changes are missing that cannot be made up for, so nothing is captured", "problem", problem, "mend", GapMend)
	}
	s.setHealth(Gap, errors.New(problem+"; to go on: "+GapMend))
	for {
		sleep(ctx, standbyPoll)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		cp, err := readCheckpoint(ctx, dst)
		if err != nil || cp == nil || cp.State != stateGap {
			return err
		}
	}
}

// GapMend is how to go on from a gap.
const GapMend = "weir accept-gap # which says what may be missing"

// recover makes up for the loss. A nil error may also mean that somebody else was quicker.
func (s *Stream) recover(ctx context.Context, src, dst *pgx.Conn, seen *sight, todo ruling, over []string) error {
	if err := readable(ctx, src, *s.cfg.ChangeLog); err != nil { // before anything is given up
		return err
	}
	// Before the checkpoint is taken, since a batch that hangs holds its row, and after, since a session may have been opened
	// meanwhile.
	if err := endSessions(ctx, over, src, dst); err != nil {
		return err
	}
	cp, err := s.interrupt(ctx, dst, seen, stateRecovering, todo.problem)
	if errors.Is(err, errChanged) {
		return nil
	}
	if err != nil {
		return err
	}
	kept := s.keepsSlot()
	defer kept()
	s.setHealth(Recovering, nil)
	defer s.setHealth(Connecting, nil)
	s.metrics.recoveries.WithLabelValues(string(todo.cause)).Inc()
	s.log.Warn("the stream has lost its continuity, recovering from the change log",
		"problem", todo.problem, "checkpoint", cp.Position.String(), "epoch", cp.Epoch)
	if err := endSessions(ctx, over, src); err != nil {
		return err
	}
	if seen.branch != 0 { // whose positions may be lower
		if _, err := store.New().AgeOrdered(ctx, dst); err != nil {
			return fmt.Errorf("put the deliveries that keep an order before those to come: %w", err)
		}
	}
	if _, _, err := publishTables(ctx, src, s.cfg); err != nil { // before the slot
		return err
	}
	repl, made, err := s.renewSlot(ctx, src, seen)
	if err != nil {
		return err
	}
	defer func() { _ = repl.Close(context.WithoutCancel(ctx)) }() // the snapshot ends with it
	r := &recovery{
		stream: s, src: src, dst: dst, epoch: cp.Epoch, made: made, since: cp.recoverableFrom(s.cfg.RecoveryWindow.Std()),
		committer: committer{
			conn: dst, sink: s.opts.Sink, committed: s.opts.Committed, epoch: cp.Epoch, beside: true, metrics: s.metrics, log: s.log,
		},
	}
	if err := r.run(ctx); err != nil {
		return fmt.Errorf("recover from the change log: %w", err)
	}
	return s.finishRecovery(ctx, dst, seen, cp.Epoch, made.point)
}

// recoverableFrom is from when on rows may be missing: a row's created_at is when its transaction began, which may be a window
// before its commit. Before the first ingested change it is all since capture began.
func (cp *checkpoint) recoverableFrom(window time.Duration) time.Time {
	since := cp.BeganAt
	if at := cp.CommitTime.Add(-window); !cp.CommitTime.IsZero() && at.After(since) {
		since = at
	}
	return since
}

// endSessions ends those of workers whose time is up, and which may belong to a process that was stopped and goes on: it must not
// drop the slot that we make, nor may a transaction that it left open be waited for.
// A lack of the right to do so is errMayNotEnd.
func endSessions(ctx context.Context, dead []string, servers ...*pgx.Conn) error {
	names := make([]string, len(dead))
	for i, id := range dead {
		names[i] = appPrefix + id
	}
	for _, conn := range servers {
		if len(names) == 0 {
			break
		}
		var left int
		err := conn.QueryRow(ctx, `
			SELECT count(*) FILTER (WHERE NOT pg_terminate_backend(pid, 5000)) FROM pg_stat_activity
			 WHERE application_name = ANY ($1) AND datname = current_database() AND pid <> pg_backend_pid()`, names).Scan(&left)
		if err == nil && left > 0 {
			err = fmt.Errorf("%d do not end", left)
		}
		if hasCode(err, "42501") { // not of schema weir, whose grants would not help
			return fmt.Errorf("%w; to mend it: %s", errMayNotEnd, signalGrant(conn))
		}
		if err != nil {
			return fmt.Errorf("end the sessions of workers whose time is up: %w", err)
		}
	}
	return nil
}

// dropSlot drops the slot, if there is one.
func (s *Stream) dropSlot(ctx context.Context, src *pgx.Conn) error {
	_, err := src.Exec(ctx, `
		SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1`, string(s.cfg.Slot))
	if err != nil {
		return fmt.Errorf("drop slot %s: %w", s.cfg.Slot, err)
	}
	return nil
}

// renewSlot makes the slot again. The connection keeps its snapshot.
func (s *Stream) renewSlot(ctx context.Context, src *pgx.Conn, seen *sight) (*pgconn.PgConn, exported, error) {
	if err := s.dropSlot(ctx, src); err != nil {
		return nil, exported{}, err
	}
	version, err := serverVersion(ctx, src)
	if err != nil {
		return nil, exported{}, err
	}
	repl, err := replicationConnect(ctx, s.opts.SourceURL, s.opts.ClientID)
	if err != nil {
		return nil, exported{}, fmt.Errorf("open a replication connection: %w", err)
	}
	err = start{id: seen.identity}.leadsTo(ctx, repl)
	var made exported
	if err == nil {
		stop := reportWaiting(ctx, s.log, s.connectSource)
		made, err = exportSlot(ctx, repl, version, string(s.cfg.Slot), lastingSlot)
		stop()
	}
	if err != nil {
		_ = repl.Close(context.WithoutCancel(ctx))
		return nil, exported{}, err
	}
	return repl, made, nil
}

func (s *Stream) finishRecovery(ctx context.Context, dst *pgx.Conn, seen *sight, epoch int64, point event.LSN) error {
	id := seen.identity.or(seen.checkpoint.identity)
	var tablesFrom event.LSN
	if s.cfg.CapturesTables() {
		tablesFrom = point
	}
	err := pgx.BeginFunc(ctx, dst, func(tx pgx.Tx) error {
		moved, err := store.New().FinishRecovery(ctx, tx, store.FinishRecoveryParams{
			LSN: int64(point), Timeline: id.Timeline, Server: id.Server.String(), DatabaseSystem: id.Home.String(), Epoch: epoch,
			TablesFrom: int64(tablesFrom),
		})
		if err == nil && moved != 1 {
			err = errFenced
		}
		if err == nil {
			_, err = store.New().LowerJoined(ctx, tx, int64(point))
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("store the checkpoint after the recovery: %w", err)
	}
	return nil
}
