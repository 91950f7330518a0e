package cache

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type redisMetrics struct {
	up       prometheus.Gauge
	failures prometheus.Counter
}

func newRedisMetrics(reg prometheus.Registerer) *redisMetrics {
	m := &redisMetrics{
		up: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "weir_redis_up", Help: "1 while Redis serves, 0 while deliveries go on without it.",
		}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weir_redis_failures_total", Help: "Commands to Redis that failed or were not answered in time.",
		}),
	}
	reg.MustRegister(m.up, m.failures)
	return m
}

// Why a result is not stored.
const (
	invalidated = "invalidated"
	away        = "away"
	tooLarge    = "too_large"
)

type resultMetrics struct {
	memory, redis, miss, busy, away prometheus.Counter

	waits       prometheus.Counter
	age         prometheus.Histogram
	duration    prometheus.Histogram
	invalidated prometheus.Counter
	notStored   *prometheus.CounterVec
}

func newResultMetrics(reg prometheus.Registerer, held *memory) *resultMetrics {
	lookups := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "weir_cache_lookups_total",
		Help: "Lookups of results: found in memory or in redis, a miss, busy (another delivery makes the call), or Redis away.",
	}, []string{"result"})
	m := &resultMetrics{
		memory: lookups.WithLabelValues("memory"), redis: lookups.WithLabelValues("redis"),
		miss: lookups.WithLabelValues("miss"), busy: lookups.WithLabelValues("busy"), away: lookups.WithLabelValues(away),
		waits: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weir_cache_waits_total", Help: "Lookups that waited for the call of another delivery, whatever came of it.",
		}),
		age: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "weir_cache_age_seconds", Help: "Age of the results that were found.",
			Buckets: prometheus.ExponentialBuckets(0.25, 4, 12), // to 12 days
		}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "weir_cache_lookup_seconds", Help: "Duration of lookups, but for those that waited for another delivery.",
			Buckets: prometheus.ExponentialBuckets(1e-6, 2, 20), // to half a second
		}),
		invalidated: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weir_cache_invalidated_total", Help: "Results that this worker removed because they were invalidated.",
		}),
		notStored: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_cache_not_stored_total",
			Help: "Results that were not kept: invalidated during the call or held too long, Redis away, or too large.",
		}, []string{"reason"}),
	}
	for _, reason := range []string{invalidated, away, tooLarge} {
		m.notStored.WithLabelValues(reason)
	}
	entries := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "weir_cache_entries", Help: "Results in this worker's memory.",
	}, func() float64 { n, _ := held.used(); return float64(n) })
	bytes := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "weir_cache_bytes", Help: "What the results in this worker's memory take.",
	}, func() float64 { _, n := held.used(); return float64(n) })
	reg.MustRegister(lookups, m.waits, m.age, m.duration, m.invalidated, m.notStored, entries, bytes)
	return m
}

// observe counts a lookup.
func (c *Results) observe(s *search, l Lookup, took time.Duration) {
	m, f := c.metrics, &c.figures
	count := func(figure *atomic.Int64, metric prometheus.Counter) {
		figure.Add(1)
		metric.Inc()
	}
	switch {
	case l.Found == Hit && s.inMemory:
		count(&f.hitsMemory, m.memory)
	case l.Found == Hit:
		count(&f.hitsRedis, m.redis)
	case l.Found == Miss:
		count(&f.misses, m.miss)
	case l.Found == Busy:
		count(&f.busy, m.busy)
	default:
		count(&f.away, m.away)
	}
	if l.Found == Hit {
		m.age.Observe(l.Age.Seconds())
	}
	if s.waited {
		count(&f.waited, m.waits)
		return
	}
	m.duration.Observe(took.Seconds())
}

// count counts what was not stored.
func (c *Results) count(stored bool, err error) {
	switch {
	case err != nil:
		c.notStored(away)
	case !stored:
		c.notStored(invalidated)
	}
}

func (c *Results) notStored(reason string) {
	c.figures.notStored.Add(1)
	c.metrics.notStored.WithLabelValues(reason).Inc()
}
