// Package ops holds the questions and acts of people that need more than one room: how is the stream doing, what became
// of an event, what is wrong with the setup, and what to do with dead letters. The command line and the console are its
// two faces. The structs are their JSON: keys are added, never renamed, and lists are never null.
//
// Nothing here keeps state. Every function may be called at any time, beside any number of workers.
package ops

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/db/migrations"
	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/store"
)

// DB is a connection or a pool.
type DB interface {
	store.DBTX
	Begin(ctx context.Context) (pgx.Tx, error)
}

// NotMigratedError says that a database has no schema weir, or an older one than this program needs.
type NotMigratedError struct{ Have, Need int64 }

// Error ends with what to do.
func (e *NotMigratedError) Error() string {
	if e.Have == 0 {
		return "the database has not been migrated: run weir migrate up"
	}
	return fmt.Sprintf("the database is at schema version %d, this program needs %d: run weir migrate up", e.Have, e.Need)
}

// CheckMigrated returns the schema version of the database, and a *NotMigratedError when it is too old for the rest of
// this package.
func CheckMigrated(ctx context.Context, db DB) (int64, error) {
	version, err := migrations.Current(ctx, db)
	if err == nil && version < migrations.Version {
		err = &NotMigratedError{Have: version, Need: migrations.Version}
	}
	return version, err
}

// timeOf is the JSON form of a time that may be NULL: RFC 3339 in UTC, or null.
func timeOf(t *time.Time) event.Time {
	if t == nil {
		return event.Time{}
	}
	return event.Time(*t)
}

func lsnOf(bits int64) event.LSN { return event.LSN(bits) }

func notFound(err error) bool { return errors.Is(err, pgx.ErrNoRows) }
