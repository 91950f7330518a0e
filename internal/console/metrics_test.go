package console

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

//go:generate go test -run TestMetricsDocumentation -count=1 -update .

// metric is the value of a series as a scrape shows it; 0 if there is none.
func (r *rig) metric(series string) float64 {
	r.t.Helper()
	rec := httptest.NewRecorder()
	promhttp.HandlerFor(r.console.registry, promhttp.HandlerOpts{}).ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/", nil))
	text := rec.Body.String()
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), series+" "); ok {
			f, err := strconv.ParseFloat(value, 64)
			check(r.t, err)
			return f
		}
	}
	return 0
}

// Every metric moves by what it counts.
func TestMetrics(t *testing.T) {
	t.Parallel()
	r := newRig(t, "prefix: /weir, basic_auth: {user: ops, password_env: CONSOLE_PASSWORD}, trusted_header: {proxies: [127.0.0.1]}")
	r.get("/river/api/jobs", basic("ops", password)...)
	r.get("/river/api/jobs", basic("ops", "wrong")...)
	r.get("/river/api/jobs", "X-Forwarded-User", "")
	r.get("/river/api/jobs")
	r.do("BREW", "/", "", basic("ops", password)...)
	r.get(r.root()+"/elsewhere", basic("ops", password)...)
	r.get("/healthz")
	for series, want := range map[string]float64{
		`weir_console_requests_total{code="401",method="GET"}`:          3,
		`weir_console_requests_total{code="404",method="GET"}`:          1,
		`weir_console_auth_failures_total{reason="wrong"}`:              1,
		`weir_console_auth_failures_total{reason="header"}`:             1,
		`weir_console_auth_failures_total{reason="missing"}`:            1,
		`weir_console_request_duration_seconds_count{area="river"}`:     4,
		`weir_console_request_duration_seconds_count{area="pages"}`:     1,
		`weir_console_request_duration_seconds_count{area="other"}`:     1,
		`weir_console_request_duration_seconds_count{area="health"}`:    1,
		`weir_build_info{version="test"}`:                               1,
		`weir_console_auth_failures_total{reason="limited"}`:            0,
		`weir_console_request_duration_seconds_bucket{area="x",le="1"}`: 0,
	} {
		r.await(series, func() bool { return r.metric(series) == want })
	}
	if status, text := r.get("/metrics", basic("ops", password)...); status != http.StatusOK || !strings.Contains(text, "weir_console_requests_total{") {
		t.Errorf("scrape: %d\n%s", status, text)
	}
	r.await("the scrape", func() bool { return r.metric(`weir_console_request_duration_seconds_count{area="metrics"}`) == 1 })
	if got := r.metric(`weir_console_requests_total{code="405",method="other"}`) + r.metric(`weir_console_requests_total{code="404",method="other"}`); got != 1 {
		t.Errorf("a method of no name: %v", got)
	}
	if r.metric("go_goroutines") < 1 {
		t.Error("no go_goroutines")
	}
}

const (
	metricsDoc   = "../../docs/metrics.md"
	metricsBegin = "<!-- console -->\n"
	metricsEnd   = "<!-- /console -->\n"
)

// The console's part of docs/metrics.md is written from what is registered.
func TestMetricsDocumentation(t *testing.T) {
	t.Parallel()
	r := newRig(t, "basic_auth: {user: ops, password_env: CONSOLE_PASSWORD}")
	r.get("/", basic("ops", password)...)
	r.await("a request", func() bool { return r.metric(`weir_console_request_duration_seconds_count{area="pages"}`) == 1 })
	families, err := r.console.registry.Gather()
	check(t, err)
	var page bytes.Buffer
	page.WriteString(metricsBegin + "## The console's\n\n`riverui-proxy` serves these at `/metrics` below `console.prefix`, behind its authentication, " +
		"beside those of the\nGo runtime and of the process.\n\n| name | type | labels | meaning |\n|---|---|---|---|\n")
	for _, family := range families {
		if !strings.HasPrefix(family.GetName(), "weir_") {
			continue
		}
		var labels []string
		for _, pair := range family.GetMetric()[0].GetLabel() {
			labels = append(labels, "`"+pair.GetName()+"`")
		}
		fmt.Fprintf(&page, "| `%s` | %s | %s | %s |\n", family.GetName(), strings.ToLower(family.GetType().String()), strings.Join(labels, ", "), family.GetHelp())
	}
	page.WriteString(metricsEnd)
	checkMetricsDoc(t, page.String())
	problems, err := testutil.GatherAndLint(r.console.registry)
	check(t, err)
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// checkMetricsDoc holds what stands between the markers against the section, or writes it, at the end if there is none.
func checkMetricsDoc(t *testing.T, section string) {
	t.Helper()
	raw, err := os.ReadFile(metricsDoc)
	check(t, err)
	have, before, after := "", string(raw), ""
	if i := strings.Index(before, metricsBegin); i >= 0 {
		n := strings.Index(before[i:], metricsEnd)
		if n < 0 {
			t.Fatalf("%s has no %s", metricsDoc, metricsEnd)
		}
		have, after = before[i:i+n+len(metricsEnd)], before[i+n+len(metricsEnd):]
		before = before[:i]
	} else {
		before += "\n"
	}
	switch {
	case *update:
		check(t, os.WriteFile(metricsDoc, []byte(before+section+after), 0o644))
	case have != section:
		t.Errorf("docs/metrics.md is stale: run make generate\nwant:\n%s", section)
	}
}
