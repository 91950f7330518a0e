package worker_test

import (
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fraiseql/weir/internal/sandbox"
)

// Tests that measure what is guaranteed in few seconds have the machine for themselves: no t.Parallel.

// The owner of the stream is killed again and again, under a load. Another worker has the stream within 2 s, and every change
// comes to exactly one job for each action.
//
//nolint:paralleltest // see above
func TestCrashOwnerIsKilled(t *testing.T) {
	kills := 10
	if full() {
		kills = 200
	}
	f := newFleet(t, newRig(t), fleetOptions{lease: 10 * time.Second, shutdown: 5 * time.Second})
	f.load()
	var slot, moved []time.Duration
	for range kills {
		owner := f.owner()
		before := owner.clientID()
		killed := time.Now()
		if err := owner.Kill(); err != nil {
			t.Fatal(err)
		}
		s, m := f.awaitOwner(before, killed)
		slot, moved = append(slot, s), append(moved, m)
		f.leave(owner)
		f.join()
	}
	f.settle()
	median, worst := times(slot)
	t.Logf("%d kills: until another worker had the slot: median %s, worst %s", kills, median, worst)
	if worst > takeoverLimit {
		t.Errorf("a takeover took %s, more than %s", worst, takeoverLimit)
	}
	median, worst = times(moved)
	t.Logf("%d kills: until it had moved the checkpoint: median %s, worst %s", kills, median, worst)
}

// The owner is stopped for longer than its lease, under a load: another worker takes over within the lease. When the one that
// was stopped goes on, it stores nothing any more, and stands by as a new worker.
//
//nolint:paralleltest // see above
func TestCrashOwnerHangs(t *testing.T) {
	rounds := 1
	if full() {
		rounds = 20
	}
	for _, lease := range []time.Duration{10 * time.Second, 6 * time.Second} {
		t.Run(lease.String(), func(t *testing.T) {
			t.Parallel() // beside the other, which waits, too
			f := newFleet(t, newRig(t), fleetOptions{lease: lease, shutdown: 5 * time.Second})
			time.Sleep(9 * time.Second) // each has to have seen the database up for as long as a lease holds
			f.load()
			for range rounds {
				f.hang(lease)
				time.Sleep(8 * time.Second) // the same for the one that has begun anew
			}
			f.settle()
		})
	}
}

// hang stops the owner until another one has taken over.
func (f *fleet) hang(lease time.Duration) {
	t := f.t
	t.Helper()
	owner := f.owner()
	before := owner.clientID()
	stopped := time.Now()
	owner.signal(t, syscall.SIGSTOP)
	slot, moved := f.awaitOwner(before, stopped)
	t.Logf("lease %s: another worker had the slot after %s, and moved the checkpoint after %s", lease,
		slot.Round(time.Millisecond), moved.Round(time.Millisecond))
	if moved > lease {
		t.Errorf("the takeover took %s, more than the lease of %s", moved, lease)
	}
	f.checkHung(before)
	f.awake(owner, before)
}

// checkHung wants the one that has the stream to have counted why.
func (f *fleet) checkHung(before string) {
	f.t.Helper()
	owner := f.owner()
	if n := owner.series(f.t, `weir_stream_takeovers_total{reason="hang"}`); n < 1 {
		f.t.Errorf("the takeover from %s is not counted:\n%s", before, owner.log)
	}
}

// awake lets an owner go on that was replaced: it becomes a standby under another client id, and the stream stays with the
// one that has it.
func (f *fleet) awake(owner *process, before string) {
	t := f.t
	t.Helper()
	// With a lease of less than 6 s it still is a worker to others, for a moment.
	f.await("its death", func() bool {
		return f.one("SELECT count(*)::text FROM weir.worker WHERE client_id = $1", before) == "0"
	})
	epoch := f.one("SELECT epoch || ' ' || owner FROM weir.checkpoint")
	woken := time.Now()
	owner.signal(t, syscall.SIGCONT)
	f.await("another life", func() bool { return owner.clientID() != before })
	noticed := time.Since(woken)
	f.await("it stands by", func() bool { return strings.Contains(owner.get(t, "/readyz").body, `"stream":"standby"`) })
	t.Logf("it has begun anew %s after it went on, and stands by after %s", noticed.Round(time.Millisecond),
		time.Since(woken).Round(time.Millisecond))
	if now := f.one("SELECT epoch || ' ' || owner FROM weir.checkpoint"); now != epoch {
		t.Errorf("epoch and owner are %s, before it went on %s", now, epoch)
	}
	if f.reader() == owner.clientID() {
		t.Error("it reads the stream again")
	}
}

// A server that restarts makes nobody dead: no worker's session is ended, and each keeps its client id.
func TestCrashOfPostgreSQLEndsNoOwner(t *testing.T) {
	t.Parallel()
	server, r := ownServer(t, nil)
	f := newFleet(t, r, fleetOptions{lease: 6 * time.Second, shutdown: 5 * time.Second})
	clients := map[*process]string{}
	for _, m := range f.members {
		clients[m] = m.clientID()
	}
	f.load()
	time.Sleep(9 * time.Second) // by now each may end another
	for _, mode := range []sandbox.StopMode{sandbox.Fast, sandbox.Immediate} {
		if err := server.Restart(t.Context(), mode); err != nil {
			t.Fatal(err)
		}
		f.reconnect()
		f.await("an owner", func() bool { return f.reader() != "" })
		time.Sleep(8 * time.Second)
	}
	f.settle()
	for _, m := range f.members {
		if m.clientID() != clients[m] {
			t.Errorf("%s was declared dead", clients[m])
		}
		if said := m.log.String(); strings.Contains(said, "taking over") || strings.Contains(said, "ended the sessions") {
			t.Errorf("%s ended somebody", clients[m])
		}
	}
}

// Nobody can renew a lease for a while, as when the database stands still: that is not the owner's fault, and it stays.
func TestCrashOwnerCannotRenew(t *testing.T) {
	t.Parallel()
	f := newFleet(t, newRig(t), fleetOptions{lease: 6 * time.Second, shutdown: 5 * time.Second})
	f.load()
	time.Sleep(9 * time.Second) // by now each may end another
	lock := rigOn(t, f.url)
	lock.exec("BEGIN")
	lock.exec("LOCK TABLE weir.worker IN SHARE MODE") // it can be read, also by standbys
	time.Sleep(12 * time.Second)
	lock.exec("COMMIT")
	time.Sleep(8 * time.Second) // by now they may again
	if epoch := f.one("SELECT epoch::text FROM weir.checkpoint"); epoch != "1" {
		t.Errorf("epoch %s: the stream was taken from its owner", epoch)
	}
	f.settle()
}

// Each worker in turn is told to stop, with deliveries that take long, and replaced: the stream goes to another one at once.
//
//nolint:paralleltest // see above
func TestCrashRollingDeploy(t *testing.T) {
	rounds := 1
	if full() {
		rounds = 20
	}
	slow := func(_ http.ResponseWriter, req *http.Request) {
		select {
		case <-time.After(4 * time.Second):
		case <-req.Context().Done():
		}
	}
	f := newFleet(t, newRig(t), fleetOptions{lease: 10 * time.Second, shutdown: 10 * time.Second, answer: slow})
	f.load()
	longest := f.vacancy()
	var stops []time.Duration
	for range rounds {
		for range len(f.members) {
			f.await("deliveries", func() bool { return f.jobs("state = 'running' AND kind = 'weir_webhook'") != "0" })
			owner := f.owner()
			before := owner.clientID()
			began := time.Now()
			owner.signal(t, syscall.SIGTERM)
			f.awaitOwner(before, began)
			f.join()
			select {
			case <-owner.Exited():
			case <-time.After(30 * time.Second):
				t.Fatal("it does not stop")
			}
			stops = append(stops, time.Since(began))
			f.leave(owner)
		}
	}
	worst := longest()
	f.rc.behave(nil)
	f.settle()
	median, last := times(stops)
	t.Logf("%d workers replaced, each within %s (median) to %s; the longest time without a reader: %s",
		len(stops), median, last, worst.Round(time.Millisecond))
	if worst > takeoverLimit {
		t.Errorf("nobody read the stream for %s, more than %s", worst, takeoverLimit)
	}
	if twice := f.rc.repeats(); len(twice) > 0 {
		t.Errorf("%d deliveries came more than once", len(twice))
	}
}
