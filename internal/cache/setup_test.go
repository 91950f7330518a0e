package cache

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/fraiseql/weir/internal/sandbox"
	"github.com/fraiseql/weir/internal/setting"
)

var suite sandbox.Suite

func TestMain(m *testing.M) { goleak.VerifyTestMain(suite.Main(m)) }

// slow is a timeout that a busy machine keeps.
const slow = setting.Duration(5 * time.Second)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func at(t testing.TB, url string) Config {
	t.Helper()
	u, err := ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	return Config{URL: u, Timeout: slow}
}

var databases sync.Map // their identities, by test

// database is the identity of this test's database, another one for each run.
func database(t testing.TB) string {
	id, known := databases.LoadOrStore(t, rand.Text())
	if !known {
		t.Cleanup(func() { databases.Delete(t) })
	}
	return id.(string)
}

// connect opens a connection that runs until the test ends.
func connect(t testing.TB, cfg Config, installation string) *Redis {
	t.Helper()
	r := Open(cfg, quiet(), prometheus.NewRegistry())
	r.Name(installation, database(t))
	run(t, r.Run)
	t.Cleanup(func() { _ = r.Close() })
	return r
}

// run runs until the test ends, or until it is told to.
func run(t testing.TB, task func(context.Context)) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var wg sync.WaitGroup
	wg.Go(func() { task(ctx) })
	stop = func() { cancel(); wg.Wait() }
	t.Cleanup(stop)
	return stop
}

// worker is a worker's cache.
type worker struct {
	*Results

	t testing.TB
}

func newWorker(t testing.TB, cfg Config, installation string, o ResultsOptions) *worker {
	t.Helper()
	w := newDeaf(t, cfg, installation, o)
	run(t, w.Run)
	w.listens()
	return w
}

// newDeaf is one that does not run.
func newDeaf(t testing.TB, cfg Config, installation string, o ResultsOptions) *worker {
	t.Helper()
	o.Logger, o.Registerer = quiet(), prometheus.NewRegistry()
	if o.ClientID == "" {
		o.ClientID = "worker-1"
	}
	return &worker{NewResults(connect(t, cfg, installation), o), t}
}

// workers are some on the server of all tests.
func workers(t testing.TB, n int) []*worker {
	t.Helper()
	var out []*worker
	for i := range n {
		out = append(out, newWorker(t, at(t, suite.Redis(t).URL()), "main", ResultsOptions{ClientID: fmt.Sprint("worker-", i)}))
	}
	return out
}

func (w *worker) trusts() bool {
	w.memory.mu.Lock()
	defer w.memory.mu.Unlock()
	return time.Now().Before(w.memory.trusted)
}

func (w *worker) listens() {
	w.t.Helper()
	w.want()
	eventually(w.t, 10*time.Second, "the subscription lives", w.trusts)
}

func eventually(t testing.TB, within time.Duration, what string, is func() bool) {
	t.Helper()
	for began := time.Now(); !is(); time.Sleep(time.Millisecond) {
		if time.Since(began) > within {
			t.Fatalf("not within %s: %s", within, what)
		}
	}
}

const lease = time.Minute

func key(k string) Key { return Key{"orders", "post", k} }

// get looks once.
func (w *worker) get(k Key, tags ...string) Lookup {
	return w.Get(context.Background(), k, tags, lease, 0)
}

// fill is a miss.
func (w *worker) fill(k Key, tags ...string) *Fill {
	w.t.Helper()
	l := w.get(k, tags...)
	if l.Found != Miss {
		w.t.Fatalf("%v: found %d, want a miss", k, l.Found)
	}
	return l.Fill
}

// store calls and stores.
func (w *worker) store(k Key, value string, tags ...string) {
	w.t.Helper()
	w.fill(k, tags...).Store(context.Background(), []byte(value), time.Hour)
}

// put makes a result anew.
func (w *worker) put(k Key, value []byte, tags ...string) error {
	renewal, err := w.Renew(context.Background(), k, tags, lease)
	if err != nil {
		return err
	}
	return renewal.Store(context.Background(), value, time.Hour)
}

func (w *worker) wantHit(k Key, want string) {
	w.t.Helper()
	if l := w.get(k); l.Found != Hit || string(l.Value) != want {
		w.t.Errorf("%v: found %d, %q; want %q", k, l.Found, l.Value, want)
	}
}

// wantMiss looks, and puts things back.
func (w *worker) wantMiss(k Key) {
	w.t.Helper()
	l := w.get(k)
	if l.Found != Miss {
		w.t.Errorf("%v: found %d, %q; want a miss", k, l.Found, l.Value)
		return
	}
	l.Fill.Abandon(context.Background())
}

// wantGone is a miss, soon.
func (w *worker) wantGone(k Key) {
	w.t.Helper()
	eventually(w.t, time.Second, fmt.Sprint(k, " is gone"), func() bool {
		l := w.get(k)
		if l.Found == Miss {
			l.Fill.Abandon(context.Background())
		}
		return l.Found == Miss
	})
}

func (w *worker) invalidate(s Selection, want int) {
	w.t.Helper()
	if n, err := w.Invalidate(context.Background(), s); err != nil || n != want {
		w.t.Errorf("%+v: removed %d, %v; want %d", s, n, err, want)
	}
}

// bare is a client of a server, past everything.
func bare(t testing.TB, cfg Config) redis.UniversalClient {
	t.Helper()
	c := redis.NewUniversalClient(cfg.WithDefaults().options())
	t.Cleanup(func() { _ = c.Close() })
	return c
}
