package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fraiseql/weir/internal/ops"
)

// TestAdopt goes through what somebody sees who has restored a dump.
func TestAdopt(t *testing.T) {
	t.Parallel()
	url, db := database(t)
	path, slot := slotFile(t, db, "installation: staging\n")
	adopt := func(args ...string) result {
		t.Helper()
		return weir(t, append([]string{"adopt", "--config", path, "--database-url", url}, args...)...)
	}
	adopt().exits(0).says("nothing to adopt: there is no checkpoint yet")

	exec(t, db, `INSERT INTO weir.checkpoint (system_identifier, timeline, installation, slot, lsn, server, epoch)
		VALUES ('1', 1, 'production', $1, '0/1000', 'port 5432', 7)`, slot)
	exec(t, db, `INSERT INTO weir.river_job (kind, queue, max_attempts, state, args)
		SELECT 'weir_log', 'log', 5, 'available', '{}' FROM generate_series(1, 2)`)
	const question = "--deliveries keep sends what is unfinished from here, --deliveries cancel does not"
	adopt("--deliveries", "perhaps").exits(2).complains("expected keep or cancel")
	adopt("--yes").exits(2).complains("2 unfinished deliveries came along", question)
	adopt("--dry-run").exits(0).says("A worker refuses: the source is another cluster", "production", "staging", "the present",
		"It makes slot "+slot, "2 unfinished deliveries, to be kept or cancelled",
		"and now may be missing", "Look for them: SELECT l.* FROM", "core", "tb_entity_change_log")
	adopt("--deliveries", "keep").exits(2).complains("say --yes")
	var plan ops.Adoption
	adopt("--dry-run", "--format", "json").exits(0).json(&plan)
	if plan.Done || plan.Unfinished != 2 || plan.Checkpoint.LSN.String() != "0/1000" || plan.Present.LSN != nil || plan.Continuous {
		t.Errorf("got %+v", plan)
	}
	no := call{args: []string{"adopt", "--config", path, "--database-url", url, "--deliveries", "cancel"}, stdin: "n\n"}
	no.run(t).exits(1).complains("A worker refuses", "adopt the checkpoint? [y/N]", "nothing was done")
	if got := states(t, db); got != "available 0, available 0" {
		t.Errorf("jobs after a no: %s", got)
	}
	yes := no
	yes.stdin = "y\n"
	asked := yes.run(t).exits(0).complains("A worker refuses").
		says("Made slot "+slot, "of which 2 were cancelled", "The checkpoint is adopted: start a worker.")
	if strings.Contains(asked.stdout, "A worker refuses") {
		t.Errorf("it says everything twice:\n%s", asked.stdout)
	}
	if got := states(t, db); got != "cancelled 0, cancelled 0" {
		t.Errorf("jobs after a yes: %s", got)
	}
	adopt().exits(0).says("nothing to adopt: workers start from the checkpoint as it is")
	weir(t, "doctor", "--config", path, "--database-url", url).exits(0)

	// A slot that is gone is no matter of adopt's.
	exec(t, db, `SELECT pg_drop_replication_slot($1)`, slot)
	adopt("--dry-run").exits(0).says("nothing to adopt: a worker recovers by itself", "slot "+slot+" does not exist")
	weir(t, "doctor", "--config", path, "--database-url", url).exits(0).says("slot "+slot+" does not exist", "recovers by itself")
	weir(t, "status", "--config", path, "--database-url", url).exits(0).says("no slot", "recovers from the change log")

	// In a copy: the present, and what may be missing. What is skipped on purpose is not recovered later.
	exec(t, db, `UPDATE weir.checkpoint SET installation = 'production', began_at = '2020-01-01'`)
	exec(t, db, `INSERT INTO weir.river_job (kind, queue, max_attempts, state, args) VALUES ('weir_log', 'log', 5, 'available', '{}')`)
	adopt("--yes", "--deliveries", "keep").exits(0).says("belongs to installation", "Made slot", "1 unfinished delivery, which workers send from here")
	var began bool
	check(t, db.QueryRow(t.Context(), `SELECT began_at > now() - interval '1 min' FROM weir.checkpoint`).Scan(&began))
	if !began {
		t.Error("what was skipped could be recovered later")
	}
	var epoch int
	check(t, db.QueryRow(t.Context(), `SELECT epoch FROM weir.checkpoint`).Scan(&epoch))
	if epoch != 9 {
		t.Errorf("epoch %d, want one more for each adoption", epoch)
	}
}

// TestAdoptAnotherClustersSlot: a slot that is older than the restore would deliver all of that.
func TestAdoptAnotherClustersSlot(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		args string
		says []string
		kept bool
	}{
		"by default":  {"--yes", []string{"Dropped and made slot", "again; what it still held is not delivered"}, false},
		"--keep-slot": {"--keep-slot", []string{"is kept: workers deliver all that was committed here since", "dead letters"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url, db := database(t)
			path, slot := slotFile(t, db, "")
			exec(t, db, `INSERT INTO weir.checkpoint (system_identifier, timeline, installation, slot, lsn) VALUES ('1', 1, '', $1, 'FF/1000')`, slot)
			exec(t, db, `SELECT pg_create_logical_replication_slot($1, 'pgoutput')`, slot)
			position := func() (lsn string) {
				check(t, db.QueryRow(t.Context(), `SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = $1`, slot).Scan(&lsn))
				return lsn
			}
			before := position()
			exec(t, db, `SELECT pg_logical_emit_message(true, 'test', 'restored')`)
			weir(t, "adopt", "--config", path, "--database-url", url, "--yes", tc.args).exits(0).says(tc.says...)
			if after := position(); (after == before) != tc.kept {
				t.Errorf("the slot was at %s and is at %s", before, after)
			}
			var at string
			check(t, db.QueryRow(t.Context(), `SELECT lsn::text FROM weir.checkpoint`).Scan(&at))
			if at != position() {
				t.Errorf("the checkpoint is at %s, the slot at %s", at, position())
			}
		})
	}
}

// TestAdoptLostCheckpoint: events without a checkpoint are no first start.
func TestAdoptLostCheckpoint(t *testing.T) {
	t.Parallel()
	url, db := database(t)
	path, slot := slotFile(t, db, "")
	exec(t, db, `INSERT INTO weir.river_job (kind, queue, max_attempts, state, args) VALUES ('weir_log', 'log', 5, 'available', '{}')`)
	adopt := func(args ...string) result {
		t.Helper()
		return weir(t, append([]string{"adopt", "--config", path, "--database-url", url}, args...)...)
	}
	adopt("--dry-run").exits(0).says("nothing to adopt")
	record(t, db, shippedOrder(1))
	adopt("--dry-run").exits(0).says("A worker refuses: there is no checkpoint", "It makes slot "+slot, "the present", "and now may be missing")
	adopt("--yes").exits(2).complains("1 unfinished delivery came along")
	adopt("--yes", "--deliveries", "cancel").exits(0).says("Made slot "+slot, "of which 1 were cancelled", "start a worker")
	adopt().exits(0).says("nothing to adopt: workers start from the checkpoint as it is")
	weir(t, "doctor", "--config", path, "--database-url", url).exits(0)
}

// TestStatusOfAWorkerThatRefuses: who is told to start a worker shall not find out that it does not start.
func TestStatusOfAWorkerThatRefuses(t *testing.T) {
	t.Parallel()
	url, db := database(t)
	path, slot := slotFile(t, db, "installation: staging\n")
	exec(t, db, `CREATE PUBLICATION weir FOR TABLE core.tb_entity_change_log WITH (publish = 'insert')`)
	exec(t, db, `SELECT pg_create_logical_replication_slot($1, 'pgoutput')`, slot)
	exec(t, db, `INSERT INTO weir.checkpoint (system_identifier, timeline, installation, slot, lsn)
		SELECT (SELECT system_identifier::text FROM pg_control_system()), 1, 'production', slot_name, confirmed_flush_lsn
		  FROM pg_replication_slots WHERE slot_name = $1`, slot)
	status := func() result {
		t.Helper()
		return weir(t, "status", "--config", path, "--database-url", url).exits(0)
	}
	got := status().says("stopped: nobody reads it, and a worker refuses", `installation "production"`, "to mend it", "weir adopt")
	if strings.Contains(got.stdout, "start a worker") {
		t.Errorf("it says to start a worker:\n%s", got.stdout)
	}
	exec(t, db, `UPDATE weir.checkpoint SET installation = 'staging'`)
	status().says("stopped: nobody reads it, and its slot holds WAL; start a worker")
}

// TestAdoptUnsetVariable: the name of an installation that nobody has set is not to be written down.
func TestAdoptUnsetVariable(t *testing.T) {
	t.Parallel()
	url, db := database(t)
	for _, text := range []string{"installation: ${INSTALLATION}\n", "source: {slot: \"${SLOT}\"}\n"} {
		path := filepath.Join(t.TempDir(), "weir.yaml")
		check(t, os.WriteFile(path, []byte(text+"observers: {x: {entity: Order, actions: [{type: webhook, url: \"${URL}\"}]}}\n"), 0o600))
		exec(t, db, `INSERT INTO weir.checkpoint (system_identifier, timeline, installation, slot, lsn) VALUES ('1', 1, 'x', 'weir', '0/1000')
			ON CONFLICT DO NOTHING`)
		weir(t, "adopt", "--config", path, "--database-url", url, "--yes").exits(3).complains("is not set", ":1:")
	}
	var installation string
	check(t, db.QueryRow(t.Context(), `SELECT installation FROM weir.checkpoint`).Scan(&installation))
	if installation != "x" {
		t.Errorf("the checkpoint belongs to %q", installation)
	}
}

// TestAdoptRefusesWhileAWorkerRuns: what a running worker does cannot be adopted under it.
func TestAdoptRefusesWhileAWorkerRuns(t *testing.T) {
	t.Parallel()
	url, db := database(t)
	path, slot := slotFile(t, db, "database: {url: \""+url+"\"}\nhttp: {listen: \"\"}\nobservers: {}\n")
	stop := live(t, path)
	until(t, "a checkpoint", func() bool {
		var n int
		check(t, db.QueryRow(t.Context(), `SELECT count(*) FROM weir.checkpoint WHERE epoch > 0`).Scan(&n))
		return n == 1
	})
	weir(t, "adopt", "--config", path, "--yes").exits(0).says("nothing to adopt")
	other, _ := slotFile(t, db, "database: {url: \""+url+"\"}\ninstallation: other\n")
	weir(t, "adopt", "--config", other, "--yes").exits(1).complains("slot "+slot+" is being read or made", "stop the workers")
	stop()
	exec(t, db, `INSERT INTO weir.worker (client_id, hostname, pid, version, seen_at) VALUES ('busy', 'h', 7, 'v', now() + interval '4 s')`)
	weir(t, "adopt", "--config", other, "--yes").exits(1).complains("workers are running: busy (process 7 on h)")
	exec(t, db, `DELETE FROM weir.worker`)
	weir(t, "adopt", "--config", other, "--yes").exits(0).says("No change is left out.")
}
