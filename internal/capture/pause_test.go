package capture_test

import (
	"strings"
	"testing"

	"github.com/fraiseql/weir/internal/capture"
)

// A stream finds out by itself, before it takes the slot, that it is paused; one that reads is told. What was committed
// meanwhile is ingested when it is resumed, once, and in its order.
func TestPausedStream(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	one := r.start("one")
	r.streaming(one)
	r.write(1, 3)
	r.await("them", func() bool { return r.ingested() == "1 2 3" })
	r.exec("INSERT INTO weir.pause (scope) VALUES ('stream')")
	one.Pause()
	one.Pause() // as is done again and again
	r.await("a rest", func() bool { return one.Health().State == capture.Paused })
	free := "SELECT (NOT active)::text FROM pg_replication_slots WHERE slot_name = $1"
	r.await("the slot to be free", func() bool { return r.one(free, string(r.cfg.Slot)) == "true" })

	two := r.start("two") // which nobody tells
	r.await("a rest", func() bool { return two.Health().State == capture.Paused })
	select {
	case <-two.Verified():
	default:
		t.Error("the source was not found to be the checkpoint's: nothing would be delivered")
	}
	r.write(4, 6)
	if got := r.one("SELECT owner || ' ' || epoch FROM weir.checkpoint"); got != "one 1" {
		t.Errorf("owner and epoch are %s while the stream is paused", got)
	}
	if got := r.ingested(); got != "1 2 3" {
		t.Errorf("ingested %s while the stream is paused", got)
	}
	r.exec("DELETE FROM weir.pause")
	r.await("the rest", func() bool { return r.ingested() == "1 2 3 4 5 6" })
	r.await("both to know", func() bool { return one.Health().State != capture.Paused && two.Health().State != capture.Paused })
}

// A gap is something that somebody has to decide: a pause does not hide it.
func TestPausedGap(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	first := r.start("one")
	r.streaming(first)
	first.stop(t)
	r.letGo()
	r.exec("UPDATE weir.checkpoint SET state = 'gap', problem = 'the slot is gone'")
	r.exec("INSERT INTO weir.pause (scope) VALUES ('stream')")
	run := r.start("two")
	r.await("the gap", func() bool { return run.Health().State == capture.Gap })
	if got := run.Health().Err; !strings.Contains(got, "the slot is gone") || !strings.Contains(got, "weir accept-gap") {
		t.Errorf("it says %q", got)
	}
	r.exec("UPDATE weir.checkpoint SET state = 'streaming', problem = ''")
	r.await("the pause", func() bool { return run.Health().State == capture.Paused })
}
