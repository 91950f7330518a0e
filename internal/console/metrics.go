package console

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// Why a request's authentication failed.
const (
	authMissing = "missing" // no credentials at all
	authWrong   = "wrong"   // user or password
	authHeader  = "header"  // a trusted header that names nobody, or several
	authLimited = "limited" // too many wrong passwords from the address
)

type metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	failures *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer, version string) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_console_requests_total", Help: "Requests to the console, by method and status code.",
		}, []string{"method", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "weir_console_request_duration_seconds", Help: "Duration of requests to the console, by what was asked for.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 8),
		}, []string{"area"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_console_auth_failures_total", Help: "Requests without credentials (missing), with wrong ones, with a trusted " +
				"header that names nobody (header), or after too many wrong ones (limited).",
		}, []string{"reason"}),
	}
	reg.MustRegister(
		m.requests, m.duration, m.failures, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "weir_build_info", Help: "1, with the version of the program.", ConstLabels: prometheus.Labels{"version": version},
		}, func() float64 { return 1 }),
	)
	for _, reason := range []string{authMissing, authWrong, authHeader, authLimited} {
		m.failures.WithLabelValues(reason)
	}
	m.requests.WithLabelValues(http.MethodGet, strconv.Itoa(http.StatusOK))
	return m
}

// request counts one.
func (m *metrics) request(method string, status int, area string, took time.Duration) {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
	default:
		method = "other" // a client may send any word
	}
	m.requests.WithLabelValues(method, strconv.Itoa(status)).Inc()
	m.duration.WithLabelValues(area).Observe(took.Seconds())
}
