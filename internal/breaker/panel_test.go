package breaker

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/fraiseql/weir/internal/sandbox"
	"github.com/fraiseql/weir/internal/store"
)

var postgres sandbox.Suite

func TestMain(m *testing.M) { goleak.VerifyTestMain(postgres.Main(m)) }

// rig is a migrated database.
type rig struct {
	t    *testing.T
	pool *pgxpool.Pool
}

func newRig(t *testing.T) *rig {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), postgres.Database(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return &rig{t, pool}
}

func (r *rig) exec(sql string, args ...any) {
	r.t.Helper()
	if _, err := r.pool.Exec(r.t.Context(), sql, args...); err != nil {
		r.t.Fatalf("%s: %v", sql, err)
	}
}

func (r *rig) one(sql string, args ...any) string {
	r.t.Helper()
	var s string
	if err := r.pool.QueryRow(r.t.Context(), sql, args...).Scan(&s); err != nil {
		r.t.Fatalf("%s: %v", sql, err)
	}
	return s
}

// seat is a worker: a panel that follows when it is told to.
type seat struct {
	*Panel
	t     *testing.T
	turns atomic.Int64
	log   strings.Builder
}

// quick is a breaker that trips after two failures, and one probe of which is enough.
var quick = Config{FailureRatio: 0.5, MinRequests: 2, OpenFor: time.Minute, Probes: 1}.WithDefaults()

func (r *rig) seat(name string, endpoints map[string]Endpoint) *seat {
	r.t.Helper()
	r.exec(`INSERT INTO weir.worker (client_id, hostname, pid, version, started_at, seen_at) VALUES ($1, '', 1, '', now(), now())`, name)
	s := &seat{t: r.t}
	s.Panel = New(Options{
		DB: r.pool, ClientID: name, Turned: func() { s.turns.Add(1) }, Registerer: prometheus.NewRegistry(),
		Logger: slog.New(slog.NewTextHandler(io.Writer(&s.log), nil)),
	})
	s.Configure(endpoints, nil)
	s.follow()
	return s
}

func (s *seat) follow() {
	s.t.Helper()
	if err := s.Follow(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
}

// call makes a call, and says whether it was let through.
func (s *seat) call(v Verdict) bool {
	pass, err := s.Enter("erp")
	if err != nil {
		return false
	}
	pass.Report(v, "status 503")
	return true
}

func (s *seat) want(state State, allowed int) {
	s.t.Helper()
	got, _ := s.circuit("erp").now()
	if n := s.Allowed("erp", 50); got != state || n != allowed {
		s.t.Errorf("%s: %s, %d may run; want %s, %d", s.me, got, n, state, allowed)
	}
}

func (r *rig) wantRow(want string) {
	r.t.Helper()
	got := r.one(`SELECT concat_ws(' ', state, changed_by, CASE WHEN manual THEN 'by hand' END, reason) FROM weir.endpoint WHERE name = 'erp'`)
	if got != want {
		r.t.Errorf("the row says %q, want %q", got, want)
	}
}

func (r *rig) due() {
	r.exec("UPDATE weir.endpoint SET open_until = now() - interval '1 s' WHERE state = 'open'")
}

func erp(cfg Config) map[string]Endpoint { return map[string]Endpoint{"erp": {Breaker: cfg}} }

// One worker's failures open the breaker for all; one of them probes, and its success closes it for all.
func TestStateIsShared(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a, b := r.seat("a", erp(quick)), r.seat("b", erp(quick))
	r.wantRow("closed  ")
	a.call(Sick)
	a.call(Sick)
	a.want(Open, 0) // at once, before anything is written
	b.want(Closed, 50)
	a.follow()
	b.follow()
	b.want(Open, 0)
	const why = "2 of 2 calls within 30s failed, the last one: status 503"
	r.wantRow("open a " + why)
	if b.call(Healthy) || b.turns.Load() != 1 {
		t.Errorf("the other worker still calls, having been told of %d turns", b.turns.Load())
	}
	b.follow()
	r.wantRow("open a " + why)
	r.due()
	b.follow()
	a.follow()
	b.want(HalfOpen, 1)
	a.want(HalfOpen, 0)
	r.wantRow("half-open b " + why)
	if a.call(Healthy) || !b.call(Sick) {
		t.Error("not the prober alone calls")
	}
	b.follow()
	a.follow()
	r.wantRow("open b a probe failed: status 503")
	a.want(Open, 0)
	r.due()
	a.follow()
	if !a.call(Healthy) {
		t.Error("no probe")
	}
	a.follow()
	b.follow()
	r.wantRow("closed a 1 probes succeeded")
	a.want(Closed, 50)
	b.want(Closed, 50)
	wantMetrics(t, b)
}

func wantMetrics(t *testing.T, b *seat) {
	t.Helper()
	for to, want := range map[string]float64{"open": 2, "half-open": 1, "closed": 1} {
		if got := testutil.ToFloat64(b.metrics.transitions.WithLabelValues("erp", to)); got != want {
			t.Errorf("%v transitions to %s, want %v", got, to, want)
		}
	}
	if got := testutil.ToFloat64(b.metrics.state.WithLabelValues("erp")); got != 0 {
		t.Errorf("state %v", got)
	}
}

// A decision is written when the database is back, and holds until then.
func TestDecisionWithoutDatabase(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a := r.seat("a", erp(quick))
	a.call(Sick)
	a.call(Sick)
	away, cancel := context.WithCancel(t.Context())
	cancel()
	if a.Follow(away) == nil {
		t.Fatal("the database was to be away")
	}
	a.want(Open, 0)
	r.wantRow("closed  ")
	a.follow()
	a.want(Open, 0)
	r.wantRow("open a 2 of 2 calls within 30s failed, the last one: status 503")
}

// Who probes and dies is replaced; who stops hands it back.
func TestProberIsReplaced(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a, b := r.seat("a", erp(quick)), r.seat("b", erp(quick))
	a.call(Sick)
	a.call(Sick)
	a.follow()
	r.due()
	a.follow()
	a.want(HalfOpen, 1)
	b.follow()
	b.want(HalfOpen, 0)
	r.exec("DELETE FROM weir.worker WHERE client_id = 'a'")
	b.follow()
	b.want(HalfOpen, 1)
	a.call(Healthy) // it does not know yet
	a.follow()
	b.want(HalfOpen, 1)
	a.want(HalfOpen, 0)

	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		b.Run(ctx)
	}()
	stop()
	<-ended
	r.wantRow("open b handed back: the prober stops")
	c := r.seat("c", erp(quick))
	c.want(HalfOpen, 1)
}

// What a person has opened stays open, whatever workers see, also where there is no breaker; it ends when its time has come.
func TestByHand(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]Config{"on": quick, "off": Config{Off: true}.WithDefaults()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			a := r.seat("a", erp(cfg))
			open := func(until string) {
				r.exec(`UPDATE weir.endpoint SET state = 'open', manual = true, changed_by = 'ops', reason = 'move', open_until = $1`, until)
			}
			open("infinity")
			a.call(Sick)
			a.call(Sick) // before it has followed
			a.follow()
			a.follow()
			a.want(Open, 0)
			r.wantRow("open ops by hand move")
			if e := a.circuit("erp").refused(); e.After != 0 {
				t.Errorf("ends in %s, want: nobody knows", e.After)
			}
			if d := a.Degraded(); len(d) != 1 || d[0] != "endpoint erp: circuit breaker open: move" {
				t.Errorf("degraded: %q", d)
			}
			open("2000-01-01")
			a.follow()
			if name == "on" {
				a.want(HalfOpen, 1)
			} else {
				a.want(Closed, 50)
				r.wantRow("closed a the configuration has no breaker here")
			}
			open("infinity")
			a.follow()
			a.want(Open, 0)
			r.exec(`UPDATE weir.endpoint SET state = 'closed', manual = true, changed_by = 'ops', reason = '', open_until = NULL`)
			a.follow()
			a.want(Closed, 50)
		})
	}
}

// A breaker that is taken out of the configuration while it is open lets deliveries go.
func TestBreakerIsConfiguredAway(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a := r.seat("a", erp(quick))
	a.call(Sick)
	a.call(Sick)
	a.follow()
	a.Configure(erp(Config{Off: true}.WithDefaults()), nil)
	a.follow()
	a.want(Closed, 50)
	a.Configure(erp(quick), nil)
	a.call(Sick)
	a.call(Sick)
	a.follow()
	r.due()
	a.follow()
	a.want(HalfOpen, 1)
	a.Configure(nil, nil)
	a.follow()
	r.wantRow("open a handed back: the prober's configuration has no such endpoint any more")
}

func TestGone(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	act := Action{"o", "hook"}
	a, b := r.seat("a", nil), r.seat("b", nil)
	old, moved := map[Action]string{act: "t1"}, map[Action]string{act: "t2"}
	a.Configure(nil, old)
	b.Configure(nil, old)
	want := func(s *seat, target string, want bool) {
		t.Helper()
		if got := s.IsGone(act, target); got != want {
			t.Errorf("%s: gone is %t, want %t", s.me, got, want)
		}
	}
	a.Gone(act, "t1")
	want(a, "t1", true)
	want(b, "t1", false)
	a.follow()
	b.follow()
	want(b, "t1", true)
	want(b, "t2", false)
	if n := testutil.ToFloat64(b.metrics.gone.WithLabelValues("o", "hook")); n != 1 {
		t.Errorf("weir_actions_gone is %v", n)
	}
	if n := strings.Count(b.log.String(), "is gone (410)"); n != 1 {
		t.Errorf("said %d times that the target is gone", n)
	}
	b.Configure(nil, moved)
	b.follow()
	a.follow()
	want(a, "t1", false)
	if n := r.one("SELECT count(*)::text FROM weir.gone"); n != "0" {
		t.Errorf("%s rows of an action with another target", n)
	}
	a.Gone(act, "t1")
	a.follow()
	if n, err := store.New().RemoveGone(t.Context(), r.pool, store.RemoveGoneParams{Observer: "o", Action: "hook"}); n != 1 || err != nil {
		t.Errorf("removed %d, %v", n, err)
	}
	a.follow()
	want(a, "t1", false)
	if n := testutil.CollectAndCount(a.metrics.gone); n != 1 {
		t.Errorf("%d series of weir_actions_gone for one action", n)
	}
	a.Configure(nil, nil)
	a.follow()
	if n := testutil.CollectAndCount(a.metrics.gone); n != 0 {
		t.Errorf("%d series of weir_actions_gone for an action that is not configured any more", n)
	}
}

// Moments are reserved one after the other, on the database's clock.
func TestReservedMoments(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.seat("a", erp(quick))
	reserve := func(gap float64, calls int32, reserved bool) (ahead time.Duration) {
		t.Helper()
		row, err := store.New().ReserveCalls(t.Context(), r.pool, store.ReserveCallsParams{Name: "erp", Gap: gap, Calls: calls, Ahead: 8})
		if err != nil {
			t.Fatal(err)
		}
		if row.Reserved != reserved {
			t.Errorf("reserved: %t, want %t", row.Reserved, reserved)
		}
		return row.First.Sub(row.Now)
	}
	near := func(what string, got, want time.Duration) {
		t.Helper()
		if got < want-200*time.Millisecond || got > want {
			t.Errorf("%s: %s ahead, want %s", what, got, want)
		}
	}
	near("the first", reserve(3600, 1, true), 0)
	near("the next", reserve(3600, 1, false), time.Hour)
	near("the next, nobody having reserved it", reserve(3600, 1, false), time.Hour)
	near("of another rate", reserve(1, 4, true), time.Second) // one call is reserved, now a second ago
	near("of that rate", reserve(1, 1, true), 5*time.Second)
	if ahead := reserve(3600, 1, false).Round(time.Hour); ahead != 6*time.Hour {
		t.Errorf("of the first rate: %s ahead, want 6h", ahead)
	}
	r.exec("UPDATE weir.endpoint SET rate_next = now() + interval '1 year'")
	near("after the clock has jumped", reserve(3600, 1, false), time.Hour+9*time.Second)
	r.exec("UPDATE weir.endpoint SET rate_next = now() - interval '1 year'")
	near("after a pause", reserve(0.02, 1, true), 0)
}

// Many workers that reserve at once get every moment once.
func TestReservedMomentsAreDistinct(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a := r.seat("a", erp(quick))
	var mu sync.Mutex
	seen := map[string]bool{}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 25 {
				row, err := store.New().ReserveCalls(t.Context(), a.db, store.ReserveCallsParams{Name: "erp", Gap: 0.02, Calls: 3, Ahead: 60})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				for i := range 3 {
					seen[fmt.Sprint(row.First.Add(time.Duration(i)*20*time.Millisecond).UnixMilli()/5)] = true
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	if len(seen) != 8*25*3 {
		t.Errorf("%d distinct moments of %d", len(seen), 8*25*3)
	}
}
