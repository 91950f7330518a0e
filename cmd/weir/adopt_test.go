package main

import (
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
	yes.run(t).exits(0).says("Made slot "+slot, "of which 2 were cancelled", "The checkpoint is adopted: start a worker.")
	if got := states(t, db); got != "cancelled 0, cancelled 0" {
		t.Errorf("jobs after a yes: %s", got)
	}
	adopt().exits(0).says("nothing to adopt: workers start from the checkpoint as it is")
	weir(t, "doctor", "--config", path, "--database-url", url).exits(0)

	// A slot that is gone: the present, and what may be missing.
	exec(t, db, `SELECT pg_drop_replication_slot($1)`, slot)
	gone := adopt("--yes").exits(0).says("slot "+slot+" does not exist", "Made slot")
	if strings.Contains(gone.stdout, "unfinished") {
		t.Errorf("there is nothing unfinished:\n%s", gone.stdout)
	}
	var epoch int
	check(t, db.QueryRow(t.Context(), `SELECT epoch FROM weir.checkpoint`).Scan(&epoch))
	if epoch != 9 {
		t.Errorf("epoch %d, want one more for each adoption", epoch)
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
	weir(t, "adopt", "--config", other, "--yes").exits(1).complains("slot "+slot+" is being read", "stop the workers")
	stop()
	exec(t, db, `INSERT INTO weir.worker (client_id, hostname, pid, version, seen_at) VALUES ('busy', 'h', 7, 'v', now() + interval '4 s')`)
	weir(t, "adopt", "--config", other, "--yes").exits(1).complains("workers are running: busy (process 7 on h)")
	exec(t, db, `DELETE FROM weir.worker`)
	weir(t, "adopt", "--config", other, "--yes").exits(0).says("No change is left out.")
}
