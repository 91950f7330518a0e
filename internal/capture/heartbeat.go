package capture

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// heartbeatWAL is how far the WAL must have moved past the checkpoint before a heartbeat is worth its own WAL.
const heartbeatWAL = 16 << 10

// retainedWAL is from when on a heartbeat is sent however little has moved: a WAL file. The server lets go of WAL only when
// it has written down which transactions run, which it does every 15 s while something is written, and when a later
// position is confirmed. The heartbeat is what is written, and the next one what is confirmed.
const retainedWAL = 16 << 20

// heartbeat moves an idle slot: a captured table that nobody writes to must not hold back the WAL of a busy server. Its
// message is transactional, so it comes through the stream, and checkpoint and slot move over it like over a change.
type heartbeat struct {
	conn    *pgx.Conn
	slot    Name
	every   time.Duration
	heard   func(at time.Time) // told when the server answered what was asked then
	limit   time.Duration      // how long it may take for that: others have taken over by then
	metrics *metrics
}

// pulse is how often the owner asks the source for a sign of life: what it says of itself to standbys is how old the latest is.
// It asks on this connection, since a walsender that decodes a large transaction reads nothing for a while.
const pulse = time.Second

// emitHeartbeat does not wait for standbys: whether they have it does not matter.
const emitHeartbeat = `SELECT set_config('synchronous_commit', 'local', true), pg_logical_emit_message(true, $1, '')`

func (h *heartbeat) run(ctx context.Context) error {
	for {
		if err := h.beat(ctx); err != nil {
			return err
		}
		if err := h.pause(ctx); err != nil {
			return err
		}
	}
}

// pause waits for the next beat, and listens meanwhile. A server that shuts down ends this session, and then waits for
// its walsender until we have confirmed all of its WAL, which we never do: it is us who have to hang up.
func (h *heartbeat) pause(ctx context.Context) error {
	for due := time.Now().Add(h.every); ctx.Err() == nil; {
		if err := h.ask(ctx); err != nil {
			return err
		}
		left := time.Until(due)
		if left <= 0 {
			return nil
		}
		if err := h.listen(ctx, min(pulse, left)); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// ask wants a sign of life. Where none comes, others would take over, so this worker looks for a better connection itself.
func (h *heartbeat) ask(ctx context.Context) error {
	asked := time.Now()
	timeout, cancel := context.WithTimeoutCause(ctx, h.limit, fmt.Errorf("the source gave no sign of life for %s", h.limit))
	defer cancel()
	if err := h.conn.Ping(timeout); err != nil {
		return fmt.Errorf("ask the source for a sign of life: %w", cmp.Or(context.Cause(timeout), err))
	}
	h.heard(asked)
	return nil
}

func (h *heartbeat) listen(ctx context.Context, d time.Duration) error {
	timeout, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	for timeout.Err() == nil {
		err := h.conn.PgConn().WaitForNotification(timeout)
		if err != nil && timeout.Err() == nil {
			return fmt.Errorf("wait for the next heartbeat: %w", err)
		}
	}
	return nil
}

func (h *heartbeat) beat(ctx context.Context) error {
	seen, err := h.metrics.measure(ctx, h.conn, h.slot)
	if errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("replication slot %s is gone", h.slot)
	}
	if err != nil {
		return fmt.Errorf("read the slot: %w", err)
	}
	if uint64(seen.current) < h.metrics.stored.Load()+heartbeatWAL && seen.retained < retainedWAL {
		return nil
	}
	_, err = h.conn.Exec(ctx, emitHeartbeat, heartbeatPrefix)
	if hasCode(err, "42501") {
		return &SetupError{
			"role " + h.conn.Config().User + " may not emit the heartbeat, without which an idle slot holds WAL back",
			"GRANT EXECUTE ON FUNCTION pg_logical_emit_message(boolean, text, text) TO " +
				pgx.Identifier{h.conn.Config().User}.Sanitize() + ";",
		}
	}
	if err != nil {
		return fmt.Errorf("emit the heartbeat: %w", err)
	}
	return nil
}
