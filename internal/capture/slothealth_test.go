package capture_test

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// series is the value of a gauge's series with this label, -1 without one.
func series(t *testing.T, reg *prometheus.Registry, name, label string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && (label == "" || m.GetLabel()[0].GetValue() == label) {
				return m.GetGauge().GetValue()
			}
		}
	}
	return -1
}

// The owner says how its slot is, also when the server may soon take WAL away from it, or has done so.
func TestSlotHealth(t *testing.T) {
	t.Parallel()
	_, url := ownServer(t, map[string]string{"max_slot_wal_keep_size": "64MB"})
	r := rigOn(t, url)
	run := r.start("one")
	r.streaming(run)
	is := func(name, label string) float64 { return series(t, r.reg, name, label) }
	r.await("the slot's health", func() bool {
		return is("weir_slot_wal_status", "reserved") == 1 && is("weir_slot_active", "") == 1 && is("weir_slot_wal_status", "lost") == 0
	})
	if safe := is("weir_slot_safe_wal_bytes", ""); safe < 32<<20 || safe > 128<<20 {
		t.Errorf("%v bytes are safe of 64 MB", safe)
	}
	held := is("weir_slot_retained_bytes", "")
	tx, err := r.conn.Begin(t.Context()) // a batch waits for it, and the slot with the batch
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "LOCK TABLE weir.checkpoint IN EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "SELECT pg_logical_emit_message(false, 'other', repeat('x', 1 << 20)) FROM generate_series(1, 20)"); err != nil {
		t.Fatal(err)
	}
	r.await("the WAL that the slot holds", func() bool { return is("weir_slot_retained_bytes", "") > held+16<<20 })
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// A standby says how a slot is that somebody else holds: nobody else would.
func TestSlotHealthOfAStandby(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	first := r.start("two")
	r.streaming(first)
	first.stop(t)
	r.letGo()
	r.stranger("pg_recvlogical")
	r.start("one")
	r.await("the standby to look", func() bool { return series(t, r.reg, "weir_slot_active", "") == 1 })
	r.exec("SELECT pg_logical_emit_message(false, 'other', repeat('x', 1 << 20)) FROM generate_series(1, 4)")
	r.await("the WAL that the slot holds", func() bool { return series(t, r.reg, "weir_slot_retained_bytes", "") > 4<<20 })
	if safe := series(t, r.reg, "weir_slot_safe_wal_bytes", ""); safe < 1<<60 {
		t.Errorf("%v bytes are safe without a limit, want +Inf", safe)
	}
}
