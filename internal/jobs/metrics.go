package jobs

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fraiseql/weir/internal/observer"
	"github.com/fraiseql/weir/internal/store"
)

// Outcomes of one attempt, as weir_deliveries_total and the job's output name them.
const (
	delivered = "delivered"
	duplicate = "duplicate" // nothing sent: another delivery with the same dedup key was
	// cachedResult: nothing sent, the result is another delivery's.
	cachedResult = "cached"

	retried   = "retried" // failed, will be tried again
	waiting   = "waiting" // put off without using up an attempt
	dead      = "dead"    // failed for good, kept as a dead letter
	dropped   = "dropped" // failed for good, not kept (on_failure: log)
	stopped   = "stopped" // interrupted by the worker's shutdown
	latencyHi = 60 * 60.0 // seconds
	latencyLo = 0.001     // seconds
)

func isSuccess(outcome string) bool {
	return outcome == delivered || outcome == duplicate || outcome == cachedResult
}

type metrics struct {
	events     prometheus.Counter
	matches    *prometheus.CounterVec
	misses     *prometheus.CounterVec
	condErrors *prometheus.CounterVec
	unmatched  prometheus.Counter
	deliveries *prometheus.CounterVec
	duration   *prometheus.HistogramVec
	attempts   *prometheus.HistogramVec
	queueWait  *prometheus.HistogramVec
	latency    *prometheus.HistogramVec
	alerts     *prometheus.CounterVec
	dedup      *prometheus.CounterVec
	rescued    prometheus.Counter
	moved      prometheus.Counter
	partitions prometheus.Counter
	dead       *prometheus.GaugeVec
	known      []string // observers that dead has a series for; the sweep's own
}

func newMetrics(reg prometheus.Registerer) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	histogram := func(name, help string, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: name, Help: help, Buckets: prometheus.ExponentialBucketsRange(latencyLo, latencyHi, 16),
		}, labels)
	}
	m := &metrics{
		matches: counter("weir_matches_total", "Events that an observer matched.", "observer"),
		events: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weir_events_total", Help: "Events that were held against the observers.",
		}),
		misses: counter("weir_misses_total",
			"Events of the entity and the types that an observer wants, for which its condition was false.", "observer"),
		condErrors: counter("weir_condition_errors_total",
			"Events for which an observer's condition failed; each is a dead letter.", "observer"),
		unmatched: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weir_unmatched_total", Help: "Events that no observer matched.",
		}),
		deliveries: counter("weir_deliveries_total",
			"Attempts of deliveries, by how they ended.", "observer", "action_type", "outcome"),
		duration: histogram("weir_delivery_duration_seconds", "Duration of one attempt of an action.", "action_type"),
		attempts: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "weir_delivery_attempts",
			Help:    "Attempts that deliveries had used when they had ended, with success or for good.",
			Buckets: []float64{1, 2, 3, 4, 5, 7, 10, 15, 22, 50},
		}, []string{"action_type"}),
		queueWait: histogram("weir_delivery_queue_wait_seconds",
			"Time from when a delivery was due to the start of its attempt.", "action_type"),
		latency: histogram("weir_commit_to_delivery_seconds",
			"Time from the commit of a change to the successful delivery.", "action_type"),
		alerts: counter("weir_alerts_total", "Deliveries of observers with on_failure: alert that failed for good.", "observer"),
		dedup: counter("weir_dedup_lookups_total", "Looks whether a call was made before: new (it was not), busy (another delivery "+
			"makes it), duplicate (another delivery has), repeat (this one has), unavailable (nobody knows).", "result"),
		rescued: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weir_rescued_total",
			Help: "Running jobs that this worker gave back to the queue, since nobody ran them: those of dead workers.",
		}),
		moved: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weir_jobs_moved_total", Help: "Finished jobs that this worker moved out of River's table.",
		}),
		partitions: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weir_partitions_dropped_total", Help: "Daily partitions that this worker dropped after history.retention.",
		}),
		dead: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "weir_dead_letters", Help: "Dead letters that wait for somebody, by observer (empty: rows that are no events).",
		}, []string{"observer"}),
	}
	for _, result := range []string{lookupNew, lookupBusy, lookupDuplicate, lookupRepeat, lookupUnavailable} {
		m.dedup.WithLabelValues(result)
	}
	reg.MustRegister(m.dedup, m.events, m.matches, m.misses, m.condErrors, m.unmatched, m.deliveries, m.duration, m.attempts,
		m.queueWait, m.latency, m.alerts, m.rescued, m.moved, m.partitions, m.dead)
	return m
}

// expect creates the series of the configured observers, so that rate() sees their first increment.
func (m *metrics) expect(set *observer.Set) {
	for _, b := range set.All() {
		m.matches.WithLabelValues(b.Observer)
		m.misses.WithLabelValues(b.Observer)
		m.condErrors.WithLabelValues(b.Observer)
		m.alerts.WithLabelValues(b.Observer)
		m.dead.WithLabelValues(b.Observer)
		for _, outcome := range []string{delivered, duplicate, cachedResult, retried, waiting, dead, dropped, stopped} {
			m.deliveries.WithLabelValues(b.Observer, b.Action.Type(), outcome)
		}
	}
}

// setDead sets the number of dead letters of each observer that has some or is configured. What had some before goes to
// zero and not away: an alert must see it resolved.
func (m *metrics) setDead(set *observer.Set, counts []store.CountDeadLettersRow) {
	now := map[string]float64{"": 0}
	for _, b := range set.All() {
		now[b.Observer] = 0
	}
	for _, name := range m.known {
		now[name] = 0
	}
	for _, c := range counts {
		now[c.Observer] = float64(c.Jobs)
	}
	m.known = m.known[:0]
	for name, n := range now {
		m.dead.WithLabelValues(name).Set(n)
		m.known = append(m.known, name)
	}
}

func seconds(d time.Duration) float64 { return max(0, d.Seconds()) }
