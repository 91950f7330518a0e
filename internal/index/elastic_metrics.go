package index

import "github.com/prometheus/client_golang/prometheus"

// What became of a request to Elasticsearch.
const (
	resultOK         = "ok"
	resultRefused    = "refused"     // 4xx
	resultBusy       = "unavailable" // 429, 5xx
	resultUnanswered = "unanswered"
)

type elasticMetrics struct {
	up       prometheus.Gauge
	requests *prometheus.CounterVec
	retries  prometheus.Counter
}

func newElasticMetrics(reg prometheus.Registerer) *elasticMetrics {
	m := &elasticMetrics{
		up: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "weir_elasticsearch_up", Help: "1 while Elasticsearch answers, 0 after a request that it did not.",
		}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_elasticsearch_requests_total",
			Help: "Requests to Elasticsearch: ok, refused (4xx), unavailable (429 and 5xx) or unanswered.",
		}, []string{"result"}),
		retries: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weir_elasticsearch_retries_total", Help: "Bulk requests that were repeated because Elasticsearch was busy.",
		}),
	}
	for _, result := range []string{resultOK, resultRefused, resultBusy, resultUnanswered} {
		m.requests.WithLabelValues(result)
	}
	m.up.Set(1)
	if reg != nil {
		reg.MustRegister(m.up, m.requests, m.retries)
	}
	return m
}
