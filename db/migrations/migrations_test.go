package migrations_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/pressly/goose/v3"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"

	"github.com/fraiseql/weir/db/migrations"
)

func TestUp(t *testing.T) {
	t.Parallel()
	db := newDatabase(t)
	var progress []string
	note := func(line string) { progress = append(progress, line) }
	for range 2 { // the second finds nothing to do
		if err := migrations.Up(t.Context(), db.url, note); err != nil {
			t.Fatal(err)
		}
	}
	names := fileNames(t)
	if len(progress) != len(names) {
		t.Errorf("got %d lines of progress, want one for each of %d migrations: %q", len(progress), len(names), progress)
	}
	if version := current(t, db.Conn); version != migrations.Version || version != int64(len(names)) {
		t.Errorf("got weir.schema_version() = %d, Version = %d, want both to be %d", version, migrations.Version, len(names))
	}

	pool, err := pgxpool.New(t.Context(), db.url)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	migrator, err := rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{Schema: "weir"})
	if err != nil {
		t.Fatal(err)
	}
	result, err := migrator.Validate(t.Context(), nil)
	if err != nil || !result.OK {
		t.Errorf("River does not accept its tables: %v, %v", result, err)
	}
}

// Each migration sets weir.schema_version to its number, and each Down to the one before.
func TestSchemaVersionAtEachStep(t *testing.T) {
	t.Parallel()
	names := fileNames(t)
	for i, name := range names {
		content, err := migrations.FS.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(name, fmt.Sprintf("%05d_", i+1)) {
			t.Errorf("%s: want number %05d", name, i+1)
		}
		up, down, _ := strings.Cut(string(content), "-- +goose Down")
		if !strings.Contains(up, fmt.Sprintf("AS 'SELECT %d::bigint'", i+1)) {
			t.Errorf("%s: Up does not set weir.schema_version to %d", name, i+1)
		}
		if i > 0 && !strings.Contains(down, fmt.Sprintf("AS 'SELECT %d::bigint'", i)) {
			t.Errorf("%s: Down does not set weir.schema_version to %d", name, i)
		}
	}
}

func TestDownKeepsTheChangeLog(t *testing.T) {
	t.Parallel()
	db := migrated(t)
	insertChange := "INSERT INTO core.tb_entity_change_log (object_type, modification_type) VALUES ('Order', 'INSERT')"
	db.exec(insertChange)
	before := db.dump("core")

	if err := migrations.Down(t.Context(), db.url, ignore); err != nil {
		t.Fatal(err)
	}
	wantSame(t, "core after Down", db.dump("core"), before)
	wantSame(t, "weir after Down", db.dump("weir"), nil)
	if version := current(t, db.Conn); version != 0 {
		t.Errorf("got version %d after Down, want 0", version)
	}
	if err := migrations.Down(t.Context(), db.url, ignore); err != nil {
		t.Errorf("second Down: %v", err)
	}

	if err := migrations.Up(t.Context(), db.url, ignore); err != nil {
		t.Fatal(err)
	}
	wantSame(t, "core after Up again", db.dump("core"), before)
	db.exec(insertChange)
	var rows, last int
	if err := db.QueryRow(t.Context(), "SELECT count(*), max(seq) FROM core.tb_entity_change_log").Scan(&rows, &last); err != nil {
		t.Fatal(err)
	}
	if rows != 2 || last != 2 {
		t.Errorf("got %d rows, seq %d, want 2 and 2", rows, last)
	}
}

func TestStatus(t *testing.T) {
	t.Parallel()
	db := newDatabase(t)
	names := fileNames(t)
	check := func(applied bool) {
		t.Helper()
		list, err := migrations.Status(t.Context(), db.url)
		if err != nil {
			t.Fatal(err)
		}
		if len(list) != len(names) {
			t.Fatalf("got %d migrations, want %d", len(list), len(names))
		}
		for i, m := range list {
			if m.Name != names[i] || m.Version != int64(i+1) || m.AppliedAt.IsZero() == applied {
				t.Errorf("got %+v, want %s, applied: %v", m, names[i], applied)
			}
		}
	}
	empty := db.dump("public")
	check(false)
	wantSame(t, "public after Status", db.dump("public"), empty)
	if err := migrations.Up(t.Context(), db.url, ignore); err != nil {
		t.Fatal(err)
	}
	check(true)
}

// People may use the goose they have. The functions called here are those behind its command.
func TestStockGooseGivesTheSame(t *testing.T) {
	t.Parallel()
	ours, stock := migrated(t), newDatabase(t)
	db, err := goose.OpenDBWithDriver("postgres", stock.url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	goose.SetLogger(goose.NopLogger())
	if err := goose.UpContext(t.Context(), db, "."); err != nil {
		t.Fatal(err)
	}
	schemas := []string{"public", "core", "weir"}
	want := ours.dump(schemas...)
	wantSame(t, "goose up", stock.dump(schemas...), want)

	// Either continues where the other has stopped.
	if err := goose.DownToContext(t.Context(), db, ".", 3); err != nil {
		t.Fatal(err)
	}
	if version := current(t, stock.Conn); version != 3 {
		t.Errorf("got version %d after goose down-to 3", version)
	}
	if err := migrations.Up(t.Context(), stock.url, ignore); err != nil {
		t.Fatal(err)
	}
	wantSame(t, "weir migrate up after goose down-to 3", stock.dump(schemas...), want)
	if err := migrations.Down(t.Context(), stock.url, ignore); err != nil {
		t.Fatal(err)
	}
	if version, err := goose.GetDBVersionContext(t.Context(), db); err != nil || version != 0 {
		t.Errorf("goose sees version %d, %v after weir migrate down, want 0", version, err)
	}
}

func TestManyMigrateAtOnce(t *testing.T) {
	t.Parallel()
	db := newDatabase(t)
	var group sync.WaitGroup
	errs := make([]error, 4)
	for i := range errs {
		group.Go(func() { errs[i] = migrations.Up(t.Context(), db.url, ignore) })
	}
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	var entries int
	if err := db.QueryRow(t.Context(), "SELECT count(*) FROM goose_db_version WHERE version_id > 0").Scan(&entries); err != nil {
		t.Fatal(err)
	}
	if want := len(fileNames(t)); entries != want {
		t.Errorf("got %d migrations recorded, want %d", entries, want)
	}
}

func TestRefusesOtherApplications(t *testing.T) {
	t.Parallel()
	const table = `CREATE TABLE goose_db_version (
		id integer PRIMARY KEY GENERATED BY DEFAULT AS IDENTITY, version_id bigint NOT NULL, is_applied boolean NOT NULL,
		tstamp timestamp NOT NULL DEFAULT now());
		INSERT INTO goose_db_version (version_id, is_applied) VALUES (0, true), (20240101120000, true);`
	for name, test := range map[string]struct{ setup, want string }{
		"goose of an application": {table, "use a separate database for database.url"},
		"with schema weir":        {table + "CREATE SCHEMA weir", "use a separate database for database.url"},
		"schema weir alone":       {"CREATE SCHEMA weir", "schema weir exists, but its migrations are not recorded"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := newDatabase(t)
			db.exec(test.setup)
			before := db.dump("public", "weir", "core")
			_, statusErr := migrations.Status(t.Context(), db.url)
			for call, err := range map[string]error{
				"Up":     migrations.Up(t.Context(), db.url, ignore),
				"Down":   migrations.Down(t.Context(), db.url, ignore),
				"Status": statusErr,
			} {
				if err == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("%s: got error %v, want %q", call, err, test.want)
				}
			}
			wantSame(t, "database", db.dump("public", "weir", "core"), before)
		})
	}
}

func TestNewerDatabase(t *testing.T) {
	t.Parallel()
	db := migrated(t)
	db.exec(`INSERT INTO goose_db_version (version_id, is_applied) VALUES (1000, true);
		CREATE OR REPLACE FUNCTION weir.schema_version() RETURNS bigint LANGUAGE sql IMMUTABLE AS 'SELECT 1000::bigint'`)
	var progress string
	if err := migrations.Up(t.Context(), db.url, func(line string) { progress += line }); err != nil {
		t.Error(err)
	}
	if want := "newer than this program's"; !strings.Contains(progress, want) {
		t.Errorf("got progress %q, want %q", progress, want)
	}
	if err := migrations.Down(t.Context(), db.url, ignore); err == nil {
		t.Error("Down took back migrations that it does not know")
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	t.Parallel()
	t.Run("no CREATE on the database", func(t *testing.T) {
		t.Parallel()
		db := newDatabase(t)
		role, address := db.newRole()
		db.exec("DO $$ BEGIN EXECUTE format('REVOKE CREATE ON DATABASE %I FROM " + role + "', current_database()); END $$")
		wantError(t, migrations.Up(t.Context(), address, ignore), "00001_weir.sql", "GRANT CREATE ON DATABASE")
	})
	t.Run("no CREATE on public", func(t *testing.T) {
		t.Parallel()
		db := newDatabase(t)
		role, address := db.newRole()
		db.exec("REVOKE CREATE ON SCHEMA public FROM PUBLIC, " + role)
		wantError(t, migrations.Up(t.Context(), address, ignore), "GRANT CREATE ON SCHEMA public TO")
	})
	t.Run("no server", func(t *testing.T) {
		t.Parallel()
		err := migrations.Up(t.Context(), "postgres://user:hunter2@127.0.0.1:1/db", ignore)
		var connect *pgconn.ConnectError
		if !errors.As(err, &connect) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("got %v, want a *pgconn.ConnectError without the password", err)
		}
	})
}

func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("got error %v, want %q in it", err, part)
		}
	}
	var server *pgconn.PgError
	if !errors.As(err, &server) {
		t.Errorf("got error %v, want it to wrap the server's", err)
	}
}

func fileNames(t *testing.T) []string {
	t.Helper()
	names, err := fs.Glob(migrations.FS, "*.sql")
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func current(t *testing.T, conn *pgx.Conn) int64 {
	t.Helper()
	version, err := migrations.Current(context.Background(), conn)
	if err != nil {
		t.Fatal(err)
	}
	return version
}
