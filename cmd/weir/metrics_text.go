package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fraiseql/weir/internal/ops"
)

// writeMetrics writes a table for each group: what has one value first, then what has a distribution.
func (a *app) writeMetrics(w io.Writer, report metricsReport) {
	if len(report.Metrics) == 0 {
		fmt.Fprintf(w, "%s has no such metric (--all shows also those of the Go runtime and the process)\n", report.URL)
		return
	}
	fmt.Fprintln(w, report.URL)
	for len(report.Metrics) > 0 {
		group := report.Metrics[0].Group
		n := slices.IndexFunc(report.Metrics, func(m metric) bool { return m.Group != group })
		if n < 0 {
			n = len(report.Metrics)
		}
		a.writeMetricGroup(w, group, report.Metrics[:n])
		report.Metrics = report.Metrics[n:]
	}
}

func (a *app) writeMetricGroup(w io.Writer, group string, metrics []metric) {
	fmt.Fprintln(w, "\n"+a.paint(bold, group))
	var values table
	spread := table{header: []string{"", "COUNT", "MEAN", "P50", "P95", "P99"}}
	for _, m := range metrics {
		into := &values
		if m.Type == "histogram" || m.Type == "summary" {
			into = &spread
		}
		if a.flags.verbose && m.Help != "" {
			into.add(cell{"  # " + m.Help, dim})
		}
		labels := labelNames(m)
		if len(labels) == 0 {
			for _, s := range m.Samples {
				into.add(append([]cell{c("  " + m.Name)}, sampleCells(m, s)...)...)
			}
			continue
		}
		into.add(c("  " + m.Name + " " + a.paint(dim, "{"+strings.Join(labels, ", ")+"}")))
		for _, s := range m.Samples {
			into.add(append([]cell{c("    " + labelValues(labels, s.Labels))}, sampleCells(m, s)...)...)
		}
	}
	values.write(a, w)
	if len(spread.rows) > 0 {
		spread.write(a, w)
	}
}

// labelNames are those of all samples.
func labelNames(m metric) []string {
	names := map[string]bool{}
	for _, s := range m.Samples {
		for name := range s.Labels {
			names[name] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

func labelValues(names []string, labels map[string]string) string {
	values := make([]string, len(names))
	for i, name := range names {
		if values[i] = visible(labels[name]); values[i] == "" {
			values[i] = `""`
		}
	}
	return strings.Join(values, ", ")
}

func sampleCells(m metric, s metricSample) []cell {
	d := s.Distribution
	if d == nil {
		return []cell{c(quantity(m, s.Value))}
	}
	cells := []cell{c(strconv.FormatUint(d.Count, 10)), c(quantity(m, d.Mean))}
	for _, q := range []struct {
		q     float64
		value *float64
	}{{0.5, d.P50}, {0.95, d.P95}, {0.99, d.P99}} {
		text := quantity(m, q.value)
		if d.beyond(q.q) {
			text = ">" + text
		}
		cells = append(cells, c(text))
	}
	return cells
}

// quantity is a value in a unit that is easy to read.
func quantity(m metric, value *float64) string {
	switch {
	case value == nil:
		return "-"
	case strings.HasSuffix(m.Name, "_time_seconds") && *value > 1e9: // a moment: process_start_time_seconds
		return time.Unix(int64(*value), 0).UTC().Format(time.RFC3339)
	case m.Unit == "seconds":
		return fineSpan(*value)
	case m.Unit == "bytes" && *value < 1<<62:
		return ops.Size(int64(*value))
	case *value == float64(int64(*value)):
		return strconv.FormatInt(int64(*value), 10)
	default:
		return strconv.FormatFloat(*value, 'g', 4, 64)
	}
}

// fineSpan is a duration with three digits where span would say too little of it.
func fineSpan(seconds float64) string {
	switch {
	case seconds == 0:
		return "0 s"
	case seconds < 0.001:
		return strconv.FormatFloat(seconds*1e6, 'g', 3, 64) + " µs"
	case seconds < 1:
		return strconv.FormatFloat(seconds*1e3, 'g', 3, 64) + " ms"
	case seconds < 60:
		return strconv.FormatFloat(seconds, 'g', 3, 64) + " s"
	default:
		return span(time.Duration(seconds * float64(time.Second)))
	}
}
