package worker_test

import (
	"context"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/fraiseql/weir/internal/sandbox"
)

// pair is a primary with a standby, and a way to both that a worker takes.
type pair struct {
	*rig    // of the primary, or of the standby once that is promoted
	primary *sandbox.Postgres
	standby *sandbox.Postgres
	relay   *relay
	through string // the URL that leads to the one, and then to the other
}

// newPair makes a standby that synchronizes failover slots, or does not.
func newPair(t *testing.T, sync string) *pair {
	t.Helper()
	primary, r := ownServer(t, nil)
	r.exec("SELECT pg_create_physical_replication_slot('standby')")
	at, err := url.Parse(r.url)
	if err != nil {
		t.Fatal(err)
	}
	if err := primary.Kill(); err != nil {
		t.Fatal(err)
	}
	settings := map[string]string{
		"primary_conninfo":  "host=127.0.0.1 user=postgres dbname=postgres port=" + at.Port(),
		"primary_slot_name": "standby", "hot_standby_feedback": "on",
	}
	if sync != "" {
		settings["sync_replication_slots"] = sync
	}
	standby := startServer(t, sandbox.PostgresOptions{CopyOf: primary, Standby: true, Settings: settings})
	if err := primary.Restart(t.Context(), sandbox.Fast); err != nil {
		t.Fatal(err)
	}
	r.reconnect()
	relay, through := newRelay(t, r.url)
	return &pair{rig: r, primary: primary, standby: standby, relay: relay, through: through}
}

// config is one of a worker that reaches the database through the relay.
func (p *pair) config(rest string) string {
	p.t.Helper()
	direct := p.url
	p.url = p.through
	path := p.write(rest)
	p.url = direct
	return path
}

// onStandby is a session on the standby.
func (p *pair) onStandby(t *testing.T) *rig {
	t.Helper()
	other := &rig{t: t, url: p.standby.URL(p.slot), slot: p.slot}
	other.reconnect()
	t.Cleanup(func() { _ = other.conn.Close(context.WithoutCancel(t.Context())) })
	return other
}

// failOver kills the primary, promotes the standby and lets the name lead to it.
func (p *pair) failOver(t *testing.T, there *rig) {
	t.Helper()
	if err := p.primary.Kill(); err != nil {
		t.Fatal(err)
	}
	// The wait for it may be called off, where what is replayed last is in the way of the statement.
	_, _ = there.conn.Exec(t.Context(), "SELECT pg_promote()")
	there.await("the promotion", func() bool { return there.one("SELECT pg_is_in_recovery()::text") == "false" })
	p.relay.lead(host(t, there.url))
	p.relay.cut()
	p.rig = there
}

// checkFailover: everything that the standby had has one job.
func (p *pair) checkFailover(t *testing.T) {
	t.Helper()
	p.await("a job for every row", func() bool {
		return p.one(`SELECT count(*)::text FROM core.tb_entity_change_log l
			WHERE NOT EXISTS (SELECT FROM job j WHERE j.args->>'event_id' = l.id::text)`) == "0"
	})
	if twice := p.one(`SELECT count(*)::text FROM (SELECT FROM job GROUP BY args->>'event_id', args->>'pk' HAVING count(*) > 1) t`); twice != "0" {
		t.Errorf("%s rows have more than one job", twice)
	}
	if at := p.one("SELECT timeline || state FROM weir.checkpoint"); at != "2streaming" {
		t.Errorf("the checkpoint is on %s", at)
	}
}

// TestCrashFailover: the primary dies, a standby is promoted, and a worker that is led to it goes on by itself. The standby has the
// slot, as far as the checkpoint, or further, or has not got it.
func TestCrashFailover(t *testing.T) {
	t.Parallel()
	t.Run("slot synchronized ahead of the checkpoint", func(t *testing.T) {
		t.Parallel()
		if newRig(t).one("SELECT (current_setting('server_version_num')::int < 170000)::text") == "true" {
			return // failover slots came with PostgreSQL 17
		}
		p := newPair(t, "on")
		config := p.config(logOrders)
		w := p.spawn(t, config)
		p.orders(50)
		p.await("their jobs", func() bool { return p.jobs("state = 'completed'") == "50" })
		there := p.onStandby(t)
		p.awaitSynced(there)
		if err := w.Kill(); err != nil {
			t.Fatal(err)
		}
		p.orders(10)
		p.await("the slot to be ahead", func() bool {
			_, err := p.conn.Exec(t.Context(), "SELECT pg_replication_slot_advance($1, pg_current_wal_lsn())", p.slot)
			return err == nil
		})
		p.awaitSynced(there)
		p.failOver(t, there)
		if ahead := there.one("SELECT (confirmed_flush_lsn > (SELECT lsn FROM weir.checkpoint))::text FROM pg_replication_slots WHERE slot_name = $1", p.slot); ahead != "true" {
			t.Fatal("the slot is not ahead of the checkpoint: this shows nothing")
		}
		again := p.spawn(t, config)
		p.orders(5)
		p.checkFailover(t)
		p.saysItTookOver(t, again)
	})
	t.Run("slot synchronized", func(t *testing.T) {
		t.Parallel()
		if newRig(t).one("SELECT (current_setting('server_version_num')::int < 170000)::text") == "true" {
			return
		}
		p := newPair(t, "on")
		w := p.spawn(t, p.config(logOrders))
		p.orders(50)
		p.await("their jobs", func() bool { return p.jobs("state = 'completed'") == "50" })
		there := p.onStandby(t)
		p.awaitSynced(there)
		p.orders(10)
		p.await("the standby has them", func() bool { return there.one("SELECT count(*)::text FROM core.tb_entity_change_log") == "60" })
		p.failOver(t, there)
		p.orders(5)
		p.checkFailover(t)
		p.saysItTookOver(t, w)
	})
	t.Run("no slot", func(t *testing.T) {
		t.Parallel()
		p := newPair(t, "")
		w := p.spawn(t, p.config(logOrders))
		there := p.onStandby(t)
		load, stop := context.WithCancel(t.Context())
		written := make(chan error, 1)
		go func() { written <- writeChanges(load, p.url, 1<<30) }()
		p.await("some jobs", func() bool { return p.one("SELECT (count(*) > 100)::text FROM job") == "true" })
		p.await("some there, too", func() bool { return there.one("SELECT (count(*) > 50)::text FROM job") == "true" })
		p.failOver(t, there)
		stop()
		if err := <-written; err != nil {
			t.Logf("the writer's server died: %v", err)
		}
		p.orders(5)
		p.checkFailover(t)
		p.saysItTookOver(t, w)
	})
}

// awaitSynced waits until the standby has the slot as the primary has it, so that it outlives a promotion.
func (p *pair) awaitSynced(there *rig) {
	p.t.Helper()
	at := p.one("SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = $1", p.slot)
	p.awaitFor(2*time.Minute, "the slot on the standby", func() bool {
		p.exec("SELECT pg_log_standby_snapshot(), pg_logical_emit_message(true, 'app', repeat('x', 20000))") // the slot moves with the WAL
		time.Sleep(200 * time.Millisecond)                                                                   // the slot's synchronization polls
		return there.one(`SELECT count(*)::text FROM pg_replication_slots WHERE slot_name = $1 AND synced AND NOT temporary
			AND confirmed_flush_lsn >= $2::text::pg_lsn`, p.slot, at) == "1"
	})
}

func (p *pair) saysItTookOver(t *testing.T, w *process) {
	t.Helper()
	p.await("a warning", func() bool { return strings.Contains(w.log.String(), "promoted copy looks the same") })
}
