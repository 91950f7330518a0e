package worker_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/fraiseql/weir/internal/sandbox"
)

// full says that the long forms of the crash tests run (make crash).
func full() bool { return os.Getenv("WEIR_CHAOS") == "full" }

const crashConfig = `
http: {listen: ""}
log: {level: warn}
observers:
  every-second:
    entity: Order
    condition: even
    actions: [{type: log, level: debug}]
`

// TestCrash commits changes in transactions of every size while the worker is killed and PostgreSQL is restarted at
// random, and then compares the change log with the jobs: one for each matching row, in commit order.
func TestCrash(t *testing.T) {
	t.Parallel()
	kills, restarts, changes := 5, 2, 20000
	if full() {
		kills = 25
	}
	server, err := sandbox.StartPostgres(t.Context(), sandbox.PostgresOptions{
		Durable: true, Settings: map[string]string{"track_commit_timestamp": "on"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Stop(context.WithoutCancel(t.Context())) })
	databaseURL, _, err := server.Database(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r := rigOn(t, databaseURL)
	config := r.writeCrash()
	w := &victim{r: r, binary: workerBinary(t), config: config}
	w.start()
	r.await("the slot", func() bool { return r.one("SELECT count(*)::text FROM weir.checkpoint") == "1" })

	written := make(chan error, 1)
	go func() { written <- writeChanges(t.Context(), r.url, changes) }()
	pause := func() { time.Sleep(time.Duration(100+rand.IntN(900)) * time.Millisecond) }
	for i := range kills {
		pause()
		w.kill()
		if i%max(1, kills/restarts) == 1 {
			mode := sandbox.Fast
			if i > kills/2 {
				mode = sandbox.Immediate
			}
			if err := server.Restart(t.Context(), mode); err != nil {
				t.Fatal(err)
			}
		}
		w.start()
	}
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	r.reconnect()
	const matching = `FROM core.tb_entity_change_log WHERE (object_data->>'even')::boolean`
	want := r.one("SELECT count(*)::text " + matching)
	r.awaitFor(2*time.Minute, "all jobs", func() bool {
		return r.one("SELECT (count(*) >= $1::text::bigint)::text FROM job", want) == "true"
	})
	r.exec(`SELECT pg_logical_emit_message(true, 'test', 'something later')`)
	time.Sleep(time.Second) // a repeat would come now
	r.checkCrash(matching, want)
	w.kill()
	t.Logf("%s matching changes of %d, %d kills, %s jobs", want, changes, kills, r.jobs("true"))
}

func (r *rig) writeCrash() string {
	path := filepath.Join(r.t.TempDir(), "weir.yaml")
	frame := fmt.Sprintf("database: {url: %q}\nsource: {slot: %s, heartbeat: 1s}\n", r.url, r.slot)
	if err := os.WriteFile(path, []byte(frame+crashConfig), 0o600); err != nil {
		r.t.Fatal(err)
	}
	return path
}

// checkCrash compares the jobs with the change log, which is the truth.
func (r *rig) checkCrash(matching, want string) {
	r.t.Helper()
	if got := r.one("SELECT count(*) || ' ' || count(DISTINCT (args->>'pk', args->>'observer', args->>'action')) FROM job"); got != want+" "+want {
		r.t.Errorf("jobs and distinct deliveries: %s, want %s of both", got, want)
	}
	if lost := r.one("SELECT count(*)::text FROM (SELECT pk_entity_change_log " + matching +
		" EXCEPT SELECT (args->>'pk')::bigint FROM job) l"); lost != "0" {
		r.t.Errorf("%s changes lost", lost)
	}
	if events := r.one(`SELECT (count(*) = (SELECT count(*) FROM core.tb_entity_change_log))::text FROM weir.event`); events != "true" {
		r.t.Error("weir.event does not hold every change once")
	}
	disorder := r.one(`
		SELECT count(*)::text FROM (
			SELECT row_number() OVER (ORDER BY (args->>'lsn')::pg_lsn, (args->>'tx_index')::bigint)
			     - row_number() OVER (ORDER BY pg_xact_commit_timestamp(l.xmin), l.pk_entity_change_log) AS off
			  FROM job j JOIN core.tb_entity_change_log l ON l.pk_entity_change_log = (args->>'pk')::bigint) o
		 WHERE off <> 0`)
	if disorder != "0" {
		r.t.Errorf("%s jobs are not in commit order", disorder)
	}
}

// writeChanges commits n rows: single ones, transactions of 1,000, one of 10,000, with rollbacks and savepoints between.
// A lost connection may leave a transaction in doubt; what counts in the end is what the change log holds.
func writeChanges(ctx context.Context, databaseURL string, n int) error {
	w := &writer{ctx: ctx, url: databaseURL}
	defer w.close()
	big := false
	for w.done < n {
		size := 1
		switch left := n - w.done; {
		case !big && w.done > n/4 && left >= 10000:
			size, big = 10000, true
		case rand.IntN(200) == 0 && left >= 1000:
			size = 1000
		}
		if err := w.transaction(size, rand.IntN(10) == 0); err != nil {
			return err
		}
	}
	return nil
}

// victim is a worker process that is killed.
type victim struct {
	r       *rig
	binary  string
	config  string
	process *sandbox.Process
	log     bytes.Buffer
}

func (v *victim) start() {
	v.r.t.Helper()
	p, err := sandbox.StartProcess(context.WithoutCancel(v.r.t.Context()), v.binary, []string{"--config", v.config}, os.Environ(), &v.log)
	if err != nil {
		v.r.t.Fatal(err)
	}
	v.process = p
}

// kill is SIGKILL; a worker that was gone already has failed.
func (v *victim) kill() {
	v.r.t.Helper()
	select {
	case <-v.process.Exited():
		v.r.t.Fatalf("the worker ended by itself:\n%s", v.log.String())
	default:
	}
	if err := v.process.Kill(); err != nil {
		v.r.t.Fatal(err)
	}
}
