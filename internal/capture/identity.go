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
	tooOld     bool        // the slot, for its publication; only a probe, or an attempt to read it, finds out
	branch     event.LSN   // where the source's timeline left the checkpoint's; 0: it is the same, or does not come of it
	tablesGone bool        // the publication of the tables is not there, and the checkpoint goes on with it
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
	if cp != nil && cp.TablesFrom > 0 {
		p, err := readPublished(ctx, src, cfg.tablesPublication())
		if err != nil {
			return nil, fmt.Errorf("read publication %s: %w", cfg.tablesPublication(), err)
		}
		seen.tablesGone = p == nil
	}
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
	if err := s.readHistory(ctx, repl); err != nil {
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
