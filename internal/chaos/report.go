package chaos

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// The names of differences that are not the checker's.
const (
	NotSettled     = "not-settled"     // something did not come to its end
	WorkerTrouble  = "worker-trouble"  // a worker ended by itself, or did not end when it was asked to
	HarnessTrouble = "harness-trouble" // a fault could not be done: nothing is known about Weir
)

// Report is what a run has shown.
type Report struct {
	Seed       uint64         `json:"seed"`
	For        time.Duration  `json:"for_ns"`
	Settled    time.Duration  `json:"settled_ns"` // after the load, until nothing was under way
	Workers    int            `json:"workers"`
	Faults     map[Kind]int   `json:"faults"`
	LeftOut    []string       `json:"left_out"`
	Changes    int            `json:"changes"`     // rows of the change log
	RolledBack int            `json:"rolled_back"` // transactions
	InDoubt    int            `json:"in_doubt"`    // transactions whose answer was lost: looked up
	Deliveries int            `json:"deliveries"`
	Ends       map[string]int `json:"ends"` // deliveries by how they ended
	Calls      int            `json:"calls"`
	Repeats    int            `json:"repeats"` // calls that were answered with success, and had been before
	Effects    int            `json:"effects"`
	Documents  int            `json:"documents"`
	Unread     time.Duration  `json:"unread_ns"`   // the longest time without a reader while the server was up
	LagBytes   int64          `json:"lag_bytes"`   // the worst
	LagChanges int64          `json:"lag_changes"` // the worst
	// Differences are all that were found; none is a success.
	Differences []Difference `json:"differences"`
}

func (h *harness) report(found []Difference) *Report {
	e, worst := &h.evidence, h.ground.watch.worst()
	r := &Report{
		Seed: h.options.Seed, For: h.options.For, Workers: h.options.Workers, Faults: h.ground.counts, LeftOut: skipped,
		Changes: len(e.rows), Calls: len(e.calls), Effects: len(e.effects), Documents: len(e.documents) + len(e.elastic),
		Unread: worst.Unread, LagBytes: worst.LagBytes, LagChanges: worst.LagChanges, Ends: map[string]int{}, Differences: found,
	}
	if !h.settled.IsZero() {
		r.Settled = h.settled.Sub(h.loaded) - h.options.For
	}
	for _, s := range e.sent {
		if s.fate == aborted {
			r.RolledBack++
		}
		if s.doubted {
			r.InDoubt++
		}
	}
	for _, all := range [][]jobRow{e.jobs, e.outcomes} {
		for i := range all {
			if all[i].Kind != "weir_change" {
				r.Deliveries++
				r.Ends[all[i].outcome()]++
			} else {
				r.Ends["bad row"]++
			}
		}
	}
	answered := map[string]bool{}
	for _, c := range e.calls {
		if key := c.Delivery.String(); c.Status/100 == 2 {
			if answered[key] {
				r.Repeats++
			}
			answered[key] = true
		}
	}
	return r
}

// OK says that nothing was found.
func (r *Report) OK() bool { return len(r.Differences) == 0 }

// String is the report as text, which is Markdown, too.
func (r *Report) String() string {
	var s strings.Builder
	fmt.Fprintf(&s, "* seed %d, %s of load, %d workers; all had ended %s after it\n",
		r.Seed, r.For, r.Workers, r.Settled.Round(time.Second))
	var faults []string
	total := 0
	for _, kind := range slices.Sorted(maps.Keys(r.Faults)) {
		faults = append(faults, fmt.Sprintf("%s %d", kind, r.Faults[kind]))
		total += r.Faults[kind]
	}
	fmt.Fprintf(&s, "* %d faults: %s\n", total, strings.Join(faults, ", "))
	for _, why := range r.LeftOut {
		fmt.Fprintf(&s, "* left out: %s\n", why)
	}
	var ends []string
	for _, how := range slices.Sorted(maps.Keys(r.Ends)) {
		ends = append(ends, fmt.Sprintf("%s %d", how, r.Ends[how]))
	}
	fmt.Fprintf(&s, "* %d changes (%d transactions rolled back, %d with a lost answer), %d deliveries: %s\n",
		r.Changes, r.RolledBack, r.InDoubt, r.Deliveries, strings.Join(ends, ", "))
	fmt.Fprintf(&s, "* %d calls of the receiver, %d of them repeats of one that had succeeded; %d rows of database actions; "+
		"%d documents\n",
		r.Calls, r.Repeats, r.Effects, r.Documents)
	fmt.Fprintf(&s, "* at the worst %s without a reader, %d changes and %.1f MB behind\n",
		r.Unread.Round(time.Millisecond), r.LagChanges, float64(r.LagBytes)/(1<<20))
	if r.OK() {
		fmt.Fprintln(&s, "* no difference")
		return s.String()
	}
	counts := map[string]int{}
	for _, d := range r.Differences {
		counts[d.Name]++
	}
	var names []string
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		names = append(names, fmt.Sprintf("%s %d", name, counts[name]))
	}
	first := r.Differences[0]
	fmt.Fprintf(&s, "* DIFFERENCES: %s\n* the first one, with seed %d: %s\n  %s\n",
		strings.Join(names, ", "), r.Seed, first.Name, first.About)
	return s.String()
}

// Write writes the report into a file: as JSON if its name ends so, else as text.
func (r *Report) Write(file string) error {
	text := []byte(r.String())
	if filepath.Ext(file) == ".json" {
		var err error
		if text, err = json.MarshalIndent(r, "", "  "); err != nil {
			return err
		}
	}
	return os.WriteFile(file, text, 0o600)
}
