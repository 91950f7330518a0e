package cache

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// Every script touches one key, so that it runs in a Cluster. Times are the server's, whose clocks need not agree: a duration
// is the same at all of them. A repetition of a command whose answer was lost answers what the first one would have.
var (
	// lookup finds a result, or marks the key as being filled by the token ARGV[1] for ARGV[2] ms. The first element says
	// which: v (a result: the ms left, it), b (somebody fills it: the ms left), m (the caller fills it).
	lookupScript = redis.NewScript(`
local v = redis.call('GET', KEYS[1])
local kind = v and string.sub(v, 1, 1)
if v == 'f' .. ARGV[1] then return {'m'} end
if kind == 'f' then return {'b', redis.call('PTTL', KEYS[1])} end
if kind == 'v' then return {'v', redis.call('PTTL', KEYS[1]), v} end
redis.call('SET', KEYS[1], 'f' .. ARGV[1], 'PX', ARGV[2])
return {'m'}`)

	// hold goes on filling for ARGV[2] ms: 1. Else 0.
	holdScript = redis.NewScript(`
if redis.call('GET', KEYS[1]) ~= 'f' .. ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])`)

	// store puts the tags ARGV[2] and the result ARGV[3] in the place of the filler's mark, for ARGV[4] ms: 1. Else 0.
	storeScript = redis.NewScript(`
local v = redis.call('GET', KEYS[1])
local mine = '|' .. ARGV[1] .. '|'
if v and string.sub(v, 1, 1) == 'v' and string.find(string.sub(v, 1, 64), mine, 1, true) then return 1 end
if v ~= 'f' .. ARGV[1] then return 0 end
local head = 'v' .. ARGV[4] .. mine .. #ARGV[2] .. '|'
redis.call('SET', KEYS[1], head .. ARGV[2] .. ARGV[3], 'PX', ARGV[4])
return 1`)

	// abandon takes the filler's mark away.
	abandonScript = redis.NewScript(`
if redis.call('GET', KEYS[1]) == 'f' .. ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0`)

	// remove removes a result, or the mark of who fills it, and says whether it was a result.
	removeScript = redis.NewScript(`
local kind = redis.call('GETRANGE', KEYS[1], 0, 0)
redis.call('UNLINK', KEYS[1])
return kind == 'v' and 1 or 0`)

	// index adds the member ARGV[1] to an index for ARGV[2] µs at least. Its score grows by that, whatever it was, which
	// tells who removes it that it was added again. Members whose time is over go, and the set after the last of them. It
	// returns the score.
	indexScript = redis.NewScript(`
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local score = now + ARGV[2]
local old = redis.call('ZSCORE', KEYS[1], ARGV[1])
if old and tonumber(old) >= score then score = tonumber(old) + 1 end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now))
score = string.format('%.0f', score)
redis.call('ZADD', KEYS[1], score, ARGV[1])
local last = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')
redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', math.ceil(last[2] / 1000) + 1000))
return score`)

	// forget removes a member from an index if it was not added again since its score was read.
	forgetScript = redis.NewScript(`
local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
if score and tonumber(score) == tonumber(ARGV[2]) then return redis.call('ZREM', KEYS[1], ARGV[1]) end
return 0`)

	// count counts the members of an index whose results have not expired, which is ARGV[1] µs before they do.
	countScript = redis.NewScript(`
local t = redis.call('TIME')
return redis.call('ZCOUNT', KEYS[1], '(' .. string.format('%.0f', t[1] * 1000000 + t[2] + ARGV[1]), '+inf')`)
)

// indexSlack is how much longer a result is in the indexes than it lives: it is put there before it is stored.
const indexSlack = time.Minute

// answer is what is at the key of a result.
type answer struct {
	kind  byte
	left  time.Duration
	age   time.Duration
	tags  []string
	value []byte
}

var errStrange = errors.New("there is something else at the key of a result")

// look finds a result or who fills it, and answers with the kind 0 where there is neither. Two bare commands in one round trip
// cost little more than one of them, and a script more than both. Of what is replaced between them, the result has the time that
// is left to the next one. That does no harm: who replaces a result says so to all, which makes them drop it.
func (c *Results) look(ctx context.Context, s *subject) (a answer, err error) {
	err = c.redis.Do(ctx, func(ctx context.Context, client redis.UniversalClient) error {
		key := c.redis.place(s.member)
		pipe := client.Pipeline()
		found, left := pipe.Get(ctx, key), pipe.PTTL(ctx, key)
		if _, err := pipe.Exec(ctx); err != nil || left.Val() <= 0 {
			return err
		}
		text, err := found.Bytes()
		if err != nil {
			return err
		}
		a, err = readValue(text, left.Val())
		return err
	})
	if errors.Is(err, redis.Nil) {
		err = nil
	}
	return a, err
}

// claim marks the key as being filled by the token, unless there is something by now.
func (c *Results) claim(ctx context.Context, s *subject, token string, lease time.Duration) (a answer, err error) {
	err = c.redis.Do(ctx, func(ctx context.Context, client redis.UniversalClient) error {
		reply, err := lookupScript.Run(ctx, client, []string{c.redis.place(s.member)}, token, Millis(lease)).Slice()
		if err != nil {
			return err
		}
		a, err = readAnswer(reply)
		return err
	})
	return a, err
}

func readAnswer(reply []any) (a answer, err error) {
	if len(reply) == 0 {
		return a, errStrange
	}
	kind, _ := reply[0].(string)
	switch {
	case kind == "m":
		return answer{kind: 'm'}, nil
	case kind == "b" && len(reply) == 2:
		left, _ := reply[1].(int64)
		return answer{kind: 'b', left: time.Duration(left) * time.Millisecond}, nil
	case kind == "v" && len(reply) == 3:
		left, _ := reply[1].(int64)
		text, _ := reply[2].(string)
		return readValue([]byte(text), time.Duration(left)*time.Millisecond)
	default:
		return a, errStrange
	}
}

// readValue understands what is at the key of a result, for so long still: f<token> of who fills it, or
// v<ms that it was stored for>|<token>|<length of the tags>|<tags><value>. The tags are those that it was stored with: the
// ones of who looks for it may be others.
func readValue(text []byte, left time.Duration) (answer, error) {
	if bytes.HasPrefix(text, []byte("f")) {
		return answer{kind: 'b', left: left}, nil
	}
	text, ok := bytes.CutPrefix(text, []byte("v"))
	parts := bytes.SplitN(text, []byte("|"), 4)
	if !ok || len(parts) != 4 {
		return answer{}, errStrange
	}
	life, err := strconv.ParseInt(string(parts[0]), 10, 64)
	n, tooLong := strconv.Atoi(string(parts[2]))
	if err != nil || tooLong != nil || n < 0 || n > len(parts[3]) {
		return answer{}, errStrange
	}
	tags, err := readTags(string(parts[3][:n]))
	if err != nil {
		return answer{}, err
	}
	age := max(0, time.Duration(life)*time.Millisecond-left)
	return answer{kind: 'v', left: left, age: age, tags: tags, value: parts[3][n:]}, nil
}

// writeTags puts tags into the place before a result.
func writeTags(tags []string) (string, error) {
	if len(tags) == 0 {
		return "", nil
	}
	text, err := json.Marshal(tags)
	return string(text), err
}

func readTags(text string) (tags []string, err error) {
	if text == "" {
		return nil, nil
	}
	if rest, ok := strings.CutPrefix(text, `["`); ok && !strings.Contains(text, `\`) { // then quotes are around texts only
		if rest, ok = strings.CutSuffix(rest, `"]`); ok {
			return strings.Split(rest, `","`), nil
		}
	}
	if err := json.Unmarshal([]byte(text), &tags); err != nil {
		return nil, fmt.Errorf("%w: %w", errStrange, err)
	}
	return tags, nil
}

// index puts a subject into its indexes for as long as its result or the mark of who fills it may live. Script and all are sent:
// what a pipeline asks for by its hash fails where the server does not know it.
func (r *Redis) index(ctx context.Context, pipe redis.Pipeliner, s *subject, life time.Duration) (scores []*redis.Cmd) {
	for _, key := range r.indexes(s) {
		scores = append(scores, indexScript.Eval(ctx, pipe, []string{key}, s.member, (life+indexSlack).Microseconds()))
	}
	return scores
}

// Millis is a duration as Redis takes it, at least 1: 0 is none.
func Millis(d time.Duration) int64 { return max(1, d.Milliseconds()) }
