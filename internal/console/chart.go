package console

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/fraiseql/weir/internal/ops"
)

// ranges are what the chart can show. The first is what it does show.
var ranges = []chartRange{
	{"1h", "hour", time.Hour, time.Minute},
	{"6h", "6 hours", 6 * time.Hour, 5 * time.Minute},
	{"24h", "24 hours", 24 * time.Hour, 20 * time.Minute},
	{"7d", "7 days", 7 * 24 * time.Hour, 2 * time.Hour},
}

// outcomes in the order in which they are stacked, the lowest first.
var outcomes = []string{"delivered", "cached", "duplicate", "cancelled", "dropped", "dead"}

type chartRange struct {
	name, title  string
	span, bucket time.Duration // a bar stands for a bucket
}

// rangeOf is the range of a name, the first one for a name that is none.
func rangeOf(name string) chartRange {
	i := slices.IndexFunc(ranges, func(r chartRange) bool { return r.name == name })
	return ranges[max(0, i)]
}

const (
	chartHeight = 160 // units of the drawing, which is stretched to the page's width
	sparkHeight = 24
	slotWidth   = 10 // of a stretch of time
	barWidth    = 8
	leastHeight = 3 // so that one dead letter is seen beside a million deliveries
	chartRows   = 20
)

// chart is what the template draws: bars of deliveries over time, stacked by outcome, and the same for each observer.
type chart struct {
	Range, Title string
	Ranges       []choice
	Observer     string // "" for all
	Width        int
	Height       int
	Grid         []gridline
	Bars         []bar
	Ticks        []string
	Totals       []total
	Sum          int64
	Observers    []observerRow
	More         int // observers that are not listed
	Rows         []chartRow
	Incomplete   time.Time // what ended before is counted in part; zero: everything is counted
}

type choice struct {
	Name, Title string
	Chosen      bool
}

type gridline struct {
	Y     int
	Label string
}

// bar is a stretch of time.
type bar struct {
	X, Width int
	Title    string
	Parts    []part
}

type part struct {
	Outcome string
	Y, H    int
}

type total struct {
	Outcome string
	N       int64
}

type observerRow struct {
	Name   string
	Totals []total
	Sum    int64
	Bars   []bar
}

// chartRow is a stretch of time in the table, which says what the drawing shows.
type chartRow struct {
	Start  time.Time
	Totals []total
}

// stretches are counts by stretch of time and outcome.
type stretches [][]int64

// drawChart lays out what ended. Observers are those with the most dead letters first, then those with the most deliveries.
func drawChart(t ops.Throughput, r chartRange, observer string) chart {
	c := chart{Range: r.name, Title: r.title, Observer: observer, Height: chartHeight}
	for _, one := range ranges {
		c.Ranges = append(c.Ranges, choice{one.name, one.title, one.name == r.name})
	}
	from, n := time.Time(t.From), int(r.span/r.bucket)
	c.Width = n * slotWidth
	if complete := time.Time(t.CompleteFrom); complete.After(from) {
		c.Incomplete = complete
	}
	all, each := sort(t, n, r.bucket, observer)
	top := niceTop(all.highest())
	c.Bars, c.Totals, c.Sum = all.bars(from, r.bucket, chartHeight, top), all.totals(), all.sum()
	for _, share := range []int64{4, 2} { // a quarter of a small number is none
		if top%share != 0 {
			continue
		}
		for i := share; i > 0; i-- {
			c.Grid = append(c.Grid, gridline{int(chartHeight - chartHeight*i/share), number(top * i / share)})
		}
		break
	}
	for i := range 5 {
		c.Ticks = append(c.Ticks, tick(from.Add(r.span*time.Duration(i)/4), r.span))
	}
	for i, counts := range slices.Backward(all) {
		c.Rows = append(c.Rows, chartRow{from.Add(time.Duration(i) * r.bucket), totalsOf(counts)})
	}
	for name, s := range each {
		c.Observers = append(c.Observers, observerRow{
			name, s.totals(), s.sum(), s.bars(from, r.bucket, sparkHeight, max(1, s.highest())),
		})
	}
	dead := func(o observerRow) int64 { return o.Totals[len(outcomes)-1].N }
	slices.SortFunc(c.Observers, func(a, b observerRow) int {
		return cmp.Or(cmp.Compare(dead(b), dead(a)), cmp.Compare(b.Sum, a.Sum), cmp.Compare(a.Name, b.Name))
	})
	if len(c.Observers) > chartRows {
		c.More, c.Observers = len(c.Observers)-chartRows, c.Observers[:chartRows]
	}
	return c
}

// sort counts for all observers, or the one, and for each.
func sort(t ops.Throughput, n int, bucket time.Duration, observer string) (all stretches, each map[string]stretches) {
	all, each = newStretches(n), map[string]stretches{}
	for _, one := range t.Counts {
		i := int(time.Time(one.Start).Sub(time.Time(t.From)) / bucket)
		o := slices.Index(outcomes, one.Outcome)
		if o < 0 || i < 0 || i >= n {
			continue
		}
		if each[one.Observer] == nil {
			each[one.Observer] = newStretches(n)
		}
		each[one.Observer][i][o] += one.Deliveries
		if observer == "" || observer == one.Observer {
			all[i][o] += one.Deliveries
		}
	}
	return all, each
}

func newStretches(n int) stretches {
	s := make(stretches, n)
	for i := range s {
		s[i] = make([]int64, len(outcomes))
	}
	return s
}

func (s stretches) totals() []total {
	sums := make([]int64, len(outcomes))
	for _, counts := range s {
		for o, n := range counts {
			sums[o] += n
		}
	}
	return totalsOf(sums)
}

func totalsOf(counts []int64) []total {
	all := make([]total, len(outcomes))
	for o, n := range counts {
		all[o] = total{outcomes[o], n}
	}
	return all
}

func (s stretches) sum() (sum int64) {
	for _, counts := range s {
		sum += sumOf(counts)
	}
	return sum
}

func (s stretches) highest() (most int64) {
	for _, counts := range s {
		most = max(most, sumOf(counts))
	}
	return most
}

func sumOf(counts []int64) (sum int64) {
	for _, n := range counts {
		sum += n
	}
	return sum
}

// bars leaves out stretches in which nothing ended.
func (s stretches) bars(from time.Time, bucket time.Duration, height int, top int64) []bar {
	var all []bar
	for i, counts := range s {
		if sumOf(counts) == 0 {
			continue
		}
		b := bar{X: i*slotWidth + (slotWidth-barWidth)/2, Width: barWidth}
		b.Title = from.Add(time.Duration(i)*bucket).Format("2006-01-02 15:04") + " UTC:"
		y := height
		for o, n := range counts {
			if n == 0 {
				continue
			}
			h := max(leastHeight, int(int64(height)*n/top))
			h = min(h, y)
			y -= h
			b.Parts = append(b.Parts, part{outcomes[o], y, h})
			b.Title += " " + number(n) + " " + outcomes[o]
		}
		all = append(all, b)
	}
	return all
}

// niceTop is the end of the axis: a round number that can be halved, mostly twice.
func niceTop(most int64) int64 {
	for _, top := range []int64{1, 2, 4, 6, 8} {
		if top >= most {
			return top
		}
	}
	for unit := int64(1); ; unit *= 10 {
		for _, factor := range []int64{10, 12, 16, 20, 24, 32, 40, 60, 80} {
			if top := unit * factor; top >= most {
				return top
			}
		}
	}
}

func tick(at time.Time, span time.Duration) string {
	if span > 24*time.Hour {
		return at.Format("Jan 2")
	}
	return at.Format("15:04")
}

// keepChart is how long an answer is used again: many people look at the same chart, which asks more of the database than the
// rest of the page.
const keepChart = 3 * time.Second

// recent keeps the last answers, by range.
type recent struct {
	mu      sync.Mutex // guards answers
	answers map[string]answer
}

type answer struct {
	at         time.Time
	throughput ops.Throughput
}

func (r *recent) throughput(ctx context.Context, db ops.DB, over chartRange) (ops.Throughput, error) {
	r.mu.Lock()
	last, ok := r.answers[over.name]
	r.mu.Unlock()
	if ok && time.Since(last.at) < keepChart {
		return last.throughput, nil
	}
	began := time.Now()
	found, err := ops.ReadThroughput(ctx, db, over.span, over.bucket)
	if err != nil {
		return found, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.answers == nil {
		r.answers = map[string]answer{}
	}
	r.answers[over.name] = answer{began, found}
	return found, nil
}
