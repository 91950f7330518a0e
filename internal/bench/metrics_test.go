package bench

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// Many short turns: what else the machine does changes from second to second.
	metricsPairs   = 18
	metricsChanges = 1000
	metricsScrapes = 100
	metricsScrape  = 15 * time.Second // what Prometheus is set to in its own examples
)

// BenchmarkMetrics gives the same load, in turn, to a worker whose metrics are scraped and to one that registers none, and
// compares what of the processor's time a change takes: how long it takes depends on what else the machine does.
func BenchmarkMetrics(b *testing.B) {
	on, off := newMetered(b, nil), newMetered(b, []string{"discard"})
	b.Cleanup(on.scrape())
	on.delivered(metricsChanges) // connects, and fills caches
	off.delivered(metricsChanges)
	var with, without time.Duration
	for i := range metricsPairs {
		if i%2 == 0 { // not always the same one first
			with += on.delivered(metricsChanges)
			without += off.delivered(metricsChanges)
		} else {
			without += off.delivered(metricsChanges)
			with += on.delivered(metricsChanges)
		}
	}
	perChange := func(used time.Duration) float64 {
		return float64(used.Microseconds()) / (metricsPairs * metricsChanges)
	}
	b.Run("by=weir", func(b *testing.B) {
		figures(b, map[string]float64{"cpu-µs/change": perChange(with), "cpu-ms/scrape": on.perScrape()})
	})
	b.Run("by=discarding", func(b *testing.B) { figures(b, map[string]float64{"cpu-µs/change": perChange(without)}) })
}

// metered is a worker with a database of its own.
type metered struct {
	*rig
	*process
	written int
}

func newMetered(b *testing.B, args []string) *metered {
	b.Helper()
	r := newRig(b)
	p := r.startAs("worker", append([]string{r.write(manyActions(1))}, args...)...)
	return &metered{rig: r, process: r.reads(p)}
}

// discarding registers nothing.
type discarding struct{}

func (discarding) Register(prometheus.Collector) error  { return nil }
func (discarding) MustRegister(...prometheus.Collector) {}
func (discarding) Unregister(prometheus.Collector) bool { return true }

// scrape reads the metrics until it is told to stop.
func (m *metered) scrape() (stop func()) {
	ctx, cancel := context.WithCancel(m.process.b.Context())
	var scraping sync.WaitGroup
	scraping.Go(func() {
		ticker := time.NewTicker(metricsScrape)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			if _, err := m.scraped(ctx); err != nil && !errors.Is(err, context.Canceled) {
				m.process.b.Error(err)
			}
		}
	})
	return func() { cancel(); scraping.Wait() }
}

// delivered is the processor time that so many changes take the worker, from the commit to the end of their deliveries.
func (m *metered) delivered(changes int) time.Duration {
	b := m.process.b
	b.Helper()
	before := m.process.used()
	m.written += changes
	m.changes("Order", changes, 1000)
	m.await("the deliveries", func() bool {
		return m.number("SELECT events FROM weir.checkpoint") >= float64(m.written) &&
			m.number("SELECT count(*) FROM weir.river_job WHERE kind <> 'weir_housekeeping' AND finalized_at IS NULL") == 0
	})
	return m.process.used() - before
}

// perScrape is what a scrape takes the worker in milliseconds.
func (m *metered) perScrape() float64 {
	before := m.process.used()
	for range metricsScrapes {
		m.metrics()
	}
	return float64(m.process.used()-before) / float64(time.Millisecond) / metricsScrapes
}
