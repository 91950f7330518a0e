package worker_test

import (
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fraiseql/weir/internal/sandbox"
)

// hanging is a receiver that answers nothing before it is told to.
func hanging(t *testing.T) (rc *receiver, answer func()) {
	t.Helper()
	release := make(chan struct{})
	rc = newReceiver(t, func(_ http.ResponseWriter, req *http.Request) {
		select {
		case <-release:
		case <-req.Context().Done(): // the caller is gone
		}
	})
	released := false
	answer = func() {
		if !released {
			released = true
			close(release)
		}
	}
	t.Cleanup(answer)
	return rc, answer
}

// takeover is how long others may need for what a dead worker was running.
const takeover = 10 * time.Second

// TestCrashRescue kills a worker with 50 running deliveries. Another one, or the same one restarted, has them all running
// again within 10 s, and the attempt has cost none of them anything.
func TestCrashRescue(t *testing.T) {
	t.Parallel()
	for name, second := range map[string]bool{"by a second worker": true, "by the restarted one": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			rc, answer := hanging(t)
			config := r.write(hook(rc.URL, ", timeout: 2m"))
			victim := r.spawn(t, config)
			for range 50 {
				r.order(`{}`)
			}
			r.await("50 running deliveries", func() bool { return len(rc.seen()) == 50 })
			var other *process
			if second {
				other = r.spawn(t, config)
				time.Sleep(8 * time.Second) // it has to have been there for as long as a lease holds: that is the normal case
			}
			killed := time.Now()
			if err := victim.Kill(); err != nil {
				t.Fatal(err)
			}
			if !second {
				other = r.spawn(t, config)
			}
			r.awaitFor(time.Minute, "all 50 again", func() bool { return len(rc.seen()) == 100 })
			took := time.Since(killed)
			t.Logf("all 50 running again after %s", took.Round(10*time.Millisecond))
			if took > takeover {
				t.Errorf("took %s, more than %s", took, takeover)
			}
			answer()
			r.await("the end", func() bool { return r.jobs("state = 'completed'") == "50" })
			if n := r.jobs("attempt = 1 AND (metadata->>'weir_deaths')::int = 1 AND errors[1]->>'error' LIKE 'interrupted%'"); n != "50" {
				t.Errorf("%s deliveries of 50 have kept their attempt and say what happened", n)
			}
			if n := other.metric(t, "weir_rescued_total"); n != 50 {
				t.Errorf("weir_rescued_total is %v, want 50", n)
			}
			if twice := rc.repeats(); len(twice) != 50 {
				t.Errorf("%d deliveries came again under their id, want 50", len(twice))
			}
		})
	}
}

// repeats are the deliveries that were received more than once, and how often.
func (rc *receiver) repeats() map[string]int {
	times := map[string]int{}
	for _, req := range rc.seen() {
		times[req.id]++
	}
	for id, n := range times {
		if n == 1 {
			delete(times, id)
		}
	}
	return times
}

// A server that restarts, or is away for longer than a lease holds, kills no worker: nothing that is alive is rescued, and
// nothing is delivered twice.
func TestCrashOfPostgreSQLRescuesNothing(t *testing.T) {
	t.Parallel()
	server, r := ownServer(t, nil)
	rc := newReceiver(t, func(http.ResponseWriter, *http.Request) { time.Sleep(time.Second) })
	config := r.write(hook(rc.URL, ""))
	workers := []*process{r.spawn(t, config), r.spawn(t, config)}
	ids := []string{workers[0].clientID(), workers[1].clientID()}
	load := func() {
		r.exec(`INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data)
			SELECT 'Order', 'INSERT', gen_random_uuid(), '{}' FROM generate_series(1, 200)`)
		seen := len(rc.seen())
		r.await("deliveries", func() bool { return len(rc.seen()) >= seen+20 })
	}
	time.Sleep(7 * time.Second) // by now each of the two may declare the other dead
	load()
	for _, mode := range []sandbox.StopMode{sandbox.Fast, sandbox.Immediate} {
		if err := server.Restart(t.Context(), mode); err != nil {
			t.Fatal(err)
		}
		r.reconnect()
		load()
	}
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(9 * time.Second)
	workers[1].signal(t, syscall.SIGSTOP) // it is slower to come back, but no slower than a lease allows
	if err := server.Restart(t.Context(), sandbox.Fast); err != nil {
		t.Fatal(err)
	}
	r.reconnect()
	time.Sleep(3 * time.Second)
	workers[1].signal(t, syscall.SIGCONT)
	load()
	r.await("all", func() bool { return r.jobs("state = 'completed'") == "800" })
	if twice := rc.repeats(); len(twice) > 0 {
		t.Errorf("%d deliveries came more than once", len(twice))
	}
	if n := r.jobs("(metadata->>'weir_deaths')::int > 0"); n != "0" {
		t.Errorf("%s jobs of living workers were rescued", n)
	}
	for i, w := range workers {
		if w.clientID() != ids[i] {
			t.Errorf("worker %d was declared dead:\n%s", i, w.log)
		}
	}
}

// A worker that was stopped for too long goes on under another client id. What it was running is somebody else's by then:
// its late answer concludes nothing.
func TestCrashStoppedWorkerIsFenced(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	first, answerFirst := hanging(t)
	config := r.write(hook(first.URL, ", timeout: 2m"))
	stopped := r.spawn(t, config)
	old := stopped.clientID()
	r.order(`{}`)
	r.await("the first attempt", func() bool { return len(first.seen()) == 1 })
	stopped.signal(t, syscall.SIGSTOP)
	second, answerSecond := hanging(t)
	r.spawn(t, r.write(hook(second.URL, ", timeout: 2m"))) // another place: we can tell who calls
	r.await("the second attempt", func() bool { return len(second.seen()) == 1 })
	answerFirst()
	stopped.signal(t, syscall.SIGCONT)
	r.await("another life", func() bool { return stopped.clientID() != old })
	if n := r.jobs("state = 'running'"); n != "1" {
		t.Errorf("the second attempt was concluded by the first: %s running", n)
	}
	answerSecond()
	r.await("the end", func() bool { return r.jobs("state = 'completed' AND attempt = 1") == "1" })
	if strings.Contains(stopped.log.String(), "panic") {
		t.Error("the stopped worker panicked")
	}
	// The one that was stopped works as before.
	answerFirst()
	for range 4 {
		r.order(`{}`)
	}
	r.await("the others", func() bool { return r.jobs("state = 'completed'") == "5" })
}
