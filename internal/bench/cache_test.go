package bench

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fraiseql/weir/internal/cache"
)

// BenchmarkCache finds a result of 1,000 bytes: in Redis, against a bare GET of as many bytes, and in the worker's memory.
func BenchmarkCache(b *testing.B) {
	weirs, bare := redisClients(b)
	deaf := newResults(b, weirs) // does not hear of invalidations, so it looks in Redis each time
	hears := resultsThatHear(b, weirs)
	key, value := cache.Key{Observer: "orders", Action: "post", Key: "k"}, make([]byte, 1000)
	deaf.Get(b.Context(), key, []string{"customer:1"}, time.Minute, 0).Fill.Store(b.Context(), value, time.Hour)
	check(b, bare.Set(b.Context(), weirs.Key("bare", "orders", "post", "k"), value, time.Hour).Err())

	name := weirs.Key("bare", "orders", "post", "k")
	inTurn(b, "redis", 10_000, 1, side{weir, hit(b, deaf, key)}, side{"GET", func() {
		if text, err := bare.Get(b.Context(), name).Bytes(); err != nil || len(text) != len(value) {
			b.Fatal(len(text), err)
		}
	}})
	if s := deaf.Stats(); s.HitsMemory > 0 || s.HitsRedis < 10_000 {
		b.Fatalf("these are no hits in Redis: %+v", s)
	}
	inTurn(b, "memory", 1000, 1000, side{"", hit(b, hears, key)})
	// Where the machine holds the subscription up for longer than its lease, the memory does not serve for a moment.
	if s := hears.Stats(); s.HitsMemory < 999_000 {
		b.Fatalf("these are no hits in memory: %+v", s)
	}
}

func hit(b *testing.B, results *cache.Results, key cache.Key) func() {
	b.Helper()
	tags := []string{"customer:1"}
	return func() {
		if l := results.Get(b.Context(), key, tags, time.Minute, 0); l.Found != cache.Hit || len(l.Value) != 1000 {
			b.Fatalf("found %d, %d bytes", l.Found, len(l.Value))
		}
	}
}

func newResults(b *testing.B, r *cache.Redis) *cache.Results {
	b.Helper()
	return cache.NewResults(r, cache.ResultsOptions{
		ClientID: "bench", Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
	})
}

// resultsThatHear waits until the memory serves.
func resultsThatHear(b *testing.B, r *cache.Redis) *cache.Results {
	b.Helper()
	c := newResults(b, r)
	ctx, cancel := context.WithCancel(context.WithoutCancel(b.Context()))
	var running sync.WaitGroup
	running.Go(func() { c.Run(ctx) })
	b.Cleanup(func() { cancel(); running.Wait() })
	probe := cache.Key{Observer: "orders", Action: "post", Key: "probe"}
	for until := time.Now().Add(10 * time.Second); c.Stats().HitsMemory == 0; time.Sleep(10 * time.Millisecond) {
		if l := c.Get(b.Context(), probe, nil, time.Minute, 0); l.Found == cache.Miss {
			l.Fill.Store(b.Context(), []byte("found"), time.Hour)
		}
		if time.Now().After(until) {
			b.Fatal("invalidations are not heard")
		}
	}
	return c
}
