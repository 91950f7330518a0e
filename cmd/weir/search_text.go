package main

import (
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/index"
	"github.com/fraiseql/weir/internal/ops"
)

const (
	// excerptLength is how many characters of an event's data are shown, and excerptBefore how many before the first word.
	excerptLength = 150
	excerptBefore = 50
)

func (a *app) foundText(found ops.Found, q index.Search) func(w io.Writer) {
	return func(w io.Writer) {
		if len(found.Hits) == 0 {
			fmt.Fprintln(w, "no events match")
			return
		}
		for i, hit := range found.Hits {
			if i > 0 {
				fmt.Fprintln(w)
			}
			a.writeHit(w, hit, q.Query)
		}
		if found.After != 0 {
			fmt.Fprintf(w, "\nThere are more: --after %d\n", found.After)
		}
	}
}

func (a *app) writeHit(w io.Writer, hit ops.FoundEvent, q index.Query) {
	e, err := event.Parse(hit.Event)
	if err != nil {
		fmt.Fprintf(w, "%s  %s\n", a.paint(bold, "event "+hit.ID.String()), "not recorded any more")
	} else {
		what := fmt.Sprintf("%s %s %s", e.Type, e.EntityType, e.EntityID)
		fmt.Fprintf(w, "%s  %s\n  %s\n", time.Time(e.Timestamp).UTC().Format(time.RFC3339), a.paint(bold, oneLine(what)), hit.ID)
		for _, line := range a.fold(q.Excerpt(e.Data, excerptLength, excerptBefore)) {
			fmt.Fprintf(w, "  %s\n", a.marked(line, q))
		}
	}
	var t table
	now := time.Now()
	for _, d := range hit.Deliveries {
		state := stateCell(d)
		t.add(c("  "+ops.FullName(d)), state, c(whenText(now, d)))
		if d.Outcome != nil {
			t.detail(plain, outcomeText(d.Outcome)+", "+triesText(d))
		} else {
			t.detail(plain, triesText(d))
		}
		if text := lastError(d); text != "" {
			t.detail(dim, ops.Short(text, errorLength))
		}
	}
	t.write(a, w)
}

func triesText(d ops.Delivery) string {
	if d.Moved {
		return count(d.Attempt, "attempt")
	}
	return "attempt " + ops.Tries(d)
}

// whenText is when the delivery ended, or is tried next.
func whenText(now time.Time, d ops.Delivery) string {
	switch {
	case d.FinalizedAt != (event.Time{}):
		return ago(now, d.FinalizedAt)
	case d.NextAttemptAt != (event.Time{}):
		return "next " + ago(now, d.NextAttemptAt)
	default:
		return "-"
	}
}

// fold breaks a text where the line ends: JSON has few blanks.
func (a *app) fold(text string) []string {
	var lines []string
	for part := range slices.Chunk([]rune(text), a.width()-2) {
		lines = append(lines, string(part))
	}
	return lines
}

// marked highlights what was looked for, on a terminal.
func (a *app) marked(text string, q index.Query) string {
	if !a.colored() {
		return text
	}
	return q.Highlight(text, "\x1b["+string(yellow)+"m", "\x1b[0m")
}
