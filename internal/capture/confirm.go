package capture

import (
	"context"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/store"
)

// confirmed is a position whose jobs are durable and which ends a whole transaction: all that may be told to the
// server. Only the committer makes one, from what it has stored.
type confirmed event.LSN

// confirmations hold positions from the moment they are stored until they may be told to the server, which is at once but for
// a failover slot in the cluster that the checkpoint is in, too. Such a slot is copied to the standbys as it was confirmed: a
// standby that has the slot's new position and lacks the checkpoint's, which is later WAL, would have lost what lies between
// when it is promoted. With synchronized_standby_slots the server sends to a failover slot only what the standbys have. So a
// position is told once the server has sent something from behind the commit that stored it.
type confirmations struct {
	mu      sync.Mutex // guards the rest
	ready   confirmed
	waiting []durable
}

// durable is a position, and where the WAL ended after it was stored.
type durable struct {
	pos confirmed
	end event.LSN
}

// stored is told each position in its order, with 0 for one that need not wait.
func (c *confirmations) stored(pos event.LSN, end event.LSN) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting = append(c.waiting, durable{confirmed(pos), end})
}

// confirm returns what may be told to a server that has sent something from this position.
func (c *confirmations) confirm(heard event.LSN) confirmed {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for ; n < len(c.waiting) && c.waiting[n].end <= heard; n++ {
		c.ready = c.waiting[n].pos
	}
	c.waiting = c.waiting[:copy(c.waiting, c.waiting[n:])]
	return c.ready
}

// newest is the newest position that is stored, whether it may be told or not.
func (c *confirmations) newest() confirmed {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.waiting); n > 0 {
		return c.waiting[n-1].pos
	}
	return c.ready
}

// copiedToStandbys says whether the slot is one that standbys keep a copy of (PostgreSQL 17).
func copiedToStandbys(ctx context.Context, src *pgx.Conn, slot Name) (copied bool, err error) {
	err = src.QueryRow(ctx, `
		SELECT coalesce((to_jsonb(s) ->> 'failover')::boolean, false) FROM pg_replication_slots s WHERE slot_name = $1`, string(slot)).
		Scan(&copied)
	if err != nil {
		return false, fmt.Errorf("read the slot: %w", err)
	}
	return copied, nil
}

// walEnd is where the WAL of a server ends.
func walEnd(ctx context.Context, db store.DBTX) (event.LSN, error) {
	var end string
	if err := db.QueryRow(ctx, `SELECT pg_current_wal_insert_lsn()::text`).Scan(&end); err != nil {
		return 0, fmt.Errorf("read the end of the WAL: %w", err)
	}
	return event.ParseLSN(end)
}
