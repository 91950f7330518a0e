package console

import (
	"bytes"
	"encoding/json"
	"fmt"
	"html/template"
	"strconv"
	"strings"
	"time"

	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/ops"
)

// functions are what templates may call.
func (p *pages) functions() template.FuncMap {
	return template.FuncMap{
		"asset":    func(name string) string { return p.opts.Base + "/static/" + name + "?v=" + p.files[name].version },
		"when":     func(now time.Time, t event.Time) when { return whenOf(now, time.Time(t)) },
		"size":     ops.Size,
		"number":   number,
		"count":    count[int64],
		"words":    func(s any) string { return strings.ReplaceAll(fmt.Sprint(s), "_", " ") },
		"short":    func(limit int, s any) string { return ops.Short(fmt.Sprint(s), limit) },
		"name":     ops.FullName,
		"attempts": ops.Tries,
		"state":    stateOf,
		"outcome":  outcomeText,
		"why":      whyText,
		"seconds":  func(s float64) string { return span(time.Duration(s * float64(time.Second))) },
		"since":    func(now time.Time, t event.Time) string { return span(now.Sub(time.Time(t))) },
		"pretty":   pretty,
	}
}

// when is a time as people read it, with the exact one for those who need it.
type when struct{ Text, Exact, Machine string }

func whenOf(now, t time.Time) when {
	if t.IsZero() || t.Unix() <= 0 {
		return when{Text: "never"}
	}
	t = t.UTC()
	return when{ago(now, t), t.Format("2006-01-02 15:04:05.000 UTC"), t.Format(time.RFC3339Nano)}
}

// ago says how long before now a time was, or how long after now it will be.
func ago(now, t time.Time) string {
	switch d := now.Sub(t); {
	case d.Abs() < time.Second:
		return "now"
	case d < 0:
		return "in " + span(-d)
	default:
		return span(d) + " ago"
	}
}

// span is a duration in its largest unit, and the next one where that says something.
func span(d time.Duration) string {
	const day = 24 * time.Hour
	two := func(a int, unit string, b int, small string) string {
		if b == 0 || a >= 10 {
			return fmt.Sprintf("%d %s", a, unit)
		}
		return fmt.Sprintf("%d %s %d %s", a, unit, b, small)
	}
	switch d = max(d, 0); {
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return two(int(d.Minutes()), "min", int(d.Seconds())%60, "s")
	case d < day:
		return two(int(d.Hours()), "h", int(d.Minutes())%60, "min")
	default:
		return two(int(d/day), "d", int(d.Hours())%24, "h")
	}
}

// number groups the digits of a number by thousands, with thin spaces that do not break.
func number(n int64) string {
	text := strconv.FormatInt(n, 10)
	for i := len(text) - 3; i > 0 && text[i-1] != '-'; i -= 3 {
		text = text[:i] + "\u202f" + text[i:]
	}
	return text
}

// count is a number with its noun, "1 dead letter", "2 deliveries".
func count[N int | int64](n N, noun string) string {
	if n != 1 {
		if stem, ok := strings.CutSuffix(noun, "y"); ok {
			noun = stem + "ies"
		} else {
			noun += "s"
		}
	}
	return number(int64(n)) + " " + noun
}

// maxJSON is how much of an event is shown, in bytes.
const maxJSON = 64 << 10

// pretty is an event for people, cut where it is too long for a page.
func pretty(raw json.RawMessage) string {
	var indented bytes.Buffer
	text := string(raw)
	if json.Indent(&indented, raw, "", "  ") == nil {
		text = indented.String()
	}
	if len(text) > maxJSON {
		return strings.ToValidUTF8(text[:maxJSON], "") + "\n… (" + ops.Size(int64(len(text)-maxJSON)) + " more)"
	}
	return text
}

// badge is a word with what it means: good, warn, bad or calm.
type badge struct{ Level, Text string }

func stateOf(d ops.Delivery) badge {
	switch {
	case d.DeadLetter:
		return badge{"bad", "dead letter"}
	case d.State == "completed":
		return badge{"good", "completed"}
	case d.State == "retryable":
		return badge{"warn", "retryable"}
	default:
		return badge{"calm", d.State}
	}
}

func outcomeText(o *ops.Outcome) string {
	if o == nil {
		return "–"
	}
	return o.Text() + " in " + span(time.Duration(o.DurationMS)*time.Millisecond)
}

// whyText is what went wrong with a delivery or what it waits for, "" for one that was delivered after all.
func whyText(d ops.Delivery) string {
	switch {
	case d.State == "completed":
		return ""
	case d.WaitsFor == nil:
		return d.LastError
	case d.WaitsFor.DeadLetter:
		return fmt.Sprintf("waits in line behind job %d, a dead letter", d.WaitsFor.JobID)
	default:
		return fmt.Sprintf("waits in line behind job %d (%s)", d.WaitsFor.JobID, d.WaitsFor.State)
	}
}
