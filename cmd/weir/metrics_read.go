package main

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"strings"

	dto "github.com/prometheus/client_model/go"
)

// metricsReport is the output of metrics.
type metricsReport struct {
	// URL is where they were read, without a password.
	URL string `json:"url"`
	// Metrics are sorted by group, then by name.
	Metrics []metric `json:"metrics"`
}

// metric is a metric with a sample for each combination of its labels' values.
type metric struct {
	Name string `json:"name"` // as Prometheus has it
	// Group is what it is about: capture, stream, matching, deliveries, dedup, cache, breaker, history, river, worker, other, go
	// or process.
	Group string `json:"group"`
	// Type is counter, gauge, histogram, summary or untyped.
	Type string `json:"type"`
	// Unit is seconds or bytes, "" for a number of things.
	Unit    string         `json:"unit"`
	Help    string         `json:"help"`    // what it means
	Samples []metricSample `json:"samples"` // in the order of the scrape
}

// metricSample is what a metric is for one combination of labels.
type metricSample struct {
	// Labels are the values of the labels, by their names.
	Labels map[string]string `json:"labels"`
	// Value is that of a counter or gauge, in the metric's unit; null for others, and for what is no number.
	Value *float64 `json:"value"`
	// Distribution is that of a histogram or summary, null for others.
	Distribution *distribution `json:"distribution"`
}

// distribution is what a histogram or summary knows of what was observed, in the metric's unit.
type distribution struct {
	Count uint64   `json:"count"` // of observations
	Sum   *float64 `json:"sum"`   // of what was observed
	// Mean is Sum by Count, null before the first observation.
	Mean *float64 `json:"mean"`
	// P50, P95 and P99 are estimates from the buckets, as histogram_quantile of Prometheus makes them: null before the first
	// observation, and the last bound for what lies beyond it. A summary has those that it serves.
	P50 *float64 `json:"p50"`
	P95 *float64 `json:"p95"` // as P50
	P99 *float64 `json:"p99"` // as P50
	// Buckets are those of a histogram that have a bound, with how many observations are up to it.
	Buckets []bucket `json:"buckets"`
}

// bucket counts the observations up to a bound.
type bucket struct {
	Bound float64 `json:"le"`    // upper bound, included
	Count uint64  `json:"count"` // observations up to it
}

// metricGroups are the groups in their order, with the beginnings of the names that are in them.
var metricGroups = []struct {
	name     string
	prefixes []string
}{
	{"capture", []string{"weir_capture_"}},
	{"stream", []string{
		"weir_stream_", "weir_checkpoint_", "weir_slot_", "weir_recover", "weir_snapshot_",
	}},
	{"matching", []string{"weir_events_", "weir_matches_", "weir_misses_", "weir_unmatched_", "weir_condition_"}},
	{"deliveries", []string{
		"weir_deliver", "weir_commit_to_", "weir_dead_letters", "weir_alerts_", "weir_rescued_", "weir_rate_limit_", "weir_pause",
	}},
	{"dedup", []string{"weir_dedup_"}},
	{"cache", []string{"weir_cache_", "weir_redis_"}},
	{"breaker", []string{"weir_breaker_", "weir_actions_gone"}},
	{"history", []string{"weir_history_", "weir_elasticsearch_", "weir_partitions_"}},
	{"river", []string{"weir_river_", "weir_jobs_", "weir_queue"}},
	{"worker", []string{
		"weir_build_", "weir_config_", "weir_workers", "weir_lease_", "weir_ready", "weir_degraded", "weir_trace_",
	}},
	{"console", []string{"weir_console_"}},
	{"other", []string{"weir_", ""}},
	{"process", []string{"process_"}},
	{"go", []string{"go_"}},
}

// groupOf is the number of the group whose prefix is the longest.
func groupOf(name string) int {
	best, length := 0, -1
	for i, group := range metricGroups {
		for _, prefix := range group.prefixes {
			if strings.HasPrefix(name, prefix) && len(prefix) > length {
				best, length = i, len(prefix)
			}
		}
	}
	return best
}

func readScrape(families map[string]*dto.MetricFamily, wanted func(name string) bool) metricsReport {
	names := slices.SortedFunc(maps.Keys(families), func(a, b string) int {
		return cmp.Or(cmp.Compare(groupOf(a), groupOf(b)), cmp.Compare(a, b))
	})
	report := metricsReport{Metrics: []metric{}}
	for _, name := range names {
		if !wanted(name) {
			continue
		}
		family := families[name]
		m := metric{
			Name: name, Group: metricGroups[groupOf(name)].name, Type: strings.ToLower(family.GetType().String()), Unit: unitOf(name),
			Help: family.GetHelp(), Samples: []metricSample{},
		}
		for _, sample := range family.GetMetric() {
			m.Samples = append(m.Samples, readSample(sample))
		}
		report.Metrics = append(report.Metrics, m)
	}
	return report
}

func unitOf(name string) string {
	name = strings.TrimSuffix(name, "_total")
	for _, unit := range []string{"seconds", "bytes"} {
		if strings.HasSuffix(name, "_"+unit) {
			return unit
		}
	}
	return ""
}

func readSample(sample *dto.Metric) metricSample {
	s := metricSample{Labels: map[string]string{}}
	for _, label := range sample.GetLabel() {
		s.Labels[label.GetName()] = label.GetValue()
	}
	switch {
	case sample.Counter != nil:
		s.Value = finite(sample.Counter.GetValue())
	case sample.Gauge != nil:
		s.Value = finite(sample.Gauge.GetValue())
	case sample.Untyped != nil:
		s.Value = finite(sample.Untyped.GetValue())
	case sample.Histogram != nil:
		s.Distribution = readHistogram(sample.Histogram)
	case sample.Summary != nil:
		s.Distribution = readSummary(sample.Summary)
	}
	return s
}

// finite is a number that JSON can hold, or nil.
func finite(f float64) *float64 {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return nil
	}
	return &f
}

func observed(count uint64, sum float64) *distribution {
	d := &distribution{Count: count, Sum: finite(sum), Buckets: []bucket{}}
	if count > 0 {
		d.Mean = finite(sum / float64(count))
	}
	return d
}

func readHistogram(h *dto.Histogram) *distribution {
	d := observed(h.GetSampleCount(), h.GetSampleSum())
	for _, b := range h.GetBucket() {
		if !math.IsInf(b.GetUpperBound(), 1) { // that one is the count
			d.Buckets = append(d.Buckets, bucket{b.GetUpperBound(), b.GetCumulativeCount()})
		}
	}
	slices.SortFunc(d.Buckets, func(a, b bucket) int { return cmp.Compare(a.Bound, b.Bound) })
	d.P50, d.P95, d.P99 = d.quantile(0.5), d.quantile(0.95), d.quantile(0.99)
	return d
}

func readSummary(s *dto.Summary) *distribution {
	d := observed(s.GetSampleCount(), s.GetSampleSum())
	for _, q := range s.GetQuantile() {
		switch q.GetQuantile() {
		case 0.5:
			d.P50 = finite(q.GetValue())
		case 0.95:
			d.P95 = finite(q.GetValue())
		case 0.99:
			d.P99 = finite(q.GetValue())
		}
	}
	return d
}

// quantile estimates one as Prometheus does: linearly within its bucket, of which the first begins at 0. Its own code is in
// a module that would bring all of Prometheus.
func (d *distribution) quantile(q float64) *float64 {
	if d.Count == 0 || len(d.Buckets) == 0 {
		return nil
	}
	rank := q * float64(d.Count)
	i := slices.IndexFunc(d.Buckets, func(b bucket) bool { return float64(b.Count) >= rank })
	if i < 0 {
		return finite(d.Buckets[len(d.Buckets)-1].Bound)
	}
	end, start, below := d.Buckets[i].Bound, 0.0, uint64(0)
	if i > 0 {
		start, below = d.Buckets[i-1].Bound, d.Buckets[i-1].Count
	} else if end <= 0 {
		return finite(end)
	}
	return finite(start + (end-start)*(rank-float64(below))/float64(d.Buckets[i].Count-below))
}

// beyond says that a quantile lies above the last bound, so that it is only known to be larger.
func (d *distribution) beyond(q float64) bool {
	return len(d.Buckets) > 0 && q*float64(d.Count) > float64(d.Buckets[len(d.Buckets)-1].Count)
}
