package bench

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Where the module keeps the report and what it is made of, as seen from here.
const (
	reportPath  = "../../docs/performance.md"
	resultsPath = "../../bench/results"
)

// A row that calls a function that does not exist measures nothing, and a function that no row calls is never called.
func TestRowsNameTheBenchmarks(t *testing.T) {
	t.Parallel()
	names, functions := map[string]bool{}, map[string]bool{}
	for _, row := range Rows() {
		if names[row.Name] || row.Title == "" || row.How == "" {
			t.Errorf("%s: another has the name, or there is no title or no description", row.Name)
		}
		names[row.Name], functions[row.Benchmark] = true, true
		for _, g := range row.Goals {
			if g.Ratio && !slices.Contains(row.Compare, g.Unit) {
				t.Errorf("%s: a goal for the ratio in %s, which is not compared", row.Name, g.Unit)
			}
		}
	}
	if got, want := slices.Sorted(maps.Keys(functions)), benchmarksHere(t); !slices.Equal(got, want) {
		t.Errorf("rows call %v, and there are %v", got, want)
	}
}

func benchmarksHere(t *testing.T) (names []string) {
	t.Helper()
	files, err := filepath.Glob("*_test.go")
	check(t, err)
	for _, path := range files {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		check(t, err)
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && strings.HasPrefix(f.Name.Name, "Benchmark") {
				names = append(names, f.Name.Name)
			}
		}
	}
	slices.Sort(names)
	return names
}

func TestFind(t *testing.T) {
	t.Parallel()
	if all, err := Find(""); err != nil || len(all) != len(Rows()) {
		t.Errorf("no name is not every row: %d, %v", len(all), err)
	}
	if some, err := Find("ingest, capture"); err != nil || len(some) != 2 || some[0].Name != "ingest" || some[1].Name != "capture" {
		t.Errorf("found %v, %v", some, err)
	}
	_, err := Find("ingest,captur")
	if want := `there is no row "captur"; there are capture, ingest`; err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestReportHasASectionForEachRow(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(reportPath)
	check(t, err)
	for _, row := range Rows() {
		_, section, ok := strings.Cut(string(text), "\n## "+row.Name+"\n")
		if !ok {
			t.Errorf("no heading for %s, to which the overview leads", row.Name)
			continue
		}
		section, _, _ = strings.Cut(section, "\n## ")
		if _, err := replaced(section, row.Name, ""); err != nil {
			t.Errorf("%s: %v", row.Name, err)
		}
	}
}

// Who edits the tables that are written from the results, or the results alone, is told to run make bench.
func TestReportIsWrittenFromTheResults(t *testing.T) {
	t.Parallel()
	found, err := os.ReadDir(resultsPath)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(found) == 0 {
		t.Skip("nothing has been measured here")
	}
	check(t, err)
	text, err := os.ReadFile(reportPath)
	check(t, err)
	want, err := Report(string(text), resultsPath)
	check(t, err)
	if want != string(text) {
		t.Errorf("%s is not what `make bench` writes from bench/results:\n%s", reportPath, firstDifference(want, string(text)))
	}
}

func firstDifference(want, got string) string {
	g := strings.Split(got, "\n")
	for i, line := range strings.Split(want, "\n") {
		if i >= len(g) || line != g[i] {
			return "want " + line + "\ngot  " + strings.Join(g[min(i, len(g)):min(i+1, len(g))], "")
		}
	}
	return "it goes on where it should end"
}
