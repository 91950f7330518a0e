package migrations

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

// session is a connection to a database, and goose on it.
type session struct {
	db       *sql.DB
	conn     *sql.Conn // holds the lock; goose takes others from db
	provider *goose.Provider
	history  history
	database string
	role     string
}

// history is what the database says about earlier migrations.
type history struct {
	exists  bool  // goose's table
	version int64 // its newest entry
	schema  bool  // schema weir
	// schemaVersion is what schema weir says itself; 0 without the schema or the function.
	schemaVersion int64
}

// migrate runs do alone among all processes, on a database that is ours or empty.
func migrate(ctx context.Context, databaseURL string, do func(context.Context, *session) error) error {
	s, err := open(ctx, databaseURL)
	if err != nil {
		return err
	}
	defer s.close()
	return s.locked(ctx, func(ctx context.Context) error {
		if err := s.readHistory(ctx); err != nil {
			return err
		}
		return do(ctx, s)
	})
}

func open(ctx context.Context, databaseURL string) (*session, error) {
	pool, err := pgxpool.ParseConfig(databaseURL) // the URL may hold parameters of a pool
	if err != nil {
		return nil, fmt.Errorf("database url: %w", err)
	}
	config := pool.ConnConfig
	config.RuntimeParams["application_name"] = "weir:migrate"
	s := &session{db: stdlib.OpenDB(*config), database: config.Database, role: config.User}
	if err := s.prepare(ctx); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *session) prepare(ctx context.Context) (err error) {
	s.provider, err = goose.NewProvider(goose.DialectPostgres, s.db, FS, goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	if s.conn, err = s.db.Conn(ctx); err != nil {
		return fmt.Errorf("connect to database: %w", err)
	}
	return nil
}

// close ends the session's connections. Nothing can be lost by an error here: every step has been committed.
func (s *session) close() {
	if s.conn != nil {
		_ = s.conn.Close()
	}
	_ = s.db.Close()
}

// locked runs do while no other process migrates. It is goose's lock, tried once a second: a session that waited inside
// pg_advisory_lock would hold a snapshot, for which a CREATE INDEX CONCURRENTLY of the other one would wait in turn.
func (s *session) locked(ctx context.Context, do func(context.Context) error) (err error) {
	const period, attempts = 1, 600
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(period, attempts))
	if err != nil {
		return err
	}
	if err := locker.SessionLock(ctx, s.conn); err != nil {
		return fmt.Errorf("wait for another migration to end: %w", err)
	}
	defer func() {
		err = errors.Join(err, locker.SessionUnlock(context.WithoutCancel(ctx), s.conn))
	}()
	return do(ctx)
}

// readHistory refuses a database in which goose's table is somebody else's. goose looks for it in the current schema.
func (s *session) readHistory(ctx context.Context) error {
	var h history
	var function bool
	err := s.conn.QueryRowContext(ctx, `
		SELECT EXISTS (SELECT FROM pg_tables WHERE schemaname = current_schema() AND tablename = $1),
		       EXISTS (SELECT FROM pg_namespace WHERE nspname = 'weir'),
		       EXISTS (SELECT FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
		               WHERE n.nspname = 'weir' AND p.proname = 'schema_version')`,
		goose.DefaultTablename).Scan(&h.exists, &h.schema, &function)
	if err == nil && h.exists {
		err = s.conn.QueryRowContext(ctx,
			"SELECT coalesce(max(version_id), 0) FROM "+goose.DefaultTablename+" WHERE is_applied").Scan(&h.version)
	}
	if err == nil && function {
		err = s.conn.QueryRowContext(ctx, "SELECT weir.schema_version()").Scan(&h.schemaVersion)
	}
	if err != nil {
		return fmt.Errorf("read applied migrations: %w", s.explain(err))
	}
	s.history = h
	return h.check()
}

// readChangeLog asks the catalog by name, which needs no right to look into the schema.
func (s *session) readChangeLog(ctx context.Context) (c changeLog, err error) {
	rows, err := s.conn.QueryContext(ctx, `
		SELECT a.attname::text, a.atthasdef FROM pg_attribute a
		  JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
		 WHERE n.nspname = 'core' AND c.relname = 'tb_entity_change_log' AND a.attnum > 0 AND NOT a.attisdropped
		 ORDER BY a.attnum`)
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var name string
		var hasDefault bool
		if err := rows.Scan(&name, &hasDefault); err != nil {
			return c, err
		}
		c.columns = append(c.columns, name)
		c.numbered = c.numbered || (name == "seq" && hasDefault)
	}
	return c, rows.Err()
}

func (h history) check() error {
	switch {
	case h.version == h.schemaVersion && h.schema == (h.schemaVersion > 0):
		return nil
	case h.version > 0 && !h.schema:
		return fmt.Errorf("table %s records version %d, but there is no schema weir: these are another application's migrations, so "+
			"use a separate database for database.url and name this one in source.url; or schema weir was dropped by hand, so run "+
			"DROP TABLE %[1]s; and migrate again", goose.DefaultTablename, h.version)
	case h.version > 0:
		return fmt.Errorf("table %s records version %d of another application's migrations (schema weir is at %d): "+
			"use a separate database for database.url, and name this one in source.url",
			goose.DefaultTablename, h.version, h.schemaVersion)
	default:
		return fmt.Errorf("schema weir exists, but its migrations are not recorded in a table %s of the current schema: "+
			"migrate with the search_path of the first time, or drop the schema", goose.DefaultTablename)
	}
}

// steps calls step until there is nothing left to do.
func (s *session) steps(
	ctx context.Context, step func(context.Context) (*goose.MigrationResult, error), done string, progress func(string),
) error {
	for {
		result, err := step(ctx)
		if errors.Is(err, goose.ErrNoNextVersion) {
			return nil
		}
		if err != nil {
			return s.explain(err)
		}
		progress(fmt.Sprintf("%s %s (%d ms)", done, path.Base(result.Source.Path), result.Duration.Milliseconds()))
	}
}

// explain replaces goose's message, which repeats the whole statement, by the server's, and adds what to do about it.
func (s *session) explain(err error) error {
	var server *pgconn.PgError
	if !errors.As(err, &server) {
		return err
	}
	where := ""
	var partial *goose.PartialError
	if errors.As(err, &partial) {
		where = "migration " + path.Base(partial.Failed.Source.Path) + ": "
	}
	if hint := s.hint(server); hint != "" {
		return fmt.Errorf("%s%w: %s", where, server, hint)
	}
	return fmt.Errorf("%s%w", where, server)
}

// hint says what mends an error of the server, "" if only its message can tell.
func (s *session) hint(err *pgconn.PgError) string {
	const (
		insufficientPrivilege = "42501"
		invalidSchemaName     = "3F000"
		lockNotAvailable      = "55P03"
	)
	role, database := pgx.Identifier{s.role}.Sanitize(), pgx.Identifier{s.database}.Sanitize()
	switch err.Code {
	case insufficientPrivilege:
		switch {
		case strings.Contains(err.Message, "for database"):
			return fmt.Sprintf("run GRANT CREATE ON DATABASE %s TO %s, or migrate as the database's owner", database, role)
		case strings.Contains(err.Message, "for schema public"):
			return fmt.Sprintf("run GRANT CREATE ON SCHEMA public TO %s, or migrate as the database's owner", role)
		default:
			return fmt.Sprintf("%s may not do this: migrate as a role that owns schemas weir and core "+
				"(the worker may run as another one)", role)
		}
	case invalidSchemaName:
		return fmt.Sprintf("the search_path of %s names no schema that exists: set one, as in ?search_path=public", role)
	case lockNotAvailable:
		return "another transaction is using the change log: migrate again when it has ended"
	}
	return err.Hint
}
