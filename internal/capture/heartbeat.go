package capture

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/internal/event"
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
	metrics *metrics
}

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
	timeout, cancel := context.WithTimeout(ctx, h.every)
	defer cancel()
	for timeout.Err() == nil {
		err := h.conn.PgConn().WaitForNotification(timeout)
		if err != nil && timeout.Err() == nil {
			return fmt.Errorf("wait for the next heartbeat: %w", err)
		}
	}
	return ctx.Err()
}

func (h *heartbeat) beat(ctx context.Context) error {
	var current string
	var retained int64
	err := h.conn.QueryRow(ctx, `
		SELECT pg_current_wal_lsn()::text, coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::bigint
		  FROM pg_replication_slots WHERE slot_name = $1`, string(h.slot)).Scan(&current, &retained)
	if errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("replication slot %s is gone", h.slot)
	}
	if err != nil {
		return fmt.Errorf("read the slot: %w", err)
	}
	h.metrics.retained.Store(retained)
	lsn, err := event.ParseLSN(current)
	if err != nil {
		return err
	}
	h.metrics.walEnd.Store(max(h.metrics.walEnd.Load(), uint64(lsn)))
	if uint64(lsn) < h.metrics.stored.Load()+heartbeatWAL && retained < retainedWAL {
		return nil
	}
	_, err = h.conn.Exec(ctx, `SELECT pg_logical_emit_message(true, $1, '')`, heartbeatPrefix)
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
