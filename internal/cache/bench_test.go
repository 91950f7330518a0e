package cache

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

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
