package capture

import (
	"cmp"
	"slices"
	"time"

	"github.com/fraiseql/weir/internal/event"
)

// A batch closes when one of these is reached. They bound the memory: one batch is filled, one prepared, one committed.
const (
	batchChanges = 2000
	batchBytes   = 2 << 20
	// batchLinger is how long the first change of a batch waits for more. Larger batches share one fsync.
	batchLinger = 2 * time.Millisecond
)

// batch is what one ingest transaction takes: changes in commit order and the position after them. It need not end
// where a transaction does.
type batch struct {
	most      int // changes; 0: batchChanges
	changes   []event.Change
	bytes     int
	heartbeat bool // a heartbeat came: the position is worth storing even without changes
	started   time.Time
	committed time.Time // commit time of the newest transaction in it
	end       event.Position
	prepared  Prepared
}

func (b *batch) add(d decoded, size int, now time.Time) {
	switch {
	case d.change != nil:
		if n := len(b.changes); n == cap(b.changes) && n >= batchChanges/8 && n < batchChanges {
			// append would grow it by quarters, and leave three times as much garbage as the batch takes in the end.
			b.changes = slices.Grow(b.changes, batchChanges-n)
		}
		b.changes = append(append(b.changes, *d.change), d.also...)
		b.bytes += size
	case d.heartbeat:
		b.heartbeat = true
	default:
		return
	}
	if b.started.IsZero() {
		b.started = now
	}
}

// worthStoring says that the batch holds something. A position that moved over other WAL only is not written down:
// our own writes are WAL, too, and an idle system would keep itself busy.
func (b *batch) worthStoring() bool { return len(b.changes) > 0 || b.heartbeat }

func (b *batch) full() bool {
	return len(b.changes) >= cmp.Or(b.most, batchChanges) || b.bytes >= batchBytes
}

func (b *batch) ripe(now time.Time) bool {
	return b.full() || (b.worthStoring() && now.Sub(b.started) >= batchLinger)
}
