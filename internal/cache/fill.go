package cache

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// Fill is the task to make a call and to store its result. It ends with Store or Abandon, of which the first one counts.
type Fill struct {
	results *Results
	subject *subject
	token   string
	flight  *flight // nil for one that nobody waits for
	ended   atomic.Bool

	mu     sync.Mutex // guards the rest
	scores []string   // in the indexes, as this fill has set them
}

// Hold goes on for so long from now. false: it is lost, since the result was invalidated or the lease had ended, and another may
// be making the call by now; the result of this one will not be stored. While Redis is away it is not known to be lost.
func (f *Fill) Hold(ctx context.Context, lease time.Duration) (held bool) {
	held, err := f.renew(ctx, max(lease, time.Millisecond))
	switch {
	case err != nil:
		return true
	case held:
		f.results.flights.hold(f.flight, lease)
	default:
		f.results.flights.land(f.flight)
	}
	return held
}

// renew sees to the indexes, too: what is held longer has to be found longer.
func (f *Fill) renew(ctx context.Context, lease time.Duration) (held bool, err error) {
	r := f.results.redis
	err = r.Do(ctx, func(ctx context.Context, client redis.UniversalClient) error {
		pipe := client.Pipeline()
		scores := r.index(ctx, pipe, f.subject, lease)
		renewed := holdScript.Eval(ctx, pipe, []string{r.place(f.subject.member)}, f.token, Millis(lease))
		if _, err := pipe.Exec(ctx); err != nil {
			return err
		}
		f.remember(scores)
		held, err = renewed.Bool()
		return err
	})
	return held, err
}

// Store stores the result for so long, unless it was invalidated since Get. It does so even if the context has ended.
func (f *Fill) Store(ctx context.Context, value []byte, ttl time.Duration) {
	c := f.results
	switch {
	case f.ended.Load():
		return
	case ttl <= 0:
		f.Abandon(ctx)
		return
	case len(value) > maxValue:
		c.notStored(tooLarge)
		f.Abandon(ctx)
		return
	case f.ended.Swap(true):
		return
	}
	defer c.flights.land(f.flight)
	heard, began := c.memory.now(), time.Now()
	stored, err := f.store(context.WithoutCancel(ctx), value, ttl)
	c.count(stored, err)
	if stored {
		c.memory.put(&entry{subject: f.subject, value: value, stored: began, expires: began.Add(ttl)}, heard)
	}
}

// store sees to the indexes first, so that no result outlives its names there.
func (f *Fill) store(ctx context.Context, value []byte, ttl time.Duration) (stored bool, err error) {
	tags, err := writeTags(f.subject.tags)
	if err != nil {
		return false, err
	}
	r := f.results.redis
	err = r.Do(ctx, func(ctx context.Context, client redis.UniversalClient) error {
		pipe := client.Pipeline()
		r.index(ctx, pipe, f.subject, ttl)
		_, err := pipe.Exec(ctx)
		return err
	})
	if err != nil {
		return false, err
	}
	err = r.Do(ctx, func(ctx context.Context, client redis.UniversalClient) error {
		keys := []string{r.place(f.subject.member)}
		stored, err = storeScript.Run(ctx, client, keys, f.token, tags, value, Millis(ttl)).Bool()
		return err
	})
	return stored, err
}

// Abandon says that the call failed: nothing is stored, and one of those who wait calls. The context may have ended.
func (f *Fill) Abandon(ctx context.Context) {
	if f.ended.Swap(true) {
		return
	}
	_ = f.abandon(context.WithoutCancel(ctx)) // else the mark ends with its lease
	f.results.flights.land(f.flight)
}

// abandon takes the names out of the indexes, too, where nobody has added them again: the mark first, see Results. If the mark is
// another's by now, so are the names.
func (f *Fill) abandon(ctx context.Context) error {
	r := f.results.redis
	var own bool
	err := r.Do(ctx, func(ctx context.Context, client redis.UniversalClient) (err error) {
		own, err = abandonScript.Run(ctx, client, []string{r.place(f.subject.member)}, f.token).Bool()
		return err
	})
	f.mu.Lock()
	scores := f.scores
	f.mu.Unlock()
	if err != nil || !own || len(scores) == 0 {
		return err
	}
	if renewed, err := r.renewed(ctx, f.subject); err != nil || renewed { // who does so after this adds the names again
		return err
	}
	return r.Do(ctx, func(ctx context.Context, client redis.UniversalClient) error {
		pipe := client.Pipeline()
		for i, key := range r.indexes(f.subject) {
			forgetScript.Eval(ctx, pipe, []string{key}, f.subject.member, scores[i])
		}
		_, err := pipe.Exec(ctx)
		return err
	})
}

// remember keeps the scores that indexes have given.
func (f *Fill) remember(given []*redis.Cmd) {
	scores := make([]string, 0, len(given))
	for _, command := range given {
		score, _ := command.Text()
		scores = append(scores, score)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.scores = scores
}
