package bench

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/perf/benchfmt"
	"golang.org/x/perf/benchmath"
)

// results are those of one row: what each sub-benchmark has reported, run by run.
type results struct {
	names  []string // in the order in which they were first seen
	values map[string]map[string][]float64
	notes  []string // the file's own lines, which say where and when
}

var processors = regexp.MustCompile(`-\d+$`)

// parseResults reads what benchmarks have printed.
func parseResults(text, name string) (results, error) {
	all := results{values: map[string]map[string][]float64{}}
	for line := range strings.Lines(text) {
		if note, ok := strings.CutPrefix(line, "# "); ok {
			all.notes = append(all.notes, strings.TrimSpace(note))
		}
	}
	reader := benchfmt.NewReader(strings.NewReader(text), name)
	for reader.Scan() {
		result, ok := reader.Result().(*benchfmt.Result)
		if !ok { // a line that is no result
			continue
		}
		full := processors.ReplaceAllString(result.Name.String(), "")
		if all.values[full] == nil {
			all.names = append(all.names, full)
			all.values[full] = map[string][]float64{}
		}
		for _, v := range result.Values {
			if v.OrigUnit != "" { // as it was printed, not in seconds and bytes
				v.Value, v.Unit = v.OrigValue, v.OrigUnit
			}
			all.values[full][v.Unit] = append(all.values[full][v.Unit], v.Value)
		}
	}
	return all, reader.Err()
}

// note is the rest of the note that begins so.
func (r results) note(begin string) string {
	for _, note := range r.notes {
		if rest, ok := strings.CutPrefix(note, begin); ok {
			return rest
		}
	}
	return ""
}

// runs is how often the row was called.
func (r results) runs() (n int) {
	for _, note := range r.notes {
		if strings.HasPrefix(note, "run ") {
			n++
		}
	}
	return n
}

// parts are a sub-benchmark's name without its row's, and who it measures; "" for one that is compared with nothing.
func parts(name string) (setting, by string) {
	setting, by, _ = strings.Cut(name, "by=")
	_, setting, _ = strings.Cut(strings.Trim(setting, "/"), "/")
	return strings.ReplaceAll(setting, "/", ", "), by
}

// pair is what is held against each other.
type pair struct {
	setting, unit string
	limit         string // what by= says of it
	weir, other   benchmath.Summary
	ratio         benchmath.Summary // of both in the same run
}

// pairs compares Weir with everything else that was measured in the same case.
func (r results) pairs(units []string) ([]pair, error) {
	var all []pair
	for _, name := range r.names {
		setting, by := parts(name)
		if by == "" || by == weir {
			continue
		}
		for _, unit := range units {
			ours := r.values[strings.TrimSuffix(name, by)+weir][unit]
			theirs := r.values[name][unit]
			if len(theirs) == 0 {
				continue
			}
			if len(ours) != len(theirs) {
				return nil, fmt.Errorf("%s: %d figures in %s against %d of Weir's", name, len(theirs), unit, len(ours))
			}
			ratios := make([]float64, len(ours))
			for i := range ours {
				ratios[i] = ours[i] / theirs[i]
			}
			all = append(all, pair{setting, unit, by, summary(ours), summary(theirs), summary(ratios)})
		}
	}
	return all, nil
}

// weir is what by= says of us.
const weir = "weir"

// summary is the median and its confidence interval, which supposes nothing of how figures are distributed. Fewer than six runs
// cannot give one of 95 %: it is from the lowest to the highest then, and the median is outside of it when all runs happen to be
// on one side.
func summary(values []float64) benchmath.Summary {
	s := benchmath.AssumeNothing.Summary(benchmath.NewSample(slices.Clone(values), &benchmath.DefaultThresholds), 0.95)
	if math.IsInf(s.Lo, -1) || math.IsInf(s.Hi, 1) {
		s.Lo, s.Hi, s.Confidence = slices.Min(values), slices.Max(values), 1-math.Pow(0.5, float64(len(values)-1))
	}
	return s
}
