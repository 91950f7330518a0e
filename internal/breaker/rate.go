package breaker

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fraiseql/weir/internal/setting"
)

const (
	// slice is how much of the future is reserved at a time.
	slice = 250 * time.Millisecond
	// ahead is how far ahead a moment may lie to be reserved. What lies further is asked for again when it is nearer: a worker
	// that stops or dies takes what it has reserved along, and under a low limit that would be minutes in which nobody calls.
	ahead = 5 * time.Second
	// lead is how long before the last reserved moment more are reserved: longer than the database takes to answer.
	lead = 100 * time.Millisecond
	// late is by how much a reserved moment may be missed and still be given to a call; at a slower pace than that, by one gap,
	// but no longer than stale. A call that wakes later than stale does without its moment, too: its worker was stopped, and
	// may have been declared dead.
	late  = 50 * time.Millisecond
	stale = time.Second
	// reserveTime is how long the database may take, and reserveAgain when it is asked again.
	reserveTime  = 2 * time.Second
	reserveAgain = 500 * time.Millisecond
)

// limiter gives moments to calls, under the rate limit of an endpoint.
type limiter struct {
	// reserve reserves the next so many moments for this worker, a gap apart, and returns the first; not ok: it lies too far
	// ahead, and nothing is reserved.
	reserve reserve
	log     *slog.Logger

	turn  chan struct{} // held by the one who reserves; the others queue for it in the order in which they came
	queue atomic.Int64  // how many have no moment yet

	mu      sync.Mutex // guards the rest
	rate    setting.Rate
	changed chan struct{} // closed when the rate changes
	moments []time.Time   // reserved and given to nobody, in order
	last    time.Time     // of those that were reserved
	logged  string        // an error that was spoken of
}

type reserve func(ctx context.Context, gap time.Duration, calls int) (first time.Time, ok bool, err error)

func newLimiter(rate setting.Rate, log *slog.Logger, reserve reserve) *limiter {
	return &limiter{rate: rate, log: log, reserve: reserve, turn: make(chan struct{}, 1), changed: make(chan struct{})}
}

// configure puts another rate in force, also for those who wait.
func (l *limiter) configure(rate setting.Rate) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.rate == rate {
		return
	}
	l.rate, l.moments, l.last = rate, nil, time.Time{}
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *limiter) limited() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.rate.IsZero()
}

var errRateChanged = errors.New("the rate limit has changed")

// wait returns when a call may be made. An error is the context's.
func (l *limiter) wait(ctx context.Context) error {
	for {
		l.queue.Add(1)
		moment, changed, err := l.next(ctx)
		l.queue.Add(-1)
		if err == nil {
			err = sleep(ctx, moment, changed)
		}
		switch {
		case errors.Is(err, errRateChanged):
		case err != nil:
			l.giveBack(moment, changed)
			return err
		case time.Since(moment) <= stale:
			return nil
		}
	}
}

// next is the moment of the caller's call. It holds until the rate changes.
func (l *limiter) next(ctx context.Context) (moment time.Time, changed chan struct{}, err error) {
	select {
	case l.turn <- struct{}{}:
	case <-ctx.Done():
		return time.Time{}, nil, context.Cause(ctx)
	}
	defer func() { <-l.turn }()
	for {
		moment, again, changed, ok := l.take(time.Now())
		if ok {
			return moment, changed, nil
		}
		if err := sleep(ctx, again, changed); err != nil {
			return time.Time{}, nil, err
		}
		if err := l.more(ctx, changed); err != nil {
			return time.Time{}, nil, err
		}
	}
}

// take takes a reserved moment; where there is none, again is when more may be reserved.
func (l *limiter) take(now time.Time) (moment, again time.Time, changed chan struct{}, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.rate.IsZero() {
		return now, now, l.changed, true
	}
	for len(l.moments) > 0 {
		moment, l.moments = l.moments[0], l.moments[1:]
		if now.Sub(moment) <= max(late, min(l.rate.Gap(), stale)) {
			return moment, moment, l.changed, true
		}
	}
	return moment, l.last.Add(-lead), l.changed, false
}

// more reserves moments for those who wait, at most a slice.
func (l *limiter) more(ctx context.Context, changed chan struct{}) error {
	l.mu.Lock()
	gap, same := l.rate.Gap(), l.changed == changed
	l.mu.Unlock()
	if !same {
		return errRateChanged
	}
	calls := min(int(l.queue.Load()), max(1, int((slice+gap-1)/gap)))
	first, ok, err := l.reserveInTime(ctx, gap, calls)
	if err != nil {
		l.say(err)
		return sleep(ctx, time.Now().Add(reserveAgain), changed)
	}
	if !ok {
		return sleep(ctx, first.Add(lead-ahead), changed)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.logged = ""
	if l.changed != changed {
		return errRateChanged
	}
	for i := range calls {
		l.last = first.Add(time.Duration(i) * gap)
		l.moments = append(l.moments, l.last)
	}
	return nil
}

// reserveInTime asks the database. Whoever waits may have to go meanwhile: that is no reason to break a connection.
func (l *limiter) reserveInTime(ctx context.Context, gap time.Duration, calls int) (time.Time, bool, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), reserveTime)
	defer cancel()
	return l.reserve(ctx, gap, calls)
}

func (l *limiter) say(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err.Error() != l.logged {
		l.log.Warn("no calls reserved under the rate limit, trying again", "error", err)
		l.logged = err.Error()
	}
}

// giveBack leaves a moment to somebody else.
func (l *limiter) giveBack(moment time.Time, changed chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if changed == nil || changed != l.changed || l.rate.IsZero() {
		return
	}
	l.moments = append(l.moments, moment)
	slices.SortFunc(l.moments, time.Time.Compare)
}

// sleep waits for a moment, the end of the context, or a change of the rate.
func sleep(ctx context.Context, until time.Time, changed <-chan struct{}) error {
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-changed:
		return errRateChanged
	}
}
