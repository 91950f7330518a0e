package jobs

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"github.com/fraiseql/weir/internal/store"
)

const (
	// gaugeEvery is how often River's tables are looked at for metrics, however often somebody scrapes.
	gaugeEvery = 5 * time.Second
	// gaugeTime bounds a look.
	gaugeTime = 5 * time.Second
	// mostCounted bounds what counting costs, some 5 ms a queue and state that has as many: beyond it a queue is just long.
	mostCounted = 10_000
)

// gauges are River's own figures: what waits in its table, who leads, and what its client did.
type gauges struct {
	pool     *pgxpool.Pool
	clientID string
	queues   func() []string // that are there, also while nothing waits in them
	log      *slog.Logger

	workers, leader prometheus.Gauge
	jobs, oldest    *prometheus.GaugeVec
	ends            *prometheus.CounterVec
	complete        prometheus.Histogram
}

// endsOfJobs are River's words for them.
var endsOfJobs = []river.EventKind{
	river.EventKindJobCompleted, river.EventKindJobFailed, river.EventKindJobCancelled, river.EventKindJobSnoozed,
	river.EventKindJobInterrupted,
}

// unfinished are the states that are counted.
var unfinished = []rivertype.JobState{
	rivertype.JobStateAvailable, rivertype.JobStatePending, rivertype.JobStateRetryable, rivertype.JobStateRunning,
	rivertype.JobStateScheduled,
}

func newGauges(
	pool *pgxpool.Pool, clientID string, queues func() []string, log *slog.Logger, reg prometheus.Registerer,
) *gauges {
	g := &gauges{
		pool: pool, clientID: clientID, queues: queues, log: log,
		workers: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "weir_workers", Help: "Workers that are alive: those that hold a lease, as this one sees them.",
		}),
		leader: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "weir_river_leader",
			Help: "1 while this worker is River's leader, which makes retries and snoozes due and starts housekeeping, else 0.",
		}),
		jobs: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "weir_river_jobs",
			Help: "Unfinished jobs by queue and state, up to 10000 of each; only River's leader has these series.",
		}, []string{"queue", "state"}),
		oldest: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "weir_river_oldest_job_seconds",
			Help: "For how long the oldest job of a queue could have been started and was not; only River's leader has these series.",
		}, []string{"queue"}),
		ends: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_river_job_ends_total",
			Help: "Runs of jobs of any kind in this worker, by what River says of their end: completed, failed, cancelled, snoozed " +
				"or interrupted.",
		}, []string{"end"}),
		complete: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "weir_river_complete_seconds", Help: "Time from the end of a job's run until River has written it down.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2.5, 12),
		}),
	}
	for _, end := range endsOfJobs {
		g.ends.WithLabelValues(endName(end))
	}
	reg.MustRegister(g.workers, g.leader, g.jobs, g.oldest, g.ends, g.complete)
	return g
}

func endName(kind river.EventKind) string { return string(kind)[len("job_"):] }

// start keeps the figures until the function that it returns is called.
func (g *gauges) start(ctx context.Context, client *river.Client[pgx.Tx]) (stop func()) {
	ends, unsubscribe := client.SubscribeConfig(&river.SubscribeConfig{ChanSize: eventBuffer, Kinds: endsOfJobs})
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { g.listen(ctx, ends) })
	running.Go(func() { g.run(ctx) })
	return func() {
		cancel()
		running.Wait()
		unsubscribe()
	}
}

func (g *gauges) listen(ctx context.Context, ends <-chan *river.Event) {
	for {
		select {
		case <-ctx.Done():
			return
		case end, ok := <-ends:
			if !ok {
				return
			}
			g.ends.WithLabelValues(endName(end.Kind)).Inc()
			if end.JobStats != nil {
				g.complete.Observe(seconds(end.JobStats.CompleteDuration))
			}
		}
	}
}

func (g *gauges) run(ctx context.Context) {
	tick := time.NewTicker(gaugeEvery)
	defer tick.Stop()
	logged := false
	for {
		err := g.look(ctx)
		if err != nil && ctx.Err() == nil && !logged {
			g.log.Warn("River's tables not looked at for metrics, trying again", "error", err)
		}
		logged = err != nil
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// look counts if this worker leads. One that does not, or cannot tell, says nothing rather than something old.
func (g *gauges) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, gaugeTime)
	defer cancel()
	seen, err := store.New().LeaderAndWorkers(ctx, g.pool, g.clientID)
	var depths []store.QueueDepthsRow
	if err == nil && seen.Leads {
		depths, err = store.New().QueueDepths(ctx, g.pool, mostCounted)
	}
	g.jobs.Reset()
	g.oldest.Reset()
	leads := 0.0
	if seen.Leads {
		leads = 1
	}
	g.leader.Set(leads) // at once: a scrape in between would see no leader
	if err != nil {
		return fmt.Errorf("count jobs: %w", err)
	}
	g.workers.Set(float64(seen.Workers))
	if !seen.Leads {
		return nil
	}
	for _, queue := range g.queues() {
		g.oldest.WithLabelValues(queue)
		for _, state := range unfinished {
			g.jobs.WithLabelValues(queue, string(state))
		}
	}
	for _, d := range depths {
		g.jobs.WithLabelValues(d.Queue, d.State).Set(float64(d.Jobs))
		g.oldest.WithLabelValues(d.Queue).Add(max(0, d.OldestSeconds)) // of one state; 0 for the others
	}
	return nil
}
