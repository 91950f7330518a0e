package worker_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// tripwire stands between a worker and Redis, and kills the worker at a place of their conversation: when it has said
// something, before Redis hears it, or after Redis has done it and before the worker hears of that.
type tripwire struct {
	listener net.Listener
	running  sync.WaitGroup
	server   string
	says     func(chunk []byte) bool
	done     bool // by Redis, first

	kill atomic.Pointer[func()] // nil: lets everything pass
}

func newTripwire(t *testing.T, server string, done bool, says func([]byte) bool) *tripwire {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &tripwire{listener: listener, server: server, done: done, says: says}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	w.running.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			w.running.Go(func() { w.pass(ctx, client) })
		}
	})
	t.Cleanup(func() {
		cancel()
		_ = listener.Close()
		w.running.Wait()
	})
	return w
}

func (w *tripwire) pass(ctx context.Context, client net.Conn) {
	defer func() { _ = client.Close() }()
	server, err := (&net.Dialer{}).DialContext(ctx, "tcp", w.server)
	if err != nil {
		return
	}
	defer func() { _ = server.Close() }()
	release := context.AfterFunc(ctx, func() { _, _ = client.Close(), server.Close() })
	defer release()
	var muted atomic.Bool
	w.running.Go(func() {
		defer func() { _ = client.Close() }()
		buf := make([]byte, 64<<10)
		for {
			n, err := server.Read(buf)
			if err != nil {
				return
			}
			if !muted.Load() {
				_, _ = client.Write(buf[:n])
				continue
			}
			w.trip()
			return
		}
	})
	buf := make([]byte, 64<<10)
	for {
		n, err := client.Read(buf)
		if err != nil {
			return
		}
		if w.kill.Load() != nil && w.says(buf[:n]) {
			if !w.done {
				w.trip()
				return
			}
			muted.Store(true)
		}
		if _, err := server.Write(buf[:n]); err != nil {
			return
		}
	}
}

// trip kills once.
func (w *tripwire) trip() {
	if kill := w.kill.Swap(nil); kill != nil {
		(*kill)()
	}
}

// TestCrashAroundTheCall kills the worker with SIGKILL between claim and call, between call and mark, and between mark and
// completion. Each key belongs to two events: what the one's dead worker has claimed must not hold up the other.
func TestCrashAroundTheCall(t *testing.T) {
	t.Parallel()
	kills := 10
	if full() {
		kills = 200
	}
	const shared = `dedup: {key: "{{ pair }}", window: 1h}`
	for _, place := range []struct {
		name     string
		key      string // what deliveries share, of pairs of events; "": each has its own mark alone
		done     bool   // by Redis before the worker dies
		says     string // what the worker says there
		called   bool   // and has made a call before
		repeated int    // calls of each delivery whose worker was killed, beyond the first
	}{
		{"between claim and call", shared, true, ":dedup:", false, 0},
		// The receiver has heard of it and the mark could not be written, so nobody can know: the call is repeated.
		{"between call and mark", shared, false, ":dedup:", true, 1},
		{"between mark and completion", shared, true, ":once:", true, 0},
		{"between call and mark, without a key", "", false, ":once:", true, 1},
		{"between mark and completion, without a key", "", true, ":once:", true, 0},
	} {
		t.Run(place.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			var called atomic.Bool // by the worker of now
			rc := newReceiver(t, func(http.ResponseWriter, *http.Request) { called.Store(true) })
			wire := newTripwire(t, postgres.Redis(t).Addr(), place.done, func(chunk []byte) bool {
				return bytes.Contains(chunk, []byte(place.says)) && (!place.called || called.Swap(false))
			})
			config := r.write(fmt.Sprintf("redis: {url: %q, timeout: 5s}\n", "redis://"+wire.listener.Addr().String()) +
				pairConfig(rc, place.key))
			ofEach := 1
			if place.key != "" {
				ofEach = 2
			}
			took := r.killEach(t, config, kills, ofEach, func(kill func()) { wire.kill.Store(&kill) })
			r.oneCallEachBut(rc, kills, place.repeated*kills)
			t.Logf("%d kills %s: %d calls repeated; all done %s after the last kill", kills, place.name, len(rc.seen())-kills, took)
		})
	}
	t.Run("in the call, without dedup", func(t *testing.T) {
		t.Parallel()
		r := newRig(t)
		var kill atomic.Pointer[func()]
		rc := newReceiver(t, func(http.ResponseWriter, *http.Request) {
			if f := kill.Swap(nil); f != nil {
				(*f)()
			}
		})
		config := r.write(pairConfig(rc, ""))
		took := r.killEach(t, config, kills, 1, func(f func()) { kill.Store(&f) })
		r.oneCallEachBut(rc, kills, kills)
		t.Logf("%d kills in the call, without dedup: %d calls repeated; all done %s after the last kill", kills, len(rc.seen())-kills, took)
	})
}

// pairConfig lets one delivery run at a time, so that each kill hits one.
func pairConfig(rc *receiver, more string) string {
	return fmt.Sprintf(`
outbound: {allow: [127.0.0.1]}
endpoints: {erp: {concurrency: 1}}
observers:
  pair:
    entity: Order
    actions: [{type: webhook, url: %q, endpoint: erp,
      %s}]
`, rc.URL, more)
}

// killEach starts workers, one after the other, each to be killed by what arm arms, and one that lives until all is done. With
// the first come pairs of changes, or one change of each.
func (r *rig) killEach(t *testing.T, config string, kills, ofEach int, arm func(kill func())) time.Duration {
	t.Helper()
	for n := range kills {
		ready := make(chan *process, 1)
		arm(func() {
			p := <-ready
			_ = p.Kill()
		})
		p := r.spawn(t, config)
		ready <- p
		if n == 0 {
			r.exec(`INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data)
				SELECT 'Order', 'INSERT', gen_random_uuid(), jsonb_build_object('pair', pair)
				FROM generate_series(1, $2::int) half, generate_series(1, $1::int) pair ORDER BY half, pair`, kills, ofEach)
		}
		select {
		case <-p.Exited():
		case <-time.After(time.Minute):
			t.Fatalf("nobody came by the place, kill %d", n)
		}
	}
	killed := time.Now()
	r.spawn(t, config)
	// The lease of a claim is 40 s: who waited for one would come too late.
	r.awaitFor(30*time.Second+time.Duration(kills)*time.Second/2, "every delivery is done", func() bool {
		return r.jobs("state <> 'completed'") == "0"
	})
	return time.Since(killed).Round(100 * time.Millisecond)
}

// oneCallEachBut checks that the receiver has heard of each pair, and how often it has heard of one again.
func (r *rig) oneCallEachBut(rc *receiver, pairs, repeated int) {
	r.t.Helper()
	calls := map[string]int{}
	for _, req := range rc.seen() {
		calls[pairOf(r.t, req)]++
	}
	if len(calls) != pairs {
		r.t.Errorf("%d of %d pairs were called", len(calls), pairs)
	}
	if n := len(rc.seen()) - len(calls); n != repeated {
		r.t.Errorf("%d calls repeated, expected %d", n, repeated)
	}
}

// TestStoppedWorkersShareCalls stops workers (SIGSTOP) for longer than their leases last, by turns, under a rate limit at which
// deliveries wait for longer than their claims last. Each pair leads to the call of one delivery, and to a second call of that one
// only if its worker was stopped in the first.
func TestStoppedWorkersShareCalls(t *testing.T) {
	t.Parallel()
	for _, where := range []string{"Redis", "PostgreSQL"} {
		t.Run(where, func(t *testing.T) {
			t.Parallel()
			const pairs = 100
			r := newRig(t)
			rc := newReceiver(t, nil)
			section := ""
			if where == "Redis" {
				section = fmt.Sprintf("redis: {url: %q, timeout: 5s}\n", postgres.Redis(t).URL())
			}
			config := r.write(section + fmt.Sprintf(`
outbound: {allow: [127.0.0.1]}
endpoints: {erp: {concurrency: 150, rate_limit: 3/s}}
observers:
  pair:
    entity: Order
    actions:
      - {type: webhook, url: %q, endpoint: erp, timeout: 5s, dedup: {key: "{{ pair }}", window: 1h, required: true}}
`, rc.URL))
			workers := []*process{r.spawn(t, config), r.spawn(t, config)}
			r.exec(`INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data)
				SELECT 'Order', 'INSERT', gen_random_uuid(), jsonb_build_object('pair', pair)
				FROM generate_series(1, 2) half, generate_series(1, $1::int) pair ORDER BY half, pair`, pairs)
			for n := range 3 {
				time.Sleep(time.Second)
				workers[n%2].signal(t, syscall.SIGSTOP)
				time.Sleep(8 * time.Second)
				workers[n%2].signal(t, syscall.SIGCONT)
			}
			r.awaitFor(2*time.Minute, "every delivery is done", func() bool {
				return r.jobs("state = 'completed'") == strconv.Itoa(2*pairs)
			})
			callers := map[string]map[string]bool{}
			for _, req := range rc.seen() {
				pair := pairOf(t, req)
				if callers[pair] == nil {
					callers[pair] = map[string]bool{}
				}
				callers[pair][req.id] = true
			}
			for pair, ids := range callers {
				if len(ids) != 1 {
					t.Errorf("%d deliveries of pair %s were sent", len(ids), pair)
				}
			}
			if repeated := len(rc.seen()) - len(callers); len(callers) != pairs || repeated > 3 {
				t.Errorf("%d pairs of %d were called, %d calls repeated", len(callers), pairs, repeated)
			}
			t.Logf("%d calls of %d pairs", len(rc.seen()), pairs)
		})
	}
}

// TestStoppedWorkerLeavesItsClaim stops a worker in the middle of a call that has arrived, until the call's time is over and the
// worker has been declared dead. What shares the call waits for the delivery's next attempt, although the call has failed as far
// as that worker knows. (Redis does not know who is dead, as PostgreSQL does.)
func TestStoppedWorkerLeavesItsClaim(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var first sync.Once
	rc := newReceiver(t, func(_ http.ResponseWriter, req *http.Request) { first.Do(func() { <-req.Context().Done() }) })
	config := r.write(fmt.Sprintf(`
redis: {url: %q, timeout: 5s}
outbound: {allow: [127.0.0.1]}
endpoints: {erp: {concurrency: 1}}
observers:
  pair:
    entity: Order
    actions: [{type: webhook, url: %q, endpoint: erp, timeout: 8s, dedup: {key: "{{ pair }}", window: 1h, required: true}}]
`, postgres.Redis(t).URL(), rc.URL))
	stopped := r.spawn(t, config)
	old := stopped.clientID()
	r.order(`{"pair": 1}`)
	r.await("the call", func() bool { return len(rc.seen()) == 1 })
	over := time.Now().Add(8 * time.Second)
	stopped.signal(t, syscall.SIGSTOP)
	r.exec("UPDATE weir.river_queue SET paused_at = now() WHERE name = 'erp'") // until it has woken up
	other := r.spawn(t, config)
	r.await("the rescue", func() bool { return r.jobs("state = 'available'") == "1" })
	r.exec("UPDATE weir.river_job SET priority = 4 WHERE kind = 'weir_webhook'") // the other delivery comes first
	r.order(`{"pair": 1}`)
	r.await("the other delivery", func() bool { return r.jobs("state = 'available'") == "2" })
	time.Sleep(time.Until(over))
	stopped.signal(t, syscall.SIGCONT)
	r.await("another life", func() bool { return stopped.clientID() != old })
	if err := other.Kill(); err != nil {
		t.Fatal(err)
	}
	r.exec("UPDATE weir.river_queue SET paused_at = NULL WHERE name = 'erp'")
	r.spawn(t, config)
	r.await("both are done", func() bool { return r.jobs("state = 'completed'") == "2" })
	for _, req := range rc.seen() {
		if id := rc.seen()[0].id; req.id != id {
			t.Errorf("%s was sent after %s", req.id, id)
		}
	}
}
