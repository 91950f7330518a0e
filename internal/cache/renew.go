package cache

import (
	"context"
	"crypto/rand"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"
)

// Renewal is the task to make a call whose result takes the place of whatever is there. Until it is stored, that stays.
//
// It has a ticket, a key of its own: the mark of a Fill would take the result away that is to stay. Who invalidates removes the
// tickets of what is found first, then what is there, and the result's name is in the indexes from before the call. So who does
// not remove what Store puts there has removed the ticket before, which Store asks for once more when its mark is set.
type Renewal struct {
	fill *Fill
}

// renewal is where the ticket of a member is.
func (r *Redis) renewal(member string) string { return r.Key("renewal", member) }

// Renew is asked before the call begins, which may take so long a lease. Of several the last one to begin counts. An *AwayError:
// its result could not be stored.
func (c *Results) Renew(ctx context.Context, k Key, tags []string, lease time.Duration) (*Renewal, error) {
	f := &Fill{results: c, subject: newSubject(k, tags), token: rand.Text()}
	lease = max(lease, time.Millisecond)
	err := c.redis.Do(ctx, func(ctx context.Context, client redis.UniversalClient) error {
		return client.Set(ctx, c.redis.renewal(f.subject.member), "f"+f.token, lease).Err()
	})
	if err != nil {
		return nil, err
	}
	err = c.redis.Do(ctx, func(ctx context.Context, client redis.UniversalClient) error {
		pipe := client.Pipeline()
		c.redis.index(ctx, pipe, f.subject, lease) // after the ticket, as the name of a mark is, see Results
		_, err := pipe.Exec(ctx)
		return err
	})
	return &Renewal{f}, err
}

// Store stores the result in the place of whatever is there, and other workers drop their copies of that. Who is making a call
// for it does not store it any more. An invalidation since Renew wins, which is no error. What is ErrTooLarge is not stored,
// and what was there is removed. An *AwayError leaves open what is there.
func (n *Renewal) Store(ctx context.Context, value []byte, ttl time.Duration) error {
	f := n.fill
	c, k := f.results, f.subject.Key
	if held, err := n.holds(ctx); err != nil || !held {
		c.count(held, err)
		return err
	}
	replaced := &Selection{Keys: []string{k.Key}, Observer: k.Observer, Action: k.Action}
	defer c.drop(replaced)
	err := c.redis.Do(ctx, func(ctx context.Context, client redis.UniversalClient) error {
		return client.Set(ctx, c.redis.place(f.subject.member), "f"+f.token, claimLease).Err()
	})
	if err == nil {
		err = n.put(ctx, value, ttl)
	}
	if err != nil && !errors.Is(err, ErrTooLarge) {
		return err
	}
	_ = c.redis.Do(ctx, func(ctx context.Context, client redis.UniversalClient) error { // else it ends with its lease
		return abandonScript.Run(ctx, client, []string{c.redis.renewal(f.subject.member)}, f.token).Err()
	})
	return errors.Join(err, c.remote.publish(ctx, replaced))
}

// put is what Store does when its mark is set.
func (n *Renewal) put(ctx context.Context, value []byte, ttl time.Duration) error {
	f := n.fill
	held, err := n.holds(ctx)
	switch {
	case err != nil:
		return err
	case !held:
		f.results.count(false, nil)
		return f.abandon(ctx)
	case len(value) > maxValue:
		f.results.notStored(tooLarge)
		return errors.Join(ErrTooLarge, f.abandon(ctx))
	}
	stored, err := f.store(ctx, value, ttl)
	f.results.count(stored, err)
	return err
}

// holds says that the ticket is there, which it then is for long enough to store.
func (n *Renewal) holds(ctx context.Context) (held bool, err error) {
	r := n.fill.results.redis
	err = r.Do(ctx, func(ctx context.Context, client redis.UniversalClient) (err error) {
		held, err = holdScript.Run(ctx, client, []string{r.renewal(n.fill.subject.member)}, n.fill.token, Millis(claimLease)).Bool()
		return err
	})
	return held, err
}

// renewed says that somebody makes a result anew.
func (r *Redis) renewed(ctx context.Context, s *subject) (is bool, err error) {
	err = r.Do(ctx, func(ctx context.Context, client redis.UniversalClient) error {
		n, err := client.Exists(ctx, r.renewal(s.member)).Result()
		is = n > 0
		return err
	})
	return is, err
}
