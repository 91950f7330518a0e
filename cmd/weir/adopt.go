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
	"github.com/fraiseql/weir/internal/config"
	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/ops"
)

func newAdoptCommand(a *app) *cobra.Command {
	var deliveries string
	var how adoptFlags
	cmd := &cobra.Command{
		Use:   "adopt",
		Short: "Let workers go on from a checkpoint that they refuse",
		Long: `A worker refuses to start when it cannot tell that the checkpoint continues here: the database is a restored dump or a
copy, an older server took its place, the checkpoint is gone, the installation has another name. (What a slot has lost, a worker
makes up for by itself.) Adopt says what differs and
what may be missing, makes the slot where there is none, and makes the checkpoint that of this source.

In a copy, unfinished deliveries are also the original's: say with --deliveries whether they are sent from here.

A slot in another cluster is older than what was restored into that: it would deliver the whole change log once more. So
it is dropped and made again, unless you say --keep-slot.`,
		Example: "  weir adopt --dry-run\n  weir adopt --deliveries cancel",
		Args:    noArguments,
		RunE: a.does(func(ctx context.Context, _ []string) error {
			how.unfinished = ops.Unfinished(deliveries)
			if deliveries != "" && how.unfinished != ops.KeepUnfinished && how.unfinished != ops.CancelUnfinished {
				return wrongUse("--deliveries %q: expected keep or cancel", deliveries)
			}
			return a.adopt(ctx, how)
		}),
	}
	cmd.Flags().StringVar(&deliveries, "deliveries", "", "what becomes of unfinished deliveries: `keep|cancel`")
	complete(cmd, "deliveries", []string{string(ops.KeepUnfinished), string(ops.CancelUnfinished)})
	cmd.Flags().BoolVar(&how.yes, "yes", false, "do not ask")
	cmd.Flags().BoolVar(&how.dryRun, "dry-run", false, dryRunUsage)
	cmd.Flags().BoolVar(&how.keepSlot, "keep-slot", false, "keep the slot in another cluster, too, and deliver what it holds")
	return cmd
}

type adoptFlags struct {
	unfinished            ops.Unfinished
	yes, dryRun, keepSlot bool
}

func (a *app) adopt(ctx context.Context, how adoptFlags) error {
	return a.withBoth(ctx, func(s *settings, conn, source *pgx.Conn) error {
		if err := a.knowsPlaces(ctx, s); err != nil {
			return err
		}
		plan, err := ops.PlanAdoption(ctx, conn, source, s.capture, capture.AdoptOptions{Installation: s.name, KeepSlot: how.keepSlot})
		if err != nil {
			return err
		}
		oneDatabase := s.source == s.database
		if plan.Problem == "" || how.dryRun {
			return a.print(plan, func(w io.Writer) { a.writePlan(w, plan, oneDatabase) })
		}
		if plan.Foreign && plan.Unfinished > 0 && how.unfinished == "" {
			return wrongUse("%s came along: --deliveries keep sends what is unfinished from here, --deliveries cancel does not",
				count(plan.Unfinished, "unfinished delivery"))
		}
		if !how.yes {
			a.writePlan(a.stderr, plan, oneDatabase)
			if err := a.confirm(ctx, false, "adopt the checkpoint"); err != nil {
				return err
			}
		}
		logger := slog.New(slog.NewTextHandler(a.stderr, nil))
		if err := plan.Apply(ctx, how.unfinished, logger); err != nil {
			return err
		}
		return a.print(plan, func(w io.Writer) {
			if how.yes {
				a.writePlan(w, plan, oneDatabase)
			} else {
				a.writeActs(w, plan)
			}
			fmt.Fprintln(w, "The checkpoint is adopted: start a worker.")
		})
	})
}

// knowsPlaces refuses a file that does not say which slot and which installation: what is adopted is written down.
func (a *app) knowsPlaces(ctx context.Context, s *settings) error {
	if s.path == "" {
		return nil
	}
	_, err := config.Load(ctx, config.Options{Path: s.path, Lookup: a.lookupDatabase, OnlyPlaces: true})
	return err
}

// writePlan tells the whole of it, before or after it is done.
func (a *app) writePlan(w io.Writer, plan *ops.Adoption, oneDatabase bool) {
	switch {
	case plan.Problem != "":
	case plan.Gap != "":
		a.sayf(w, "nothing to adopt: the checkpoint belongs to this source, but changes are missing: %s.\n"+
			"To go on: weir accept-gap\n", plan.Gap)
		return
	case plan.Recovers != "":
		a.sayf(w, "nothing to adopt: a worker recovers by itself, from the change log: %s.\n", plan.Recovers)
		return
	case plan.Checkpoint == nil:
		a.sayf(w, "nothing to adopt: there is no checkpoint yet, a worker makes it\n")
		return
	default:
		a.sayf(w, "nothing to adopt: workers start from the checkpoint as it is\n")
		return
	}
	a.sayf(w, "A worker refuses: %s.\n\n", plan.Problem)
	a.writePlaces(w, plan)
	fmt.Fprintln(w)
	a.writeActs(w, plan)
	a.writeMissing(w, plan, oneDatabase)
}

func (a *app) writeActs(w io.Writer, plan *ops.Adoption) {
	done := func(present, past string) string {
		if plan.Done {
			return past
		}
		return present
	}
	switch plan.Slot {
	case capture.CreateSlot:
		a.sayf(w, "%s slot %s.\n", done("It makes", "Made"), plan.Present.Slot)
	case capture.RecreateSlot:
		a.sayf(w, "%s slot %s again; what it still held is not delivered.\n",
			done("It drops and makes", "Dropped and made"), plan.Present.Slot)
	case capture.KeepSlot:
	}
	if plan.Restored {
		a.sayf(w, "Slot %s is kept: workers deliver all that was committed here since %s, a restore's rows included. Rows that\n"+
			"weir.event has already become dead letters.\n", plan.Present.Slot, plan.Present.LSN)
	}
	if plan.Unfinished > 0 {
		a.sayf(w, "%s, %s.\n", count(plan.Unfinished, "unfinished delivery"), unfinishedText(plan))
	}
}

func unfinishedText(plan *ops.Adoption) string {
	switch {
	case !plan.Done && plan.Foreign:
		return "to be kept or cancelled (--deliveries)"
	case plan.Cancelled > 0:
		return fmt.Sprintf("of which %d were cancelled", plan.Cancelled)
	default:
		return "which workers send from here"
	}
}

func (a *app) writePlaces(w io.Writer, plan *ops.Adoption) {
	var there capture.Place
	if plan.Checkpoint != nil {
		there = *plan.Checkpoint
	}
	here := plan.Present
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
	row("timeline", timeline(there), timeline(here))
	row("server", there.Server, here.Server)
	row("schema weir", there.DatabaseSystem, here.DatabaseSystem)
	row("installation", there.Installation, here.Installation)
	row("slot", there.Slot, here.Slot)
	was := ""
	if plan.Checkpoint != nil {
		was = position(there)
	}
	row("position", was, position(here))
	t.write(a, w)
}

func timeline(p capture.Place) string {
	if p.Timeline == 0 {
		return ""
	}
	return fmt.Sprint(p.Timeline)
}

// writeMissing names what will not be delivered.
func (a *app) writeMissing(w io.Writer, plan *ops.Adoption, oneDatabase bool) {
	if plan.Continuous {
		a.sayf(w, "No change is left out.\n")
		return
	}
	since := time.Time(plan.Since).UTC().Format(time.RFC3339)
	switch lsn := plan.Present.LSN; {
	case time.Time(plan.Since).IsZero():
		a.sayf(w, "Changes that were committed until now may be missing.\n")
	case lsn == nil || plan.Slot != capture.KeepSlot:
		a.sayf(w, "Changes that were committed between %s and now may be missing.\n", since)
	case plan.Checkpoint != nil && *lsn == *plan.Checkpoint.LSN:
		a.sayf(w, "Changes that the server before this one committed last, about %s, may be missing here or be others.\n", since)
	default:
		a.sayf(w, "Changes that were committed after %s and before position %s may be missing.\n", since, lsn)
	}
	if query := plan.MissingChanges(); query != "" && oneDatabase {
		fmt.Fprintf(w, "Look for them: %s\n", query) // not wrapped: it is to be copied
	}
}
