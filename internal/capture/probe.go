package capture

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// The server decodes a change with the catalog as it was then. A change that is older than its publication, which was
// dropped and made again or made after the slot, cannot be decoded with it, now or ever: up to PostgreSQL 17 the stream
// ends with an error, and from 18 on the change is skipped with a warning.

// tooYoung is that problem.
func tooYoung(cfg Config) *SetupError {
	return &SetupError{
		fmt.Sprintf("publication %s is younger than changes that are still to be read from slot %s", cfg.Publication, cfg.Slot),
		fmt.Sprintf("SELECT pg_drop_replication_slot('%s'); -- the worker makes it again", cfg.Slot),
	}
}

// errTooYoung is what a stream ends with that comes to such a change.
var errTooYoung = errors.New("the publication is younger than changes that are still to be read")

// saysTooYoung recognizes it in what the server says, not by the text, which may be in any language.
func saysTooYoung(said *pgconn.PgError) bool {
	switch said.Code {
	case "42704": // undefined_object, which a slot may be, too
		return said.Routine != "ReplicationSlotAcquire"
	case "55000": // object_not_in_prerequisite_state
		return said.Routine == "LoadPublications"
	}
	return false
}

// legibility is what a probe has found.
type legibility int

const (
	slotUnknown  legibility = iota // it is being read, or to look takes too long
	slotReadable                   // the next changes of the slot can be decoded, or there are none
	slotTooOld                     // one of them is older than the publication
)

// probeChanges is how many changes a probe looks at. A few would not do: up to PostgreSQL 14 the begin and the end of each
// transaction count, also of those that hold nothing for us.
const probeChanges = 10_000

// How long a probe may take: the server has to decode all changes up to the last of ours.
const (
	probeInPassing = 2 * time.Second  // for people who wait for the answer to another question
	probeAtStart   = 20 * time.Second // once, in a case that should not be
	probeToAdopt   = time.Minute
)

// probeSlot has the server decode the next changes of a slot that nobody reads. It consumes nothing.
func probeSlot(ctx context.Context, src *pgx.Conn, cfg Config, publications string, limit time.Duration) legibility {
	warned := false
	session := src.Config()
	session.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { warned = warned || saysTooYoung((*pgconn.PgError)(n)) }
	session.RuntimeParams["statement_timeout"] = fmt.Sprint(limit.Milliseconds())
	session.RuntimeParams["client_min_messages"] = "warning"
	conn, err := pgx.ConnectConfig(ctx, session)
	if err != nil {
		return slotUnknown
	}
	defer closeConn(ctx, conn)
	_, err = conn.Exec(ctx, `
		SELECT count(*) FROM pg_logical_slot_peek_binary_changes($1, NULL, $2, 'proto_version', '1', 'publication_names', $3)`,
		string(cfg.Slot), probeChanges, publications)
	var said *pgconn.PgError
	switch {
	case warned, errors.As(err, &said) && saysTooYoung(said):
		return slotTooOld
	case err != nil:
		return slotUnknown
	default:
		return slotReadable
	}
}

// probe looks for it where a worker would start to read, as far as that shows in time.
func (s *sight) probe(ctx context.Context, src *pgx.Conn, cfg Config, limit time.Duration) {
	if s.slot == nil || s.slot.Active || s.slot.Status == lost || s.slot.beingMade() || s.slot.usable(cfg, s.database, true) != nil {
		return
	}
	tables := s.checkpoint != nil && s.checkpoint.readsTables() && !s.tablesGone
	s.tooOld = probeSlot(ctx, src, cfg, cfg.publications(tables), limit) == slotTooOld
}
