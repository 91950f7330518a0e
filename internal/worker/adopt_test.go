package worker_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/internal/capture"
	"github.com/fraiseql/weir/internal/ops"
	"github.com/fraiseql/weir/internal/sandbox"
)

// refused runs a worker to its end and returns what it said.
func (r *rig) refused(t *testing.T, config string) string {
	t.Helper()
	log := &sandbox.Output{}
	proc, err := sandbox.StartProcess(context.WithoutCancel(t.Context()), workerBinary(t), []string{"--config", config}, os.Environ(), log)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = proc.Kill() }()
	select {
	case <-proc.Exited():
	case <-time.After(30 * time.Second):
		t.Fatalf("the worker does not end:\n%s", log)
	}
	if err := proc.Wait(); err == nil || err.Error() != "exit status 1" {
		t.Errorf("got %v, want exit status 1", err)
	}
	return log.String()
}

// adopt does what weir adopt does.
func (r *rig) adopt(t *testing.T, unfinished ops.Unfinished) *ops.Adoption {
	t.Helper()
	source, err := pgx.Connect(t.Context(), r.url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = source.Close(t.Context()) }()
	cfg := capture.Config{Slot: capture.Name(r.slot)}
	plan, err := ops.PlanAdoption(t.Context(), r.conn, source, cfg, capture.AdoptOptions{})
	if err == nil {
		err = plan.Apply(t.Context(), unfinished, slog.New(slog.DiscardHandler))
	}
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

// shop has a delivery that was made and one that is unfinished, for its receiver is out of order.
func (r *rig) shop(t *testing.T) (rc *receiver, config string) {
	t.Helper()
	rc = newReceiver(t, nil)
	config = r.write(hook(rc.URL, "", "retry: {initial_delay: 1s, backoff: fixed}"))
	w := r.spawn(t, config)
	r.order(`{"n": 1}`)
	r.await("a delivery", func() bool { return r.jobs("state = 'completed'") == "1" })
	rc.behave(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	r.order(`{"n": 2}`)
	r.await("a delivery that fails", func() bool { return r.jobs("state IN ('retryable', 'available') AND attempt > 0") == "1" })
	if err := w.Kill(); err != nil {
		t.Fatal(err)
	}
	return rc, config
}

// restore fills a migrated database with the contents of another, as a dump would.
func (r *rig) restore(t *testing.T, from *rig) {
	t.Helper()
	rows, err := from.conn.Query(t.Context(), `
		SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname IN ('weir', 'core') AND c.relkind = 'r'`)
	if err != nil {
		t.Fatal(err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	r.exec("TRUNCATE " + strings.Join(tables, ", "))
	for _, table := range tables {
		var data bytes.Buffer
		if _, err := from.conn.PgConn().CopyTo(t.Context(), &data, "COPY "+table+" TO STDOUT"); err != nil {
			t.Fatal(err)
		}
		if _, err := r.conn.PgConn().CopyFrom(t.Context(), io.Reader(&data), "COPY "+table+" FROM STDIN"); err != nil {
			t.Fatal(err)
		}
	}
	r.exec("SELECT setval('weir.river_job_id_seq', 1000), setval(pg_get_serial_sequence('core.tb_entity_change_log', 'pk_entity_change_log'), 1000)")
}

// A dump that is restored into another cluster has the checkpoint, the unfinished deliveries and the leases with it.
func TestRestoredDumpSendsNothing(t *testing.T) {
	t.Parallel()
	for _, unfinished := range []ops.Unfinished{ops.KeepUnfinished, ops.CancelUnfinished} {
		t.Run(string(unfinished), func(t *testing.T) {
			t.Parallel()
			_, original := ownServer(t, nil)
			rc, _ := original.shop(t)
			other := newRig(t)
			other.restore(t, original)
			other.slot = original.slot // as in the configuration that comes along
			config := other.write(hook(rc.URL, "", "retry: {initial_delay: 1s, backoff: fixed}"))
			rc.behave(nil)
			before := len(rc.seen())
			said := other.refused(t, config)
			if !strings.Contains(said, "another cluster") || !strings.Contains(said, "weir adopt") {
				t.Errorf("it said:\n%s", said)
			}
			if after := len(rc.seen()); after != before {
				t.Fatalf("%d requests of a copy", after-before)
			}

			plan := other.adopt(t, unfinished)
			if !plan.Done || plan.Unfinished != 1 || plan.Continuous || plan.Slot != capture.CreateSlot {
				t.Errorf("got %+v", plan)
			}
			other.spawn(t, config)
			other.order(`{"n": 3}`)
			want := map[ops.Unfinished]int{ops.KeepUnfinished: 2, ops.CancelUnfinished: 1}[unfinished]
			other.await("the deliveries from here", func() bool {
				return other.jobs("state IN ('available', 'retryable', 'running')") == "0" && len(rc.seen()) >= before+want
			})
			if got := len(rc.seen()) - before; got != want {
				t.Errorf("%d requests after the adoption, want %d", got, want)
			}
			if epoch := other.one("SELECT epoch::text FROM weir.checkpoint"); epoch != "3" {
				t.Errorf("epoch %s, want one for each of the two owners and one for the adoption", epoch)
			}
		})
	}
}

// A copy of the data directory has everything with it: system identifier, timeline, slot. Original and copy differ in
// where they are.
func TestCopyOfADataDirectorySendsNothing(t *testing.T) {
	t.Parallel()
	server, original := ownServer(t, nil)
	rc, config := original.shop(t)
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	twin := startServer(t, sandbox.PostgresOptions{CopyOf: server})
	if err := server.Restart(t.Context(), sandbox.Fast); err != nil {
		t.Fatal(err)
	}
	original.reconnect()
	other := rigOn(t, twin.URL(original.slot))
	copied := other.write(hook(rc.URL, ""))
	before := len(rc.seen())
	said := other.refused(t, copied)
	if !strings.Contains(said, "copy of the data directory") || !strings.Contains(said, "weir adopt") {
		t.Errorf("it said:\n%s", said)
	}
	if after := len(rc.seen()); after != before {
		t.Errorf("%d requests of a copy", after-before)
	}

	rc.behave(nil)
	original.spawn(t, config) // is none the worse for it
	original.await("the delivery of the original", func() bool { return original.jobs("state = 'completed'") == "2" })

	sent := len(rc.seen())
	plan := other.adopt(t, ops.CancelUnfinished)
	if !plan.Continuous || plan.Slot != capture.KeepSlot || plan.Cancelled != 1 {
		t.Errorf("got %+v", plan)
	}
	other.spawn(t, copied)
	other.order(`{"n": 3}`)
	other.await("a delivery of the copy", func() bool { return len(rc.seen()) == sent+1 })
}

// A worker waits for a standby to become the primary, and goes on from there when it has: its timeline comes of the checkpoint's.
func TestPromotedStandbyGoesOn(t *testing.T) {
	t.Parallel()
	server, original := ownServer(t, nil)
	rc, _ := original.shop(t)
	rc.behave(nil)
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	primary, err := url.Parse(original.url)
	if err != nil {
		t.Fatal(err)
	}
	twin := startServer(t, sandbox.PostgresOptions{
		CopyOf: server, Standby: true,
		Settings: map[string]string{"primary_conninfo": "host=127.0.0.1 user=postgres port=" + primary.Port()},
	})
	if err := server.Restart(t.Context(), sandbox.Fast); err != nil {
		t.Fatal(err)
	}
	original.reconnect()
	original.order(`{"n": 3}`) // while nobody reads
	standby := &rig{t: t, url: twin.URL(original.slot), slot: original.slot}
	standby.reconnect()
	t.Cleanup(func() { _ = standby.conn.Close(context.WithoutCancel(t.Context())) })
	standby.await("the standby has the order", func() bool { return standby.one("SELECT count(*)::text FROM core.tb_entity_change_log") == "3" })
	config := standby.write(hook(rc.URL, ""))
	elsewhere := standby.write("installation: staging\n" + hook(rc.URL, ""))
	log := &sandbox.Output{}
	waiting, err := sandbox.StartProcess(context.WithoutCancel(t.Context()), workerBinary(t), []string{"--config", config}, os.Environ(), log)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = waiting.Kill() }()
	standby.await("it waits", func() bool { return strings.Contains(log.String(), "database not ready, waiting for it") })
	standby.exec("SELECT pg_promote()")
	standby.await("what was unfinished, and the third order", func() bool { return standby.jobs("state = 'completed'") == "3" })
	if !strings.Contains(log.String(), "promoted copy looks the same") {
		t.Errorf("it said:\n%s", log)
	}
	if err := waiting.Kill(); err != nil {
		t.Fatal(err)
	}
	if said := standby.refused(t, elsewhere); !strings.Contains(said, "the checkpoint belongs to installation") {
		t.Errorf("a worker of another environment said:\n%s", said)
	}
}
