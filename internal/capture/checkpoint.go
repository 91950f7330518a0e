package capture

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
	pgxuuid "github.com/vgarvardt/pgx-google-uuid/v5"

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
	written    timelines // where the WAL was written that is to be read
	confirmed  event.LSN // what the slot has been told
	active     bool      // another worker has the slot
	tables     bool      // the publication of the tables is to be read, too
	branch     event.LSN // where the source's timeline left the checkpoint's; 0: it is the same
}

// The values of State.
const (
	stateRecovering = "recovering"
	stateGap        = "gap"
)

// settle brings slot and checkpoint into being where they are missing, makes up for what a slot has lost, and refuses a source
// that the checkpoint does not belong to. While the stream is paused it only looks.
func (s *Stream) settle(ctx context.Context, src, dst *pgx.Conn, paused bool) (start, error) {
	tooOld, err := prepare(ctx, src, s.cfg)
	if err != nil {
		return start{}, err
	}
	var began time.Time // before the slot was made, by the source's clock; zero: it was not us who made it
	for ctx.Err() == nil {
		seen, err := look(ctx, src, dst, s.cfg, s.opts.Installation)
		if err != nil {
			return start{}, err
		}
		if cp := seen.checkpoint; cp != nil {
			if tooOld {
				s.blind, tooOld = cp.Epoch, false
			}
			seen.tooOld = s.blind == cp.Epoch
		} else {
			seen.tooOld = tooOld
		}
		if seen.makesSlot(s.cfg) { // another worker
			sleep(ctx, standbyPoll)
			continue
		}
		todo, err := judge(s.cfg, seen)
		if err != nil {
			return start{}, err
		}
		if paused && todo.verdict != readOn {
			if seen.checkpoint != nil {
				s.once.Do(func() { close(s.verified) }) // it is the checkpoint's source: what is queued may be delivered
			}
			return start{}, errPaused
		}
		switch todo.verdict {
		case createTheSlot:
			began, err = s.firstSlot(ctx, src)
		case createTheCheckpoint:
			err = s.firstCheckpoint(ctx, src, dst, seen, began)
		case recoverTheLoss, stopAtTheGap:
			err = s.interrupted(ctx, src, dst, seen, todo)
		case readOn:
			if seen.tablesGone { // and not wanted any more, or it would be a gap
				err = setTablesFrom(ctx, dst, seen.checkpoint, 0)
				break
			}
			s.warnOfTimeline(seen)
			return start{
				id: seen.identity.or(seen.checkpoint.identity), checkpoint: seen.checkpoint.Position, epoch: seen.checkpoint.Epoch,
				owner: seen.checkpoint.Owner, confirmed: seen.slot.Confirmed, active: seen.slot.Active,
				tables: seen.checkpoint.readsTables(), branch: seen.branch,
			}, nil
		}
		if err != nil {
			return start{}, err
		}
	}
	return start{}, ctx.Err()
}

// makesSlot says that the slot is being made, and not in the course of a recovery.
func (s *sight) makesSlot(cfg Config) bool {
	return s.slot != nil && s.slot.beingMade() && s.slot.usable(cfg, s.database, true) == nil &&
		(s.checkpoint == nil || s.checkpoint.State != stateRecovering && s.checkpoint.State != stateGap)
}

// firstSlot makes the slot, and returns the time before that, or none when somebody else was first.
func (s *Stream) firstSlot(ctx context.Context, src *pgx.Conn) (began time.Time, err error) {
	if _, _, err := publishTables(ctx, src, s.cfg); err != nil { // before the slot, as the change log's
		return began, err
	}
	s.log.Info("creating the replication slot", "slot", s.cfg.Slot)
	if began, err = clock(ctx, src); err != nil {
		return began, err
	}
	kept := s.keepsSlot()
	defer kept()
	made, err := createSlot(ctx, src, s.cfg, s.log, s.connectSource)
	if !made {
		began = time.Time{}
	}
	return began, err
}

// firstCheckpoint begins at the slot's point. What was written before it is none of ours: its transactions were waited for
// when the slot was made, so each of those that come after it began, and wrote its rows, after that was begun. Of a slot that was
// there already it is not known when it was made.
func (s *Stream) firstCheckpoint(ctx context.Context, src, dst *pgx.Conn, seen *sight, began time.Time) error {
	first := checkpoint{
		identity: seen.identity, Slot: string(s.cfg.Slot), Position: event.Position{LSN: seen.slot.Confirmed}, BeganAt: began,
	}
	if began.IsZero() {
		now, err := clock(ctx, src)
		if err != nil {
			return err
		}
		first.BeganAt = now.Add(-s.cfg.RecoveryWindow.Std())
	} else if s.cfg.CapturesTables() { // their publication was there before the slot
		first.TablesFrom = first.Position.LSN
	}
	return insertCheckpoint(ctx, dst, first)
}

// clock is the source's, which is what created_at goes by.
func clock(ctx context.Context, src *pgx.Conn) (now time.Time, err error) {
	err = src.QueryRow(ctx, `SELECT clock_timestamp()`).Scan(&now)
	return now, err
}

// warnOfTimeline says what no server can tell.
func (s *Stream) warnOfTimeline(seen *sight) {
	if seen.branch == 0 {
		return
	}
	s.log.Warn("the source is a promoted standby, which takes the checkpoint over: a promoted copy looks the same, so give each "+
		"environment an installation of its own", "timeline", seen.Timeline, "checkpoint_timeline", seen.checkpoint.Timeline,
		"left_at", seen.branch.String(), "server", seen.Server.String(), "installation", seen.Installation)
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
	// Each event is written with its id and its position: without codecs pgx goes by way of their text, or of an error.
	pgxuuid.Register(conn.TypeMap())
	conn.TypeMap().RegisterType(&pgtype.Type{Name: "pg_lsn", OID: pglsnOID, Codec: pgtype.Int8Codec{}})
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

// pglsnOID is that of pg_lsn in every PostgreSQL (pg_type.dat). Its binary form is that of a bigint.
const pglsnOID = 3220

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
		Installation: cp.Installation, Slot: cp.Slot, LSN: int64(cp.Position.LSN), BeganAt: cp.BeganAt,
		TablesFrom: int64(cp.TablesFrom),
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
	err := taking(ctx, conn, start.owner, func(tx pgx.Tx) (err error) {
		row, err = store.New().TakeCheckpoint(ctx, tx, store.TakeCheckpointParams{
			Owner: owner, Timeline: start.id.Timeline, Server: start.id.Server.String(), DatabaseSystem: start.id.Home.String(),
			Epoch: start.epoch,
		})
		if err == nil && start.branch != 0 {
			_, err = store.New().LowerJoined(ctx, tx, int64(start.branch))
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return checkpointOf(store.GetCheckpointRow(row)), nil
}

// taking runs what takes the checkpoint from its owner before. That one may have been stopped in the middle of a batch, and have
// lost the slot, so that nobody had to end it: its sessions are ended here when it is dead to others.
func taking(ctx context.Context, conn *pgx.Conn, before string, take func(pgx.Tx) error) error {
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "SELECT set_config('lock_timeout', $1, true)", fmt.Sprint(takeTime.Milliseconds()))
		if err != nil {
			return err
		}
		return take(tx)
	})
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return fmt.Errorf("take the checkpoint: %w", errChanged)
	case hasCode(err, "55P03"): // lock_not_available
		err = fmt.Errorf("take the checkpoint: its row is locked for %s, as by an open transaction of its owner before (%s)",
			takeTime, before)
		lives, asked := store.New().WorkerLives(ctx, conn, before)
		if asked != nil || lives || before == "" || appPrefix+before == conn.Config().RuntimeParams["application_name"] {
			return errors.Join(err, asked)
		}
		return errors.Join(err, endSessions(ctx, []string{before}, conn))
	case err != nil:
		return fmt.Errorf("take the checkpoint: %w", err)
	}
	return nil
}

// takeTime is how long the owner before us may take to end the batch that it was storing. With that its session ends, too:
// while it waits for us it has lost the slot.
const takeTime = 10 * time.Second
