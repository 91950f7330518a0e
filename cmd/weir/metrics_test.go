package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/fraiseql/weir/internal/config"
	"github.com/fraiseql/weir/internal/worker"
)

// served runs a worker that serves its metrics until the test ends, and says where: host:port.
func served(t *testing.T, path string) string {
	t.Helper()
	cfg, err := config.Load(t.Context(), config.Options{Path: path})
	check(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ready, done := make(chan string, 1), make(chan error, 1)
	go func() {
		done <- worker.New(cfg, worker.Options{
			Logger: slog.New(slog.NewTextHandler(testLog{t}, nil)), Version: "test", HTTPReady: func(address string) { ready <- address },
		}).Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("worker: %v", err)
		}
	})
	select {
	case address := <-ready:
		return address
	case err := <-done:
		done <- err
		t.Fatalf("worker: %v", err)
		return ""
	}
}

// What a worker serves, after a delivery.
func TestMetricsOfAWorker(t *testing.T) {
	t.Parallel()
	databaseURL, db := database(t)
	receiver := httptest.NewServer(&counter{status: http.StatusOK, calls: map[string]int{}})
	t.Cleanup(receiver.Close)
	path, _ := slotFile(t, db, fmt.Sprintf(`database: {url: %q}
http: {listen: "127.0.0.1:0"}
outbound: {allow: ["127.0.0.1"]}
observers:
  hook: {entity: Order, actions: [{type: webhook, url: %q}]}
`, databaseURL, receiver.URL))
	address := served(t, path)
	until(t, "the stream", func() bool {
		return strings.Contains(weir(t, "metrics", "--url", address, "stream_owned").exits(0).stdout, "weir_stream_owned  1")
	})
	commitOrders(t, db, 1)
	var report metricsReport
	delivered := func() *metricSample {
		weir(t, "metrics", "--url", "http://"+address+"/metrics", "deliver", "--format", "json").exits(0).json(&report)
		for _, m := range report.Metrics {
			for _, s := range m.Samples {
				if m.Name == "weir_deliveries_total" && s.Labels["outcome"] == "delivered" && *s.Value == 1 {
					return &s
				}
			}
		}
		return nil
	}
	until(t, "the delivery", func() bool { return delivered() != nil })
	if labels := delivered().Labels; labels["observer"] != "hook" || labels["action_type"] != "webhook" {
		t.Errorf("labels %v", labels)
	}
	for _, m := range report.Metrics {
		if m.Name != "weir_delivery_duration_seconds" {
			continue
		}
		d := m.Samples[0].Distribution
		if m.Group != "deliveries" || m.Unit != "seconds" || m.Help == "" || d == nil || d.Count != 1 || *d.Mean <= 0 || *d.P50 <= 0 || len(d.Buckets) == 0 {
			t.Errorf("histogram %+v of %+v", d, m)
		}
	}
	whole := weir(t, "metrics", "--url", address).exits(0).says("\ncapture\n", "\ndeliveries\n", "COUNT", "weir_deliveries_total {action_type, observer, outcome}",
		"webhook, hook, delivered")
	if strings.Contains(whole.stdout, "go_") || strings.Contains(whole.stdout, "\nother\n") {
		t.Errorf("what nobody asked for, or a metric without a group:\n%s", whole.stdout)
	}
	weir(t, "metrics", "--url", address, "--all", "go_goroutines", "process_start").exits(0).says("go_goroutines", "process_start_time_seconds  20")
	weir(t, "metrics", "--url", address, "no_such").exits(0).says("has no such metric")
	weir(t, "metrics", "--url", address, "-v", "unmatched").exits(0).says("# Events that no observer matched.")
	weir(t, "metrics", "--url", address, "--format", "yaml", "unmatched").exits(0).says("- name: weir_unmatched_total\n")

	// The configuration says where, unless it says nowhere.
	at := file(t, fmt.Sprintf("database: {url: '${NOT_SET}'}\nhttp: {listen: %q}\n", strings.Replace(address, "127.0.0.1", "", 1)))
	weir(t, "metrics", "--config", at, "unmatched").exits(0).says("http://" + address + "/metrics")
	weir(t, "metrics", "--config", path).exits(2).complains(`http.listen of the configuration is "127.0.0.1:0"`, "--url")
	weir(t, "metrics", "--config", file(t, "database: {url: postgres://localhost/x}\nhttp: {listen: \"\"}\n")).exits(2).complains("--url")
	weir(t, "metrics", "--config", file(t, "htp: {}\n")).exits(3).complains("did you mean http?", "name the worker with --url")
}

// Nobody listens, somebody else does, or it is no worker.
func TestMetricsOfSomethingElse(t *testing.T) {
	t.Parallel()
	weir(t, "metrics", "--url", "127.0.0.1:1").exits(4).
		complains("cannot read http://127.0.0.1:1/metrics: ", "connection refused", "check that a worker runs there", "--url")
	for _, wrong := range []string{"ftp://localhost/metrics", "http://", "http://u:hunter2@[/metrics", "http://u:hunter2@host:port/"} {
		if r := weir(t, "metrics", "--url", wrong).exits(2).complains("--url: expected"); strings.Contains(r.stderr, "hunter2") {
			t.Errorf("%s is repeated: %s", wrong, r.stderr)
		}
	}
	var followed bool
	mux := http.NewServeMux()
	mux.HandleFunc("/private", func(w http.ResponseWriter, r *http.Request) {
		if name, password, _ := r.BasicAuth(); name != "weir" || password != "hunter2" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		promhttp.HandlerFor(prometheus.NewRegistry(), promhttp.HandlerOpts{}).ServeHTTP(w, r)
	})
	mux.HandleFunc("/moved", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/followed?token=hunter2", http.StatusFound)
	})
	mux.HandleFunc("/followed", func(http.ResponseWriter, *http.Request) { followed = true })
	mux.HandleFunc("/page", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>hello</html>\n") })
	mux.HandleFunc("/endless", func(w http.ResponseWriter, _ *http.Request) {
		for line := strings.Repeat("# nothing\n", 200_000); ; { // quick, for the limit of the size to come first
			if _, err := io.WriteString(w, line); err != nil {
				return
			}
		}
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	with := strings.Replace(server.URL, "http://", "http://weir:hunter2@", 1)
	for path, tt := range map[string]struct {
		code      int
		complaint string
	}{
		"/private?x=hunter2": {0, ""},
		"/private/":          {1, "404 Not Found: check the path"},
		"/moved":             {1, "302 Found: redirects are not followed; if it is right, name http://weir@"},
		"/page":              {1, "are no metrics"},
		"/endless":           {1, "has more than 32.0 MB"},
	} {
		r := weir(t, "metrics", "--url", with+path).exits(tt.code).complains(tt.complaint)
		if strings.Contains(r.stdout+r.stderr, "hunter2") {
			t.Errorf("%s shows a password: %s%s", path, r.stdout, r.stderr)
		}
	}
	weir(t, "metrics", "--url", server.URL+"/private").exits(1).complains("401 Unauthorized: write name and password into the address")
	if followed {
		t.Error("a redirect was followed")
	}
}

// A certificate that this machine does not trust is said; nothing switches that off.
func TestMetricsByTLS(t *testing.T) {
	t.Parallel()
	server := httptest.NewUnstartedServer(promhttp.HandlerFor(prometheus.NewRegistry(), promhttp.HandlerOpts{}))
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	server.StartTLS()
	t.Cleanup(server.Close)
	weir(t, "metrics", "--url", server.URL).exits(4).complains("certificate")
}

// One that takes the connection and says nothing.
func TestMetricsTimeLimit(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	t.Cleanup(server.Close)
	from, err := url.Parse(server.URL)
	check(t, err)
	_, err = scrape(t.Context(), from, 50*time.Millisecond)
	var unheard *scrapeError
	if !errors.As(err, &unheard) || !strings.Contains(err.Error(), "no answer within 50ms") {
		t.Errorf("got %v", err)
	}
}

// The estimates are Prometheus', checked by hand: rank 5 of 10 lies in the middle of (1, 2], which holds 4 to 6.
func TestQuantile(t *testing.T) {
	t.Parallel()
	d := distribution{Count: 10, Buckets: []bucket{{1, 4}, {2, 6}, {5, 9}}}
	for q, want := range map[float64]float64{0.2: 0.5, 0.5: 1.5, 0.9: 5, 0.99: 5} {
		if got := d.quantile(q); got == nil || math.Abs(*got-want) > 1e-9 {
			t.Errorf("%g: got %v, want %g", q, got, want)
		}
	}
	if d.beyond(0.9) || !d.beyond(0.95) {
		t.Error("what is beyond the last bound")
	}
	if (&distribution{Buckets: d.Buckets}).quantile(0.5) != nil {
		t.Error("a quantile of nothing")
	}
}

func TestQuantity(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		value float64
		want  string
	}{
		{"weir_x_seconds", 0, "0 s"},
		{"weir_x_seconds", 0.0000123, "12.3 µs"},
		{"weir_x_seconds", 0.0123, "12.3 ms"},
		{"weir_x_seconds_total", 2.5, "2.5 s"},
		{"weir_x_seconds", 7200, "2 h 0 min"},
		{"weir_x_bytes", 1536, "1.5 kB"},
		{"process_start_time_seconds", 1767225600, "2026-01-01T00:00:00Z"},
		{"weir_x_total", 12345678, "12345678"},
		{"weir_x_ratio", 0.33333333, "0.3333"},
	} {
		if got := quantity(metric{Name: tt.name, Unit: unitOf(tt.name)}, &tt.value); got != tt.want {
			t.Errorf("%s %g: got %q, want %q", tt.name, tt.value, got, tt.want)
		}
	}
	if quantity(metric{}, nil) != "-" {
		t.Error("no number")
	}
}
