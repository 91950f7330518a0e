package capture

import (
	"cmp"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are capture's figures. The atomics are read at scrape time.
type metrics struct {
	changes    *prometheus.CounterVec
	bytes      prometheus.Counter
	batch      prometheus.Histogram
	commit     prometheus.Histogram
	reconnects prometheus.Counter
	takeovers  *prometheus.CounterVec
	recoveries *prometheus.CounterVec
	recovered  *prometheus.CounterVec
	strays     prometheus.Counter

	snapshotRows prometheus.Counter

	walEnd      atomic.Uint64 // newest WAL position that the server told
	stored      atomic.Uint64 // the checkpoint's LSN
	storedAt    atomic.Int64  // unix nanoseconds, when it got there; 0: no checkpoint yet
	openSince   atomic.Int64  // commit time (unix nanoseconds) of the oldest change in the open batch; 0: none
	commitSince atomic.Int64  // the same of the batch that is being committed
	owned       atomic.Bool
	gap         atomic.Bool
	slot        atomic.Pointer[slotHealth]
}

// Why a stream could be taken over.
const (
	takenFromHung = "hang"
	takenVacant   = "vacant"
)

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		changes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_capture_changes_total",
			Help: "Changes ingested, by what they were: an event, or a row that cannot be one (rejected).",
		}, []string{"result"}),
		bytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weir_capture_bytes_total", Help: "Bytes of decoded WAL received from the server.",
		}),
		batch: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "weir_capture_batch_changes", Help: "Changes in one ingest transaction.",
			Buckets: []float64{1, 2, 5, 10, 50, 100, 500, 1000, 5000},
		}),
		commit: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "weir_capture_batch_seconds", Help: "Duration of one ingest transaction.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2.5, 10),
		}),
		reconnects: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weir_capture_reconnects_total", Help: "Times that the stream was lost and had to be taken up again.",
		}),
		recoveries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_recoveries_total",
			Help: "Recoveries from the change log that this worker began, by why the stream had lost its continuity.",
		}, []string{"reason"}),
		recovered: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_recovery_rows_total",
			Help: "Rows of the change log that recoveries looked at: ingested now (recovered), earlier (known), or of a forgotten entity.",
		}, []string{"result"}),
		strays: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weir_capture_stray_messages_total",
			Help: "Messages with prefix weir that were emitted outside of their transaction and are ignored.",
		}),
		snapshotRows: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weir_snapshot_rows_total", Help: "Rows of directly captured tables that a snapshot has made events of.",
		}),
	}
	for _, why := range causes() {
		m.recoveries.WithLabelValues(string(why))
	}
	for _, result := range []string{"recovered", "known", "forgotten"} {
		m.recovered.WithLabelValues(result)
	}
	m.takeovers = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "weir_stream_takeovers_total",
		Help: "Times that this worker took the stream over from another one, by reason: hang (it did not renew its lease) or " +
			"vacant (it had given the slot up: ended, was killed, or lost its connection).",
	}, []string{"reason"})
	m.takeovers.WithLabelValues(takenFromHung)
	m.takeovers.WithLabelValues(takenVacant)
	m.changes.WithLabelValues("event")
	m.changes.WithLabelValues("rejected")
	reg.MustRegister(m.changes, m.bytes, m.batch, m.commit, m.reconnects, m.takeovers, m.recoveries, m.recovered, m.strays,
		m.snapshotRows,
		gauge("weir_capture_lag_bytes", "WAL between the checkpoint and the newest position that the server told.", m.lagBytes),
		gauge("weir_capture_lag_seconds",
			"Age of the oldest change that was received and is not stored yet; 0 when there is none.", m.lagSeconds),
		gauge("weir_stream_owned", "1 while this worker reads the stream, 0 while it stands by.",
			func() float64 { return oneIf(m.owned.Load()) }),
		gauge("weir_stream_gap",
			"1 while nothing is captured since changes are missing that cannot be made up for: see weir accept-gap.",
			func() float64 { return oneIf(m.gap.Load()) }),
		gauge("weir_checkpoint_age_seconds", "Time since the checkpoint last moved.", m.checkpointAge),
	)
	reg.MustRegister(m.slotCollectors()...)
	return m
}

func gauge(name, help string, f func() float64) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, f)
}

func (m *metrics) lagBytes() float64 {
	end, stored := m.walEnd.Load(), m.stored.Load()
	if !m.owned.Load() || end <= stored {
		return 0
	}
	return float64(end - stored)
}

func (m *metrics) lagSeconds() float64 {
	since := cmp.Or(m.commitSince.Load(), m.openSince.Load())
	if since == 0 || !m.owned.Load() { // what was received and not stored is the next owner's
		return 0
	}
	return max(0, time.Since(time.Unix(0, since)).Seconds())
}

func (m *metrics) checkpointAge() float64 {
	at := m.storedAt.Load()
	if at == 0 {
		return 0
	}
	return max(0, time.Since(time.Unix(0, at)).Seconds()) // by the database's clock, which may be ahead
}
