package main

import (
	"context"
	"io"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/fraiseql/weir/internal/ops"
)

func newAcceptGapCommand(a *app) *cobra.Command {
	var how gapFlags
	cmd := &cobra.Command{
		Use:   "accept-gap",
		Short: "Go on where changes are missing that cannot be made up for",
		Long: `A slot that is lost is made up for from the change log. What does not come from there, changes of source.tables and
messages, cannot be: the workers capture nothing then, and weir status exits with 5, until somebody has accepted the gap.

Accept-gap says since when changes may be missing. Then workers go on by themselves: they recover what the change log holds, and
capture from there. With --snapshot, tables that the configuration marks snapshot: true are read again, so that what is in them
becomes events again.`,
		Example: "  weir accept-gap --dry-run\n  weir accept-gap --snapshot",
		Args:    noArguments,
		RunE:    a.does(func(ctx context.Context, _ []string) error { return a.acceptGap(ctx, how) }),
	}
	cmd.Flags().BoolVar(&how.yes, "yes", false, "do not ask")
	cmd.Flags().BoolVar(&how.dryRun, "dry-run", false, dryRunUsage)
	cmd.Flags().BoolVar(&how.snapshot, "snapshot", false, "read tables again that have snapshot: true")
	return cmd
}

type gapFlags struct{ yes, dryRun, snapshot bool }

func (a *app) acceptGap(ctx context.Context, how gapFlags) error {
	return a.withDatabase(ctx, func(s *settings, conn *pgx.Conn) error {
		if how.snapshot && s.mistakes != nil {
			return s.mistakes // which tables it marks is not known
		}
		gap, err := ops.ReadGap(ctx, conn, s.capture)
		if err != nil {
			return err
		}
		if how.snapshot && gap.Problem != "" && len(gap.Tables) == 0 {
			return wrongUse("--snapshot: there is no table to read again, which is one of source.tables with snapshot: true")
		}
		if gap.Problem == "" || how.dryRun {
			return a.print(gap, func(w io.Writer) { a.writeGap(w, gap) })
		}
		if !how.yes {
			a.writeGap(a.stderr, gap)
			if err := a.confirm(ctx, false, "go on without these changes"); err != nil {
				return err
			}
		}
		if err := gap.Accept(ctx, how.snapshot); err != nil {
			return err
		}
		return a.print(gap, func(w io.Writer) {
			if how.yes {
				a.writeGap(w, gap)
			}
			if gap.Snapshots > 0 {
				a.sayf(w, "%s will be read again.\n", count(gap.Snapshots, "table"))
			}
			a.sayf(w, "The gap is accepted: workers recover what the change log holds, and go on.\n")
		})
	})
}

func (a *app) writeGap(w io.Writer, gap *ops.Gap) {
	if gap.Problem == "" {
		a.sayf(w, "there is no gap\n")
		return
	}
	a.sayf(w, "Nothing is captured: %s.\n", gap.Problem)
	if since := time.Time(gap.Since); since.IsZero() {
		a.sayf(w, "Changes of tables, and messages, that were committed until workers go on may be missing.\n")
	} else {
		a.sayf(w, "Changes of tables, and messages, that were committed after %s, until workers go on, may be missing.\n",
			since.UTC().Format(time.RFC3339))
	}
	a.sayf(w, "Found %s.\n", time.Time(gap.FoundAt).UTC().Format(time.RFC3339))
	if len(gap.Tables) > 0 {
		a.sayf(w, "Tables that --snapshot reads again: %s.\n", strings.Join(gap.Tables, ", "))
	}
}
