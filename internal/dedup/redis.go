package dedup

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"github.com/fraiseql/weir/internal/cache"
)

// A key's value is "claim <delivery> <attempt>" for as long as the lease, then "done <delivery>" for as long as the window.
// What reads and then writes is a script on the one key: that needs no version of Redis that is newer than 5, and works in a
// Cluster. go-redis sends a script's text only to a server that does not have it yet, as after a restart.
var (
	// claimScript answers with the value that is in the way and the milliseconds that it still lasts, or with nil when the key
	// is claimed.
	claimScript = redis.NewScript(`
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return false end
local held = redis.call('GET', KEYS[1])
if held and string.sub(held, 1, 42) ~= string.sub(ARGV[1], 1, 42) then return {held, redis.call('PTTL', KEYS[1])} end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return false`)

	// doneScript leaves what belongs to another delivery.
	doneScript = redis.NewScript(`
local held = redis.call('GET', KEYS[1])
if held and held ~= ARGV[1] and string.sub(held, 1, 42) ~= ARGV[2] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
return 1`)

	// releaseScript removes this very claim.
	releaseScript = redis.NewScript(`
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])`)
)

// Redis keeps claims in Redis. Its errors are *cache.AwayError.
type Redis struct{ redis *cache.Redis }

var _ Claims = (*Redis)(nil)

// NewRedis keeps claims behind this connection.
func NewRedis(r *cache.Redis) *Redis { return &Redis{r} }

// Claim see Claims. A key that is new or done takes two bare commands in one round trip, which costs little more than one of
// them; a script costs a third more. Only a claim that is in the way, or an own one, needs it.
func (r *Redis) Claim(ctx context.Context, k Key, h Holder, lease time.Duration) (Answer, error) {
	value := claimOf(h) + " " + h.Attempt.String()
	set, held, err := r.look(ctx, k, value, lease)
	switch {
	case err != nil:
		return Answer{}, err
	case set:
		return Answer{State: Claimed, Of: h.Delivery}, nil
	case strings.HasPrefix(held, "done "):
		return read(h, held, 0)
	}
	var reply any
	if err := r.run(ctx, claimScript, k, &reply, value, cache.Millis(lease)); err != nil {
		return Answer{}, err
	}
	if reply == nil {
		return Answer{State: Claimed, Of: h.Delivery}, nil
	}
	parts, _ := reply.([]any)
	if len(parts) != 2 {
		return Answer{}, unexpected(fmt.Sprint(reply))
	}
	held, _ = parts[0].(string)
	rest, _ := parts[1].(int64)
	return read(h, held, time.Duration(max(0, rest))*time.Millisecond)
}

// look sets the value if there is none, and returns the one that is there: "" if it vanished in between.
func (r *Redis) look(ctx context.Context, k Key, value string, life time.Duration) (set bool, held string, err error) {
	err = r.redis.Do(ctx, func(ctx context.Context, c redis.UniversalClient) error {
		key := r.key(k)
		pipe := c.Pipeline()
		first, second := pipe.SetNX(ctx, key, value, max(time.Millisecond, life)), pipe.Get(ctx, key)
		_, err := pipe.Exec(ctx)
		set, held = first.Val(), second.Val()
		return err
	})
	if errors.Is(err, redis.Nil) {
		err = nil
	}
	return set, held, err
}

// Done see Claims.
func (r *Redis) Done(ctx context.Context, k Key, h Holder, window time.Duration) error {
	return r.run(ctx, doneScript, k, nil, "done "+h.Delivery.String(), claimOf(h), cache.Millis(window))
}

// Release see Claims.
func (r *Redis) Release(ctx context.Context, k Key, h Holder) error {
	return r.run(ctx, releaseScript, k, nil, claimOf(h)+" "+h.Attempt.String())
}

// run runs a script on the key. A repetition after a connection broke does no harm: each script can be run twice.
func (r *Redis) run(ctx context.Context, script *redis.Script, k Key, reply *any, args ...any) error {
	err := r.redis.Do(ctx, func(ctx context.Context, c redis.UniversalClient) error {
		value, err := script.Run(ctx, c, []string{r.key(k)}, args...).Result()
		if reply != nil {
			*reply = value
		}
		return err
	})
	if errors.Is(err, redis.Nil) {
		return nil
	}
	return err
}

func (r *Redis) key(k Key) string {
	return r.redis.Key("dedup", k.Observer, k.Action, cache.Brief(k.Key))
}

// claimOf is what the claims of all attempts of a delivery begin with.
func claimOf(h Holder) string { return "claim " + h.Delivery.String() }

// read understands the value of a key that is held or done.
func read(h Holder, value string, rest time.Duration) (Answer, error) {
	state, of, _ := strings.Cut(value, " ")
	of, _, _ = strings.Cut(of, " ")
	delivery, err := uuid.Parse(of)
	if err != nil || (state != "claim" && state != "done") {
		return Answer{}, unexpected(value)
	}
	return answer(h, delivery, state == "done", rest), nil
}

func unexpected(value string) error {
	return &cache.AwayError{Err: fmt.Errorf("something else stands where a claim is expected: %.100q", value)}
}
