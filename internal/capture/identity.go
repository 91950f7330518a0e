package capture

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/store"
)

// identity is what tells one pair of servers from another. A dump that is restored elsewhere, and a copy of a data
// directory, have the checkpoint with them: they must not be taken for the original.
type identity struct {
	System       string // the source cluster's system identifier
	Timeline     int32  // of the source; a new one begins when a standby is promoted
	Server       server // the source
	Home         home   // of schema weir
	Installation string
}

// or fills in what i does not know.
func (i identity) or(other identity) identity {
	i.Home.System = cmp.Or(i.Home.System, other.Home.System)
	i.Home.Database = cmp.Or(i.Home.Database, other.Home.Database)
	i.Server.Port = cmp.Or(i.Server.Port, other.Server.Port)
	i.Server.Directory = cmp.Or(i.Server.Directory, other.Server.Directory)
	return i
}

// server tells a copy of a data directory from its original, as far as it shows: two that run on one machine differ in
// one of these.
type server struct {
	Port      string // as the server itself knows it
	Directory string // the data directory; "": the role may not see it (pg_read_all_settings)
}

const serverText = "port %s, data directory %s"

// String is the form of weir.checkpoint.server.
func (s server) String() string {
	switch {
	case s.Port == "":
		return ""
	case s.Directory == "":
		return "port " + s.Port
	default:
		return fmt.Sprintf(serverText, s.Port, s.Directory)
	}
}

func parseServer(text string) server {
	port, directory, _ := strings.Cut(strings.TrimPrefix(text, "port "), ", data directory ")
	return server{Port: port, Directory: directory}
}

// differs compares what both know.
func (s server) differs(other server) bool {
	return differ(s.Port, other.Port) || differ(s.Directory, other.Directory)
}

func differ(a, b string) bool { return a != "" && b != "" && a != b }

// home is the database that holds schema weir. A copy of it in the same cluster (CREATE DATABASE … TEMPLATE) has all but
// the oid of the original.
type home struct {
	System   string // the cluster's system identifier; "": it may not be asked
	Database string // the database's oid; "": a checkpoint of an older version of Weir
}

const homeDatabase = "database "

// String is the form of weir.checkpoint.database_system.
func (h home) String() string {
	switch {
	case h.Database == "":
		return h.System
	case h.System == "":
		return homeDatabase + h.Database
	default:
		return h.System + ", " + homeDatabase + h.Database
	}
}

func parseHome(text string) home {
	if oid, ok := strings.CutPrefix(text, homeDatabase); ok {
		return home{Database: oid}
	}
	system, oid, _ := strings.Cut(text, ", "+homeDatabase)
	return home{System: system, Database: oid}
}

// sight is what there is to judge from, at one moment.
type sight struct {
	identity
	database   string      // the source's
	written    event.LSN   // where the source's WAL ends
	slot       *slotRow    // nil: there is none
	checkpoint *checkpoint // nil: there is none
	used       bool        // schema weir holds events, so there was one
	tooOld     bool        // the slot, for its publication; only a probe finds out
}

// look reads slot, events, checkpoint and identity, in this order: the checkpoint is never behind what the slot was told,
// nor is there an event before there is a checkpoint, and the WAL never ends before the checkpoint. So each that is read
// later cannot look overtaken only because the owner was quick.
func look(ctx context.Context, src *pgx.Conn, dst store.DBTX, cfg Config, installation string) (*sight, error) {
	slot, err := readSlot(ctx, src, cfg)
	if err != nil {
		return nil, fmt.Errorf("read the slot: %w", err)
	}
	used, err := store.New().SchemaUsed(ctx, dst)
	if err != nil {
		return nil, fmt.Errorf("look for events: %w", migrationsMissing(err))
	}
	cp, err := readCheckpoint(ctx, dst)
	if err != nil {
		return nil, err
	}
	if slot == nil && cp != nil { // really gone, or another worker has made both since we looked
		if slot, err = readSlot(ctx, src, cfg); err != nil {
			return nil, fmt.Errorf("read the slot: %w", err)
		}
		if slot != nil {
			if cp, err = readCheckpoint(ctx, dst); err != nil {
				return nil, err
			}
		}
	}
	seen := &sight{slot: slot, checkpoint: cp, used: used}
	seen.Installation = installation
	if err := seen.identify(ctx, src, dst); err != nil {
		return nil, err
	}
	return seen, nil
}

// identify opens a replication connection of its own to the source, as the one that is to stream will be.
func (s *sight) identify(ctx context.Context, src *pgx.Conn, dst store.DBTX) error {
	session := src.Config()
	clientID := strings.TrimPrefix(session.RuntimeParams["application_name"], appPrefix)
	repl, err := replicationConnect(ctx, session.ConnString(), clientID)
	if err != nil {
		return fmt.Errorf("open a replication connection: %w", err)
	}
	defer func() { _ = repl.Close(context.WithoutCancel(ctx)) }()
	if err := s.identifySource(ctx, repl); err != nil {
		return err
	}
	err = dst.QueryRow(ctx, `SELECT oid::text FROM pg_database WHERE datname = current_database()`).Scan(&s.Home.Database)
	if err != nil {
		return fmt.Errorf("identify the database: %w", err)
	}
	err = dst.QueryRow(ctx, `SELECT system_identifier::text FROM pg_control_system()`).Scan(&s.Home.System)
	if err != nil && !hasCode(err, "42501") {
		return fmt.Errorf("identify the database: %w", err)
	}
	return nil
}

// identifySource asks over the replication protocol, which needs no privilege beyond it and knows the timeline at once.
func (s *sight) identifySource(ctx context.Context, repl *pgconn.PgConn) error {
	sys, err := pglogrepl.IdentifySystem(ctx, repl)
	if err != nil {
		return fmt.Errorf("identify the source: %w", err)
	}
	s.System, s.Timeline, s.written = sys.SystemID, sys.Timeline, event.LSN(sys.XLogPos)
	results, err := repl.Exec(ctx, `
		SELECT current_database(), current_setting('port'),
		       coalesce((SELECT setting FROM pg_settings WHERE name = 'data_directory'), '')`).ReadAll()
	if err == nil && (len(results) != 1 || len(results[0].Rows) != 1) {
		err = errors.New("one row was expected")
	}
	if err != nil {
		return fmt.Errorf("identify the source: %w", err)
	}
	row := results[0].Rows[0]
	s.database, s.Server = string(row[0]), server{Port: string(row[1]), Directory: string(row[2])}
	return nil
}

// verdict is what to do about what was seen.
type verdict string

const (
	createTheSlot       verdict = "create the slot"
	createTheCheckpoint verdict = "create the checkpoint at the slot's position"
	readOn              verdict = "read on"
)

// judge decides how to start. It is pure: each of its rows is a test, and a row of the table in docs/start-up.md.
func judge(cfg Config, s *sight) (verdict, error) {
	if s.checkpoint != nil {
		if err := s.sameSource(); err != nil {
			return "", err
		}
	}
	if s.slot != nil {
		if err := s.slot.usable(cfg, s.database, s.checkpoint != nil || s.used); err != nil {
			return "", err
		}
	}
	switch cp := s.checkpoint; {
	case cp == nil && s.used:
		return "", &SetupError{"there is no checkpoint, but schema weir has events: the checkpoint was deleted, or not " +
			"restored with the rest, so nothing is sent", gapHint}
	case s.slot == nil && cp == nil:
		return createTheSlot, nil
	case cp == nil && s.tooOld:
		return "", tooYoung(cfg)
	case cp == nil:
		return createTheCheckpoint, nil
	case cp.Slot != string(cfg.Slot):
		return "", &SetupError{
			fmt.Sprintf("the checkpoint belongs to slot %s, not to %s", cp.Slot, cfg.Slot),
			fmt.Sprintf("-- set source.slot to %s, or go on with %s: weir adopt", cp.Slot, cfg.Slot),
		}
	case s.slot == nil:
		return "", &SetupError{
			fmt.Sprintf("slot %s does not exist, but there is a checkpoint at %s", cfg.Slot, cp.Position.LSN), gapHint,
		}
	case s.slot.Confirmed > cp.Position.LSN:
		return "", &SetupError{
			fmt.Sprintf("slot %s was moved to %s, past the checkpoint at %s", cfg.Slot, s.slot.Confirmed, cp.Position.LSN), gapHint,
		}
	case s.tooOld:
		return "", tooYoung(cfg)
	default:
		return readOn, nil
	}
}

// sameSource refuses a source that the checkpoint does not belong to: a copy must do no harm.
func (s *sight) sameSource() error {
	const mend = "weir adopt # if this is the one to go on with"
	cp := s.checkpoint
	switch {
	case s.System != cp.System:
		return &SetupError{fmt.Sprintf("the source is another cluster than the checkpoint's (system identifier %s, not %s): "+
			"this looks like a restored dump or a copy, so nothing is sent", s.System, cp.System), mend}
	case differ(s.Home.System, cp.Home.System):
		return &SetupError{fmt.Sprintf("schema weir is in another cluster than it was (system identifier %s, not %s): "+
			"this looks like a restored dump or a copy, so nothing is sent", s.Home.System, cp.Home.System), mend}
	case differ(s.Home.Database, cp.Home.Database):
		return &SetupError{fmt.Sprintf("schema weir is in another database of the cluster than it was (oid %s, not %s): "+
			"this looks like a copy or a restored dump, so nothing is sent", s.Home.Database, cp.Home.Database), mend}
	case s.Timeline != cp.Timeline:
		return &SetupError{fmt.Sprintf("the source is on timeline %d, the checkpoint on %d: a standby was promoted or a backup "+
			"restored, so nothing is sent before somebody has looked", s.Timeline, cp.Timeline), mend}
	case s.Server.differs(cp.Server):
		return &SetupError{fmt.Sprintf("the source is the server at %s, the checkpoint's is at %s: this looks like a copy of the "+
			"data directory, so nothing is sent", s.Server, cp.Server), mend}
	case s.Installation != cp.Installation:
		return &SetupError{
			fmt.Sprintf("the checkpoint belongs to installation %q, this worker to %q", cp.Installation, s.Installation),
			fmt.Sprintf("-- set installation to %q, or, if this is the one to go on with: weir adopt", cp.Installation),
		}
	case cp.Position.LSN > s.written:
		return &SetupError{fmt.Sprintf("the source's WAL ends at %s, before the checkpoint at %s: an older state of the server "+
			"was restored, so nothing is sent", s.written, cp.Position.LSN), mend}
	}
	return nil
}

// gapHint is how to go on where continuity cannot be proven.
const gapHint = "weir adopt # which goes on at the present and says which changes may be missing"
