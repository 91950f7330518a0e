package ops_test

import (
	"context"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/fraiseql/weir/internal/ops"
	"github.com/fraiseql/weir/internal/sandbox"
)

// startServer is for tests that change a server, or stop it.
func startServer(t *testing.T, o sandbox.PostgresOptions) *sandbox.Postgres {
	t.Helper()
	server, err := sandbox.StartPostgres(t.Context(), o)
	check(t, err)
	t.Cleanup(func() { _ = server.Stop(context.WithoutCancel(t.Context())) })
	return server
}

// TestDoctorStandby names a standby with both URLs: each finding is there once, and nothing is said of slots that are not
// the primary's.
func TestDoctorStandby(t *testing.T) {
	t.Parallel()
	server := startServer(t, sandbox.PostgresOptions{})
	primary, err := url.Parse(server.TestDatabase(t))
	check(t, err)
	check(t, server.Kill())
	standby := startServer(t, sandbox.PostgresOptions{
		CopyOf: server, Standby: true,
		Settings: map[string]string{"primary_conninfo": "host=127.0.0.1 user=postgres port=" + primary.Port()},
	})
	check(t, server.Restart(t.Context(), sandbox.Fast))
	db := session(t, standby.URL(strings.TrimPrefix(primary.Path, "/")))
	d := diagnose(t, db, db, slotOf(t, db))
	equal(t, "healthy", d.Healthy, false)
	equal(t, "mend", one(t, d, "database", ops.LevelError).Mend, "-- let database.url name the primary")
	one(t, d, "primary", ops.LevelError)
	one(t, d, "change log", ops.LevelOK)
	equal(t, "notifications", len(find(d, "notifications")), 0)
	for _, f := range d.Findings {
		if f.Level == ops.LevelError && f.Check != "database" && f.Check != "primary" {
			t.Errorf("%s: %s", f.Check, f.Problem)
		}
	}
}

// walsender occupies one. The slot is read by it, or "".
func walsender(t *testing.T, databaseURL, name, slot string) *pgconn.PgConn {
	t.Helper()
	cfg, err := pgconn.ParseConfig(databaseURL)
	check(t, err)
	cfg.RuntimeParams["replication"], cfg.RuntimeParams["application_name"] = "database", name
	conn, err := pgconn.ConnectConfig(t.Context(), cfg)
	check(t, err)
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	if slot != "" {
		conn.Frontend().SendQuery(&pgproto3.Query{
			String: "START_REPLICATION SLOT " + slot + " LOGICAL 0/0 (proto_version '1', publication_names 'weir')",
		})
		check(t, conn.Frontend().Flush())
		for streaming := false; !streaming; {
			m, err := conn.ReceiveMessage(t.Context())
			check(t, err)
			_, streaming = m.(*pgproto3.CopyBothResponse)
		}
	}
	return conn
}

// TestDoctorSenders: that none is left is an error when others have them, and no harm when the worker has it.
func TestDoctorSenders(t *testing.T) {
	t.Parallel()
	server := startServer(t, sandbox.PostgresOptions{Settings: map[string]string{"max_wal_senders": "1"}})
	databaseURL := server.TestDatabase(t)
	db := session(t, databaseURL)
	cfg := slotOf(t, db)
	exec(t, db, `CREATE PUBLICATION weir FOR TABLE core.tb_entity_change_log WITH (publish = 'insert')`)
	createSlot(t, db, cfg)

	other := walsender(t, databaseURL, "somebody", "")
	d := diagnose(t, db, db, cfg)
	one(t, d, "free slots and senders", ops.LevelError)
	full := one(t, d, "checkpoint", ops.LevelWarning)
	if !strings.Contains(full.Problem, "has no WAL sender left") || !strings.Contains(full.Mend, "max_wal_senders") {
		t.Errorf("got %+v", full)
	}
	check(t, other.Close(t.Context()))
	awaitSenders(t, db, 0)

	walsender(t, databaseURL, "weir:worker-1", string(cfg.Slot))
	awaitSenders(t, db, 1)
	d = diagnose(t, db, db, cfg)
	equal(t, "healthy", d.Healthy, true)
	if own := one(t, d, "checkpoint", ops.LevelWarning); !strings.Contains(own.Problem, "a worker reads the stream") {
		t.Errorf("got %+v", own)
	}
}

func awaitSenders(t *testing.T, db *pgx.Conn, want int) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		var n int
		check(t, db.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender'`).Scan(&n))
		if n == want {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d WAL senders, want %d", n, want)
		}
	}
}

func loseSlot(t *testing.T, db *pgx.Conn) {
	t.Helper()
	for range 4 {
		exec(t, db, `SELECT pg_logical_emit_message(true, 'test', 'x')`)
		exec(t, db, `SELECT pg_switch_wal()`)
	}
	exec(t, db, `CHECKPOINT`)
}

// TestDoctorLostSlot: how to go on depends on the checkpoint, so there is one finding.
func TestDoctorLostSlot(t *testing.T) {
	t.Parallel()
	server := startServer(t, sandbox.PostgresOptions{Settings: map[string]string{"max_slot_wal_keep_size": "1MB", "max_wal_size": "32MB"}})
	db := session(t, server.TestDatabase(t))
	cfg := slotOf(t, db)
	createSlot(t, db, cfg)
	loseSlot(t, db)
	d := diagnose(t, db, db, cfg)
	one(t, d, "replication slot", ops.LevelOK)
	lost := one(t, d, "checkpoint", ops.LevelError)
	if !strings.Contains(lost.Problem, "is lost, and nothing has been read from it") {
		t.Errorf("problem %q", lost.Problem)
	}
	exec(t, db, lost.Mend)
	one(t, diagnose(t, db, db, cfg), "checkpoint", ops.LevelOK)

	createSlot(t, db, cfg)
	createCheckpoint(t, db, cfg, 0)
	loseSlot(t, db)
	d = diagnose(t, db, db, cfg)
	one(t, d, "replication slot", ops.LevelOK)
	if lost = one(t, d, "checkpoint", ops.LevelWarning); !strings.Contains(lost.Mend, "recovers by itself") {
		t.Errorf("mend %q", lost.Mend)
	}
}

// TestDoctorSettings runs the mends that change a server, line by line as psql does.
func TestDoctorSettings(t *testing.T) {
	t.Parallel()
	server := startServer(t, sandbox.PostgresOptions{})
	db := session(t, server.TestDatabase(t))
	cfg := slotOf(t, db)
	exec(t, db, `ALTER SYSTEM SET wal_sender_timeout = 0`)
	exec(t, db, `SELECT pg_reload_conf()`)
	awaitSetting(t, db, "wal_sender_timeout", "0")
	d := diagnose(t, db, db, cfg)
	for _, check := range []string{"max_slot_wal_keep_size", "timeouts of the source"} {
		for line := range strings.Lines(one(t, d, check, ops.LevelWarning).Mend) {
			exec(t, db, line)
		}
	}
	awaitSetting(t, db, "max_slot_wal_keep_size", "50GB")
	awaitSetting(t, db, "wal_sender_timeout", "1min")
	d = diagnose(t, db, db, cfg)
	one(t, d, "max_slot_wal_keep_size", ops.LevelOK)
	one(t, d, "timeouts of the source", ops.LevelOK)
}

// awaitSetting waits until the server has read its files.
func awaitSetting(t *testing.T, db *pgx.Conn, name, want string) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		var value string
		check(t, db.QueryRow(t.Context(), `SELECT current_setting($1)`, name).Scan(&value))
		if value == want {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s is %s, want %s", name, value, want)
		}
	}
}
