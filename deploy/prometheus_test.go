package deploy_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/internal/sandbox"
)

// What is shipped for Prometheus is valid, and each alert has its tests.
func TestPromtool(t *testing.T) {
	t.Parallel()
	promtool := installed(t, "promtool")
	for _, args := range [][]string{
		{"check", "config", "prometheus.yaml"}, {"check", "rules", "alerts.yaml"}, {"test", "rules", "alerts_test.yaml"},
	} {
		cmd := exec.CommandContext(t.Context(), promtool, args...)
		cmd.Dir = "prometheus"
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	tests := read(t, "prometheus/alerts_test.yaml")
	for _, name := range alertNames(t) {
		for _, how := range []string{" fires", " is silent: "} {
			if !strings.Contains(tests, `name: "`+name+how) {
				t.Errorf("no test in which %s%s", name, how)
			}
		}
	}
}

// The runbook has a heading for each alert, which its link leads to, and none without.
func TestRunbook(t *testing.T) {
	t.Parallel()
	names := alertNames(t)
	var headings []string
	for _, m := range regexp.MustCompile(`(?m)^### (Weir\w+)$`).FindAllStringSubmatch(read(t, "../docs/runbook.md"), -1) {
		headings = append(headings, m[1])
	}
	for _, name := range names {
		if !slices.Contains(headings, name) {
			t.Errorf("docs/runbook.md says nothing of %s", name)
		}
		if link := "/docs/runbook.md#" + strings.ToLower(name) + "\n"; !strings.Contains(read(t, "prometheus/alerts.yaml"), link) {
			t.Errorf("no runbook_url of %s ends with %s", name, link)
		}
	}
	for _, heading := range headings {
		if !slices.Contains(names, heading) {
			t.Errorf("docs/runbook.md speaks of %s, which is no alert", heading)
		}
	}
}

// The queries of the runbook can be asked.
func TestRunbookQueries(t *testing.T) {
	t.Parallel()
	conn, err := pgx.Connect(t.Context(), postgres.Database(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	queries := regexp.MustCompile(`(?m)^    SELECT(?:.*\n)(?:    .*\n)*`).FindAllString(read(t, "../docs/runbook.md"), -1)
	if len(queries) < 4 {
		t.Errorf("%d queries found", len(queries))
	}
	for _, query := range append(queries, "SELECT * FROM weir.river_leader",
		"SELECT * FROM pg_stat_replication WHERE application_name LIKE 'weir:%'") {
		if _, err := conn.Exec(t.Context(), query); err != nil {
			t.Errorf("%v:\n%s", err, query)
		}
	}
}

// Every metric in alerts and documents is one that there is.
func TestMetricNames(t *testing.T) {
	t.Parallel()
	known := metricNames(t)
	for _, file := range []string{
		"prometheus/alerts.yaml", "prometheus/alerts_test.yaml", "grafana/weir.json", "../docs/runbook.md", "../docs/monitoring.md",
	} {
		for _, name := range unknownMetrics(known, read(t, file)) {
			t.Errorf("%s: there is no metric %s", file, name)
		}
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.FromSlash(file))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func alertNames(t *testing.T) []string {
	t.Helper()
	var names []string
	for _, m := range regexp.MustCompile(`(?m)^ +- alert: (\w+)$`).FindAllStringSubmatch(read(t, "prometheus/alerts.yaml"), -1) {
		names = append(names, m[1])
	}
	if len(names) == 0 {
		t.Fatal("no alerts")
	}
	return names
}

// metricNames are those of the reference, and what histograms make of theirs.
func metricNames(t *testing.T) map[string]bool {
	t.Helper()
	known := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(weir_\\w+)` \\| (\\w+)").FindAllStringSubmatch(read(t, "../docs/metrics.md"), -1) {
		known[m[1]] = true
		if m[2] == "histogram" {
			known[m[1]+"_bucket"], known[m[1]+"_count"], known[m[1]+"_sum"] = true, true, true
		}
	}
	return known
}

var (
	metricName = regexp.MustCompile(`\bweir_\w+(\*)?`)
	// notMetrics are names in River's tables that documents speak of.
	notMetrics = []string{"weir_change", "weir_document", "weir_housekeeping"}
)

func unknownMetrics(known map[string]bool, text string) (names []string) {
	for _, m := range metricName.FindAllStringSubmatch(text, -1) {
		if !known[m[0]] && m[1] == "" && !slices.Contains(notMetrics, m[0]) && !slices.Contains(names, m[0]) {
			names = append(names, m[0])
		}
	}
	return names
}

// prometheus is a real one, with Weir's alerts at a faster pace.
type prometheus struct {
	t       *testing.T
	address string
	process *sandbox.Process
}

// pace is how much faster the alerts are than as they are shipped.
const pace = 120

// thresholds of the alerts that a test cannot wait for, and those in their place.
var thresholds = []struct{ shipped, here string }{
	{"weir_capture_lag_seconds) > 300", "weir_capture_lag_seconds) > 2"},
	{"weir_capture_lag_bytes) > 1 * 1024^3", "weir_capture_lag_bytes) > 1024^2"},
	{"weir_checkpoint_age_seconds > 300", "weir_checkpoint_age_seconds > 3"},
	{"weir_slot_retained_bytes) > 10 * 1024^3", "weir_slot_retained_bytes) > 48 * 1024^2"},
	{"(weir_capture_reconnects_total[15m])) > 5", "(weir_capture_reconnects_total[15m])) > 2"},
	{"(rate(weir_commit_to_delivery_seconds_bucket[10m]))) > 300", "(rate(weir_commit_to_delivery_seconds_bucket[10m]))) > 2"},
	{"(rate(weir_delivery_queue_wait_seconds_bucket[10m]))) > 60", "(rate(weir_delivery_queue_wait_seconds_bucket[10m]))) > 1"},
	{"(weir_river_oldest_job_seconds) > 900", "(weir_river_oldest_job_seconds) > 3"},
	{"(weir_history_lag_seconds) > 600", "(weir_history_lag_seconds) > 3"},
}

// faster rewrites the alerts: what takes 2 minutes takes a second.
func faster(t *testing.T, rules string) string {
	t.Helper()
	for _, at := range thresholds {
		if !strings.Contains(rules, at.shipped) {
			t.Fatalf("no alert has %q any more", at.shipped)
		}
		rules = strings.ReplaceAll(rules, at.shipped, at.here)
	}
	return regexp.MustCompile(`(for: |\[|offset )(\d+)m`).ReplaceAllStringFunc(rules, func(s string) string {
		m := regexp.MustCompile(`^(\D+)(\d+)m$`).FindStringSubmatch(s)
		minutes, err := strconv.Atoi(m[2])
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%s%dms", m[1], minutes*60_000/pace)
	})
}

// startPrometheus scrapes installations with the shipped configuration, at a pace for tests.
func startPrometheus(t *testing.T, installations ...*installation) *prometheus {
	t.Helper()
	dir := t.TempDir()
	config, _, _ := strings.Cut(read(t, "prometheus/prometheus.yaml"), "  - job_name: weir-console")
	frame, targets, ok := strings.Cut(config, "      - targets: [\"worker:9464\"]\n")
	if !ok || !strings.Contains(targets, "labels: {installation: weir}") {
		t.Fatalf("not as expected:\n%s", config)
	}
	frame = strings.ReplaceAll(frame, "15s", "1s")
	for _, in := range installations {
		frame += fmt.Sprintf("      - {targets: [%q], labels: {installation: %s}}\n", in.address, in.name)
	}
	for name, text := range map[string]string{"prometheus.yaml": frame, "alerts.yaml": faster(t, read(t, "prometheus/alerts.yaml"))} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p := &prometheus{t: t, address: freePort(t)}
	var out *sandbox.Output
	p.process, out = spawn(t, installed(t, "prometheus"), "--config.file="+filepath.Join(dir, "prometheus.yaml"),
		"--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+p.address, "--log.level=warn")
	await(t, "Prometheus", func() bool {
		select {
		case <-p.process.Exited():
			t.Fatalf("Prometheus ended:\n%s", out)
		default:
		}
		return strings.Contains(get(t, "http://"+p.address+"/-/ready"), "Ready")
	})
	return p
}

type answered struct {
	Status string
	Error  string
	Data   struct {
		Alerts []struct {
			Labels map[string]string
			State  string
		}
		Result []struct {
			Metric map[string]string
			Value  []any
		}
	}
}

func (p *prometheus) ask(path string) (a answered) {
	p.t.Helper()
	text := get(p.t, "http://"+p.address+path)
	if err := json.Unmarshal([]byte(text), &a); err != nil {
		p.t.Fatalf("%s: %v: %s", path, err, text)
	}
	return a
}

// query is what an expression yields now.
func (p *prometheus) query(expression string) answered {
	p.t.Helper()
	return p.ask("/api/v1/query?query=" + url.QueryEscape(expression))
}

// firing are the names of the alerts that fire, each once, with the installations of which they do.
func (p *prometheus) firing() map[string][]string {
	p.t.Helper()
	now := map[string][]string{}
	for _, a := range p.ask("/api/v1/alerts").Data.Alerts {
		name, of := a.Labels["alertname"], a.Labels["installation"]
		if a.State == "firing" && !slices.Contains(now[name], of) {
			now[name] = append(now[name], of)
		}
	}
	return now
}

// patience is how long alerts may take to fire, or to resolve.
const patience = 90 * time.Second
