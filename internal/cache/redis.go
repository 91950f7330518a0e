// Package cache keeps results by key and tag, in process and in Redis: one call for many misses, invalidation at every worker.
// It also owns the connection to Redis, which deduplication uses, too. Redis is never the truth about anything: it may be away
// or emptied at any moment, which costs repeated calls, never a delivery.
package cache

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
)

const (
	// layout is the version of the keys and of what stands behind them. One that differs is another's.
	layout = "weir:1"
	// lookEvery is how often the server is asked whether it serves, and awayEvery while it does not.
	lookEvery = 5 * time.Second
	awayEvery = 500 * time.Millisecond
	// awayAfter is how many commands in a row have to fail before none is tried any more but the one that asks.
	awayAfter = 3
	// probeLife is how long the key of the question stays.
	probeLife = 10 * time.Second
)

// AwayError says that Redis has not answered, or not as it should.
type AwayError struct{ Err error }

// Error names the reason.
func (e *AwayError) Error() string { return "Redis: " + e.Err.Error() }

// Unwrap is the reason.
func (e *AwayError) Unwrap() error { return e.Err }

var (
	errAway    = errors.New("it is away")
	errUnnamed = errors.New("not known yet whose keys these are")
)

// Redis is the connection to the servers of the section `redis:`. After a few commands that failed it is away, and commands
// fail at once, until a question in the background is answered. Safe for concurrent use; Run has to run.
type Redis struct {
	client  redis.UniversalClient
	cfg     Config
	late    error // that a command took too long: made once, since every command names it
	prefix  atomic.Pointer[string]
	log     *slog.Logger
	metrics *redisMetrics

	mu       sync.Mutex // guards the rest
	failures int        // in a row
	trouble  string     // why the last command failed, "" after one that did not
	failing  chan struct{}
}

// Open prepares the connection and connects to nothing yet.
func Open(cfg Config, log *slog.Logger, reg prometheus.Registerer) *Redis {
	muteLibrary()
	cfg = cfg.WithDefaults()
	r := &Redis{
		client: redis.NewUniversalClient(cfg.options()), cfg: cfg, log: log.With("component", "redis"),
		metrics: newRedisMetrics(reg), failing: make(chan struct{}, 1), late: fmt.Errorf("no answer within %s", cfg.Timeout),
	}
	r.metrics.up.Set(1)
	return r
}

// muteLibrary keeps go-redis from writing a line to stderr for each connection that fails: its errors come back, too.
var muteLibrary = sync.OnceFunc(func() { redis.SetLogger(mute{}) })

type mute struct{}

// Printf prints nothing.
func (mute) Printf(context.Context, string, ...any) {}

// Close closes the connections.
func (r *Redis) Close() error { return r.client.Close() }

// Name says whose the keys are: of the installation with this name in the database with this identity, which no other database
// has. Until it is called, Redis is away.
func (r *Redis) Name(installation, database string) {
	sum := sha256.Sum256([]byte(database))
	prefix := strings.Join([]string{layout, clean(installation), hex.EncodeToString(sum[:8])}, ":")
	r.prefix.Store(&prefix)
}

// clean keeps what parts keys out of a name.
func clean(name string) string { return strings.NewReplacer("%", "%25", ":", "%3A").Replace(name) }

// Key is a key of this installation's, of these parts. The last one may hold anything.
func (r *Redis) Key(parts ...string) string { return *r.prefix.Load() + ":" + strings.Join(parts, ":") }

// Do runs commands: within the timeout, and not while Redis is away. What fails is an *AwayError, but for redis.Nil.
func (r *Redis) Do(ctx context.Context, commands func(context.Context, redis.UniversalClient) error) error {
	switch {
	case r.prefix.Load() == nil:
		return &AwayError{errUnnamed}
	case r.isAway():
		return &AwayError{errAway}
	}
	return r.try(ctx, commands)
}

func (r *Redis) try(ctx context.Context, commands func(context.Context, redis.UniversalClient) error) error {
	timed, cancel := context.WithTimeoutCause(ctx, r.cfg.Timeout.Std(), r.late)
	defer cancel()
	err := commands(timed, r.client)
	if err == nil || errors.Is(err, redis.Nil) {
		r.succeeded()
		return err
	}
	if ctx.Err() != nil { // who asks does not wait any more, which says nothing of Redis
		return &AwayError{err}
	}
	if cause := context.Cause(timed); cause != nil {
		err = errors.Join(cause, err)
	}
	r.failed(err)
	return &AwayError{err}
}

// serves says that commands are tried now.
func (r *Redis) serves() bool { return r.prefix.Load() != nil && !r.isAway() }

func (r *Redis) isAway() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failures >= awayAfter
}

func (r *Redis) succeeded() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failures >= awayAfter {
		r.log.Info("Redis serves again")
	}
	r.failures, r.trouble = 0, ""
	r.metrics.up.Set(1)
}

func (r *Redis) failed(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures++
	r.trouble = short(err)
	r.metrics.failures.Inc()
	if r.failures != awayAfter {
		return
	}
	r.metrics.up.Set(0)
	r.log.Warn("Redis is away: deliveries go on without it", "servers", r.cfg.String(), "error", r.trouble)
	select {
	case r.failing <- struct{}{}:
	default:
	}
}

// short is one line of an error.
func short(err error) string { return strings.ReplaceAll(err.Error(), "\n", ": ") }

// Trouble says why Redis does not serve, "" if it does, or if there is none.
func (r *Redis) Trouble() string {
	if r == nil {
		return ""
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.trouble == "" {
		return ""
	}
	return r.cfg.String() + ": " + r.trouble
}

// Run asks from time to time whether Redis serves, until the context ends. It asks by a write: a replica and a full memory
// answer a PING.
func (r *Redis) Run(ctx context.Context) {
	for {
		if r.prefix.Load() != nil {
			_ = r.try(ctx, func(ctx context.Context, c redis.UniversalClient) error {
				return c.Set(ctx, r.Key("up"), "", probeLife).Err()
			})
		}
		wait := lookEvery
		if r.isAway() || r.prefix.Load() == nil {
			wait = awayEvery
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-r.failing:
			timer.Reset(awayEvery)
			select {
			case <-ctx.Done():
			case <-timer.C:
			}
		case <-timer.C:
		}
		timer.Stop()
	}
}
