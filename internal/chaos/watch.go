package chaos

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	sampleEvery = 200 * time.Millisecond
	tellEvery   = 5 * time.Second
	askTime     = 3 * time.Second
	takeTime    = 30 * time.Second // until a slot is gone that a worker reads again and again
)

// watch samples how the stream is doing.
type watch struct {
	url     string
	slot    string
	changes func() int64 // committed so far, as far as the clients know
	tell    func(string)

	mu         sync.Mutex // guards the rest
	conn       *pgx.Conn
	reading    time.Time // the slot was last seen with a reader, or the server was away
	unread     time.Duration
	lagBytes   int64
	lagChanges int64
	events     int64
	faults     func() int
}

// figures are the worst that was seen.
type figures struct {
	Unread     time.Duration // without a reader while the server was up
	LagBytes   int64
	LagChanges int64
}

func (w *watch) worst() figures {
	w.mu.Lock()
	defer w.mu.Unlock()
	return figures{Unread: w.unread, LagBytes: w.lagBytes, LagChanges: w.lagChanges}
}

// run samples until ctx ends, and tells how it goes.
func (w *watch) run(ctx context.Context) {
	began, told := time.Now(), time.Now()
	w.reading = began
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	defer w.close(ctx)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		w.sample(ctx)
		if time.Since(told) > tellEvery {
			told = time.Now()
			w.mu.Lock()
			changes := w.changes()
			line := fmt.Sprintf("%4.0fs  %d faults, %d changes, %d behind", time.Since(began).Seconds(), w.faults(), changes,
				max(0, changes-w.events))
			w.mu.Unlock()
			w.tell(line)
		}
	}
}

// sample looks once. A server that does not answer is away: nobody could read there.
func (w *watch) sample(ctx context.Context) {
	var active bool
	var lag, events int64
	err := w.ask(ctx, askTime, func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `
			SELECT s.active, pg_current_wal_lsn() - s.confirmed_flush_lsn, c.events
			FROM pg_replication_slots s, weir.checkpoint c WHERE s.slot_name = $1`, w.slot).Scan(&active, &lag, &events)
	})
	changes := w.changes()
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	switch {
	case err != nil && !errors.Is(err, pgx.ErrNoRows):
		w.reading = now
	case active:
		w.unread = max(w.unread, now.Sub(w.reading))
		w.reading = now
	default:
		w.unread = max(w.unread, now.Sub(w.reading))
	}
	if err == nil {
		w.lagBytes, w.lagChanges, w.events = max(w.lagBytes, lag), max(w.lagChanges, changes-events), events
	}
}

// ask runs one question on a connection that is made anew when it is lost.
func (w *watch) ask(ctx context.Context, limit time.Duration, question func(context.Context, *pgx.Conn) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	w.mu.Lock()
	conn := w.conn
	w.conn = nil
	w.mu.Unlock()
	if conn == nil {
		var err error
		if conn, err = pgx.Connect(ctx, w.url); err != nil {
			return err
		}
	}
	err := question(ctx, conn)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.conn != nil || conn.IsClosed() {
		_ = conn.Close(ctx)
	} else {
		w.conn = conn
	}
	return err
}

func (w *watch) close(ctx context.Context) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.conn != nil {
		_ = w.conn.Close(context.WithoutCancel(ctx))
		w.conn = nil
	}
}

// owner is the process that reads the stream, by its lease.
func (w *watch) owner(ctx context.Context) (pid int, err error) {
	err = w.ask(ctx, askTime, func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `SELECT w.pid FROM weir.worker w JOIN weir.checkpoint c ON c.owner = w.client_id`).Scan(&pid)
	})
	return pid, err
}

// takeSlot drops the slot, whoever reads it, or has the server invalidate it.
func (w *watch) takeSlot(ctx context.Context, how Kind) error {
	ctx, cancel := context.WithTimeout(ctx, takeTime)
	defer cancel()
	for {
		err := w.tryToTake(ctx, how)
		if err == nil || ctx.Err() != nil {
			return err
		}
		select { // the server may be restarting
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (w *watch) tryToTake(ctx context.Context, how Kind) error {
	return w.ask(ctx, takeTime, func(ctx context.Context, conn *pgx.Conn) error {
		if how == SlotInvalidated {
			return invalidate(ctx, conn, w.slot)
		}
		for ctx.Err() == nil {
			_, err := conn.Exec(ctx, `SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots
				WHERE slot_name = $1 AND active_pid IS NOT NULL`, w.slot)
			if err != nil {
				return err
			}
			if _, err = conn.Exec(ctx, `SELECT pg_drop_replication_slot($1)`, w.slot); err == nil {
				return nil
			}
		}
		return ctx.Err()
	})
}

// invalidate lets the server throw away WAL that the slot still needs: no reader, little WAL to be kept, much written.
func invalidate(ctx context.Context, conn *pgx.Conn, slot string) error {
	for _, sql := range []string{
		`ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'`,
		`SELECT pg_reload_conf()`,
	} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return err
		}
	}
	defer func() {
		after := context.WithoutCancel(ctx)
		_, _ = conn.Exec(after, `ALTER SYSTEM RESET max_slot_wal_keep_size`)
		_, _ = conn.Exec(after, `SELECT pg_reload_conf()`)
	}()
	for ctx.Err() == nil {
		var lost bool
		for _, sql := range []string{
			`SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active_pid IS NOT NULL`,
			`SELECT pg_logical_emit_message(false, 'app', repeat('x', 1000000)), pg_switch_wal()`,
			`CHECKPOINT`,
		} {
			if _, err := conn.Exec(ctx, sql); err != nil {
				return err
			}
		}
		err := conn.QueryRow(ctx, `SELECT wal_status = 'lost' FROM pg_replication_slots WHERE slot_name = $1`, slot).Scan(&lost)
		if errors.Is(err, pgx.ErrNoRows) { // a worker is making it again
			continue
		}
		if err != nil || lost {
			return err
		}
	}
	return ctx.Err()
}
