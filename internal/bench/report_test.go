package bench

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// printed is a file of results: two runs of two cases, one with two limits, as `go test` prints them.
const printed = `# begun: 2026-01-02T03:04:05Z
# measured: 2026-01-02, on a machine
# run 1
goos: linux
goarch: amd64
pkg: github.com/fraiseql/weir/internal/bench
BenchmarkPour/tx=1000/by=weir-2         	       1	         4.500 allocs/row	     80000 rows/s
BenchmarkPour/tx=1000/by=funnel-2       	       1	    100000 rows/s
BenchmarkPour/tx=1000/by=peer-2         	       1	     40000 rows/s
BenchmarkPour/tx=1/by=weir-2            	       1	         6.250 allocs/row	     30000 rows/s
BenchmarkPour/tx=1/by=funnel-2          	       1	     50000 rows/s
BenchmarkPour/quiet-2                   	       1	       250.0 ns/op
PASS
# run 2
BenchmarkPour/tx=1000/by=weir-2         	       1	         4.500 allocs/row	     90000 rows/s
BenchmarkPour/tx=1000/by=funnel-2       	       1	    100000 rows/s
BenchmarkPour/tx=1000/by=peer-2         	       1	     60000 rows/s
BenchmarkPour/tx=1/by=weir-2            	       1	         6.250 allocs/row	     20000 rows/s
BenchmarkPour/tx=1/by=funnel-2          	       1	     50000 rows/s
BenchmarkPour/quiet-2                   	       1	       350.0 ns/op
PASS
`

func pour() Row {
	return Row{
		Name: "pour", Title: "Pouring", Benchmark: "BenchmarkPour", How: "Water is poured.",
		Compare: []string{"rows/s"}, State: []string{"allocs/row", "ns/op"},
		Goals: []Goal{
			{Unit: "rows/s", Ratio: true, AtLeast: 0.8},
			{Case: "quiet", Unit: "ns/op", AtMost: 299},
			{Case: "tx=1000", Unit: "allocs/row", AtLeast: 1, AtMost: 5},
		},
	}
}

func TestSection(t *testing.T) {
	t.Parallel()
	found, err := parseResults(printed, "pour.txt")
	check(t, err)
	section, err := pour().section(found)
	check(t, err)
	const want = `Water is poured.

| case | unit | Weir | limit | | Weir : limit | confidence interval |
|---|---|--:|---|--:|--:|--:|
| tx=1000 | rows/s | 85,000 | funnel | 100,000 | **0.85** | 0.800 to 0.900 (50 %) |
| tx=1000 | rows/s | 85,000 | peer | 50,000 | **1.75** | 1.500 to 2.000 (50 %) |
| tx=1 | rows/s | 25,000 | funnel | 50,000 | **0.5** | 0.400 to 0.600 (50 %) |

| case | of | allocs/row | ns/op |
|---|---|--:|--:|
| tx=1000 | weir | 4.5 | – |
| tx=1 | weir | 6.25 | – |
| quiet | weir | – | 300 |

Measured in 2 runs, 2026-01-02, on a machine.
`
	if section != want {
		t.Errorf("got\n%s\nwant\n%s", section, want)
	}
}

func TestOverview(t *testing.T) {
	t.Parallel()
	found, err := parseResults(printed, "pour.txt")
	check(t, err)
	goalless := pour()
	goalless.Goals = nil
	for _, tt := range []struct {
		row  Row
		want string
	}{
		{pour(), `| [Pouring](#pour) | tx=1000 | 85,000 rows/s | 100,000 (funnel) | 0.85 | at least 0.8 of the limit | yes |
| [Pouring](#pour) | tx=1 | 25,000 rows/s | 50,000 (funnel) | 0.5 | at least 0.8 of the limit | **no** |
| [Pouring](#pour) | quiet | 300 ns/op |  |  | at most 299 ns/op | **no** |
| [Pouring](#pour) | tx=1000 | 4.5 allocs/row |  |  | 1 to 5 allocs/row | yes |
`},
		{goalless, "| [Pouring](#pour) |  |  |  |  | stated |  |\n"},
	} {
		if got, err := tt.row.overview(found); err != nil || got != tt.want {
			t.Errorf("got %v\n%s\nwant\n%s", err, got, tt.want)
		}
	}
}

// A ratio is of two in the same run: what lacks its other half has none.
func TestRatiosNeedBoth(t *testing.T) {
	t.Parallel()
	found, err := parseResults(strings.Replace(printed, "BenchmarkPour/tx=1/by=funnel-2", "# lost", 1), "pour.txt")
	check(t, err)
	const want = "Pour/tx=1/by=funnel: 1 figures in rows/s against 2 of Weir's"
	if _, err := pour().section(found); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// Six runs are the fewest of which the median is known with 95 %.
func TestSummary(t *testing.T) {
	t.Parallel()
	for want, values := range map[string][]float64{
		"3 of 3.000 to 3.000 (0 %)":    {3},
		"3 of 1.000 to 5.000 (94 %)":   {1, 2, 3, 4, 5},
		"3.5 of 1.000 to 6.000 (97 %)": {1, 2, 3, 4, 5, 6},
		"5.5 of 2.000 to 9.000 (98 %)": {1, 2, 3, 4, 5, 6, 7, 8, 9, 10},
	} {
		s := summary(values)
		if got := figure(s.Center) + " of " + interval(s); got != want {
			t.Errorf("%v: got %s, want %s", values, got, want)
		}
	}
}

func TestFigure(t *testing.T) {
	t.Parallel()
	for x, want := range map[float64]string{
		0: "0", 0.00123456: "0.00123", 0.8: "0.8", 1: "1", 1.2345: "1.23", 99.94: "99.9", 99.96: "100", 100.4: "100",
		999.6: "1,000", 12345: "12,345", 1234567: "1,234,567", -1234: "-1,234",
	} {
		if got := figure(x); got != want {
			t.Errorf("%v: got %s, want %s", x, got, want)
		}
	}
}

func TestReport(t *testing.T) {
	t.Parallel()
	const document = "# Speed\n\nRead this.\n\n<!-- results: overview -->\nold\n<!-- end of results -->\n\n" +
		"<!-- results: capture -->\nold\n<!-- end of results -->\n\n<!-- results: ingest -->\nas it was\n<!-- end of results -->\n"
	folder := t.TempDir()
	results := strings.NewReplacer("BenchmarkPour", "BenchmarkCapture", "funnel", "pg_recvlogical").Replace(printed)
	check(t, os.WriteFile(filepath.Join(folder, "capture.txt"), []byte(results), 0o600))

	text, err := Report(document, folder)
	check(t, err)
	for _, want := range []string{
		"# Speed\n\nRead this.\n\n<!-- results: overview -->\n| what |",
		"| tx=1 | 25,000 rows/s | 50,000 (pg_recvlogical) | 0.5 | at least 0.8 of the limit | **no** |\n",
		"(#ingest) | | | | | | not measured |\n",
		"| tx=1 | rows/s | 25,000 | pg_recvlogical | 50,000 | **0.5** | 0.400 to 0.600 (50 %) |\n",
		"as it was",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the document lacks %q:\n%s", want, text)
		}
	}
	if strings.Contains(text, "old") {
		t.Errorf("what was there before the results is there still:\n%s", text)
	}
	if again, err := Report(text, folder); err != nil || again != text {
		t.Errorf("a second time it is another, %v:\n%s", err, again)
	}
	if _, err := Report("# Speed\n", folder); err == nil || !strings.Contains(err.Error(), "<!-- results: capture -->") {
		t.Errorf("a document without the lines: %v", err)
	}
}
