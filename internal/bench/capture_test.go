package bench

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"
)

const backlogRows = 500_000

// BenchmarkCapture reads a backlog that nothing matches, through one slot each.
func BenchmarkCapture(b *testing.B) {
	for _, each := range []int{1000, 1} {
		b.Run(fmt.Sprintf("tx=%d", each), func(b *testing.B) {
			r := newRig(b)
			config := r.write("history: {events: matched}\nobservers: {other: {entity: Other, actions: [{type: log}]}}")
			r.makeSlot(config)
			r.exec("SELECT pg_create_logical_replication_slot('bare_' || current_database(), 'pgoutput')")
			if os.Getenv(peerVariable) != "" {
				r.exec("SELECT pg_create_logical_replication_slot('peer_' || current_database(), 'pgoutput')")
			}
			r.changes("Order", backlogRows, each)
			end := r.lsn()
			b.Run("by=weir", func(b *testing.B) { r.on(b).captured(config) })
			b.Run("by=pg_recvlogical", func(b *testing.B) { r.on(b).received(end) })
			if peer := os.Getenv(peerVariable); peer != "" {
				b.Run("by=peer", func(b *testing.B) { r.on(b).followed(peer, end) })
			}
		})
	}
}

// on is the rig in a sub-benchmark.
func (r *rig) on(b *testing.B) *rig {
	b.Helper()
	again := *r
	again.b = b
	return &again
}

func (r *rig) lsn() (lsn string) {
	r.b.Helper()
	check(r.b, r.conn.QueryRow(r.b.Context(), "SELECT pg_current_wal_insert_lsn()::text").Scan(&lsn))
	return lsn
}

// captured has a worker ingest the backlog. Its time runs from when it reads the stream.
func (r *rig) captured(config string) {
	r.b.Helper()
	p := r.reads(r.start(config))
	objects, bytes := p.allocated()
	used, before := cpu(r.b, p.PID()), r.number("SELECT events FROM weir.checkpoint")
	began := time.Now()
	r.await("the backlog", func() bool { return r.number("SELECT events FROM weir.checkpoint") >= backlogRows })
	took := time.Since(began)
	objectsNow, bytesNow := p.allocated()
	n := backlogRows - before
	figures(r.b, map[string]float64{
		"rows/s": n / took.Seconds(), "allocs/row": (objectsNow - objects) / n, "B/row": (bytesNow - bytes) / n,
		"cpu-µs/row": float64((cpu(r.b, p.PID()) - used).Microseconds()) / n,
	})
	p.stop()
}

// received has pg_recvlogical read it and throw it away.
func (r *rig) received(end string) {
	r.b.Helper()
	began := time.Now()
	cmd := exec.CommandContext(context.WithoutCancel(r.b.Context()), "pg_recvlogical", "--dbname", r.url,
		"--slot", "bare_"+r.slot, "--start", "--no-loop", "--endpos", end, "--file", "/dev/null", "--fsync-interval", "0",
		"--option", "proto_version=1", "--option", "publication_names=weir", "--option", "messages=true")
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.b.Fatalf("pg_recvlogical: %v\n%s", err, out)
	}
	took := time.Since(began)
	used := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	figures(r.b, map[string]float64{
		"rows/s": backlogRows / took.Seconds(), "cpu-µs/row": float64(used.Microseconds()) / backlogRows,
	})
}
