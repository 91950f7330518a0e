package capture_test

import (
	"testing"
)

// A standby whose copy of the slot is ahead of its copy of the checkpoint would have lost what lies between. The standby here is a
// physical slot that is moved by hand: it has what that has been moved to.
func TestAFailoverSlotIsNotConfirmedBeforeTheStandbyHasTheCheckpoint(t *testing.T) {
	t.Parallel()
	_, databaseURL := ownServer(t, map[string]string{"wal_sender_timeout": "4s"}) // so that we say each second what we have
	r := rigOn(t, databaseURL)
	if r.one("SELECT (current_setting('server_version_num')::int < 170000)::text") == "true" {
		t.Skip("no failover slots before PostgreSQL 17")
	}
	run := r.start("one")
	r.streaming(run)
	r.exec("SELECT pg_create_physical_replication_slot('standby', true)")
	r.exec("ALTER SYSTEM SET synchronized_standby_slots = 'standby'")
	r.exec("SELECT pg_reload_conf()")
	r.await("the setting", func() bool { return r.one("SELECT current_setting('synchronized_standby_slots')") == "standby" })

	r.write(1, 1)
	written := r.one("SELECT pg_current_wal_insert_lsn()::text")
	r.await("the row", func() bool {
		r.exec("SELECT pg_replication_slot_advance('standby', $1)", written)
		return r.ingested() == "1"
	})
	ingested := r.one("SELECT clock_timestamp()::text")
	r.await("two more status messages", func() bool {
		return r.one("SELECT (min(reply_time) > $1::timestamptz + '1 s')::text FROM pg_stat_replication", ingested) == "true"
	})
	confirmed := "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = '" + string(r.cfg.Slot) + "'"
	if r.one("SELECT (("+confirmed+")::pg_lsn < lsn)::text FROM weir.checkpoint") != "true" {
		t.Errorf("confirmed %s while the standby has only what lies before %s", r.one(confirmed), written)
	}
	r.await("the confirmation", func() bool {
		r.exec("SELECT pg_replication_slot_advance('standby', pg_current_wal_flush_lsn())")
		return r.one("SELECT (("+confirmed+")::pg_lsn >= lsn)::text FROM weir.checkpoint") == "true"
	})
}
