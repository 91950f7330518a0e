package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/fraiseql/weir/internal/capture"
	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/ops"
)

func newAdoptCommand(a *app) *cobra.Command {
	var deliveries string
	var yes, dryRun bool
	cmd := &cobra.Command{
		Use:   "adopt",
		Short: "Let workers go on from a checkpoint that they refuse",
		Long: `A worker refuses to start when it cannot tell that the checkpoint continues here: the database is a restored dump or a
copy, a standby was promoted, the slot is gone or was moved, the installation has another name. Adopt says what differs and
what may be missing, makes the slot where there is none, and makes the checkpoint that of this source.

In a copy, unfinished deliveries are also the original's: say with --deliveries whether they are sent from here.`,
		Args: noArguments,
		RunE: a.does(func(ctx context.Context, _ []string) error {
			unfinished := ops.Unfinished(deliveries)
			if deliveries != "" && unfinished != ops.KeepUnfinished && unfinished != ops.CancelUnfinished {
				return wrongUse("--deliveries %q: expected keep or cancel", deliveries)
			}
			return a.adopt(ctx, unfinished, yes, dryRun)
		}),
	}
	cmd.Flags().StringVar(&deliveries, "deliveries", "", "what becomes of unfinished deliveries: `keep|cancel`")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, dryRunUsage)
	return cmd
}

func (a *app) adopt(ctx context.Context, unfinished ops.Unfinished, yes, dryRun bool) error {
	return a.withBoth(ctx, func(s *settings, conn, source *pgx.Conn) error {
		if s.file == nil && s.mistakes != nil { // which slot and which installation?
			return s.mistakes
		}
		plan, err := ops.PlanAdoption(ctx, conn, source, s.capture, s.name)
		if err != nil {
			return err
		}
		oneDatabase := s.source == s.database
		if plan.Problem == "" || dryRun {
			return a.print(plan, func(w io.Writer) { a.writeAdoption(w, plan, oneDatabase) })
		}
		if plan.Unfinished > 0 && unfinished == "" {
			return wrongUse("%s came along: --deliveries keep sends what is unfinished from here, --deliveries cancel does not",
				count(plan.Unfinished, "unfinished delivery"))
		}
		if !yes {
			a.writeAdoption(a.stderr, plan, oneDatabase)
			if err := a.confirm(ctx, false, "adopt the checkpoint"); err != nil {
				return err
			}
		}
		logger := slog.New(slog.NewTextHandler(a.stderr, nil))
		if err := plan.Apply(ctx, unfinished, logger); err != nil {
			return err
		}
		return a.print(plan, func(w io.Writer) { a.writeAdoption(w, plan, oneDatabase) })
	})
}

func (a *app) writeAdoption(w io.Writer, plan *ops.Adoption, oneDatabase bool) {
	switch {
	case plan.Checkpoint == nil:
		fmt.Fprintln(w, "nothing to adopt: there is no checkpoint yet, a worker makes it")
		return
	case plan.Problem == "":
		fmt.Fprintln(w, "nothing to adopt: workers start from the checkpoint as it is")
		return
	}
	fmt.Fprintf(w, "A worker refuses: %s.\n\n", plan.Problem)
	a.writePlaces(w, plan)
	done := func(present, past string) string {
		if plan.Done {
			return past
		}
		return present
	}
	fmt.Fprintln(w)
	switch plan.Slot {
	case capture.CreateSlot:
		fmt.Fprintf(w, "%s slot %s.\n", done("It makes", "Made"), plan.Present.Slot)
	case capture.RecreateSlot:
		fmt.Fprintf(w, "%s the lost slot %s again.\n", done("It drops and makes", "Dropped and made"), plan.Present.Slot)
	case capture.KeepSlot:
	}
	if plan.Unfinished > 0 {
		fmt.Fprintf(w, "%s, %s.\n", count(plan.Unfinished, "unfinished delivery"), unfinishedText(plan))
	}
	a.writeMissing(w, plan, oneDatabase)
	if plan.Done {
		fmt.Fprintln(w, "The checkpoint is adopted: start a worker.")
	}
}

func unfinishedText(plan *ops.Adoption) string {
	switch {
	case !plan.Done:
		return "to be kept or cancelled (--deliveries)"
	case plan.Cancelled > 0:
		return fmt.Sprintf("of which %d were cancelled", plan.Cancelled)
	default:
		return "which workers send from here"
	}
}

func (a *app) writePlaces(w io.Writer, plan *ops.Adoption) {
	there, here := *plan.Checkpoint, plan.Present
	position := func(p capture.Place) string {
		if p.LSN == nil {
			return "the present"
		}
		return event.Position{LSN: *p.LSN, Index: p.TxIndex}.String()
	}
	var t table
	t.add(c(""), cell{"checkpoint", bold}, cell{"here", bold})
	row := func(name, was, is string) {
		style := plain
		if was != "" && is != "" && was != is {
			style = yellow
		}
		t.add(c(name), c(orDash(was)), cell{orDash(is), style})
	}
	row("system identifier", there.SystemIdentifier, here.SystemIdentifier)
	row("timeline", fmt.Sprint(there.Timeline), fmt.Sprint(here.Timeline))
	row("server", there.Server, here.Server)
	row("schema weir", there.DatabaseSystem, here.DatabaseSystem)
	row("installation", there.Installation, here.Installation)
	row("slot", there.Slot, here.Slot)
	row("position", position(there), position(here))
	t.write(a, w)
}

// writeMissing names what will not be delivered.
func (a *app) writeMissing(w io.Writer, plan *ops.Adoption, oneDatabase bool) {
	if plan.Continuous {
		fmt.Fprintln(w, "No change is left out.")
		return
	}
	since := time.Time(plan.Since).UTC().Format(time.RFC3339)
	switch lsn := plan.Present.LSN; {
	case lsn == nil:
		fmt.Fprintf(w, "Changes that were committed between %s and now may be missing.\n", since)
	case *lsn == *plan.Checkpoint.LSN:
		fmt.Fprintf(w, "Changes that the server before this one committed last, about %s, may be missing here or be others.\n", since)
	default:
		fmt.Fprintf(w, "Changes that were committed after %s and before position %s may be missing.\n", since, lsn)
	}
	if query := plan.MissingChanges(); query != "" && oneDatabase {
		fmt.Fprintf(w, "Look for them: %s\n", query)
	}
}
