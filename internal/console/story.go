package console

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/observer"
	"github.com/fraiseql/weir/internal/ops"
)

// story is what became of an event. There may be several events of one id.
type story struct {
	ID      uuid.UUID
	Reports []report
	Note    string // what is not shown, and why
}

type report struct {
	ops.EventReport
	What     string // UPDATE Order order-1
	Decoded  *event.Event
	Moments  []moments
	Verdicts []verdict
}

// moments are the steps of a story, in the order of time.
type moments struct {
	At    time.Time
	Level string
	Text  string
	More  string
}

type verdict struct {
	observer.Explanation
	Badge badge
	Why   string
}

func (p *pages) event(ctx context.Context, r *http.Request) (view, error) {
	id, err := uuid.Parse(r.PathValue("id"))
	if err != nil {
		return view{}, badRequest("This is no id of an event: expected a UUID.")
	}
	question := ops.Question{Observers: p.opts.Observers}
	s := story{ID: id}
	reports, err := ops.DebugEvent(ctx, p.opts.DB, id, question)
	if err != nil && !errors.Is(err, ops.ErrNoEvent) {
		return view{}, err
	}
	if p.elastic != nil {
		var asked error
		if reports, asked = question.Story(ctx, p.elastic, id, reports); asked != nil {
			s.Note = "Elasticsearch does not answer: what only it has is not shown."
		}
	}
	if len(reports) == 0 && err != nil {
		return view{}, err
	}
	for _, one := range reports {
		s.Reports = append(s.Reports, reportOf(one))
	}
	return view{Title: "Event " + id.String(), Here: "search", Live: true, Body: s}, nil
}

func reportOf(r ops.EventReport) report {
	one := report{EventReport: r, What: "Event"}
	if e, err := event.Parse(r.Event); err == nil {
		one.Decoded = e
		one.What = strings.TrimSpace(fmt.Sprintf("%s %s %s", e.Type, e.EntityType, e.EntityID))
	}
	for _, x := range r.Observers {
		v := verdict{Explanation: x, Badge: badge{"calm", strings.ReplaceAll(string(x.Verdict), "_", " ")}, Why: x.Reason}
		switch x.Verdict {
		case observer.VerdictMatch:
			v.Badge.Level, v.Why = "good", "leads to "+strings.Join(x.Actions, ", ")
		case observer.VerdictError:
			v.Badge.Level = "bad"
		default:
		}
		one.Verdicts = append(one.Verdicts, v)
	}
	one.Moments = one.tell()
	return one
}

// tell puts what is known into the order of time.
func (r *report) tell() (all []moments) {
	add := func(at event.Time, level, text, more string) {
		if t := time.Time(at); !t.IsZero() {
			all = append(all, moments{t, level, text, more})
		}
	}
	if r.Decoded != nil {
		add(r.Decoded.CommitTime, "calm", "committed", fmt.Sprintf("at %s, change %d of its transaction", r.LSN, r.TxIndex))
	}
	add(r.IngestedAt, "calm", "ingested", count(len(r.Deliveries), "delivery")+" known")
	for _, d := range r.Deliveries {
		for _, failed := range d.Errors {
			add(failed.At, "warn", fmt.Sprintf("%s failed, attempt %d", ops.FullName(d), failed.Attempt), failed.Error)
		}
		switch {
		case d.DeadLetter:
			add(d.FinalizedAt, "bad", ops.FullName(d)+" became a dead letter", d.Reason)
		case d.State == "completed":
			add(d.FinalizedAt, "good", ops.FullName(d)+" ended", outcomeText(d.Outcome))
		default:
			add(d.FinalizedAt, "calm", ops.FullName(d)+" "+d.State, outcomeText(d.Outcome))
			add(d.NextAttemptAt, "calm", ops.FullName(d)+" is tried", "")
		}
	}
	slices.SortStableFunc(all, func(a, b moments) int { return a.At.Compare(b.At) })
	return all
}
