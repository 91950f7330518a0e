package main

import (
	"testing"

	"github.com/fraiseql/weir/internal/ops"
)

// TestAcceptGap: a gap is said by status and doctor, in every form, and goes only when somebody says so.
func TestAcceptGap(t *testing.T) {
	t.Parallel()
	url, db := database(t)
	_, slot := slotFile(t, db, "")
	configured := func(tables string) string { return file(t, "source: {slot: "+slot+", tables: ["+tables+"]}\n") }
	path := configured("{table: public.orders, snapshot: true}, {table: public.items}")
	exec(t, db, `CREATE TABLE public.orders (id uuid PRIMARY KEY); CREATE TABLE public.items (id uuid PRIMARY KEY)`)
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
	exec(t, db, `INSERT INTO weir.captured_table (name, snapshot, joined, finished_at)
		SELECT name, 1, '0/1', now() FROM unnest('{public.orders,public.items,public.gone}'::text[]) name`)
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
		"Found 2026-11-01T13:00:00Z", "--snapshot reads again: public.orders.\n")
	no := call{args: append([]string{"accept-gap"}, with...), stdin: "n\n"}
	no.run(t).exits(1).complains("go on without these changes? [y/N]", "nothing was done")
	is := func(want string) {
		t.Helper()
		var got string
		check(t, db.QueryRow(t.Context(), `SELECT state || epoch || (SELECT string_agg(' ' || snapshot || coalesce(joined::text, '-'), '' ORDER BY name) FROM weir.captured_table)
			FROM weir.checkpoint`).Scan(&got))
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	unmarked := configured("{table: public.orders}")
	weir(t, "accept-gap", "--yes", "--snapshot", "--config", unmarked, "--database-url", url).exits(2).complains("no table to read again")
	wrong := configured("{table: public.orders, snapshot: perhaps}")
	weir(t, "accept-gap", "--yes", "--snapshot", "--config", wrong, "--database-url", url).exits(3)
	is("gap7 10/1 10/1 10/1")
	run("accept-gap", "--yes", "--snapshot").exits(0).says("1 table will be read again", "The gap is accepted")
	is("recovering8 10/1 10/1 2-") // gone and items, which nobody marks, are left alone
	run("accept-gap", "--yes").exits(0).says("there is no gap")
	run("status").exits(0).says("recovering")
}
