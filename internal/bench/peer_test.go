package bench

import (
	"context"
	"time"

	"github.com/fraiseql/weir/internal/sandbox"
)

// followed has another program read the backlog: it is called without arguments and with DATABASE_URL, SLOT and PUBLICATION in
// its environment, and is done when it has confirmed the slot up to the end.
func (r *rig) followed(peer, end string) {
	r.b.Helper()
	slot := "peer_" + r.slot
	began := time.Now()
	var log sandbox.Output
	p, err := sandbox.StartProcess(context.WithoutCancel(r.b.Context()), peer, nil,
		[]string{"DATABASE_URL=" + r.url, "SLOT=" + slot, "PUBLICATION=weir"}, &log)
	check(r.b, err)
	defer func() { check(r.b, p.Kill()) }()
	r.await("the peer", func() bool {
		select {
		case <-p.Exited():
			r.b.Fatalf("%s ended before it had confirmed %s:\n%s", peer, end, &log)
		default:
		}
		return r.number("SELECT (confirmed_flush_lsn >= $1::pg_lsn)::int FROM pg_replication_slots WHERE slot_name = $2", end, slot) == 1
	})
	figures(r.b, map[string]float64{"rows/s": backlogRows / time.Since(began).Seconds()})
}
