package worker_test

import (
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fraiseql/weir/internal/ops"
)

var stream = ops.Targets{Stream: true}

// ingested is how many events there are.
func (r *rig) ingested() int { return r.number("SELECT count(*)::text FROM weir.event") }

// TestCrashPausedStream pauses the stream under load, has workers killed and started meanwhile, also one that hung when the pause
// came, and resumes it: nothing is lost and nothing is there twice.
func TestCrashPausedStream(t *testing.T) {
	t.Parallel()
	f := newFleet(t, newRig(t), fleetOptions{lease: 8 * time.Second, shutdown: 5 * time.Second})
	f.load()
	f.await("events", func() bool { return f.ingested() > 200 })
	for _, hangs := range []bool{false, true} {
		owner := f.owner()
		if hangs {
			owner.signal(t, syscall.SIGSTOP)
		}
		began := time.Now()
		f.pause(stream)
		f.await("nobody to read", func() bool { return f.reader() == "" })
		t.Logf("nobody reads %s after the pause (the owner hangs: %t)", time.Since(began).Round(time.Millisecond), hangs)
		epoch := f.one("SELECT epoch::text FROM weir.checkpoint")
		if err := owner.Kill(); err != nil {
			t.Fatal(err)
		}
		f.leave(owner)
		f.join()
		for _, m := range f.members {
			f.await("a worker to rest", func() bool {
				a := m.get(t, "/readyz")
				return a.code == http.StatusOK && strings.Contains(a.body, `"stream":"paused"`) && strings.Contains(a.body, "stream: paused, so its slot holds WAL")
			})
		}
		events := f.ingested()
		written := f.number("SELECT count(*)::text FROM core.tb_entity_change_log")
		f.await("what is not read", func() bool {
			return f.number("SELECT count(*)::text FROM core.tb_entity_change_log") > written+300
		})
		f.await("what was ingested to be delivered", func() bool { return f.jobs("finalized_at IS NULL") == "0" })
		if n := f.ingested(); n != events {
			t.Errorf("%d events came while the stream was paused", n-events)
		}
		if now := f.one("SELECT epoch::text FROM weir.checkpoint"); now != epoch {
			t.Errorf("epoch %s, before %s: somebody took the stream while it was paused", now, epoch)
		}
		began = time.Now()
		f.resume(stream)
		f.await("a reader", func() bool { return f.reader() != "" })
		t.Logf("somebody reads again %s after the pause", time.Since(began).Round(time.Millisecond))
		f.await("events", func() bool { return f.ingested() > events })
	}
	f.settle()
}

// A paused stream whose slot is lost is not recovered before it is resumed. What is queued is delivered meanwhile, by a worker that
// has never read it; the metrics tell what the slot holds.
func TestPausedStreamIsNotRecovered(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rc := newReceiver(t, nil)
	config := hook(rc.URL, "")
	one := r.started(config)
	r.pause(stream)
	r.await("the worker to rest", func() bool { return strings.Contains(one.get(t, "/readyz").body, `"stream":"paused"`) })
	r.obeyed("stream", "", true, one)
	if n := one.metric(t, "weir_paused", `scope="deliveries"`); n != 0 {
		t.Error("the deliveries are paused, too")
	}
	r.orders(200)
	r.await("the metric of the WAL", func() bool {
		return !strings.Contains(one.get(t, "/metrics").body, "\nweir_slot_retained_bytes 0\n") && strings.Contains(one.get(t, "/metrics").body, "\nweir_stream_owned 0\n")
	})
	one.stop(t)
	r.exec("SELECT pg_drop_replication_slot($1)", r.slot)
	two := r.started(config)
	r.await("the worker to rest", func() bool { return strings.Contains(two.get(t, "/readyz").body, `"stream":"paused"`) })
	r.exec(`INSERT INTO weir.river_job (kind, queue, max_attempts, args, created_at) VALUES ('weir_log', 'log', 1, '{"observer": "nobody"}', now() - interval '2 h')`)
	r.await("a delivery", func() bool { return r.jobs(deadLetter) == "1" })
	r.exec("DELETE FROM weir.river_job WHERE kind = 'weir_log'")
	if state := r.one("SELECT state || ' ' || epoch FROM weir.checkpoint"); state != "streaming 1" {
		t.Errorf("the checkpoint is %s while the stream is paused", state)
	}
	if n := r.one("SELECT count(*)::text FROM pg_replication_slots WHERE slot_name = $1", r.slot); n != "0" {
		t.Error("the slot was made again while the stream is paused")
	}
	r.resume(stream)
	r.once(rc, 200)
	if n := r.ingested(); n != 200 {
		t.Errorf("%d events, want 200", n)
	}
}

// A stream that is paused before the first worker starts has no slot yet, and begins when it is resumed.
func TestPausedBeforeTheFirstStart(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rc := newReceiver(t, nil)
	r.pause(stream)
	run := r.start(hook(rc.URL, ""))
	r.await("the worker to rest", func() bool { return strings.Contains(run.get(t, "/readyz").body, `"stream":"paused"`) })
	if n := r.one("SELECT count(*)::text FROM pg_replication_slots WHERE slot_name = $1", r.slot); n != "0" {
		t.Error("a slot was made")
	}
	r.resume(stream)
	r.await("the stream", func() bool { return strings.Contains(run.get(t, "/readyz").body, `"stream":"streaming"`) })
	r.orders(1)
	r.once(rc, 1)
}
