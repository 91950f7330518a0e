package main

import (
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/fraiseql/weir/internal/ops"
)

// errorLength is how much of an error a list shows; weir dlq show has all of it.
const errorLength = 200

func (a *app) writePage(w io.Writer, page ops.DeadLetterPage, filtered bool) {
	if len(page.DeadLetters) == 0 {
		if filtered {
			fmt.Fprintln(w, "no dead letters match")
		} else {
			fmt.Fprintln(w, "no dead letters: every delivery was made, or is still being tried")
		}
		return
	}
	now := time.Now()
	t := table{header: []string{"ID", "OBSERVER/ACTION", "FAILED", "ATTEMPTS"}}
	for _, d := range page.DeadLetters {
		t.add(c(strconv.FormatInt(d.JobID, 10)), c(ops.FullName(d)), c(ago(now, d.FinalizedAt)), c(ops.Tries(d)))
		t.detail(plain, eventText(d))
		t.detail(dim, d.Reason+": "+ops.Short(d.LastError, errorLength))
	}
	t.write(a, w)
	if page.After != 0 {
		fmt.Fprintf(w, "\nThere are more: --after %d\n", page.After)
	}
}

func (a *app) writeDeadLetter(w io.Writer, d ops.DeadLetter) {
	now := time.Now()
	var t table
	t.add(cell{"dead letter", bold}, cell{strconv.FormatInt(d.JobID, 10), bold})
	t.add(c("delivery"), c(ops.FullName(d.Delivery)))
	if d.DeliveryID != nil {
		t.add(c("webhook-id"), c(d.DeliveryID.String()))
	}
	if d.ReplayOf != nil {
		t.add(c("replay of"), c(d.ReplayOf.String()))
	}
	t.add(c("event"), c(fmt.Sprintf("%s, %s, at %s+%d", eventText(d.Delivery), eventID(d.EventID), d.LSN, d.TxIndex)))
	t.add(c("state"), stateCell(d.Delivery))
	t.add(c("reason"), c(d.Reason))
	t.add(c("attempts"), c(ops.Tries(d.Delivery)))
	t.add(c("queue"), c(d.Queue))
	t.add(c("created"), c(agoAndWhen(now, d.CreatedAt)))
	t.add(c("failed"), c(agoAndWhen(now, d.FinalizedAt)))
	t.add(c("outcome"), c(outcomeText(d.Outcome)))
	if d.Waiting > 0 {
		t.add(c("in line"), cell{count(d.Waiting, "delivery") + " of this entity, to run in order", yellow})
	}
	if d.Outcome != nil && d.Outcome.ResponseBody != "" {
		t.add(c("response"), c(ops.Short(d.Outcome.ResponseBody, 200)))
	}
	t.write(a, w)
	fmt.Fprintln(w)
	errors := table{header: []string{"ATTEMPT", "AT", "ERROR"}}
	for _, e := range d.Errors {
		errors.add(c(strconv.Itoa(e.Attempt)), c(agoAndWhen(now, e.At)), c(ops.Short(e.Error, 500)))
	}
	errors.write(a, w)
	if d.Event != nil {
		fmt.Fprintf(w, "\n%s\n", indented(d.Event))
	}
	fmt.Fprintf(w, "\nTry it again with: weir dlq retry %d\n", d.JobID)
}

func (a *app) writeStats(w io.Writer, stats ops.DeadLetterStats) {
	if stats.Total == 0 {
		fmt.Fprintln(w, "no dead letters: every delivery was made, or is still being tried")
		return
	}
	now := time.Now()
	t := table{header: []string{"COUNT", "OBSERVER/ACTION", "REASON", "NEWEST"}}
	for _, g := range stats.Groups {
		t.add(c(strconv.FormatInt(g.Count, 10)), c(ops.FullName(ops.Delivery{Observer: g.Observer, Action: g.Action})), c(g.Reason),
			c(ago(now, g.Newest)))
		if g.Count > 1 {
			t.detail(dim, "the oldest "+ago(now, g.Oldest))
		}
	}
	t.write(a, w)
	fmt.Fprintf(w, "\n%s\n", count(stats.Total, "dead letter"))
}

func eventText(d ops.Delivery) string {
	text := orDash(string(d.EventType)) + " " + orDash(d.Entity)
	if d.EntityID != "" {
		text += " " + d.EntityID
	}
	return text
}

func eventID(id uuid.UUID) string {
	if id == uuid.Nil {
		return "no id"
	}
	return id.String()
}

// stateCell uses our own word for a dead letter: River's are discarded and cancelled.
func stateCell(d ops.Delivery) cell {
	switch {
	case d.DeadLetter:
		return cell{"dead letter", red}
	case d.State == "completed":
		return cell{d.State, green}
	case d.State == "retryable":
		return cell{d.State, yellow}
	default:
		return c(d.State)
	}
}

func outcomeText(o *ops.Outcome) string {
	if o == nil {
		return "-"
	}
	return o.Text() + " in " + span(time.Duration(o.DurationMS)*time.Millisecond)
}
