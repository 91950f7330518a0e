package sandbox_test

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/fraiseql/weir/db/migrations"
	"github.com/fraiseql/weir/internal/sandbox"
)

func databaseName(t *testing.T, databaseURL string) string {
	t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	return u.Path[1:]
}

// stream starts a walsender on a new slot of the database and returns its connection.
func stream(t *testing.T, databaseURL, slot string) *pgconn.PgConn {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	config, err := pgconn.ParseConfig(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	config.RuntimeParams["replication"] = "database"
	conn, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(ctx) })
	if _, err := conn.Exec(ctx, "CREATE_REPLICATION_SLOT "+slot+" LOGICAL pgoutput").ReadAll(); err != nil {
		t.Fatal(err)
	}
	conn.Frontend().SendQuery(&pgproto3.Query{
		String: "START_REPLICATION SLOT " + slot + " LOGICAL 0/0 (proto_version '1', publication_names 'none')",
	})
	if err := conn.Frontend().Flush(); err != nil {
		t.Fatal(err)
	}
	for {
		message, err := conn.ReceiveMessage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if _, streaming := message.(*pgproto3.CopyBothResponse); streaming {
			return conn
		}
	}
}

func TestDatabasesAreSeparate(t *testing.T) {
	t.Parallel()
	var wg sync.WaitGroup
	urls := make([]string, 4)
	for i := range urls {
		wg.Go(func() { urls[i] = postgres.Database(t) })
	}
	wg.Wait()
	for _, databaseURL := range urls {
		conn := connect(t, databaseURL)
		execute(t, conn, "CREATE TABLE mine ()") // fails if another test had this database
		version, err := migrations.Current(t.Context(), conn)
		if err != nil || version != migrations.Version {
			t.Errorf("version = %d, %v; want %d", version, err, migrations.Version)
		}
	}
	version, err := migrations.Current(t.Context(), connect(t, postgres.EmptyDatabase(t)))
	if err != nil || version != 0 {
		t.Errorf("empty database: version = %d, %v", version, err)
	}
}

func TestDropWithActiveSlots(t *testing.T) {
	t.Parallel()
	p := postgres.Postgres(t)
	databaseURL, drop, err := p.Database(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	name := databaseName(t, databaseURL)
	admin := connect(t, p.URL("postgres"))
	execute(t, connect(t, databaseURL), "BEGIN") // a session that stays open
	connect(t, databaseURL)
	for i := range 3 {
		stream(t, databaseURL, fmt.Sprintf("%s_%d", name, i))
	}
	execute(t, connect(t, databaseURL), fmt.Sprintf("SELECT pg_create_logical_replication_slot('%s_idle', 'pgoutput')", name))
	other := postgres.EmptyDatabase(t)
	stream(t, other, databaseName(t, other))

	for range 2 { // a second drop does nothing
		if err := drop(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	const slots = "SELECT count(*)::text FROM pg_replication_slots WHERE slot_name LIKE $1 || '%'"
	if got := query(t, admin, slots, name); got != "0" {
		t.Errorf("%s slots are left", got)
	}
	if got := query(t, admin, "SELECT count(*)::text FROM pg_database WHERE datname = $1", name); got != "0" {
		t.Error("the database is left")
	}
	if got := query(t, admin, slots+" AND active", databaseName(t, other)); got != "1" {
		t.Error("the slot of another database was touched")
	}
}

func TestDropWithoutContext(t *testing.T) {
	t.Parallel()
	databaseURL, drop, err := postgres.Postgres(t).EmptyDatabase(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := drop(ended); err != nil {
		t.Error(err)
	}
	admin := connect(t, postgres.Postgres(t).URL("postgres"))
	const sql = "SELECT count(*)::text FROM pg_database WHERE datname = $1"
	if got := query(t, admin, sql, databaseName(t, databaseURL)); got != "0" {
		t.Error("the database is left")
	}
}

// Not parallel: it sets the environment.
func TestOpenNamedServer(t *testing.T) {
	foreign := startOwn(t, sandbox.PostgresOptions{})
	admin := connect(t, foreign.URL("postgres"))
	execute(t, admin, "CREATE DATABASE application")
	execute(t, connect(t, foreign.URL("application")), "SELECT pg_create_logical_replication_slot('theirs', 'pgoutput')")
	before := query(t, admin, "SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database")

	t.Setenv(sandbox.DatabaseURLVariable, foreign.URL("application"))
	p, err := sandbox.Open(t.Context(), sandbox.PostgresOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, create := range []func(context.Context) (string, func(context.Context) error, error){p.Database, p.EmptyDatabase} {
		databaseURL, _, err := create(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		name := databaseName(t, databaseURL)
		if !strings.HasPrefix(name, "weir_") || databaseURL != foreign.URL(name) {
			t.Errorf("database %s", databaseURL)
		}
		stream(t, databaseURL, name)
	}
	for name, refused := range map[string]error{
		"Restart": p.Restart(t.Context(), sandbox.Fast), "Kill": p.Kill(),
	} {
		if refused == nil || !strings.Contains(refused.Error(), "use StartPostgres") {
			t.Errorf("%s: err = %v", name, refused)
		}
	}
	if err := p.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := query(t, admin, "SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database"); after != before {
		t.Errorf("databases after Stop: %s, before: %s", after, before)
	}
	if slots := query(t, admin, "SELECT string_agg(slot_name, ' ') FROM pg_replication_slots"); slots != "theirs" {
		t.Errorf("slots after Stop: %s", slots)
	}
}

// Not parallel: it sets the environment.
func TestOpenBadURL(t *testing.T) {
	tests := map[string]struct{ url, want string }{
		"no URL":      {"host=localhost password=geheim", "want postgres://"},
		"not a URL":   {"postgres://user:geheim@host:port", "want postgres://"},
		"nobody home": {"postgres://user:geheim@127.0.0.1:1/x", "unset it to get a private one"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Setenv(sandbox.DatabaseURLVariable, test.url)
			_, err := sandbox.Open(t.Context(), sandbox.PostgresOptions{})
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "geheim") {
				t.Errorf("err = %v", err)
			}
		})
	}
}
