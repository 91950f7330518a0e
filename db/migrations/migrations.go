// Package migrations holds the SQL of schema weir, of River's tables in it, and of the change log, and runs it.
//
// The files are plain goose migrations, and this package uses goose with its default table: `weir migrate up` and stock
// `goose -dir db/migrations postgres $DATABASE_URL up` give the same result, and either may follow the other. On top of
// goose it takes a lock, so that any number of processes may migrate at once, and refuses a database whose goose table
// belongs to another application.
package migrations

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/pressly/goose/v3"
)

//go:generate go test -run TestRiverFilesAreCurrent -update .

// FS holds the migrations, one SQL file each.
//
//go:embed *.sql
var FS embed.FS

// Version is the number of the newest migration: what this program needs the database to have.
var Version = newest()

// newest reads the numbers off the file names. It panics if there is a name that is no migration's: the files are part
// of the program.
func newest() int64 {
	names, err := fs.Glob(FS, "*.sql")
	if err != nil {
		panic(err)
	}
	version, err := goose.NumericComponent(names[len(names)-1])
	if err != nil {
		panic(err)
	}
	return version
}

// Migration is one file and whether the database has it.
type Migration struct {
	Version int64
	Name    string // of the file
	// AppliedAt is by the database's clock; zero while the migration is pending.
	AppliedAt time.Time
}

// Up applies what is missing in the database at databaseURL, each migration in a transaction of its own, and calls
// progress with a line for each. It does nothing when nothing is missing. While another process migrates, it waits.
//
// Errors of the server wrap *pgconn.PgError, those of the connection *pgconn.ConnectError.
func Up(ctx context.Context, databaseURL string, progress func(string)) error {
	return migrate(ctx, databaseURL, func(ctx context.Context, s *session) error {
		if s.history.version > Version {
			progress(fmt.Sprintf("the database is at version %d, newer than this program's %d: nothing to do",
				s.history.version, Version))
			return nil
		}
		return s.steps(ctx, s.provider.UpByOne, "applied", progress)
	})
}

// Down takes everything back that Up made in schema weir, all events and jobs included, and calls progress with a line
// for each migration. Schema core, which belongs to the application, stays as it is.
func Down(ctx context.Context, databaseURL string, progress func(string)) error {
	return migrate(ctx, databaseURL, func(ctx context.Context, s *session) error {
		if s.history.version > Version {
			return fmt.Errorf("the database is at version %d, newer than this program's %d: "+
				"use the program that migrated it", s.history.version, Version)
		}
		if s.history.version == 0 {
			return nil
		}
		return s.steps(ctx, s.provider.Down, "reverted", progress)
	})
}

// Status lists the migrations of this program in order. It changes nothing in the database.
func Status(ctx context.Context, databaseURL string) ([]Migration, error) {
	s, err := open(ctx, databaseURL)
	if err != nil {
		return nil, err
	}
	defer s.close()
	if err := s.readHistory(ctx); err != nil {
		return nil, err
	}
	var list []Migration
	for _, source := range s.provider.ListSources() {
		list = append(list, Migration{Version: source.Version, Name: path.Base(source.Path)})
	}
	if !s.history.exists {
		return list, nil // goose would create its table
	}
	states, err := s.provider.Status(ctx)
	if err != nil {
		return nil, s.explain(err)
	}
	for i, state := range states {
		list[i].AppliedAt = state.AppliedAt
	}
	return list, nil
}

// Current returns the version of the database, 0 when it was never migrated. It needs no access to goose's table, only
// to schema weir, and may run in a transaction.
func Current(ctx context.Context, db interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
},
) (int64, error) {
	var version int64
	err := db.QueryRow(ctx, "SELECT (to_regprocedure('weir.schema_version()') IS NOT NULL)::int").Scan(&version)
	if err == nil && version != 0 {
		err = db.QueryRow(ctx, "SELECT weir.schema_version()").Scan(&version)
	}
	if err != nil {
		return 0, fmt.Errorf("read version of schema weir: %w", err)
	}
	return version, nil
}

// InstallChangeLog creates or completes the change log, and nothing else, and calls progress with a line if there was
// something to do. The source may be the database of schema weir, where the table has lost something since, or another one.
// It may be repeated: what is there is left alone.
func InstallChangeLog(ctx context.Context, sourceURL string, progress func(string)) error {
	statement, err := changeLogStatement()
	if err != nil {
		return err
	}
	s, err := open(ctx, sourceURL)
	if err != nil {
		return err
	}
	defer s.close()
	return s.locked(ctx, func(ctx context.Context) error {
		before, err := s.readChangeLog(ctx)
		if err == nil {
			_, err = s.conn.ExecContext(ctx, statement)
		}
		var after changeLog
		if err == nil {
			after, err = s.readChangeLog(ctx)
		}
		if err != nil {
			return fmt.Errorf("install change log: %w", s.explain(err))
		}
		if done := before.until(after); done != "" {
			progress(done)
		}
		return nil
	})
}

// changeLog is what InstallChangeLog may change.
type changeLog struct {
	columns  []string // none: there is no table
	numbered bool     // seq has a default
}

// until says what was done between two states, "" for nothing.
func (c changeLog) until(later changeLog) string {
	added := slices.DeleteFunc(slices.Clone(later.columns), func(name string) bool { return slices.Contains(c.columns, name) })
	switch {
	case len(c.columns) == 0:
		return "created the change log core.tb_entity_change_log"
	case len(added) > 0:
		return "added to the change log: " + strings.Join(added, ", ")
	case c.numbered != later.numbered:
		return "gave seq of the change log its default"
	default:
		return ""
	}
}

// changeLogStatement cuts the one statement that does not need schema weir out of its migration.
func changeLogStatement() (string, error) {
	const file = "00005_change_log.sql"
	content, err := FS.ReadFile(file)
	if err != nil {
		return "", err
	}
	_, rest, begins := strings.Cut(string(content), "-- +goose StatementBegin\n")
	statement, _, ends := strings.Cut(rest, "-- +goose StatementEnd\n")
	if !begins || !ends {
		return "", errors.New(file + " has no statement block")
	}
	return statement, nil
}
