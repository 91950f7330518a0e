package capture_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/internal/sandbox"
)

// What was confirmed to the slot is never sent again, so it has to outlive the server that holds the checkpoint, also where a
// database's commits do not wait for the disk.
func TestConfirmedIsOnDisk(t *testing.T) {
	t.Parallel()
	// What does not wait is written after ten seconds.
	server, databaseURL := ownServer(t, map[string]string{"wal_writer_delay": "10s", "autovacuum": "off"})
	r := newRig(t)
	r.databaseURL = databaseURL
	connected := func() *pgx.Conn {
		conn, err := pgx.Connect(t.Context(), databaseURL)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
		return conn
	}
	there := connected()
	for _, sql := range []string{sinkTable, "ALTER DATABASE " + there.Config().Database + " SET synchronous_commit = off"} {
		if _, err := there.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	ingested := func() (marks string) {
		const sql = `SELECT coalesce(string_agg(data::json->>'n', ' ' ORDER BY n), '') FROM ingested`
		if err := there.QueryRow(t.Context(), sql).Scan(&marks); err != nil {
			t.Fatal(err)
		}
		return marks
	}
	r.streaming(r.start("one"))
	r.exec(insertRow, 1, 3)
	behind := r.one("SELECT pg_current_wal_lsn()::text")
	r.await("the rows", func() bool { return ingested() == "1 2 3" })
	r.await("the slot is told", func() bool {
		return r.one("SELECT (confirmed_flush_lsn >= $2::pg_lsn)::text FROM pg_replication_slots WHERE slot_name = $1",
			string(r.cfg.Slot), behind) == "true"
	})
	if err := server.Restart(t.Context(), sandbox.Immediate); err != nil {
		t.Fatal(err)
	}
	there = connected()
	if got := ingested(); got != "1 2 3" {
		t.Errorf("%q is left of what was confirmed", got)
	}
	r.exec(insertRow, 4, 4)
	r.await("the next", func() bool { return ingested() == "1 2 3 4" })
}
