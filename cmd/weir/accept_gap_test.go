package main

import (
	"testing"

	"github.com/fraiseql/weir/internal/ops"
)

// TestAcceptGap: a gap is said by status and doctor, in every form, and goes only when somebody says so.
func TestAcceptGap(t *testing.T) {
	t.Parallel()
	url, db := database(t)
	path, slot := slotFile(t, db, "")
	with := []string{"--config", path, "--database-url", url}
	run := func(args ...string) result {
		t.Helper()
		return weir(t, append(args, with...)...)
	}
	run("accept-gap", "--yes").exits(0).says("there is no gap")
	exec(t, db, `CREATE PUBLICATION weir FOR TABLE core.tb_entity_change_log WITH (publish = 'insert')`)
	exec(t, db, `INSERT INTO weir.checkpoint (system_identifier, timeline, installation, slot, lsn, epoch, state, problem, commit_time, owned_since)
		SELECT system_identifier::text, 1, '', $1, pg_current_wal_lsn(), 7, 'gap', 'slot gone', '2026-11-01 12:00+00', '2026-11-01 13:00+00'
		  FROM pg_control_system()`, slot)
	exec(t, db, `INSERT INTO weir.captured_table (name, snapshot, joined, finished_at) VALUES ('public.orders', 1, '0/1', now())`)
	run("status").exits(5).says("gap: changes are missing", "slot gone", "weir accept-gap")
	var status ops.Status
	run("status", "--format", "json").exits(5).json(&status)
	if status.Stream.State != ops.StreamGap || status.Stream.Lost != "slot gone" {
		t.Errorf("got %+v", status.Stream)
	}
	run("doctor").exits(5).says("cannot be made up for: slot gone", "weir accept-gap")
	run("adopt").exits(0).says("nothing to adopt", "weir accept-gap")

	run("accept-gap").exits(2).complains("say --yes", "slot gone")
	run("accept-gap", "--dry-run").exits(0).says("Nothing is captured: slot gone.", "committed after 2026-11-01T12:00:00Z",
		"Found 2026-11-01T13:00:00Z", "public.orders")
	no := call{args: append([]string{"accept-gap"}, with...), stdin: "n\n"}
	no.run(t).exits(1).complains("go on without these changes? [y/N]", "nothing was done")
	is := func(want string) {
		t.Helper()
		var got string
		check(t, db.QueryRow(t.Context(), `SELECT state || epoch || (SELECT ' ' || snapshot || coalesce(joined::text, '-') FROM weir.captured_table)
			FROM weir.checkpoint`).Scan(&got))
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	is("gap7 10/1")
	run("accept-gap", "--yes", "--snapshot").exits(0).says("1 table will be read again", "The gap is accepted")
	is("recovering8 2-")
	run("accept-gap", "--yes").exits(0).says("there is no gap")
	run("status").exits(0).says("recovering")
}
