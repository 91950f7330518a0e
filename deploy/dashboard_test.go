package deploy_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

// dashboard is what the tests read of Grafana's JSON.
type dashboard struct {
	UID           string
	Title         string
	SchemaVersion int
	Annotations   struct{ List []struct{ Expr string } }
	Templating    struct {
		List []struct{ Name, Type, Definition string }
	}
	Panels []panel
}

type panel struct {
	ID         int
	Type       string
	Title      string
	GridPos    struct{ X, Y, W, H int }
	Datasource *struct{ UID string }
	Targets    []struct{ Expr string }
}

func readDashboard(t *testing.T) (d dashboard) {
	t.Helper()
	if err := json.Unmarshal([]byte(read(t, "grafana/weir.json")), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// expressions are those of the panels, as Grafana sends them when everything is chosen, with where they are.
func (d dashboard) expressions() map[string]string {
	fill := strings.NewReplacer("$installation", ".*", "$instance", ".*", "$__rate_interval", "10s")
	all := map[string]string{}
	for _, p := range d.Panels {
		for _, target := range p.Targets {
			all[fill.Replace(target.Expr)] = p.Title
		}
	}
	for _, a := range d.Annotations.List {
		all[fill.Replace(a.Expr)] = "the annotations"
	}
	return all
}

// The dashboard takes its data source from a variable, and its panels neither overlap nor share a number.
func TestDashboard(t *testing.T) {
	t.Parallel()
	d := readDashboard(t)
	if d.UID != "weir" || d.Title == "" || d.SchemaVersion < 39 {
		t.Errorf("uid %q, title %q, schema version %d", d.UID, d.Title, d.SchemaVersion)
	}
	var variables []string
	for _, v := range d.Templating.List {
		variables = append(variables, v.Name)
	}
	if got := strings.Join(variables, " "); got != "datasource installation instance" {
		t.Errorf("variables %s", got)
	}
	taken, ids := map[[2]int]string{}, []int{}
	for _, p := range d.Panels {
		if slices.Contains(ids, p.ID) {
			t.Errorf("%s: number %d is another's, too", p.Title, p.ID)
		}
		ids = append(ids, p.ID)
		if p.Type != "row" && (p.Datasource == nil || p.Datasource.UID != "${datasource}" || len(p.Targets) == 0) {
			t.Errorf("%s: no queries of the data source that is chosen", p.Title)
		}
		for x := range p.GridPos.W {
			for y := range p.GridPos.H {
				at := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
				if taken[at] != "" || at[0] >= 24 {
					t.Fatalf("%s: in the place of %s, or beside the page", p.Title, taken[at])
				}
				taken[at] = p.Title
			}
		}
	}
}

// Grafana finds the data source and the dashboard where compose mounts them.
func TestProvisioning(t *testing.T) {
	t.Parallel()
	var sources struct {
		APIVersion  int `yaml:"apiVersion"`
		Datasources []struct{ Name, UID, Type, URL string }
	}
	var providers struct {
		APIVersion int `yaml:"apiVersion"`
		Providers  []struct {
			Type    string
			Options struct{ Path string }
		}
	}
	for file, into := range map[string]any{"datasources/prometheus.yaml": &sources, "dashboards/weir.yaml": &providers} {
		if err := yaml.Unmarshal([]byte(read(t, "grafana/provisioning/"+file)), into); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
	}
	if len(sources.Datasources) != 1 || sources.Datasources[0].Type != "prometheus" || sources.Datasources[0].URL != "http://prometheus:9090" {
		t.Errorf("data sources %v", sources)
	}
	if len(providers.Providers) != 1 || providers.Providers[0].Type != "file" || providers.Providers[0].Options.Path == "" {
		t.Errorf("providers %v", providers)
	}
}

// checkDashboard sends the expressions of the dashboard to a Prometheus that has scraped workers in trouble: each has an answer
// with data.
func checkDashboard(t *testing.T, p *prometheus) {
	t.Helper()
	all := readDashboard(t).expressions()
	for expression, title := range all {
		a := p.query(expression)
		switch {
		case a.Status != "success":
			t.Errorf("%s: %s: %s", title, expression, a.Error)
		case len(a.Data.Result) == 0:
			t.Errorf("%s: %s has no data", title, expression)
		}
	}
	t.Logf("%d expressions of the dashboard have data", len(all))
}
