package observer

import (
	"cmp"
	"math"
	"time"

	"github.com/fraiseql/weir/internal/setting"
)

// RetryPolicy says how often and when a delivery that failed is tried again.
//
// With the defaults the waits between the 22 attempts add up to 78 h 12 min 15 s, about three days, give or take the
// jitter: 1 s, 2 s, 4 s and so on to 9 h, then 12 h five times.
type RetryPolicy struct {
	// MaxAttempts is how often a delivery is tried in all. Default: 22.
	MaxAttempts int `yaml:"max_attempts,omitempty" jsonschema:"minimum=1,maximum=32767"`
	// InitialDelay is the wait after the first attempt. Default: 1s.
	InitialDelay setting.Duration `yaml:"initial_delay,omitempty"`
	// MaxDelay is the longest wait, jitter apart. Default: 12h.
	MaxDelay setting.Duration `yaml:"max_delay,omitempty"`
	// Backoff says how the wait grows: exponential doubles it, linear adds initial_delay, fixed keeps it.
	// Default: exponential.
	Backoff Backoff `yaml:"backoff,omitempty" jsonschema:"enum=exponential,enum=linear,enum=fixed"`
}

// Backoff says how the wait grows from attempt to attempt.
type Backoff string

// The values of backoff.
const (
	Exponential Backoff = "exponential" // initial·2^(n-1)
	Linear      Backoff = "linear"      // initial·n
	Fixed       Backoff = "fixed"       // initial
)

// jitter is how far a wait may be off, as a part of it: receivers that come back are not met by everybody at once.
const jitter = 0.1

// WithDefaults fills in what is not set.
func (p RetryPolicy) WithDefaults() RetryPolicy {
	p.MaxAttempts = cmp.Or(p.MaxAttempts, 22)
	p.InitialDelay = cmp.Or(p.InitialDelay, setting.Duration(time.Second))
	p.MaxDelay = cmp.Or(p.MaxDelay, setting.Duration(12*time.Hour))
	p.Backoff = cmp.Or(p.Backoff, Exponential)
	return p
}

// Delay is the wait after the attempt (counted from 1): what Backoff says, capped by MaxDelay, give or take 10 %. rnd
// returns a number in [0, 1), as rand.Float64 does.
func (p RetryPolicy) Delay(attempt int, rnd func() float64) time.Duration {
	wait := float64(p.base(max(attempt, 1))) * (1 - jitter + 2*jitter*rnd())
	if wait >= math.MaxInt64 {
		return math.MaxInt64
	}
	return time.Duration(wait)
}

// base is the wait without jitter. It compares before it multiplies: nothing overflows.
func (p RetryPolicy) base(attempt int) time.Duration {
	initial, limit := p.InitialDelay.Std(), p.MaxDelay.Std()
	switch p.Backoff {
	case Exponential:
		if attempt-1 >= 63 || initial > limit>>(attempt-1) {
			return limit
		}
		return initial << (attempt - 1)
	case Linear:
		if initial > limit/time.Duration(attempt) {
			return limit
		}
		return initial * time.Duration(attempt)
	default:
		return min(initial, limit)
	}
}
