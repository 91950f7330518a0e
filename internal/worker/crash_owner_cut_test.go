package worker_test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fraiseql/weir/internal/capture"
	"github.com/fraiseql/weir/internal/lease"
)

// What capture takes for silence is what makes a worker dead to others.
func TestSilenceIsTheLeases(t *testing.T) {
	t.Parallel()
	if capture.Silent != lease.Expiry {
		t.Errorf("capture.Silent is %s, lease.Expiry %s", capture.Silent, lease.Expiry)
	}
}

const shortLease = 6 * time.Second // shorter than what makes a worker dead to others: nobody else ends its sessions

// The owner is stopped in the middle of a transaction that holds the checkpoint's row: taking the epoch must not wait for it.
// Its batch is rolled back, and comes through another worker.
func TestCrashOwnerHangsInATransaction(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	reached := make(chan struct{})
	g, through := newGate(t, r.url, place{after: "AdvanceCheckpoint", says: `copy "weir"."event"`}, func() { close(reached) })
	f := newFleet(t, r, fleetOptions{lease: shortLease, shutdown: 5 * time.Second, database: through})
	owner, before := f.members[0], f.members[0].clientID()
	time.Sleep(9 * time.Second) // each has to have seen the database up for as long as a lease holds
	f.load()
	<-reached
	stopped := time.Now()
	owner.signal(t, syscall.SIGSTOP)
	if n := f.one(`SELECT count(*)::text FROM pg_stat_activity a JOIN pg_locks l USING (pid)
		WHERE application_name = 'weir:' || $1::text AND state = 'idle in transaction'
		  AND relation = 'weir.checkpoint'::regclass AND mode = 'RowExclusiveLock'`, before); n != "1" {
		t.Fatalf("%s transactions hold the checkpoint's row: this shows nothing", n)
	}
	slot, moved := f.awaitOwner(before, stopped)
	t.Logf("another worker had the slot after %s, and moved the checkpoint after %s", slot, moved)
	if moved > shortLease {
		t.Errorf("the takeover took %s, more than the lease of %s", moved, shortLease)
	}
	if n := f.one("SELECT count(*)::text FROM weir.worker WHERE client_id = $1", before); n != "1" {
		t.Error("its transaction was ended only when others had declared it dead")
	}
	f.checkHung(before)
	g.release()
	f.awake(owner, before)
	f.settle()
}

// The owner is cut off from its servers, or from its source alone, by a network that closes no connection. Another worker takes
// over within the lease, and the owner is a standby when the network is back.
//
//nolint:paralleltest // it measures what is guaranteed in seconds
func TestCrashOwnerIsCutOff(t *testing.T) {
	for name, lease := range map[string]time.Duration{"from everything": 10 * time.Second, "from the source": 10 * time.Second} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			rl, through := newRelay(t, r.url)
			o := fleetOptions{lease: lease, shutdown: 5 * time.Second, source: through}
			if name == "from everything" {
				o.database = through
			}
			f := newFleet(t, r, o)
			owner, before := f.members[0], f.members[0].clientID()
			time.Sleep(9 * time.Second)
			f.load()
			cut := time.Now()
			rl.freeze("")
			slot, moved := f.awaitOwner(before, cut)
			t.Logf("another worker had the slot after %s, and moved the checkpoint after %s", slot, moved)
			if moved > lease {
				t.Errorf("the takeover took %s, more than the lease of %s", moved, lease)
			}
			f.checkHung(before)
			rl.lead(host(t, r.url))
			f.await("it stands by", func() bool { return strings.Contains(owner.get(t, "/readyz").body, `"stream":"standby"`) })
			f.settle()
		})
	}
}

// A router forgets the connections of the only worker, and lets new ones pass. The server still has its walsender, and the
// transaction that it was in: it ends both itself, and reads on.
func TestCrashOwnerLosesItsConnections(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rl, through := newRelay(t, r.url)
	f := &fleet{rig: r, t: t, rc: newReceiver(t, nil)}
	f.config = f.configure(fleetOptions{lease: shortLease, shutdown: 5 * time.Second, database: through, source: through})
	owner := f.join()
	client := owner.clientID()
	f.load()
	f.await("events", func() bool { return f.one("SELECT (count(*) > 500)::text FROM weir.event") == "true" })
	epoch := f.one("SELECT epoch::text FROM weir.checkpoint")
	forgotten := time.Now()
	rl.freeze(host(t, r.url))
	f.awaitFor(30*time.Second, "it reads again", func() bool {
		return f.one("SELECT (epoch > $1::text::bigint AND updated_at > owned_since)::text FROM weir.checkpoint", epoch) == "true"
	})
	t.Logf("it reads again after %s", time.Since(forgotten))
	if owner.clientID() != client || !strings.Contains(owner.log.String(), "ending a session of this worker") {
		t.Errorf("it has not ended its own session:\n%s", owner.log)
	}
	f.settle()
}

// A standby that may not end the sessions of an owner that hangs says what mends it, and goes on standing by.
func TestCrashOwnerHangsWithoutTheRightToEndIt(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.exec("CREATE SCHEMA app")
	const rest = "source: {slot: %s, heartbeat: 1s, lease: 6s}\n" + everyOrder
	owner := r.spawn(t, r.write(fmt.Sprintf(rest, r.slot)))
	other := r.spawn(t, r.otherRole(t, fmt.Sprintf(rest, r.slot)))
	owner.signal(t, syscall.SIGSTOP)
	r.await("what mends it, for people who look", func() bool {
		body := other.get(t, "/readyz").body
		return strings.Contains(body, "GRANT pg_signal_backend TO") && strings.Contains(body, `"stream":"standby"`)
	})
	if n := strings.Count(other.log.String(), "may not end its sessions"); n != 1 {
		t.Errorf("it is said %d times in the log:\n%s", n, other.log)
	}
	if err := owner.Kill(); err != nil {
		t.Fatal(err)
	}
	r.await("the takeover", func() bool { return strings.Contains(other.get(t, "/readyz").body, `"stream":"streaming"`) })
}
