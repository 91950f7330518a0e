package bench

import (
	"fmt"
	"slices"
	"strings"
)

// Row is one thing that is measured.
type Row struct {
	Name      string // as ONLY= takes it, and the name of its file of results
	Title     string
	How       string   // what is done, a sentence or two of Markdown
	Benchmark string   // the benchmark's function
	Benchtime string   // of go test; "": once
	Runs      int      // how often it is called unless told otherwise; 0: defaultRuns
	Compare   []string // units in which by=weir is held against the others
	State     []string // units that are stated of all
	Goals     []Goal
}

// Goal is what a row is to reach. It is judged in the report, never in a test.
type Goal struct {
	Case    string // the case is meant whose name has this in it; "": all
	Unit    string
	Ratio   bool // of weir to the limit, in each run; else weir's own figure
	AtLeast float64
	AtMost  float64
}

// met judges a median.
func (g Goal) met(x float64) bool {
	return (g.AtLeast == 0 || x >= g.AtLeast) && (g.AtMost == 0 || x <= g.AtMost)
}

func (g Goal) String() string {
	var s string
	switch {
	case g.AtLeast != 0 && g.AtMost != 0:
		s = fmt.Sprintf("%s to %s", figure(g.AtLeast), figure(g.AtMost))
	case g.AtLeast != 0:
		s = "at least " + figure(g.AtLeast)
	default:
		s = "at most " + figure(g.AtMost)
	}
	if g.Ratio {
		return s + " of the limit"
	}
	return s + " " + g.Unit
}

// Rows are in the order in which they run.
func Rows() []Row {
	return slices.Concat(captureRows(), storageRows(), deliveryRows(), partsRows())
}

// captureRows are about the way from the WAL to committed jobs.
func captureRows() []Row {
	return []Row{
		{
			Name: "capture", Title: "Capture: WAL to events", Benchmark: "BenchmarkCapture",
			How: "A backlog of 500,000 rows of about 500 bytes that no observer wants (`history.events: matched`), committed in " +
				"transactions of 1,000 rows and of one, against `pg_recvlogical` with pgoutput to /dev/null on an equal slot.",
			Compare: []string{"rows/s"}, State: []string{"allocs/row", "B/row", "cpu-µs/row"},
			Goals: []Goal{{Unit: "rows/s", Ratio: true, AtLeast: 0.8}},
		},
		{
			Name: "ingest", Title: "Ingest: WAL to committed events, jobs and checkpoint", Benchmark: "BenchmarkIngest",
			How: "A backlog of 100,000 matching rows of about 500 bytes, one and three deliveries each, which wait, from the first of " +
				"them on, against a bare loop of the same COPY into `weir.event` and River's `InsertManyFastTx` with equal arguments and " +
				"batches.",
			Compare: []string{"jobs/s"}, State: []string{"changes/s", "WAL-B/change", "cpu-µs/change", "allocs/change", "B/change"},
			Goals: []Goal{{Unit: "jobs/s", Ratio: true, AtLeast: 0.8}, {Unit: "changes/s", AtLeast: 10_000}},
		},
	}
}

// Find returns the rows with these names, separated by commas or spaces; all for none.
func Find(names string) ([]Row, error) {
	wanted := strings.FieldsFunc(names, func(r rune) bool { return r == ',' || r == ' ' })
	if len(wanted) == 0 {
		return Rows(), nil
	}
	var known []string
	byName := map[string]Row{}
	for _, r := range Rows() {
		known, byName[r.Name] = append(known, r.Name), r
	}
	var found []Row
	for _, name := range wanted {
		r, ok := byName[name]
		if !ok {
			return nil, fmt.Errorf("there is no row %q; there are %s", name, strings.Join(known, ", "))
		}
		found = append(found, r)
	}
	return found, nil
}
