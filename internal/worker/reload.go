package worker

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fraiseql/weir/internal/config"
	"github.com/fraiseql/weir/internal/setting"
)

// watchEvery is how often the configuration's files are looked at. They are read, not watched by the system: that works
// with a ConfigMap's links, a network's file system and an editor's renames alike, and costs next to nothing.
const watchEvery = 2 * time.Second

// fixed are the keys that a running worker cannot change: their new values wait for a restart. Every other key is swapped.
var fixed = []struct {
	key  string
	of   func(*config.Config) any
	keep func(dst, src *config.Config)
}{
	{
		"installation", func(c *config.Config) any { return c.Installation },
		func(dst, src *config.Config) { dst.Installation = src.Installation },
	},
	{
		"database", func(c *config.Config) any { return c.Database },
		func(dst, src *config.Config) { dst.Database = src.Database },
	},
	{"source", func(c *config.Config) any { return c.Source }, func(dst, src *config.Config) { dst.Source = src.Source }},
	{"redis", func(c *config.Config) any { return c.Redis }, func(dst, src *config.Config) { dst.Redis = src.Redis }},
	{
		"elasticsearch", func(c *config.Config) any { return c.Elasticsearch },
		func(dst, src *config.Config) { dst.Elasticsearch = src.Elasticsearch },
	},
	{
		"telemetry", func(c *config.Config) any { return c.Telemetry },
		func(dst, src *config.Config) { dst.Telemetry = src.Telemetry },
	},
	{"http", func(c *config.Config) any { return c.HTTP }, func(dst, src *config.Config) { dst.HTTP = src.HTTP }},
	{
		"shutdown_timeout", func(c *config.Config) any { return c.ShutdownTimeout },
		func(dst, src *config.Config) { dst.ShutdownTimeout = src.ShutdownTimeout },
	},
	{
		"log.format", func(c *config.Config) any { return c.Log.Format },
		func(dst, src *config.Config) { dst.Log.Format = src.Log.Format },
	},
}

// inForce is the configuration that the worker works with, and what became of later ones.
type inForce struct {
	// problem says why a later one was refused, or what of it waits for a restart; "" for neither. It is written under mu, and
	// read by whoever asks: a probe does not wait for a reload.
	problem atomic.Value

	mu       sync.Mutex // guards the rest
	cfg      *config.Config
	loadedAt time.Time
	refused  bool
	life     *life // nil between two
}

type reloadMetrics struct {
	reloads *prometheus.CounterVec
	last    prometheus.Gauge
}

func newReloadMetrics(reg prometheus.Registerer) reloadMetrics {
	m := reloadMetrics{
		reloads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_config_reloads_total", Help: "Reloads of the configuration, by result: success or failure.",
		}, []string{"result"}),
		last: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "weir_config_last_reload_successful", Help: "1 while the newest configuration is in force, 0 after one was refused.",
		}),
	}
	m.reloads.WithLabelValues("success")
	m.reloads.WithLabelValues("failure")
	m.last.Set(1)
	reg.MustRegister(m.reloads, m.last)
	return m
}

// config is what a new life begins with.
func (f *inForce) config() *config.Config {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.cfg
}

// begin makes a life the one that reloads change, with what has been said of them so far. A reload that came while the life
// was assembled had none to change, so it is caught up on.
func (f *inForce) begin(l *life) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cfg != l.cfg {
		if err := l.reload(f.cfg); err != nil {
			return err
		}
		l.cfg = f.cfg
	}
	f.life = l
	l.lease.SetConfig(f.loadedAt, f.said())
	return nil
}

func (f *inForce) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.life = nil
}

// say records a problem, "" for none, where people look: the worker's row and /readyz. The caller holds mu.
func (f *inForce) say(problem string, refused bool) {
	f.problem.Store(problem)
	f.refused = refused
	if f.life != nil {
		f.life.lease.SetConfig(f.loadedAt, problem)
	}
}

func (f *inForce) said() string {
	problem, _ := f.problem.Load().(string)
	return problem
}

func (f *inForce) degraded() []string {
	if problem := f.said(); problem != "" {
		return []string{"configuration: " + problem}
	}
	return []string{}
}

// watch reloads the configuration when one of its files has changed, or when it is asked to.
func (w *Worker) watch(ctx context.Context) {
	if w.opts.Load == nil {
		return
	}
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	before := w.force.config().Files
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.opts.Reload:
			w.reload(ctx, true)
			continue
		case <-tick.C:
		}
		applied := w.force.config().Files // as they were when they were read: what changed since then is noticed
		now := look(applied)
		settled := slices.Equal(now, before) // else somebody is still writing
		before = now
		if settled && (w.force.wasRefused() || !slices.Equal(now, applied)) {
			w.reload(ctx, false)
		}
	}
}

func (f *inForce) wasRefused() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.refused
}

// look reads files again. What comes of it differs when the contents of one do, or whether it can be read.
func look(files []setting.File) []setting.File {
	now := make([]setting.File, len(files))
	for i, f := range files {
		_, now[i], _ = setting.ReadFile(f.Path)
	}
	return now
}

// reload builds everything from the newest configuration and then swaps it in. A bad one changes nothing, and is reported
// once: while it lasts it is tried again, since it may name a file that was not there.
func (w *Worker) reload(ctx context.Context, asked bool) {
	next, err := w.opts.Load(ctx)
	f := &w.force
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil {
		err = w.swap(next)
	}
	if err == nil {
		return
	}
	problem := brief(err)
	if !asked && f.refused && problem == f.said() {
		return
	}
	w.log.Error("the new configuration is refused, the old one stays in force", "error", err)
	w.reloads.reloads.WithLabelValues("failure").Inc()
	w.reloads.last.Set(0)
	f.say(problem, true)
}

// swap puts next in force, save what needs a restart. The caller holds force.mu.
func (w *Worker) swap(next *config.Config) error {
	f := &w.force
	var waiting []string
	merged := *next
	for _, part := range fixed {
		if !reflect.DeepEqual(part.of(f.cfg), part.of(next)) {
			waiting = append(waiting, part.key)
			part.keep(&merged, f.cfg)
		}
	}
	if f.life != nil {
		if err := f.life.reload(&merged); err != nil {
			return err
		}
	}
	if w.opts.LogLevel != nil {
		w.opts.LogLevel.Set(merged.Log.Severity())
	}
	for _, warning := range next.Warnings {
		w.log.Warn("configuration", "warning", warning.String())
	}
	w.log.Info("configuration reloaded", "observers", len(merged.Observers))
	problem := ""
	if len(waiting) > 0 {
		problem = "the new values of " + strings.Join(waiting, ", ") + " take effect after a restart"
		w.log.Warn("configuration", "warning", problem)
	}
	f.cfg, f.loadedAt = &merged, time.Now()
	f.say(problem, false)
	w.reloads.reloads.WithLabelValues("success").Inc()
	w.reloads.last.Set(1)
	return nil
}

// brief is the first of a configuration's errors without the line of the file, which may hold what is nobody's business.
func brief(err error) string {
	var all config.Errors
	if !errors.As(err, &all) || len(all) == 0 {
		return err.Error()
	}
	if len(all) == 1 {
		return all[0].Brief()
	}
	return fmt.Sprintf("%s (and %d more)", all[0].Brief(), len(all)-1)
}
