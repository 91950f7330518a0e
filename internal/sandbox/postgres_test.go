package sandbox_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/internal/sandbox"
)

var postgres sandbox.Suite

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == helperArgument {
		os.Exit(helper(os.Args[2]))
	}
	os.Exit(postgres.Main(m).Run())
}

// startOwn starts a server for a test that crashes it.
func startOwn(t *testing.T, o sandbox.PostgresOptions) *sandbox.Postgres {
	t.Helper()
	p, err := sandbox.StartPostgres(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	return p
}

func connect(t *testing.T, databaseURL string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	return conn
}

func execute(t *testing.T, conn *pgx.Conn, statement string) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

func query(t *testing.T, conn *pgx.Conn, sql string, args ...any) string {
	t.Helper()
	var value string
	if err := conn.QueryRow(t.Context(), sql, args...).Scan(&value); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return value
}

func TestSettings(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		options sandbox.PostgresOptions
		want    map[string]string
	}{
		// Without synchronous_commit and full_page_writes a killed server would lose commits.
		"defaults": {want: map[string]string{
			"wal_level": "logical", "max_replication_slots": "100", "max_wal_senders": "100", "max_connections": "300",
			"fsync": "off", "synchronous_commit": "on", "full_page_writes": "on", "listen_addresses": "127.0.0.1",
		}},
		"own": {
			options: sandbox.PostgresOptions{Durable: true, Settings: map[string]string{"max_replication_slots": "7"}},
			want:    map[string]string{"fsync": "on", "max_replication_slots": "7", "wal_level": "logical"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := connect(t, startOwn(t, test.options).URL("postgres"))
			for name, want := range test.want {
				if got := query(t, conn, "SELECT current_setting($1)", name); got != want {
					t.Errorf("%s = %s, want %s", name, got, want)
				}
			}
		})
	}
}

func TestServersHaveDifferentIdentifiers(t *testing.T) {
	t.Parallel()
	const sql = "SELECT system_identifier::text FROM pg_control_system()"
	first := query(t, connect(t, startOwn(t, sandbox.PostgresOptions{}).URL("postgres")), sql)
	second := query(t, connect(t, startOwn(t, sandbox.PostgresOptions{}).URL("postgres")), sql)
	if first == second {
		t.Errorf("both are %s: Weir would take one for the other", first)
	}
}

func TestRestartKeepsCommits(t *testing.T) {
	t.Parallel()
	p := startOwn(t, sandbox.PostgresOptions{})
	execute(t, connect(t, p.URL("postgres")), "CREATE TABLE kept (how text)")
	restarts := []struct {
		name string
		do   func() error
	}{
		{"fast", func() error { return p.Restart(t.Context(), sandbox.Fast) }},
		{"immediate", func() error { return p.Restart(t.Context(), sandbox.Immediate) }},
		{"kill", func() error {
			if err := p.Kill(); err != nil {
				return err
			}
			if conn, err := pgx.Connect(t.Context(), p.URL("postgres")); err == nil {
				_ = conn.Close(t.Context())
				return fmt.Errorf("a killed server accepts connections")
			}
			return p.Restart(t.Context(), sandbox.Fast)
		}},
	}
	for i, restart := range restarts {
		execute(t, connect(t, p.URL("postgres")), "INSERT INTO kept VALUES ('"+restart.name+"')")
		if err := restart.do(); err != nil {
			t.Fatalf("%s: %v", restart.name, err)
		}
		got := query(t, connect(t, p.URL("postgres")), "SELECT count(*)::text FROM kept")
		if want := fmt.Sprint(i + 1); got != want {
			t.Errorf("%s: %s rows after the restart, want %s", restart.name, got, want)
		}
	}
}

// A busy session does not notice by itself that the postmaster is gone.
func TestKillUnderLoad(t *testing.T) {
	t.Parallel()
	p := startOwn(t, sandbox.PostgresOptions{})
	busy := connect(t, p.URL("postgres"))
	ended := make(chan error, 1)
	go func() {
		_, err := busy.Exec(context.WithoutCancel(t.Context()), "SELECT count(*) FROM generate_series(1, 1000000000000)")
		ended <- err
	}()
	watcher := connect(t, p.URL("postgres"))
	eventually(t, "the session is busy", func() bool {
		const sql = "SELECT count(*)::text FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%generate_series(1, %'" +
			" AND pid <> pg_backend_pid()"
		return query(t, watcher, sql) == "1"
	})
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil {
		t.Error("a session outlived the kill")
	}
	if err := p.Restart(t.Context(), sandbox.Fast); err != nil {
		t.Fatal(err)
	}
	connect(t, p.URL("postgres"))
}

func TestStopRemovesFolder(t *testing.T) {
	t.Parallel()
	p, err := sandbox.StartPostgres(t.Context(), sandbox.PostgresOptions{})
	if err != nil {
		t.Fatal(err)
	}
	data := query(t, connect(t, p.URL("postgres")), "SHOW data_directory")
	for range 2 {
		if err := p.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(data); !os.IsNotExist(err) {
		t.Errorf("%s is still there: %v", data, err)
	}
	if err := p.Restart(t.Context(), sandbox.Fast); err == nil {
		t.Error("a stopped server started again")
	}
}

func TestStartEndsWithContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := sandbox.StartPostgres(ctx, sandbox.PostgresOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v, want the context's", err)
	}
}

func TestBadOptions(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		options sandbox.PostgresOptions
		want    string
	}{
		"version": {sandbox.PostgresOptions{Version: "seventeen"}, `version "seventeen": want major and minor`},
		"setting": {
			sandbox.PostgresOptions{Settings: map[string]string{"wal_color": "blue"}},
			`unrecognized configuration parameter "wal_color"`, // out of the server's log
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := sandbox.StartPostgres(t.Context(), test.options)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("err = %v, want %s", err, test.want)
			}
		})
	}
}
