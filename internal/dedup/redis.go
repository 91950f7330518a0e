package dedup

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"github.com/fraiseql/weir/internal/cache"
)

// A key's value is "claim <delivery> <attempt>" for as long as the lease, then "done <delivery>" for as long as the window.
// Each question is one script on one key: it needs no version of Redis that is newer than 5, and works in a Cluster. go-redis
// sends a script's text only to a server that does not have it yet, as after a restart.
var (
	// claimScript answers with the value that is in the way and the milliseconds that it still lasts, or with nil when the key
	// is claimed. SET comes first: most keys are new.
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

// longest is how many bytes a rendered key may have and still stand in Redis as it is, where people can read it.
const longest = 512

// hashed is what a key begins with that was longer than that.
const hashed = "sha256:"

// Redis keeps claims in Redis. Its errors are *cache.AwayError.
type Redis struct{ redis *cache.Redis }

var _ Claims = (*Redis)(nil)

// NewRedis keeps claims behind this connection.
func NewRedis(r *cache.Redis) *Redis { return &Redis{r} }

// Claim see Claims.
func (r *Redis) Claim(ctx context.Context, k Key, h Holder, lease time.Duration) (Answer, error) {
	var reply any
	err := r.run(ctx, claimScript, k, &reply, claimOf(h)+" "+h.Attempt.String(), millis(lease))
	if err != nil {
		return Answer{}, err
	}
	if reply == nil {
		return Answer{State: Claimed, Of: h.Delivery}, nil
	}
	return read(h, reply)
}

// Done see Claims.
func (r *Redis) Done(ctx context.Context, k Key, h Holder, window time.Duration) error {
	return r.run(ctx, doneScript, k, nil, "done "+h.Delivery.String(), claimOf(h), millis(window))
}

// Release see Claims.
func (r *Redis) Release(ctx context.Context, k Key, h Holder) error {
	return r.run(ctx, releaseScript, k, nil, claimOf(h)+" "+h.Attempt.String())
}

// run runs a script on the key. A repetition after a connection broke does no harm: each script can be run twice.
func (r *Redis) run(ctx context.Context, script *redis.Script, k Key, reply *any, args ...any) error {
	err := r.redis.Do(ctx, func(ctx context.Context, c redis.UniversalClient) error {
		key := r.redis.Key("dedup", k.Observer, k.Action, short(k.Key))
		value, err := script.Run(ctx, c, []string{key}, args...).Result()
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

// claimOf is what the claims of all attempts of a delivery begin with.
func claimOf(h Holder) string { return "claim " + h.Delivery.String() }

// millis is a duration as Redis takes it: 0 is none.
func millis(d time.Duration) int64 { return max(1, d.Milliseconds()) }

// short is a rendered key, or the hash of one that is long. One that looks like a hash is hashed, too: whoever writes the data
// of an event could otherwise make two keys meet.
func short(key string) string {
	if len(key) <= longest && !strings.HasPrefix(key, hashed) {
		return key
	}
	sum := sha256.Sum256([]byte(key))
	return hashed + hex.EncodeToString(sum[:])
}

// read understands the answer of claimScript.
func read(h Holder, reply any) (Answer, error) {
	parts, _ := reply.([]any)
	if len(parts) == 2 {
		value, _ := parts[0].(string)
		rest, _ := parts[1].(int64)
		state, of, _ := strings.Cut(value, " ")
		of, _, _ = strings.Cut(of, " ")
		delivery, err := uuid.Parse(of)
		if err == nil && (state == "claim" || state == "done") {
			return answer(h, delivery, state == "done", time.Duration(max(0, rest))*time.Millisecond), nil
		}
	}
	return Answer{}, &cache.AwayError{Err: fmt.Errorf("something else stands where a claim is expected: %.100q", fmt.Sprint(reply))}
}
