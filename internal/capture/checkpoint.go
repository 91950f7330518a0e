package capture

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/store"
)

// checkpoint is the row of weir.checkpoint: how far the stream has been turned into events and jobs, of which server.
type checkpoint struct {
	System       string // the source cluster's system identifier
	Timeline     int32
	Installation string
	Slot         string
	Position     event.Position
	Epoch        int64 // grows with each owner; an owner with an older one is fenced
}

// start is where a stream stands before it takes the slot.
type start struct {
	checkpoint event.Position
	confirmed  event.LSN // what the slot has been told
	active     bool      // another worker has the slot
}

// identity is what tells one source from another.
type identity struct {
	system       string
	timeline     int32
	installation string
}

// verdict is what to do about a pair of slot and checkpoint.
type verdict string

const (
	createTheSlot       verdict = "create the slot"
	createTheCheckpoint verdict = "create the checkpoint at the slot's position"
	readOn              verdict = "read on"
)

// judge decides how to start. It is pure: each of its rows is a test.
func judge(cfg Config, id identity, slot *slotRow, cp *checkpoint) (verdict, error) {
	if cp != nil {
		if err := sameSource(id, cp); err != nil {
			return "", err
		}
	}
	switch {
	case slot == nil && cp == nil:
		return createTheSlot, nil
	case slot == nil:
		return "", &SetupError{
			fmt.Sprintf("slot %s does not exist, but there is a checkpoint at %s", cfg.Slot, cp.Position.LSN), gapHint(cfg),
		}
	case cp == nil:
		return createTheCheckpoint, nil
	case cp.Slot != string(cfg.Slot):
		return "", &SetupError{
			fmt.Sprintf("the checkpoint belongs to slot %s, not to %s", cp.Slot, cfg.Slot),
			fmt.Sprintf("set source.slot to %s, or remove the checkpoint to start anew: DELETE FROM weir.checkpoint;", cp.Slot),
		}
	case slot.Confirmed > cp.Position.LSN:
		return "", &SetupError{
			fmt.Sprintf("slot %s was moved to %s, past the checkpoint at %s", cfg.Slot, slot.Confirmed, cp.Position.LSN),
			gapHint(cfg),
		}
	default:
		return readOn, nil
	}
}

// sameSource refuses a source that the checkpoint does not belong to: a copy must do no harm.
func sameSource(id identity, cp *checkpoint) error {
	const mend = "if this worker shall take over here, remove the checkpoint, which starts anew at the present: " +
		"DELETE FROM weir.checkpoint;"
	switch {
	case id.system != cp.System:
		return &SetupError{fmt.Sprintf("the source is another cluster than the checkpoint's (system identifier %s, not %s): "+
			"this looks like a restored dump or a copy, so nothing is sent", id.system, cp.System), mend}
	case id.timeline != cp.Timeline:
		return &SetupError{fmt.Sprintf("the source is on timeline %d, the checkpoint on %d: a standby was promoted, "+
			"so nothing is sent before somebody has looked", id.timeline, cp.Timeline), mend}
	case id.installation != cp.Installation:
		return &SetupError{
			fmt.Sprintf("the checkpoint belongs to installation %q, this worker to %q", cp.Installation, id.installation),
			fmt.Sprintf("set installation to %q, or %s", cp.Installation, mend),
		}
	}
	return nil
}

// settle brings slot and checkpoint into being where they are missing, and refuses where continuity is not certain.
func (s *Stream) settle(ctx context.Context, src, dst *pgx.Conn) (start, error) {
	if err := prepare(ctx, src, s.cfg); err != nil {
		return start{}, err
	}
	id, err := s.identify(ctx)
	if err != nil {
		return start{}, err
	}
	for {
		// The slot first: the checkpoint is never behind what the slot was told, so a checkpoint read later cannot
		// look overtaken only because its owner was quick.
		slot, err := readSlot(ctx, src, s.cfg)
		if err != nil {
			return start{}, fmt.Errorf("read the slot: %w", err)
		}
		if slot != nil {
			if err := slot.usable(ctx, src, s.cfg); err != nil {
				return start{}, err
			}
			if slot.Confirmed == 0 { // another worker is creating it: it has no position yet
				sleep(ctx, standbyPoll)
				if ctx.Err() != nil {
					return start{}, ctx.Err()
				}
				continue
			}
		}
		cp, err := readCheckpoint(ctx, dst)
		if err != nil {
			return start{}, err
		}
		if slot == nil && cp != nil { // really gone, or another worker has made both since we looked
			made, err := readSlot(ctx, src, s.cfg)
			if err != nil {
				return start{}, fmt.Errorf("read the slot: %w", err)
			}
			if made != nil {
				continue
			}
		}
		todo, err := judge(s.cfg, id, slot, cp)
		if err != nil {
			return start{}, err
		}
		switch todo {
		case createTheSlot:
			s.log.Info("creating the replication slot", "slot", s.cfg.Slot)
			watch := func(ctx context.Context) (*pgx.Conn, error) {
				return sourceConnect(ctx, s.opts.SourceURL, s.opts.ClientID)
			}
			err = createSlot(ctx, src, s.cfg, s.log, watch)
		case createTheCheckpoint:
			err = insertCheckpoint(ctx, dst, checkpoint{
				System: id.system, Timeline: id.timeline, Installation: id.installation, Slot: string(s.cfg.Slot),
				Position: event.Position{LSN: slot.Confirmed},
			})
		case readOn:
			return start{checkpoint: cp.Position, confirmed: slot.Confirmed, active: slot.Active}, nil
		}
		if err != nil {
			return start{}, err
		}
	}
}

// identify asks over the replication protocol, which needs no privilege beyond it and knows the timeline at once.
func (s *Stream) identify(ctx context.Context) (identity, error) {
	repl, err := replicationConnect(ctx, s.opts.SourceURL, s.opts.ClientID)
	if err != nil {
		return identity{}, fmt.Errorf("open a replication connection: %w", err)
	}
	defer func() { _ = repl.Close(context.WithoutCancel(ctx)) }()
	sys, err := pglogrepl.IdentifySystem(ctx, repl)
	if err != nil {
		return identity{}, fmt.Errorf("identify the source: %w", err)
	}
	return identity{system: sys.SystemID, timeline: sys.Timeline, installation: s.opts.Installation}, nil
}

// ingestConnect opens the one connection that writes checkpoint, events and jobs.
func ingestConnect(ctx context.Context, url, clientID string) (*pgx.Conn, error) {
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("database.url: %w", err)
	}
	cfg.RuntimeParams["application_name"] = "weir:" + clientID
	cfg.RuntimeParams["client_encoding"] = "UTF8" // whatever the database's or the role's default is
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, err
	}
	// What is confirmed to the slot must have reached the disk, whatever the role's default is. And a batch that takes
	// longer than a role's statements may would take as long the next time.
	_, err = conn.Exec(ctx, `
		SELECT set_config('statement_timeout', '0', false), CASE current_setting('synchronous_commit')
		       WHEN 'off' THEN set_config('synchronous_commit', 'on', false) END`)
	if err != nil {
		closeConn(ctx, conn)
		return nil, err
	}
	return conn, nil
}

// NotMigrated says that an error comes of a schema that is not there, or is older than this program.
func NotMigrated(err error) bool {
	return hasCode(err, "42P01") || hasCode(err, "3F000") || hasCode(err, "42883") || hasCode(err, "42703")
}

// Denied turns an error that says that the role may not use schema weir into a SetupError with the grants.
func Denied(err error, role string) error {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) || pg.Code != "42501" {
		return err
	}
	role = pgx.Identifier{role}.Sanitize()
	return &SetupError{pg.Message, fmt.Sprintf("GRANT USAGE ON SCHEMA weir TO %[1]s; "+
		"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA weir TO %[1]s; "+
		"GRANT USAGE ON ALL SEQUENCES IN SCHEMA weir TO %[1]s; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA weir TO %[1]s;", role)}
}

func migrationsMissing(err error) error {
	if NotMigrated(err) {
		return &SetupError{"the database has not been migrated", "weir migrate up"}
	}
	return err
}

// readCheckpoint returns nil when there is none yet.
func readCheckpoint(ctx context.Context, db store.DBTX) (*checkpoint, error) {
	row, err := store.New().GetCheckpoint(ctx, db)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the checkpoint: %w", migrationsMissing(err))
	}
	return &checkpoint{
		System: row.SystemIdentifier, Timeline: row.Timeline, Installation: row.Installation, Slot: row.Slot,
		Position: event.Position{LSN: event.LSN(row.LSN), Index: row.TxIndex}, Epoch: row.Epoch,
	}, nil
}

// insertCheckpoint changes nothing when another worker was first.
func insertCheckpoint(ctx context.Context, db store.DBTX, cp checkpoint) error {
	_, err := store.New().InsertCheckpoint(ctx, db, store.InsertCheckpointParams{
		SystemIdentifier: cp.System, Timeline: cp.Timeline, Installation: cp.Installation, Slot: cp.Slot,
		LSN: int64(cp.Position.LSN),
	})
	if err != nil {
		return fmt.Errorf("store the first checkpoint: %w", err)
	}
	return nil
}

// takeCheckpoint raises the epoch, which fences the owner before us, and returns the checkpoint as it then stands.
func takeCheckpoint(ctx context.Context, db store.DBTX, owner string) (*checkpoint, error) {
	row, err := store.New().TakeCheckpoint(ctx, db, owner)
	if err != nil {
		return nil, fmt.Errorf("take the checkpoint: %w", err)
	}
	return &checkpoint{
		System: row.SystemIdentifier, Timeline: row.Timeline, Installation: row.Installation, Slot: row.Slot,
		Position: event.Position{LSN: event.LSN(row.LSN), Index: row.TxIndex}, Epoch: row.Epoch,
	}, nil
}
