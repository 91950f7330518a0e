package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fraiseql/weir/internal/capture"
	"github.com/fraiseql/weir/internal/config"
	"github.com/fraiseql/weir/internal/ops"
)

// connectTimeout is how long a database may take to answer, unless its URL says connect_timeout.
const connectTimeout = 10 * time.Second

// applicationName is what the servers show for sessions of this program. Those of workers begin with "weir:".
const applicationName = "weir (command line)"

// connectionError says that a database cannot be reached.
type connectionError struct {
	url  config.URL
	from string
	err  error
}

func (e *connectionError) Error() string {
	return fmt.Sprintf("cannot connect to %s: %v\ncheck that the server runs, and %s", e.url, e.err, e.from)
}

func (e *connectionError) Unwrap() error { return e.err }

// configError is a configuration that cannot be read at all.
type configError struct{ error }

func (e configError) Unwrap() error { return e.error }

// settings say which databases a command works on.
type settings struct {
	file     *config.Config // nil without a configuration file that can be read
	path     string         // of the file
	unset    error          // what the environment lacks for the file to be complete; nil when nothing
	mistakes error          // what is wrong with the file, so that no more than the places in it are known; nil when nothing
	database config.URL
	source   config.URL // the same as database unless the file says otherwise
	capture  capture.Config
	name     string // of the installation
	from     string // where database comes from, for errors
}

// settings finds them. Secrets that the environment does not hold are no error: no command but validate-config needs
// them.
func (a *app) settings(ctx context.Context) (*settings, error) {
	s := &settings{capture: capture.Config{}.WithDefaults()}
	if _, err := config.ParseURL(a.flags.databaseURL); err != nil && a.flags.databaseURL != "" {
		return nil, usageError{fmt.Errorf("--database-url: %w", err)}
	}
	if err := a.loadFile(ctx, s); err != nil {
		return nil, err
	}
	if err := a.findDatabase(s); err != nil {
		return nil, err
	}
	s.source = s.database
	if s.file != nil {
		s.capture, s.name = s.file.Source.Config, s.file.Installation
		if s.file.Source.URL != s.file.Database.URL {
			s.source = s.file.Source.URL
		}
	}
	a.verbosef("database: %s (%s)", s.database, s.from)
	if s.source != s.database {
		a.verbosef("source: %s (source.url of %s)", s.source, s.path)
	}
	return s, nil
}

func (a *app) loadFile(ctx context.Context, s *settings) error {
	path, err := config.Find(a.flags.config, a.lookup)
	if errors.Is(err, config.ErrNotFound) {
		a.verbosef("no configuration file: defaults are used")
		return nil
	}
	if err != nil {
		return configError{err}
	}
	s.path = path
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) { // somebody has named it: other settings are not what they want
		return configError{fmt.Errorf("configuration: %w", err)}
	}
	options := config.Options{Path: path, Lookup: a.lookupDatabase}
	if s.file, err = config.Load(ctx, options); err != nil {
		s.unset, options.NoEnv = err, true
		s.file, err = config.Load(ctx, options)
	}
	if err == nil {
		a.verbosef("configuration: %s", path)
		return nil
	}
	// Somebody who has just made a mistake in the file wants to know how the workers are doing with the old one.
	s.mistakes, s.unset, options.OnlyPlaces = configError{err}, nil, true
	if s.file, err = config.Load(ctx, options); err != nil {
		if named, _ := a.lookupDatabase("DATABASE_URL"); named == "" {
			return s.mistakes
		}
		a.notef("weir: %s cannot be read (weir validate-config tells): defaults are used", path)
		return nil
	}
	a.notef("weir: %s has mistakes (weir validate-config tells): of it only the databases are used", path)
	return nil
}

// lookupDatabase is lookup where --database-url also stands for DATABASE_URL, so that a file that asks for it is complete.
func (a *app) lookupDatabase(name string) (string, bool) {
	if name == "DATABASE_URL" && a.flags.databaseURL != "" {
		return a.flags.databaseURL, true
	}
	return a.lookup(name)
}

// findDatabase takes the most explicit URL that there is.
func (a *app) findDatabase(s *settings) (err error) {
	environment, _ := a.lookup("DATABASE_URL")
	switch {
	case a.flags.databaseURL != "":
		s.from = "--database-url"
		s.database, err = config.ParseURL(a.flags.databaseURL)
	case s.file != nil && !s.file.Database.URL.IsZero():
		s.from, s.database = "database.url of "+s.path, s.file.Database.URL
	case environment != "":
		s.from = "DATABASE_URL"
		s.database, err = config.ParseURL(environment)
	default:
		return wrongUse("no database: name one with --database-url or DATABASE_URL, or write a configuration file " +
			"and name it with --config")
	}
	if err != nil {
		return usageError{fmt.Errorf("%s: %w", s.from, err)}
	}
	return nil
}

// connect opens a session in the database.
func (a *app) connect(ctx context.Context, s *settings) (*pgx.Conn, error) {
	return a.open(ctx, s.database, s.from)
}

// connectSource opens a second session, in the database with the change log.
func (a *app) connectSource(ctx context.Context, s *settings) (*pgx.Conn, error) {
	return a.open(ctx, s.source, s.sourceFrom())
}

// sourceFrom is where source comes from, for errors.
func (s *settings) sourceFrom() string {
	if s.source != s.database {
		return "source.url of " + s.path
	}
	return s.from
}

func (a *app) open(ctx context.Context, url config.URL, from string) (*pgx.Conn, error) {
	pool, err := pgxpool.ParseConfig(url.Value()) // the URL may hold parameters of a pool
	if err != nil {
		return nil, usageError{fmt.Errorf("%s is no PostgreSQL URL", from)} // pgx's error could repeat the password
	}
	cfg := pool.ConnConfig
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = connectTimeout
	}
	cfg.RuntimeParams["application_name"] = applicationName
	if a.unprepared {
		cfg.DefaultQueryExecMode = pgx.QueryExecModeExec
		cfg.RuntimeParams["datestyle"] = "ISO" // results are text then
	}
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, &connectionError{url: url, from: from, err: err}
	}
	return conn, nil
}

func closeConn(ctx context.Context, conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = conn.Close(ctx) // the session ends either way
}

// withDatabase runs a command that needs a session in the database.
func (a *app) withDatabase(ctx context.Context, do func(s *settings, conn *pgx.Conn) error) error {
	s, err := a.settings(ctx)
	if err != nil {
		return err
	}
	conn, err := a.connect(ctx, s)
	if err != nil && s.mistakes != nil {
		return s.mistakes // mended first, they may be why
	}
	if err != nil {
		return err
	}
	defer closeConn(ctx, conn)
	return do(s, conn)
}

// withMigrated runs a command that needs a session in a database that is migrated, and nothing else of the configuration.
func (a *app) withMigrated(ctx context.Context, do func(conn *pgx.Conn) error) error {
	return a.withDatabase(ctx, func(_ *settings, conn *pgx.Conn) error {
		if _, err := ops.CheckMigrated(ctx, conn); err != nil {
			return err
		}
		return do(conn)
	})
}

// withBoth runs a command that needs a session in the source, too.
func (a *app) withBoth(ctx context.Context, do func(s *settings, conn, source *pgx.Conn) error) error {
	return a.withDatabase(ctx, func(s *settings, conn *pgx.Conn) error {
		source, err := a.connectSource(ctx, s)
		if err != nil {
			return err
		}
		defer closeConn(ctx, source)
		return do(s, conn, source)
	})
}
