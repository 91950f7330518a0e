package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/fraiseql/weir/internal/action"
	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/index"
	"github.com/fraiseql/weir/internal/observer"
	"github.com/fraiseql/weir/internal/ops"
)

func newDebugCommand(a *app) *cobra.Command {
	var last int
	var only string
	cmd := &cobra.Command{
		Use:   "debug-event ID | --last N",
		Short: "Show an event, who matches it, and its deliveries",
		Long: `Show an event, for each observer of the configuration whether it matches or which part of its condition is false, and
what became of each delivery. Without a configuration file only the deliveries are shown. -v adds every attempt that failed.`,
		Example: "  weir debug-event 0190a0c2-7f0e-7c3a-8a52-3f2d1f0c9b11\n  weir debug-event --last 3 --observer order-shipped",
		Args:    cobra.MaximumNArgs(1),
		RunE: a.does(func(ctx context.Context, args []string) error {
			return a.debug(ctx, debugged{ids: args, last: last, only: only})
		}),
	}
	cmd.Flags().IntVar(&last, "last", 0, "the newest `N` events instead of one")
	cmd.Flags().StringVar(&only, "observer", "", "only this observer, by `name`")
	return cmd
}

// debugged says which events to report on.
type debugged struct {
	ids  []string // one at the most
	last int
	only string
}

func (d debugged) id() (id uuid.UUID, err error) {
	switch {
	case len(d.ids) == 1 && d.last != 0:
		return id, wrongUse("name an event or say --last, not both")
	case d.last < 0 || d.last > 1000:
		return id, wrongUse("--last %d: expected 1 to 1000", d.last)
	case d.last > 0:
		return id, nil
	case len(d.ids) == 0:
		return id, wrongUse("name an event by its id, or say --last N")
	}
	if id, err = uuid.Parse(d.ids[0]); err != nil {
		return id, wrongUse("%q is no id of an event: expected a UUID", d.ids[0])
	}
	return id, nil
}

// eventReports is the output of debug-event.
type eventReports struct {
	Events []ops.EventReport `json:"events"` // one, or with --last the newest first
}

func (a *app) debug(ctx context.Context, d debugged) error {
	id, err := d.id()
	if err != nil {
		return err
	}
	return a.withDatabase(ctx, func(s *settings, conn *pgx.Conn) error {
		question, err := a.question(s, d.only)
		if err != nil {
			return err
		}
		if _, err := ops.CheckMigrated(ctx, conn); err != nil {
			return err
		}
		var reports eventReports
		if d.last > 0 {
			reports.Events, err = ops.DebugLast(ctx, conn, d.last, question)
		} else {
			reports.Events, err = a.debugOne(ctx, s, conn, id, question)
		}
		if err != nil {
			return err
		}
		return a.print(reports, func(w io.Writer) { a.writeReports(w, reports.Events) })
	})
}

// debugOne reports on an event, with what only Elasticsearch has of it.
func (a *app) debugOne(
	ctx context.Context, s *settings, conn *pgx.Conn, id uuid.UUID, q ops.Question,
) ([]ops.EventReport, error) {
	reports, err := ops.DebugEvent(ctx, conn, id, q)
	unknown := errors.Is(err, ops.ErrNoEvent)
	if err != nil && !unknown {
		return nil, err
	}
	if s.mistakes == nil && s.file != nil && s.file.History.InElasticsearch() {
		asked := s.withElasticsearch(func(e *index.Elasticsearch) (err error) {
			reports, err = q.Story(ctx, e, id, reports)
			return err
		})
		switch {
		case unasked(asked):
			a.notef("weir: what only Elasticsearch has is not shown: %v", asked)
		case asked != nil:
			return nil, asked
		}
	}
	if len(reports) == 0 {
		return nil, fmt.Errorf("%w (not ingested yet? see weir status; or it is older than the history)", err)
	}
	return reports, nil
}

// question compiles the observers. They are never run, so they get nothing to run with.
func (a *app) question(s *settings, only string) (ops.Question, error) {
	q := ops.Question{Only: only}
	if s.file == nil {
		a.notef("no configuration file: the observers are not known, only the deliveries are shown")
		return q, nil
	}
	if s.mistakes != nil {
		return q, s.mistakes
	}
	if s.unset != nil {
		a.notef("the environment lacks what %s asks for; what depends on it was not evaluated (weir validate-config tells)", s.path)
	}
	var err error
	if q.Observers, err = compileObservers(s.file.Observers); err != nil {
		return q, err
	}
	if only != "" && !q.Observers.Has(only) {
		a.notef("there is no observer %s in %s: only its deliveries are shown", only, s.path)
	}
	return q, nil
}

// compileObservers makes observers that nothing can be run with.
func compileObservers(configs map[string]observer.Config) (*observer.Set, error) {
	set, err := observer.New(configs, action.Deps{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, configError{err}
	}
	return set, nil
}

func (a *app) writeReports(w io.Writer, reports []ops.EventReport) {
	if len(reports) == 0 {
		fmt.Fprintln(w, "no events have been ingested yet")
	}
	for i, r := range reports {
		if i > 0 {
			fmt.Fprintln(w)
		}
		a.writeReport(w, r)
	}
}

func (a *app) writeReport(w io.Writer, r ops.EventReport) {
	now := time.Now()
	place := ""
	if r.LSN != 0 { // an outcome does not say where its event was
		place = fmt.Sprintf(" at %s+%d", r.LSN, r.TxIndex)
	}
	fmt.Fprintln(w, a.paint(bold, "event "+r.ID.String())+place)
	if r.Event == nil {
		fmt.Fprintln(w, "  not stored: the row is no event, or it is older than the history")
	} else {
		fmt.Fprintf(w, "  ingested %s\n%s\n", agoAndWhen(now, r.IngestedAt), indented(r.Event))
	}
	if r.Explained {
		fmt.Fprintln(w)
		a.writeExplanations(w, r.Observers)
	}
	fmt.Fprintln(w)
	if len(r.Deliveries) == 0 {
		fmt.Fprintln(w, "  no deliveries (those that ended well are removed after a while)")
		return
	}
	t := table{header: []string{"  JOB", "OBSERVER/ACTION", "STATE", "ATTEMPT", "OUTCOME"}}
	for _, d := range r.Deliveries {
		job := fmt.Sprint(d.JobID)
		if d.Moved {
			job = "moved" // to weir.outcome: there is no such job any more
		}
		t.add(c("  "+job), c(ops.FullName(d)+again(d)), stateCell(d), c(ops.Tries(d)), c(outcomeText(d.Outcome)))
		if text := lastError(d); text != "" {
			t.detail(dim, ops.Short(text, errorLength))
		}
		if d.NextAttemptAt != (event.Time{}) {
			t.detail(plain, "next attempt "+ago(now, d.NextAttemptAt))
		}
	}
	t.write(a, w)
	if a.flags.verbose {
		a.writeErrors(w, r.Deliveries)
	}
}

// again marks a delivery that a replay has made.
func again(d ops.Delivery) string {
	if d.ReplayOf == nil {
		return ""
	}
	return " (replay)"
}

// lastError is what went wrong with a delivery or what it waits for, "" for one that was delivered after all.
func lastError(d ops.Delivery) string {
	switch {
	case d.State == "completed":
		return ""
	case d.Paused != nil:
		return d.Paused.What() + " paused: weir status"
	case d.WaitsFor == nil:
		return d.LastError
	case d.WaitsFor.DeadLetter:
		return fmt.Sprintf("waits in line behind job %d, a dead letter: weir dlq show %[1]d", d.WaitsFor.JobID)
	default:
		return fmt.Sprintf("waits in line behind job %d (%s)", d.WaitsFor.JobID, d.WaitsFor.State)
	}
}

// writeErrors tells of every attempt that failed, also of those before a success.
func (a *app) writeErrors(w io.Writer, deliveries []ops.Delivery) {
	t := table{header: []string{"  OBSERVER/ACTION", "ATTEMPT", "FAILED"}}
	for _, d := range deliveries {
		for _, e := range d.Errors {
			t.add(c("  "+ops.FullName(d)), c(fmt.Sprint(e.Attempt)), c(ago(time.Now(), e.At)))
			t.detail(dim, oneLine(e.Error))
		}
	}
	if len(t.rows) > 0 {
		fmt.Fprintln(w)
		t.write(a, w)
	}
}

func (a *app) writeExplanations(w io.Writer, explanations []observer.Explanation) {
	if len(explanations) == 0 {
		fmt.Fprintln(w, "  no observers")
		return
	}
	t := table{header: []string{"  OBSERVER", "VERDICT", "WHY"}}
	for _, x := range explanations {
		verdict := cell{strings.ReplaceAll(string(x.Verdict), "_", " "), dim}
		why := x.Reason
		switch x.Verdict {
		case observer.VerdictMatch:
			verdict.style, why = green, "leads to "+strings.Join(x.Actions, ", ")
		case observer.VerdictError:
			verdict.style = red
		default:
		}
		t.add(c("  "+x.Observer), verdict, c(why))
	}
	t.write(a, w)
}

func indented(raw json.RawMessage) string {
	var pretty bytes.Buffer
	if json.Indent(&pretty, raw, "  ", "  ") != nil {
		return "  " + string(raw)
	}
	return "  " + pretty.String()
}
