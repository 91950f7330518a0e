package cache

import (
	"context"
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
		r.index(ctx, pipe, f.subject, lease)
		renewed := holdScript.Eval(ctx, pipe, []string{r.place(f.subject.member)}, f.token, millis(lease))
		if _, err := pipe.Exec(ctx); err != nil {
			return err
		}
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
		stored, err = storeScript.Run(ctx, client, keys, f.token, value, millis(ttl)).Bool()
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

func (f *Fill) abandon(ctx context.Context) error {
	r := f.results.redis
	return r.Do(ctx, func(ctx context.Context, client redis.UniversalClient) error {
		return abandonScript.Run(ctx, client, []string{r.place(f.subject.member)}, f.token).Err()
	})
}
