package breaker

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	state       *prometheus.GaugeVec
	transitions *prometheus.CounterVec
	gone        *prometheus.GaugeVec
	wait        prometheus.Histogram
	paused      *prometheus.GaugeVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		state: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "weir_breaker_state", Help: "State of an endpoint's circuit breaker: 0 closed, 1 half-open, 2 open.",
		}, []string{"endpoint"}),
		transitions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_breaker_transitions_total",
			Help: "Changes of the state of circuit breakers, as this worker has made or seen them, by the new state.",
		}, []string{"endpoint", "to"}),
		gone: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "weir_actions_gone", Help: "1 for an action that is disabled since its target answered 410 Gone, else 0.",
		}, []string{"observer", "action"}),
		wait: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "weir_rate_limit_wait_seconds", Help: "Time that deliveries have waited for the rate limit of their endpoint.",
			Buckets: prometheus.ExponentialBucketsRange(0.001, 3600, 16),
		}),
	}
	m.paused = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "weir_paused",
		Help: "1 for what a person has paused, else 0: all deliveries, an endpoint, an observer, or the stream, by scope and name.",
	}, []string{"scope", "name"})
	reg.MustRegister(m.state, m.transitions, m.gone, m.wait, m.paused)
	return m
}

// expect creates the series of an endpoint, so that rate() sees their first increment.
func (m *metrics) expect(endpoint string) {
	m.state.WithLabelValues(endpoint)
	for _, to := range []State{Closed, HalfOpen, Open} {
		m.transitions.WithLabelValues(endpoint, string(to))
	}
}

// forget removes the gauges of an endpoint that is not configured any more: nobody would move them.
func (m *metrics) forget(endpoint string) { m.state.DeleteLabelValues(endpoint) }

func (m *metrics) turned(endpoint string, to State) {
	m.state.WithLabelValues(endpoint).Set(map[State]float64{Closed: 0, HalfOpen: 1, Open: 2}[to])
	m.transitions.WithLabelValues(endpoint, string(to)).Inc()
}
