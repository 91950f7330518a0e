package ops

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/fraiseql/weir/internal/jobs"
	"github.com/fraiseql/weir/internal/setting"
)

// What the command line and the console say in the same words.

// NoObserver stands for the observer of a row that is no event.
const NoObserver = "(no event)"

// FullName is observer/action; a change that could not be matched has no action, and perhaps no observer. A document that
// Elasticsearch refused is that of an event, or of a delivery.
func FullName(d Delivery) string {
	switch {
	case d.Kind == jobs.KindDocument:
		return strings.TrimSuffix("history: "+strings.Trim(d.Observer+"/"+d.Action, "/"), ": ")
	case d.Action == "":
		return cmp.Or(d.Observer, NoObserver)
	default:
		return d.Observer + "/" + d.Action
	}
}

// Tries says how many attempts there were, of how many.
func Tries(d Delivery) string {
	if d.Moved { // how many there might have been is no longer known
		return strconv.Itoa(d.Attempt)
	}
	return fmt.Sprintf("%d of %d", d.Attempt, d.MaxAttempts)
}

// Text is how it ended, without how long that took.
func (o Outcome) Text() string {
	text := o.Result
	if o.ResponseStatus != 0 {
		text += fmt.Sprintf(" (%d)", o.ResponseStatus)
	}
	if o.DuplicateOf != nil {
		text += " of delivery " + o.DuplicateOf.String()
	}
	return text
}

var errNoMoment = errors.New("expected a duration as in 24h or 7d, or a time as in 2026-01-31T12:00:00Z or 2026-01-31")

// ParseMoment reads a time in the past: so long ago, a time, or a day's first moment in UTC. "": the zero time. The error says
// what was expected, and repeats nothing.
func ParseMoment(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if d, err := setting.ParseDuration(text); err == nil {
		return now.Add(-d.Std()), nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, nil
		}
	}
	return time.Time{}, errNoMoment
}

// Size is a number of bytes in the units of PostgreSQL's settings.
func Size(bytes int64) string {
	const kilo = 1 << 10
	if bytes < kilo {
		return fmt.Sprintf("%d B", bytes)
	}
	value, unit := float64(bytes)/kilo, "kB"
	for _, larger := range []string{"MB", "GB", "TB"} {
		if value < kilo {
			break
		}
		value, unit = value/kilo, larger
	}
	return strconv.FormatFloat(value, 'f', 1, 64) + " " + unit
}

// Short is the beginning of a text, on one line, of so many characters at most.
func Short(text string, limit int) string {
	text = strings.Join(strings.Fields(text), " ")
	if runes := []rune(text); len(runes) > limit {
		return string(runes[:limit-1]) + "…"
	}
	return text
}
