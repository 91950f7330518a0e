package cache

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// p50 of what a step takes, which it reports with the 99th percentile.
func percentiles(b *testing.B, name string, step func()) (p50 time.Duration) {
	b.Helper()
	took := make([]time.Duration, 0, 20_000)
	for range cap(took) {
		began := time.Now()
		step()
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	p50 = took[len(took)/2]
	micros := func(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
	b.ReportMetric(micros(p50), name+"-p50-µs")
	b.ReportMetric(micros(took[len(took)*99/100]), name+"-p99-µs")
	return p50
}

// BenchmarkLookup holds hits against a bare GET of the same value, in the same run.
func BenchmarkLookup(b *testing.B) {
	cfg := at(b, suite.Redis(b).URL())
	value := make([]byte, 1000)
	w := newWorker(b, cfg, "main", ResultsOptions{})
	deaf := newDeaf(b, cfg, "main", ResultsOptions{}) // has no memory
	l := w.get(key("k"), "customer:1")
	if l.Fill != nil {
		l.Fill.Store(b.Context(), value, time.Hour)
	}
	c := bare(b, cfg)
	if err := c.Set(b.Context(), "bare", value, time.Hour).Err(); err != nil {
		b.Fatal(err)
	}
	hit := func(w *worker) func() {
		return func() {
			if l := w.Get(b.Context(), key("k"), []string{"customer:1"}, lease, 0); l.Found != Hit {
				b.Fatalf("found %d", l.Found)
			}
		}
	}
	for b.Loop() {
		get := percentiles(b, "bare", func() {
			ctx, cancel := context.WithTimeout(b.Context(), cfg.Timeout.Std())
			defer cancel()
			if err := c.Get(ctx, "bare").Err(); err != nil && err != redis.Nil { //nolint:errorlint // it is bare
				b.Fatal(err)
			}
		})
		b.ReportMetric(float64(percentiles(b, "redis", hit(deaf)))/float64(get), "redis/bare")
		b.ReportMetric(float64(percentiles(b, "memory", hit(w)))/float64(get), "memory/bare")
	}
}

// BenchmarkZipf looks for keys of which few are frequent, and stores what is missing.
func BenchmarkZipf(b *testing.B) {
	w := newWorker(b, at(b, suite.Redis(b).URL()), "main", ResultsOptions{})
	for b.Loop() {
		zipf := rand.NewZipf(rand.New(rand.NewPCG(1, 2)), 1.1, 1, 10_000-1)
		w.invalidateAll(b)
		before := w.Stats()
		const lookups = 100_000
		for range lookups {
			if l := w.get(key(fmt.Sprint(zipf.Uint64())), "tag"); l.Fill != nil {
				l.Fill.Store(b.Context(), make([]byte, 500), time.Hour)
			}
		}
		s := w.Stats()
		hits := 100 * float64(s.HitsMemory+s.HitsRedis-before.HitsMemory-before.HitsRedis) / lookups
		b.ReportMetric(hits, "hit-%")
		if hits < 80 {
			b.Errorf("%.1f%% hits, want 80%% or more", hits)
		}
	}
}

func (w *worker) invalidateAll(b *testing.B) {
	b.Helper()
	if _, err := w.Invalidate(b.Context(), Selection{All: true}); err != nil {
		b.Fatal(err)
	}
}
