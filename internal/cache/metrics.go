package cache

import "github.com/prometheus/client_golang/prometheus"

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
