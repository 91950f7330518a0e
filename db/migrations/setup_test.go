package migrations_test

import (
	"context"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/fraiseql/weir/db/migrations"
	"github.com/fraiseql/weir/internal/sandbox"
)

var postgres sandbox.Suite

func TestMain(m *testing.M) { goleak.VerifyTestMain(postgres.Main(m)) }

// database is an empty database of the test's own, with a connection of its superuser.
type database struct {
	*pgx.Conn
	t   *testing.T
	url string
}

func newDatabase(t *testing.T) database {
	t.Helper()
	address := postgres.EmptyDatabase(t)
	return database{Conn: connect(t, address), t: t, url: address}
}

// migrated is newDatabase after Up.
func migrated(t *testing.T) database {
	t.Helper()
	db := newDatabase(t)
	if err := migrations.Up(t.Context(), db.url, ignore); err != nil {
		t.Fatal(err)
	}
	return db
}

func ignore(string) {}

func connect(t *testing.T, address string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func (db database) exec(sql string, args ...any) {
	db.t.Helper()
	if _, err := db.Exec(db.t.Context(), sql, args...); err != nil {
		db.t.Fatalf("%s: %v", sql, err)
	}
}

// newRole makes a role that may log in and create in the database, and returns its name and how to connect as it.
// Roles belong to the whole server, so the name is random.
func (db database) newRole() (name, address string) {
	db.t.Helper()
	name = "weir_test_" + strings.ReplaceAll(uuid.NewString(), "-", "")
	admin := postgres.Postgres(db.t).URL("postgres")
	onServer := func(sql string) {
		conn, err := pgx.Connect(context.Background(), admin)
		if err == nil {
			_, err = conn.Exec(context.Background(), sql)
			_ = conn.Close(context.Background())
		}
		if err != nil {
			db.t.Errorf("%s: %v", sql, err)
		}
	}
	onServer("CREATE ROLE " + name + " LOGIN PASSWORD 'secret'")
	db.t.Cleanup(func() {
		// What it owns and was granted goes first, and only in its database.
		conn, err := pgx.Connect(context.Background(), db.url)
		if err == nil {
			_, err = conn.Exec(context.Background(), "DROP OWNED BY "+name+" CASCADE")
			_ = conn.Close(context.Background())
		}
		if err != nil {
			db.t.Error(err)
		}
		onServer("DROP ROLE " + name)
	})
	u, err := url.Parse(db.url)
	if err != nil {
		db.t.Fatal(err)
	}
	db.exec("GRANT CREATE ON DATABASE " + pgx.Identifier{strings.TrimPrefix(u.Path, "/")}.Sanitize() + " TO " + name)
	db.exec("GRANT CREATE ON SCHEMA public TO " + name)
	u.User = url.UserPassword(name, "secret")
	return name, u.String()
}

// dump describes everything in the schemas as sorted lines, without oids, daily partitions and times.
func (db database) dump(schemas ...string) []string {
	db.t.Helper()
	rows, err := db.Query(db.t.Context(), dumpQuery, schemas)
	if err != nil {
		db.t.Fatal(err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		db.t.Fatal(err)
	}
	slices.Sort(lines)
	return lines
}

// wantSame compares two dumps and shows only the lines that differ.
func wantSame(t *testing.T, what string, got, want []string) {
	t.Helper()
	for _, line := range want {
		if !slices.Contains(got, line) {
			t.Errorf("%s: missing: %s", what, line)
		}
	}
	for _, line := range got {
		if !slices.Contains(want, line) {
			t.Errorf("%s: unexpected: %s", what, line)
		}
	}
}

const dumpQuery = `
WITH rel AS (
    SELECT c.*, n.nspname || '.' || c.relname AS name
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = ANY($1) AND c.relname !~ '_[0-9]{8}'
)
SELECT concat_ws(' | ', 'schema', nspname, nspacl::text) FROM pg_namespace WHERE nspname = ANY($1)
UNION ALL
SELECT concat_ws(' | ', 'relation', name, relkind, relpersistence, relreplident, relrowsecurity, relforcerowsecurity,
                 reloptions::text, relacl::text, obj_description(oid, 'pg_class'), pg_get_expr(relpartbound, oid)) FROM rel
UNION ALL
SELECT concat_ws(' | ', 'column', name, row_number() OVER (PARTITION BY rel.oid ORDER BY attnum), attname, format_type(atttypid, atttypmod), attnotnull, attidentity,
                 pg_get_expr(adbin, adrelid), col_description(rel.oid, attnum))
FROM rel JOIN pg_attribute a ON a.attrelid = rel.oid AND attnum > 0 AND NOT attisdropped
LEFT JOIN pg_attrdef d ON d.adrelid = rel.oid AND d.adnum = attnum
WHERE relkind IN ('r', 'p', 'v')
UNION ALL
SELECT concat_ws(' | ', 'constraint', name, conname, convalidated, pg_get_constraintdef(k.oid))
FROM rel JOIN pg_constraint k ON k.conrelid = rel.oid
UNION ALL
SELECT concat_ws(' | ', 'index', name, pg_get_indexdef(rel.oid)) FROM rel WHERE relkind IN ('i', 'I')
UNION ALL
SELECT concat_ws(' | ', 'view', name, pg_get_viewdef(rel.oid)) FROM rel WHERE relkind = 'v'
UNION ALL
SELECT concat_ws(' | ', 'trigger', name, pg_get_triggerdef(t.oid))
FROM rel JOIN pg_trigger t ON t.tgrelid = rel.oid AND NOT tgisinternal
UNION ALL
SELECT concat_ws(' | ', 'policy', tablename, policyname, cmd, roles::text, qual, with_check)
FROM pg_policies WHERE schemaname = ANY($1)
UNION ALL
SELECT concat_ws(' | ', 'function', nspname, pg_get_functiondef(p.oid), obj_description(p.oid, 'pg_proc'))
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE nspname = ANY($1)
UNION ALL
SELECT concat_ws(' | ', 'enum', nspname, typname, enumsortorder, enumlabel)
FROM pg_enum e JOIN pg_type t ON t.oid = enumtypid JOIN pg_namespace n ON n.oid = typnamespace WHERE nspname = ANY($1)`
