package observer

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/fraiseql/weir/internal/setting"
)

// middle is a random number that adds no jitter.
func middle() float64 { return 0.5 }

func seconds(n int) setting.Duration { return setting.Duration(time.Duration(n) * time.Second) }

func TestDelay(t *testing.T) {
	t.Parallel()
	limit := seconds(60)
	tests := []struct {
		name   string
		policy RetryPolicy
		want   []time.Duration // after attempts 1, 2, 3…
	}{
		{
			"exponential",
			RetryPolicy{InitialDelay: seconds(5), MaxDelay: limit, Backoff: Exponential},
			[]time.Duration{5 * time.Second, 10 * time.Second, 20 * time.Second, 40 * time.Second, time.Minute, time.Minute},
		},
		{
			"linear",
			RetryPolicy{InitialDelay: seconds(25), MaxDelay: limit, Backoff: Linear},
			[]time.Duration{25 * time.Second, 50 * time.Second, time.Minute, time.Minute},
		},
		{
			"fixed",
			RetryPolicy{InitialDelay: seconds(7), MaxDelay: limit, Backoff: Fixed},
			[]time.Duration{7 * time.Second, 7 * time.Second, 7 * time.Second},
		},
		{
			"capped from the start",
			RetryPolicy{InitialDelay: seconds(100), MaxDelay: limit, Backoff: Fixed},
			[]time.Duration{time.Minute, time.Minute},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for i, want := range tt.want {
				got := tt.policy.Delay(i+1, middle)
				if diff := (got - want).Abs(); diff > time.Microsecond { // the product is a float64
					t.Errorf("after attempt %d: %s, want %s", i+1, got, want)
				}
			}
		})
	}
}

// The default gives a receiver about three days: 22 attempts with 78 h 12 min 15 s between the first and the last.
func TestDefaultRetryLastsThreeDays(t *testing.T) {
	t.Parallel()
	policy := RetryPolicy{}.WithDefaults()
	if policy.MaxAttempts != 22 {
		t.Fatalf("max_attempts = %d, want 22", policy.MaxAttempts)
	}
	var sum time.Duration
	for attempt := 1; attempt < policy.MaxAttempts; attempt++ { // after the last one nothing is waited for
		sum += policy.base(attempt)
	}
	if want := 78*time.Hour + 12*time.Minute + 15*time.Second; sum != want {
		t.Errorf("the waits add up to %s, want %s", sum, want)
	}
}

// Whatever the numbers, a wait is within 10 % of what the formula says, without overflow.
func TestDelayNeverOverflows(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		policy := RetryPolicy{
			InitialDelay: setting.Duration(rapid.Int64Range(1, math.MaxInt64).Draw(t, "initial")),
			MaxDelay:     setting.Duration(rapid.Int64Range(1, math.MaxInt64).Draw(t, "max")),
			Backoff:      rapid.SampledFrom([]Backoff{Exponential, Linear, Fixed}).Draw(t, "backoff"),
		}
		attempt := rapid.IntRange(0, 40_000).Draw(t, "attempt")
		rnd := rapid.Float64Range(0, math.Nextafter(1, 0)).Draw(t, "rnd")
		factor := map[Backoff]float64{
			Exponential: math.Pow(2, float64(max(attempt, 1)-1)), Linear: float64(max(attempt, 1)), Fixed: 1,
		}[policy.Backoff]
		want := min(float64(policy.InitialDelay)*factor, float64(policy.MaxDelay))
		got := float64(policy.Delay(attempt, func() float64 { return rnd }))
		// A nanosecond and a few float64 steps of slack: the wait is truncated.
		if low, high := want*0.9, min(want*1.1, math.MaxInt64); got < low-low*1e-12-1 || got > high+high*1e-12+1 {
			t.Fatalf("%+v after attempt %d: %v, want %v to %v", policy, attempt, got, low, high)
		}
	})
}

func TestJitterReachesBothSides(t *testing.T) {
	t.Parallel()
	policy := RetryPolicy{InitialDelay: seconds(100), MaxDelay: seconds(100), Backoff: Fixed}
	low := policy.Delay(1, func() float64 { return 0 })
	high := policy.Delay(1, func() float64 { return math.Nextafter(1, 0) })
	if low != 90*time.Second || high < 109*time.Second || high > 110*time.Second {
		t.Errorf("waits from %s to %s, want 90s to 110s", low, high)
	}
}
