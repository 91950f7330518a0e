package worker_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/fraiseql/weir/internal/config"
	"github.com/fraiseql/weir/internal/worker"
)

//go:generate go test -run TestMetricsDocumentation -count=1 -update .

var update = flag.Bool("update", false, "write docs/metrics.md anew")

const metricsDoc = "../../docs/metrics.md"

// The table of docs/metrics.md is written from a worker that has delivered something: what the rooms have registered, no more
// and no less. A metric that no room ever moves or creates would be described and not gathered.
func TestMetricsDocumentation(t *testing.T) {
	t.Parallel()
	reg := registryAfterOneDelivery(t)
	described := weirMetrics(reg)
	gathered, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var rows []string
	for _, family := range gathered {
		name := family.GetName()
		if !strings.HasPrefix(name, "weir_") {
			continue
		}
		described = slices.DeleteFunc(described, func(d string) bool { return d == name })
		var labels []string
		for _, pair := range family.GetMetric()[0].GetLabel() {
			labels = append(labels, "`"+pair.GetName()+"`")
		}
		rows = append(rows, fmt.Sprintf("| %s | %s | %s | %s |\n",
			"`"+name+"`", strings.ToLower(family.GetType().String()), strings.Join(labels, ", "), family.GetHelp()))
	}
	if len(described) > 0 {
		t.Errorf("registered, but without a series after a delivery: %s", strings.Join(described, ", "))
	}
	checkDoc(t, metricsTable(rows))

	problems, err := testutil.GatherAndLint(reg)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// registryAfterOneDelivery is that of a worker that has delivered and runs until the test ends: what its rooms have registered
// goes when it stops.
func registryAfterOneDelivery(t *testing.T) *prometheus.Registry {
	t.Helper()
	r := newRig(t)
	rc := newReceiver(t, nil)
	cfg, err := config.Load(t.Context(), config.Options{
		Path: r.write(hook(rc.URL, "") + fmt.Sprintf("redis: {url: %q}\nelasticsearch: {urls: [%q]}\n", postgres.Redis(t).URL(), postgres.Elasticsearch(t))),
	})
	if err != nil {
		t.Fatal(err)
	}
	w := worker.New(cfg, worker.Options{Logger: cfg.Log.Logger(testWriter{t}, nil), Version: "test"})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	// Without a slot nothing would be captured.
	r.await("the checkpoint", func() bool { return r.one("SELECT count(*)::text FROM weir.checkpoint") == "1" })
	r.order(`{"n": 1}`)
	r.await("the delivery", func() bool { return r.jobs("state = 'completed'") == "1" })
	r.await("River's leader to count", func() bool {
		n, err := testutil.GatherAndCount(w.Registry(), "weir_river_jobs")
		return err == nil && n > 0
	})
	return w.Registry()
}

// weirMetrics are the names of our own metrics that are registered, with or without a series.
func weirMetrics(reg *prometheus.Registry) []string {
	descriptions := make(chan *prometheus.Desc)
	go func() {
		defer close(descriptions)
		reg.Describe(descriptions)
	}()
	name := regexp.MustCompile(`fqName: "(weir_[^"]*)"`)
	var names []string
	for d := range descriptions {
		if m := name.FindStringSubmatch(d.String()); m != nil {
			names = append(names, m[1])
		}
	}
	return names
}

// The part of the page that is written: what stands around it is not.
const workerPart, workerPartEnd = "<!-- worker -->\n", "<!-- /worker -->\n"

func metricsTable(rows []string) string {
	return "| name | type | labels | meaning |\n|---|---|---|---|\n" + strings.Join(rows, "")
}

func checkDoc(t *testing.T, table string) {
	t.Helper()
	page := read(t, metricsDoc)
	before, rest, began := strings.Cut(page, workerPart)
	have, after, ended := strings.Cut(rest, workerPartEnd)
	if !began || !ended {
		t.Fatalf("docs/metrics.md has no %q … %q", workerPart, workerPartEnd)
	}
	if have == table {
		return
	}
	if !*update {
		t.Errorf("docs/metrics.md is stale: run make generate\nwant:\n%s", table)
		return
	}
	if err := os.WriteFile(metricsDoc, []byte(before+workerPart+table+workerPartEnd+after), 0o644); err != nil {
		t.Fatal(err)
	}
}
