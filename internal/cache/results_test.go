package cache

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/fraiseql/weir/internal/sandbox"
)

func TestHitAndMiss(t *testing.T) {
	t.Parallel()
	w := workers(t, 2)
	long := strings.Repeat("ü", maxKey)
	for _, k := range []string{"42", "", "a:b:c", "{x}|*", long, "\xff\x00\n"} {
		w[0].wantMiss(key(k))
		w[0].store(key(k), "value of "+k, "customer:1")
		for _, w := range w {
			for range 2 { // the second time from memory
				w.wantHit(key(k), "value of "+k)
			}
		}
		w[0].wantMiss(Key{"orders", "mail", k})
		w[0].wantMiss(Key{"parcels", "post", k})
	}
	s := w[1].Stats()
	if s.HitsRedis != 6 || s.HitsMemory != 6 || s.HitRatio != 1 || s.Entries != 6 || s.Bytes < 6*entryBytes {
		t.Errorf("figures %+v", s)
	}
	if n := testutil.ToFloat64(w[1].metrics.memory); n != 6 {
		t.Errorf("%v hits in memory counted", n)
	}
	if n, err := w[0].remote.Count(t.Context()); n != 6 || err != nil {
		t.Errorf("%d results, %v; want 6", n, err)
	}
}

func TestEmptyResult(t *testing.T) {
	t.Parallel()
	w := workers(t, 2)
	w[0].store(key("k"), "")
	w[0].wantHit(key("k"), "")
	w[1].wantHit(key("k"), "")
}

func TestAgeAndExpiry(t *testing.T) {
	t.Parallel()
	w := workers(t, 2)
	const ttl = 600 * time.Millisecond
	w[0].fill(key("k")).Store(t.Context(), []byte("v"), ttl)
	stored := time.Now()
	time.Sleep(100 * time.Millisecond)
	for i, w := range []*worker{w[0], w[1], w[1]} {
		l := w.get(key("k"))
		if least := time.Since(stored) - 20*time.Millisecond; l.Found != Hit || l.Age < 90*time.Millisecond || l.Age > least+time.Second {
			t.Errorf("%d: found %d, age %s", i, l.Found, l.Age)
		}
	}
	time.Sleep(ttl)
	for _, w := range w {
		w.wantMiss(key("k"))
	}
	if n, err := w[0].remote.Count(t.Context()); n != 0 || err != nil {
		t.Errorf("%d results, %v; want none", n, err)
	}
	w[0].fill(key("k")).Store(t.Context(), []byte("v"), 0)
	w[0].wantMiss(key("k"))
}

func TestOneCallForManyMisses(t *testing.T) {
	t.Parallel()
	w := workers(t, 2)
	for name, callers := range map[string][]*worker{"one worker": w[:1], "two workers": w} {
		var calls, hits atomic.Int32
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() {
				switch l := callers[i%len(callers)].Get(t.Context(), key(name), nil, lease, 20*time.Second); l.Found {
				case Miss:
					calls.Add(1)
					time.Sleep(200 * time.Millisecond)
					l.Fill.Store(t.Context(), []byte("v"), time.Hour)
				case Hit:
					hits.Add(1)
				default:
					t.Errorf("%s: found %d", name, l.Found)
				}
			})
		}
		wg.Wait()
		if calls.Load() != 1 || hits.Load() != 49 {
			t.Errorf("%s: %d calls and %d hits, want 1 and 49", name, calls.Load(), hits.Load())
		}
	}
	if n := testutil.ToFloat64(w[0].metrics.waits); n < 50 {
		t.Errorf("%v waits", n)
	}
}

func TestBusy(t *testing.T) {
	t.Parallel()
	w := workers(t, 2)
	f := w[0].fill(key("k"))
	for _, w := range w {
		began := time.Now()
		l := w.Get(t.Context(), key("k"), nil, lease, 150*time.Millisecond)
		if waited := time.Since(began); l.Found != Busy || l.After < lease-30*time.Second || l.After > lease || waited < 150*time.Millisecond {
			t.Errorf("found %d, after %s, having waited %s", l.Found, l.After, waited)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if l := w.Get(ctx, key("k"), nil, lease, time.Hour); l.Found != Busy && l.Found != Away {
			t.Errorf("found %d when nobody asks any more", l.Found)
		}
		cancel()
	}
	f.Abandon(t.Context())
	f.Store(t.Context(), []byte("too late"), time.Hour)
	w[1].wantMiss(key("k"))
}

// What fails is not kept, and one of those who wait calls in its place, even if the failed call's context has ended.
func TestAbandonLetsOneOfThoseWhoWaitCall(t *testing.T) {
	t.Parallel()
	w := workers(t, 2)
	f := w[0].fill(key("k"))
	var calls, hits atomic.Int32
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() {
			l := w[i%2].Get(t.Context(), key("k"), nil, lease, 20*time.Second)
			switch l.Found {
			case Miss:
				calls.Add(1)
				l.Fill.Store(t.Context(), []byte("v"), time.Hour)
			case Hit:
				hits.Add(1)
			default:
				t.Errorf("found %d", l.Found)
			}
		})
	}
	time.Sleep(100 * time.Millisecond)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	f.Abandon(ctx)
	wg.Wait()
	if calls.Load() != 1 || hits.Load() != 9 {
		t.Errorf("%d calls and %d hits, want 1 and 9", calls.Load(), hits.Load())
	}
}

func TestLease(t *testing.T) {
	t.Parallel()
	w := workers(t, 2)
	short := func(w *worker, wait time.Duration) Lookup {
		return w.Get(t.Context(), key("k"), nil, 400*time.Millisecond, wait)
	}
	lost := short(w[0], 0).Fill
	time.Sleep(250 * time.Millisecond)
	if !lost.Hold(t.Context(), 400*time.Millisecond) {
		t.Fatal("lost before its time")
	}
	time.Sleep(250 * time.Millisecond)
	for _, w := range w {
		if l := short(w, 0); l.Found != Busy {
			t.Fatalf("found %d while it is held", l.Found)
		}
	}
	l := short(w[0], 10*time.Second) // the lease ends meanwhile
	if l.Found != Miss {
		t.Fatalf("found %d after the lease", l.Found)
	}
	if lost.Hold(t.Context(), lease) {
		t.Error("two hold it")
	}
	failed := &Fill{results: w[0].Results, subject: lost.subject, token: lost.token, scores: lost.scores}
	failed.Abandon(t.Context())
	lost.Store(t.Context(), []byte("lost"), time.Hour)
	if l := short(w[1], 0); l.Found != Busy {
		t.Errorf("found %d, want busy: what was lost ended the other's", l.Found)
	}
	l.Fill.Store(t.Context(), []byte("kept"), time.Hour)
	w[1].wantHit(key("k"), "kept")
	w[1].invalidate(Selection{All: true}, 1)
	if n := testutil.ToFloat64(w[0].metrics.notStored.WithLabelValues(invalidated)); n != 1 {
		t.Errorf("%v not stored", n)
	}
}

func TestRenew(t *testing.T) {
	t.Parallel()
	w := workers(t, 2)
	w[0].store(key("k"), "old", "tag")
	w[1].wantHit(key("k"), "old")
	if err := w[0].put(key("k"), []byte("new"), "other"); err != nil {
		t.Fatal(err)
	}
	w[0].wantHit(key("k"), "new")
	eventually(t, time.Second, "the new value", func() bool { return string(w[1].get(key("k")).Value) == "new" })
	w[1].invalidate(Selection{Tags: []string{"other"}}, 1)
	w[1].wantMiss(key("k"))
	w[0].wantGone(key("k"))

	f := w[1].fill(key("k"))
	if err := w[0].put(key("k"), []byte("put")); err != nil {
		t.Fatal(err)
	}
	f.Store(t.Context(), []byte("from an earlier call"), time.Hour)
	w[1].wantHit(key("k"), "put")
	w[1].invalidate(Selection{Keys: []string{"k"}}, 1)
}

func TestTooLarge(t *testing.T) {
	t.Parallel()
	w := workers(t, 2)
	large := make([]byte, maxValue+1)
	f := w[0].fill(key("k"))
	f.Store(t.Context(), large, time.Hour)
	w[0].wantMiss(key("k"))
	w[0].fill(key("k")).Store(t.Context(), large[1:], time.Hour)
	w[1].wantHit(key("k"), string(large[1:]))
	if err := w[0].put(key("k"), large); !errors.Is(err, ErrTooLarge) {
		t.Errorf("put: %v", err)
	}
	w[0].wantMiss(key("k"))
	w[1].wantGone(key("k"))
	if n := testutil.ToFloat64(w[0].metrics.notStored.WithLabelValues(tooLarge)); n != 2 {
		t.Errorf("%v counted, want 2", n)
	}
}

func TestInstallationsDoNotSeeEachOther(t *testing.T) {
	t.Parallel()
	cfg := at(t, suite.Redis(t).URL())
	one, two := newWorker(t, cfg, "one", ResultsOptions{}), newWorker(t, cfg, "one:two", ResultsOptions{})
	one.store(key("k"), "of one", "tag")
	two.wantMiss(key("k"))
	two.store(key("k"), "of two", "tag")
	one.wantHit(key("k"), "of one")
	two.invalidate(Selection{All: true}, 1)
	two.invalidate(Selection{Tags: []string{"tag"}}, 0)
	one.wantHit(key("k"), "of one")
	one.get(key("k"))
	if one.Stats().HitsMemory == 0 {
		t.Error("another installation's invalidation was heeded")
	}
}

func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	const bound = 4 << 20
	m := newMemory(bound)
	m.trust(time.Now())
	for i := range 100_000 {
		m.trust(time.Now())
		s := newSubject(key(fmt.Sprint(i)), []string{"all", fmt.Sprint("tag", i%100)})
		m.put(&entry{subject: s, value: make([]byte, i%1000), stored: time.Now(), expires: time.Now().Add(time.Hour)}, m.now())
		if i%1000 == 0 {
			m.put(&entry{subject: s, value: make([]byte, 100), stored: time.Now(), expires: time.Now().Add(time.Hour)}, m.now())
		}
		if n, bytes := m.used(); bytes > bound || n > bound/entryBytes {
			t.Fatalf("%d entries of %d bytes", n, bytes)
		}
	}
	n, bytes := m.used()
	if n < 1000 || bytes < bound/2 {
		t.Errorf("%d entries of %d bytes: not used", n, bytes)
	}
	if len(m.keys) != n || len(m.tags["all"]) != n {
		t.Errorf("%d entries, but %d keys and %d of the tag", n, len(m.keys), len(m.tags["all"]))
	}
	m.put(&entry{subject: newSubject(key("huge"), nil), value: make([]byte, bound), expires: time.Now().Add(time.Hour)}, m.now())
	if after, _ := m.used(); after != n {
		t.Errorf("%d entries after one that does not fit, want %d", after, n)
	}
	m.drop(&Selection{Tags: []string{"all"}})
	if n, bytes := m.used(); n != 0 || bytes != 0 || len(m.keys) != 0 || len(m.tags) != 0 {
		t.Errorf("%d entries of %d bytes, %d keys and %d tags are left", n, bytes, len(m.keys), len(m.tags))
	}
}

func TestWorkersTellTheirFigures(t *testing.T) {
	t.Parallel()
	w := workers(t, 2)
	f := w[0].fill(key("k"))
	if l := w[0].get(key("k")); l.Found != Busy { // neither a hit nor a miss
		t.Errorf("found %d, want busy", l.Found)
	}
	f.Store(t.Context(), []byte("v"), time.Hour)
	w[0].wantHit(key("k"), "v")
	remote := NewRemote(w[1].redis)
	var all map[string]Stats
	eventually(t, 10*time.Second, "the figures", func() bool {
		var err error
		if all, err = remote.WorkerStats(t.Context(), []string{"worker-0", "worker-1", "worker-2"}); err != nil {
			t.Fatal(err)
		}
		return len(all) > 0
	})
	s, ok := all["worker-0"]
	if !ok || len(all) != 1 || s.ClientID != "worker-0" || s.HitsMemory != 1 || s.Misses != 1 || s.HitRatio != 0.5 || s.Entries != 1 {
		t.Errorf("figures %+v", all)
	}
}

func TestRedisAway(t *testing.T) {
	t.Parallel()
	server := sandbox.TestRedis(t)
	cfg := at(t, server.URL())
	cfg.Timeout = 0 // the default
	w := newWorker(t, cfg, "main", ResultsOptions{})
	eventually(t, 5*time.Second, "a stored value", func() bool {
		if l := w.get(key("k")); l.Found == Miss {
			l.Fill.Store(t.Context(), []byte("v"), time.Hour)
		}
		return w.get(key("k")).Found == Hit
	})
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 2*time.Second, "no trust", func() bool { return !w.trusts() })
	for range awayAfter {
		w.get(key("k"))
	}
	began := time.Now()
	for range 1000 {
		if l := w.get(key("k")); l.Found != Away {
			t.Fatalf("found %d, want away", l.Found)
		}
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("1000 lookups took %s", took)
	}
	away := (*AwayError)(nil)
	if _, err := w.Invalidate(t.Context(), Selection{All: true}); !errors.As(err, &away) {
		t.Errorf("invalidated: %v", err)
	}
	if err := w.put(key("k"), []byte("v")); !errors.As(err, &away) {
		t.Errorf("put: %v", err)
	}
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.listens()
	eventually(t, 10*time.Second, "it serves", func() bool { return w.redis.serves() })
	if n, _ := w.memory.used(); n != 0 {
		t.Errorf("%d entries in memory", n)
	}
	w.wantMiss(key("k"))
	w.store(key("k"), "again")
	w.wantHit(key("k"), "again")
}

// A server that hangs keeps its connections: memory must not be trusted for long, nor a lookup wait.
func TestRedisHangs(t *testing.T) {
	t.Parallel()
	server := sandbox.TestRedis(t)
	w := newWorker(t, at(t, server.URL()), "main", ResultsOptions{})
	w.store(key("k"), "v")
	w.wantHit(key("k"), "v")
	hang(t, server)
	began := time.Now()
	eventually(t, trustFor+500*time.Millisecond, "no trust", func() bool { return !w.trusts() })
	if took := time.Since(began); took > trustFor+100*time.Millisecond {
		t.Errorf("trusted for another %s", took)
	}
	goOn(t, server)
	w.listens()
	w.wantHit(key("k"), "v")
}

func TestFlushed(t *testing.T) {
	t.Parallel()
	server := sandbox.TestRedis(t)
	cfg := at(t, server.URL())
	w := newWorker(t, cfg, "main", ResultsOptions{})
	w.store(key("stored"), "v", "tag")
	f := w.fill(key("called"))
	if err := bare(t, cfg).FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	f.Store(t.Context(), []byte("v"), time.Hour)
	w.wantMiss(key("called"))
	w.store(key("called"), "v", "tag") // scripts are loaded again
	w.invalidate(Selection{Tags: []string{"tag"}}, 1)
	w.wantMiss(key("called"))
	w.wantMiss(key("stored"))
}

// What was read from Redis before an invalidation must not be put into memory after it.
func TestMemoryKnowsWhatItWasToldMeanwhile(t *testing.T) {
	t.Parallel()
	m := newMemory(1 << 20)
	one := &entry{subject: newSubject(key("k"), nil), value: []byte("v"), stored: time.Now(), expires: time.Now().Add(time.Hour)}
	put := func(meanwhile func()) (found bool) {
		m.trust(time.Now())
		heard := m.now()
		meanwhile()
		m.put(one, heard)
		_, _, found = m.get(one.member)
		return found
	}
	if !put(func() {}) {
		t.Error("not found though nothing was invalidated")
	}
	if put(func() { m.drop(&Selection{Keys: []string{"k"}}) }) {
		t.Error("found after an invalidation")
	}
	if put(func() { m.clear(); m.trust(time.Now()) }) {
		t.Error("found after another subscription began")
	}
}
