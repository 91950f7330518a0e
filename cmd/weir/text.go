package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/fraiseql/weir/internal/event"
)

// ago says how long before now a time was, or how long after now it will be: "12 s ago", "in 3 h 20 min".
func ago(now time.Time, t event.Time) string {
	switch d := now.Sub(time.Time(t)); {
	case time.Time(t).IsZero():
		return "never"
	case d.Abs() < time.Second:
		return "now"
	case d < 0:
		return "in " + span(-d)
	default:
		return span(d) + " ago"
	}
}

// agoAndWhen is for places with room for both.
func agoAndWhen(now time.Time, t event.Time) string {
	if time.Time(t).IsZero() {
		return "never"
	}
	return fmt.Sprintf("%s (%s)", ago(now, t), time.Time(t).UTC().Format(time.RFC3339))
}

// second is a time to the second.
func second(t event.Time) string { return time.Time(t).UTC().Format(time.RFC3339) }

// span is a duration in its two largest units.
func span(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min %d s", int(d.Minutes()), int(d.Seconds())%60)
	case d < day:
		return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
	default:
		return fmt.Sprintf("%d d %d h", int(d/day), int(d.Hours())%24)
	}
}

// count is a number with its noun, "1 dead letter", "2 dead letters" or "2 deliveries".
func count[N int | int64](n N, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	if stem, ok := strings.CutSuffix(noun, "y"); ok && !strings.HasSuffix(stem, "a") { // days
		return fmt.Sprintf("%d %sies", n, stem)
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// oneLine folds a text, as errors of pgx are of several lines.
func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

// orDash is for empty fields of a table.
func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}
