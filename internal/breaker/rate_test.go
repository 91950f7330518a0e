package breaker

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fraiseql/weir/internal/setting"
)

func rate(t *testing.T, text string) setting.Rate {
	t.Helper()
	r, err := setting.ParseRate(text)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// table reserves as the database does.
type table struct {
	mu     sync.Mutex // guards the rest
	next   time.Time
	slices []int
	ahead  time.Duration // the most that lay between a reservation and its first moment
	err    error

	refused int // how often somebody asked too early
}

func (b *table) reserve(_ context.Context, gap time.Duration, n int) (time.Time, bool, error) {
	time.Sleep(2 * time.Millisecond)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		return time.Time{}, false, b.err
	}
	first := time.Now()
	if b.next.After(first) {
		first = b.next
	}
	if time.Until(first) > ahead {
		b.refused++
		return first, false, nil
	}
	b.next = first.Add(time.Duration(n) * gap)
	b.slices, b.ahead = append(b.slices, n), max(b.ahead, time.Until(first))
	return first, true, nil
}

func (b *table) set(next time.Time, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.next, b.err = next, err
}

func (b *table) limiter(t *testing.T, text string) *limiter {
	t.Helper()
	return newLimiter(rate(t, text), slog.New(slog.DiscardHandler), b.reserve)
}

// callsOf lets so many wait at once on each limiter, and returns the times of their calls since the beginning, in order.
func callsOf(t *testing.T, n int, limiters ...*limiter) []time.Duration {
	t.Helper()
	var mu sync.Mutex
	var at []time.Duration
	var all sync.WaitGroup
	began := time.Now()
	for _, l := range limiters {
		for range n {
			all.Go(func() {
				if err := l.wait(t.Context()); err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				at = append(at, time.Since(began))
			})
		}
	}
	all.Wait()
	slices.Sort(at)
	return at
}

// Three workers share 50 calls a second: none is nearer to the next one than 20 ms, and none of the time is lost.
func TestRateOfThreeWorkers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &table{}
		at := callsOf(t, 100, b.limiter(t, "50/s"), b.limiter(t, "50/s"), b.limiter(t, "50/s"))
		for i := 1; i < len(at); i++ {
			if gap := at[i] - at[i-1]; gap < 17*time.Millisecond || gap > 23*time.Millisecond {
				t.Fatalf("calls %d and %d are %s apart, want 20ms", i-1, i, gap)
			}
		}
		if most := slices.Max(b.slices); most != 13 {
			t.Errorf("up to %d calls were reserved at once, want a quarter of a second's: 13", most)
		}
		if most := 3 * 13 * 20 * time.Millisecond; b.ahead > most {
			t.Errorf("calls were reserved %s ahead: want what is left of a slice for each worker, at most %s", b.ahead, most)
		}
	})
}

func TestSlowRateReservesOneByOne(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &table{}
		at := callsOf(t, 4, b.limiter(t, "2/m"))
		if at[3] < 90*time.Second || at[3] > 91*time.Second || slices.Max(b.slices) != 1 {
			t.Errorf("four calls at 2/m came at %v, reserved by %v", at, b.slices)
		}
	})
}

// A worker that stops or dies while its deliveries wait takes nothing of a low limit along.
func TestSlowRateIsNotTakenAlong(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &table{}
		a, c := b.limiter(t, "1/m"), b.limiter(t, "1/m")
		callsOf(t, 1, a)
		began := time.Now()
		ctx, stop := context.WithCancel(t.Context())
		var waiting sync.WaitGroup
		for range 3 {
			waiting.Go(func() { _ = a.wait(ctx) })
		}
		time.Sleep(30 * time.Second)
		stop()
		waiting.Wait()
		at := callsOf(t, 2, c)
		if first := at[0] + 30*time.Second; first > 61*time.Second {
			t.Errorf("the next call was made after %s, want a minute", first)
		}
		if took := time.Since(began); took < 119*time.Second || took > 121*time.Second {
			t.Errorf("two calls took %s, want two minutes", took)
		}
		if b.refused > 5 {
			t.Errorf("asked %d times too early", b.refused)
		}
	})
}

// Who has to go leaves its moment to the next, and the queue stands still no longer than that.
func TestMomentIsGivenBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &table{}
		l := b.limiter(t, "1/m")
		if err := l.wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		left := make(chan error, 1)
		go func() { left <- l.wait(ctx) }()
		time.Sleep(time.Second)
		began := time.Now()
		done := make(chan error, 1)
		go func() { done <- l.wait(t.Context()) }()
		cancel(ErrStopping)
		if err := <-left; !errors.Is(err, ErrStopping) {
			t.Errorf("who was told to go: %v", err)
		}
		if time.Since(began) != 0 {
			t.Error("who was told to go went on waiting")
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		if waited := time.Since(began); waited < 58*time.Second || waited > 60*time.Second {
			t.Errorf("the next waited %s, want the moment of the one before, in 59s", waited)
		}
	})
}

// A rate that a reload changes holds at once, also for who waits for a moment that lies an hour away.
func TestRateChanges(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &table{}
		l := b.limiter(t, "1/h")
		if err := l.wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 2)
		for range 2 {
			go func() { done <- l.wait(t.Context()) }()
		}
		time.Sleep(time.Minute)
		began := time.Now()
		b.set(began, nil) // which the database finds out by itself: TestReservedMoments
		l.configure(rate(t, "50/s"))
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		l.configure(setting.Rate{})
		if err := l.wait(t.Context()); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("the new rate took effect after %s", took)
		}
	})
}

// Without the database there are no calls, and no busy loop.
func TestRateWithoutDatabase(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &table{err: errors.New("away")}
		l := b.limiter(t, "50/s")
		done := make(chan error, 1)
		go func() { done <- l.wait(t.Context()) }()
		time.Sleep(time.Minute)
		synctest.Wait()
		select {
		case err := <-done:
			t.Fatalf("a call without a reservation: %v", err)
		default:
		}
		b.set(time.Time{}, nil)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// Moments that nobody used when they came are lost: a rate is no budget that is saved up.
func TestUnusedMomentsAreLost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &table{}
		l := b.limiter(t, "50/s")
		for _, pause := range []time.Duration{0, time.Second, time.Hour} {
			time.Sleep(pause)
			at := callsOf(t, 20, l)
			if at[19] < 370*time.Millisecond {
				t.Errorf("after a pause of %s, 20 calls were made within %s", pause, at[19])
			}
		}
	})
}

// A limit that goes away in between what is asked and what is reserved divides nothing by zero.
func TestRateGoesAwayMeanwhile(t *testing.T) {
	t.Parallel()
	b := &table{}
	l := b.limiter(t, "50/s")
	changed := l.changed
	l.configure(setting.Rate{})
	l.queue.Add(1)
	if err := l.more(t.Context(), changed); !errors.Is(err, errRateChanged) {
		t.Errorf("got %v", err)
	}
	if err := l.wait(t.Context()); err != nil {
		t.Error(err)
	}
}
