package index

import "github.com/prometheus/client_golang/prometheus"

// FollowerMetrics are those of all followers.
type FollowerMetrics struct {
	lag, up            *prometheus.GaugeVec
	documents, refused *prometheus.CounterVec
}

// NewFollowerMetrics registers them.
func NewFollowerMetrics(reg prometheus.Registerer) *FollowerMetrics {
	m := &FollowerMetrics{
		lag: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "weir_history_lag_seconds",
			Help: "How long the oldest recorded event waits that a store of the history does not have yet, 0 if it has all.",
		}, []string{"store"}),
		up: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "weir_history_up", Help: "1 if this worker's last look at what a store of the history lacks went well, else 0.",
		}, []string{"store"}),
		documents: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_history_documents_total",
			Help: "Documents of events and outcomes that this worker has stored, those that were stored again included.",
		}, []string{"store"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_history_refused_total", Help: "Documents that a store of the history refused; they are dead letters.",
		}, []string{"store"}),
	}
	reg.MustRegister(m.lag, m.up, m.documents, m.refused)
	return m
}

// expect makes the series of a store.
func (m *FollowerMetrics) expect(store string) {
	m.lag.WithLabelValues(store)
	m.up.WithLabelValues(store)
	m.documents.WithLabelValues(store)
	m.refused.WithLabelValues(store)
}
