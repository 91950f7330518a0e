package cache

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// maxValue is the largest result that is kept.
	maxValue = 256 << 10
	// defaultMemory is how many bytes of results are held in process.
	defaultMemory = 32 << 20
	// claimLease is for how long a key is marked as being filled until the claim is confirmed. A mark that nobody knows of,
	// since the answer was lost, keeps others for no longer.
	claimLease = 2 * time.Second
	// pollFirst and pollMax are between two looks at what another process fills.
	pollFirst = 20 * time.Millisecond
	pollMax   = 100 * time.Millisecond
)

// ErrTooLarge says that a result is too large to be kept.
var ErrTooLarge = errors.New("the result is larger than 256 kB")

// ResultsOptions are those of NewResults.
type ResultsOptions struct {
	// ClientID is the worker's, under which it tells its figures.
	ClientID string
	// MemoryBytes is how much is held in process, 32 MiB by default.
	MemoryBytes int
	Logger      *slog.Logger
	Registerer  prometheus.Registerer
}

// Results are the results of actions by key: in process, then in Redis. Safe for concurrent use. Without Run nothing is served
// from the process, since invalidations are not heard.
//
// Who finds no result marks the key in Redis as being filled, which one can do at a time, adds it to its indexes (of all, of its
// key, of each tag), makes the call and stores the result in the place of its mark. Who invalidates reads an index, removes the
// results and the marks that it names, then their names from the index, but for those that were added again meanwhile, and
// then tells every worker. So
//
//   - a call that began before an invalidation is not stored after it: its key was in the index before it began, and the mark
//     without which nothing is stored is gone;
//   - what is stored can be found again: a mark is set before its name is added to the indexes, thus who removes the name either
//     has removed the mark as well, or sees that the name was added again. The other way round a name could be removed
//     between its addition and the mark, and the result would be in no index.
//
// This needs the indexes: a server that evicts keys may lose one, and then invalidations do not find its results until those
// expire. Redis should have the memory that it needs, or maxmemory-policy volatile-ttl.
type Results struct {
	redis    *Redis
	remote   *Remote
	id       string // of this process among those that hear of invalidations
	clientID string
	log      *slog.Logger
	memory   *memory
	flights  *flights
	metrics  *resultMetrics
	figures  figures

	wanted chan struct{} // closed by want: with the first lookup, since a worker that looks for nothing need not listen
	want   func()
}

// NewResults prepares the cache. Run has to run.
func NewResults(r *Redis, o ResultsOptions) *Results {
	c := &Results{
		redis: r, id: rand.Text(), clientID: o.ClientID, log: o.Logger.With("component", "cache"),
		memory: newMemory(cmp.Or(o.MemoryBytes, defaultMemory)), flights: newFlights(), wanted: make(chan struct{}),
	}
	c.want = sync.OnceFunc(func() { close(c.wanted) })
	c.remote = &Remote{redis: r, from: c.id}
	c.metrics = newResultMetrics(o.Registerer, c.memory)
	return c
}

// Run hears of invalidations and tells this worker's figures, until the context ends.
func (c *Results) Run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { c.listen(ctx) })
	wg.Go(func() { c.tell(ctx) })
	wg.Wait()
}

// Found is how a lookup ended.
type Found int

// The ends of a lookup.
const (
	Hit  Found = iota
	Miss       // the caller makes the call
	Busy       // another delivery makes the call, for longer than was waited
	Away       // Redis is: go on without
)

// Lookup is what Get found.
type Lookup struct {
	Found Found
	// Value of a Hit is not to be changed: others have it, too.
	Value []byte
	// Age of a Hit is the time since it was stored.
	Age time.Duration
	// Fill of a Miss: the caller makes the call, then Store or Abandon.
	Fill *Fill
	// After, of Busy, is how long the other's fill may still last at most.
	After time.Duration
}

// Get finds a result, or makes the caller the one who makes the call for it, for so long a lease at most. While another delivery
// makes it, here or elsewhere, Get waits for it, then answers Busy.
func (c *Results) Get(ctx context.Context, k Key, tags []string, lease, wait time.Duration) Lookup {
	c.want()
	began := time.Now()
	s := &search{subject: newSubject(k, tags), lease: max(lease, time.Millisecond), deadline: began.Add(wait)}
	l := c.find(ctx, s)
	c.observe(s, l, time.Since(began))
	return l
}

// search is a lookup that goes on.
type search struct {
	*subject

	lease    time.Duration
	deadline time.Time
	waited   bool
	inMemory bool
}

func (c *Results) find(ctx context.Context, s *search) Lookup {
	pause := pollFirst
	for {
		if value, age, ok := c.memory.get(s.member); ok {
			s.inMemory = true
			return Lookup{Found: Hit, Value: value, Age: age}
		}
		over, left := c.flights.current(s.member)
		next := left
		if over == nil {
			l := c.ask(ctx, s)
			if l.Found != Busy {
				return l
			}
			left, next = l.After, min(pause, l.After)
			pause = min(pause*3/2, pollMax)
		}
		if !s.wait(ctx, over, next) {
			return Lookup{Found: Busy, After: left}
		}
	}
}

// wait waits for so long, or until the call is over. false: there is no time left.
func (s *search) wait(ctx context.Context, over <-chan struct{}, d time.Duration) bool {
	left := time.Until(s.deadline)
	if left <= 0 || ctx.Err() != nil {
		return false
	}
	s.waited = true
	timer := time.NewTimer(min(d, left))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-over:
	case <-timer.C:
	}
	return true
}

// ask looks in Redis.
func (c *Results) ask(ctx context.Context, s *search) Lookup {
	heard, asked, token := c.memory.now(), time.Now(), ""
	a, err := c.look(ctx, s.subject)
	if err == nil && a.kind == 0 { // a call follows, beside which a round trip more is little
		token = rand.Text()
		a, err = c.claim(ctx, s.subject, token, min(s.lease, claimLease))
	}
	switch {
	case err != nil:
		return Lookup{Found: Away}
	case a.kind == 'v':
		found := *s.subject
		found.tags = a.tags
		c.memory.put(&entry{subject: &found, value: a.value, stored: asked.Add(-a.age), expires: asked.Add(a.left)}, heard)
		return Lookup{Found: Hit, Value: a.value, Age: a.age}
	case a.kind == 'b':
		return Lookup{Found: Busy, After: max(time.Millisecond, a.left)}
	}
	f := &Fill{results: c, subject: s.subject, token: token, flight: c.flights.begin(s.subject, s.lease)}
	held, err := f.renew(ctx, s.lease)
	switch {
	case err != nil:
		f.Abandon(ctx)
		return Lookup{Found: Away}
	case !held: // invalidated at once
		c.flights.land(f.flight)
		return Lookup{Found: Busy, After: time.Millisecond}
	}
	return Lookup{Found: Miss, Fill: f}
}

// drop removes what was invalidated from this process.
func (c *Results) drop(s *Selection) {
	c.memory.drop(s)
	c.flights.drop(s)
}
