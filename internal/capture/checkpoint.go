package capture

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/store"
)

// checkpoint is the row of weir.checkpoint: how far the stream has been turned into events and jobs, of which source.
type checkpoint struct {
	identity
	Slot       string
	Position   event.Position
	Epoch      int64     // grows with each owner; an owner with an older one is fenced
	Stored     time.Time // when it reached Position
	Owner      string    // client id of the worker that last took it
	State      string    // streaming, recovering or gap
	Problem    string    // why it is not streaming
	CommitTime time.Time // of the newest ingested change; zero before the first
	BeganAt    time.Time // older rows of the change log are none of ours
	TablesFrom event.LSN // from here on the publication of the tables can be read; 0: not at all
}

// start is where a stream stands before it takes the slot.
type start struct {
	id         identity
	checkpoint event.Position
	epoch      int64     // of the checkpoint
	owner      string    // client id of the worker that last took it
	confirmed  event.LSN // what the slot has been told
	active     bool      // another worker has the slot
}

// settle brings slot and checkpoint into being where they are missing, and refuses where continuity is not certain.
func (s *Stream) settle(ctx context.Context, src, dst *pgx.Conn) (start, error) {
	if err := prepare(ctx, src, s.cfg); err != nil {
		return start{}, err
	}
	for {
		seen, err := look(ctx, src, dst, s.cfg, s.opts.Installation)
		if err != nil {
			return start{}, err
		}
		if seen.slot != nil && seen.slot.beingMade() && seen.slot.usable(s.cfg, seen.database, true) == nil { // by another worker
			sleep(ctx, standbyPoll)
			if ctx.Err() != nil {
				return start{}, ctx.Err()
			}
			continue
		}
		todo, err := judge(s.cfg, seen)
		if err != nil {
			return start{}, err
		}
		switch todo {
		case createTheSlot:
			s.log.Info("creating the replication slot", "slot", s.cfg.Slot)
			err = createSlot(ctx, src, s.cfg, s.log, func(ctx context.Context) (*pgx.Conn, error) {
				return sourceConnect(ctx, s.opts.SourceURL, s.opts.ClientID)
			})
		case createTheCheckpoint:
			err = insertCheckpoint(ctx, dst, checkpoint{
				identity: seen.identity, Slot: string(s.cfg.Slot), Position: event.Position{LSN: seen.slot.Confirmed},
			})
		case readOn:
			return start{
				id: seen.identity.or(seen.checkpoint.identity), checkpoint: seen.checkpoint.Position, epoch: seen.checkpoint.Epoch,
				owner: seen.checkpoint.Owner, confirmed: seen.slot.Confirmed, active: seen.slot.Active,
			}, nil
		}
		if err != nil {
			return start{}, err
		}
	}
}

// ingestConnect opens the one connection that writes checkpoint, events and jobs.
func ingestConnect(ctx context.Context, url, clientID string) (*pgx.Conn, error) {
	pool, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("database.url: %w", err)
	}
	cfg := pool.ConnConfig
	cfg.DialFunc = dialPatiently
	cfg.RuntimeParams["application_name"] = appPrefix + clientID
	cfg.RuntimeParams["client_encoding"] = "UTF8" // whatever the database's or the role's default is
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, err
	}
	// What is confirmed to the slot must have reached the disk, whatever the role's default is. And a batch that takes
	// longer than a role's statements may would take as long the next time.
	_, err = conn.Exec(ctx, endless)
	if err == nil {
		_, err = conn.Exec(ctx, `
			SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'`)
	}
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
	return &SetupError{pg.Message, Grants(role)}
}

// Grants are what a worker's role needs in schema weir.
func Grants(role string) string {
	return fmt.Sprintf("GRANT USAGE ON SCHEMA weir TO %[1]s; "+
		"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA weir TO %[1]s; "+
		"GRANT USAGE ON ALL SEQUENCES IN SCHEMA weir TO %[1]s; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA weir TO %[1]s;",
		pgx.Identifier{role}.Sanitize())
}

// NewDatabase is what mends a database whose encoding cannot hold every text.
const NewDatabase = "CREATE DATABASE weir ENCODING 'UTF8' TEMPLATE template0 LOCALE 'C'; let database.url name it and " +
	"source.url this one, then weir migrate up"

// IsDenied says that an error is the lack of a privilege.
func IsDenied(err error) bool { return hasCode(err, "42501") }

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
	return checkpointOf(row), nil
}

func checkpointOf(row store.GetCheckpointRow) *checkpoint {
	cp := &checkpoint{
		identity: identity{
			System: row.SystemIdentifier, Timeline: row.Timeline, Server: parseServer(row.Server),
			Home: parseHome(row.DatabaseSystem), Installation: row.Installation,
		},
		Slot: row.Slot, Position: event.Position{LSN: event.LSN(row.LSN), Index: row.TxIndex}, Epoch: row.Epoch, Stored: row.UpdatedAt,
		Owner: row.Owner, State: row.State, Problem: row.Problem, BeganAt: row.BeganAt, TablesFrom: event.LSN(row.TablesFrom),
	}
	if row.CommitTime != nil {
		cp.CommitTime = *row.CommitTime
	}
	return cp
}

// insertCheckpoint changes nothing when another worker was first.
func insertCheckpoint(ctx context.Context, db store.DBTX, cp checkpoint) error {
	_, err := store.New().InsertCheckpoint(ctx, db, store.InsertCheckpointParams{
		SystemIdentifier: cp.System, Timeline: cp.Timeline, Server: cp.Server.String(), DatabaseSystem: cp.Home.String(),
		Installation: cp.Installation, Slot: cp.Slot, LSN: int64(cp.Position.LSN),
	})
	if err != nil {
		return fmt.Errorf("store the first checkpoint: %w", err)
	}
	return nil
}

// takeCheckpoint raises the epoch, which fences the owner before us, and returns the checkpoint as it then stands: where it
// was when it was judged or, moved by the owner before us, after that. What it did not know of its servers yet, it knows
// from then on.
func takeCheckpoint(ctx context.Context, conn *pgx.Conn, owner string, start start) (*checkpoint, error) {
	var row store.TakeCheckpointRow
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "SELECT set_config('lock_timeout', $1, true)", fmt.Sprint(takeTime.Milliseconds()))
		if err == nil {
			row, err = store.New().TakeCheckpoint(ctx, tx, store.TakeCheckpointParams{
				Owner: owner, Server: start.id.Server.String(), DatabaseSystem: start.id.Home.String(), Epoch: start.epoch,
			})
		}
		return err
	})
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, fmt.Errorf("take the checkpoint: %w", errChanged)
	case hasCode(err, "55P03"): // lock_not_available
		return nil, fmt.Errorf("take the checkpoint: its row is locked for %s, as by an open transaction of its owner before (%s)",
			takeTime, start.owner)
	case err != nil:
		return nil, fmt.Errorf("take the checkpoint: %w", err)
	}
	return checkpointOf(store.GetCheckpointRow(row)), nil
}

// takeTime is how long the owner before us may take to end the batch that it was storing. With that its session ends, too:
// while it waits for us it has lost the slot.
const takeTime = 10 * time.Second
