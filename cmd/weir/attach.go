package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/fraiseql/weir/internal/capture"
	"github.com/fraiseql/weir/internal/setting"
)

// lockTimeout is how long attach and detach wait for a table: others who write it wait behind them.
const lockTimeout = "2s"

func newAttachCommand(a *app) *cobra.Command {
	var how capture.Attach
	var tenant, wait string
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "attach TABLE --entity TYPE",
		Short: "Have triggers log the changes of a table",
		Long: `Make triggers on a table of the source database that write the change log: a row for each row that an INSERT, UPDATE or
DELETE has changed, and a CUSTOM row for a TRUNCATE. What the application logs itself is left alone in transactions that say
SET LOCAL fraiseql.cdc_mediated = 'on'.

The entity's id is in a uuid column. A table that is attached already gets the new arguments. The application's role needs no
right on the change log; the role that attaches does.`,
		Example: "  weir attach public.orders --entity Order\n" +
			"  weir attach shop.items --entity Item --id item_id --before --dry-run",
		Args: cobra.ExactArgs(1),
	}
	cmd.RunE = a.does(func(ctx context.Context, args []string) error {
		how.Table = args[0]
		if how.Entity == "" {
			return wrongUse("say which type of entity the table holds: --entity Order")
		}
		if cmd.Flags().Changed("tenant") {
			how.Tenant = &tenant
		}
		var err error
		if how.LockTimeout, err = lockWait(wait); err != nil {
			return err
		}
		return a.attach(ctx, how, dryRun)
	})
	flags := cmd.Flags()
	flags.StringVar(&how.Entity, "entity", "", "the `type` of the entity, as observers name it")
	flags.StringVar(&how.ID, "id", "id", "the `column` with the entity's id, a uuid")
	flags.StringVar(&tenant, "tenant", "", "the `column` with the tenant, a uuid; '' for none (default: tenant_id if there is one)")
	flags.BoolVar(&how.Before, "before", false, "keep the row as it was before an UPDATE, too (of a DELETE it is always kept)")
	flags.StringVar(&wait, "lock-timeout", lockTimeout, "give up when others use the table for longer, a `duration`")
	flags.BoolVar(&dryRun, "dry-run", false, "change nothing, print the SQL")
	return cmd
}

func newDetachCommand(a *app) *cobra.Command {
	var wait string
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "detach TABLE",
		Short: "Remove the triggers of weir attach",
		Long: `Remove the triggers that weir attach has made on a table, and their function when no other table uses it. What they have
logged stays.`,
		Example: "  weir detach public.orders --dry-run",
		Args:    cobra.ExactArgs(1),
		RunE: a.does(func(ctx context.Context, args []string) error {
			limit, err := lockWait(wait)
			if err != nil {
				return err
			}
			return a.detach(ctx, args[0], limit, dryRun)
		}),
	}
	cmd.Flags().StringVar(&wait, "lock-timeout", lockTimeout, "give up when others use the table for longer, a `duration`")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "change nothing, print the SQL")
	return cmd
}

func lockWait(text string) (time.Duration, error) {
	d, err := setting.ParseDuration(text)
	if err != nil || d.Std() <= 0 {
		return 0, wrongUse("--lock-timeout %q: expected a duration, as in %s", text, lockTimeout)
	}
	return d.Std(), nil
}

// withSource runs a command that needs a session in the source alone.
func (a *app) withSource(ctx context.Context, do func(s *settings, source *pgx.Conn) error) error {
	s, err := a.settings(ctx)
	if err != nil {
		return err
	}
	if s.mistakes != nil {
		return s.mistakes // the change log may be another one
	}
	source, err := a.connectSource(ctx, s)
	if err != nil {
		return err
	}
	defer closeConn(ctx, source)
	return do(s, source)
}

// attachError makes a table or a column that was named wrongly a wrong use.
func attachError(err error) error {
	var named *capture.AttachError
	if errors.As(err, &named) {
		return wrongUse("%s", named.Problem)
	}
	return err
}

func (a *app) attach(ctx context.Context, how capture.Attach, dryRun bool) error {
	return a.withSource(ctx, func(s *settings, source *pgx.Conn) error {
		plan, err := capture.PlanAttach(ctx, source, s.capture, how)
		if err != nil {
			return attachError(err)
		}
		if !dryRun {
			if err := plan.Apply(ctx, source); err != nil {
				return err
			}
		}
		return a.print(plan, func(w io.Writer) { a.writeAttached(w, plan) })
	})
}

func (a *app) writeAttached(w io.Writer, p *capture.Attached) {
	for _, note := range p.Notes {
		a.notef("weir: note: %s", note)
	}
	if !p.Done {
		fmt.Fprintln(w, p.SQL)
		return
	}
	verb := "attached"
	if p.Replaced {
		verb = "attached again"
	}
	fmt.Fprintf(w, "%s %s as %s\n", verb, p.Table, p.Entity)
	tenant, before := "column "+p.Tenant, "of DELETE"
	if p.Tenant == "" {
		tenant = "the session's setting fraiseql.tenant_id"
	}
	if p.Before {
		before = "of UPDATE and DELETE"
	}
	var t table
	t.add(c("  entity's id"), c("column "+p.ID))
	t.add(c("  tenant"), c(tenant))
	t.add(c("  before-images"), c(before))
	t.add(c("  change log"), c(p.ChangeLog))
	t.add(c("  triggers"), c(strings.Join(p.Triggers, ", ")))
	t.add(c("  function"), c(p.Function))
	t.write(a, w)
	a.sayf(w, "To check: change a row of it, then weir debug-event --last 1 while a worker runs. "+
		"weir doctor lists what is attached.\n")
}

func (a *app) detach(ctx context.Context, name string, wait time.Duration, dryRun bool) error {
	return a.withSource(ctx, func(_ *settings, source *pgx.Conn) error {
		plan, err := capture.PlanDetach(ctx, source, name, wait)
		if err != nil {
			return attachError(err)
		}
		if !dryRun {
			if err := plan.Apply(ctx, source); err != nil {
				return err
			}
		}
		return a.print(plan, func(w io.Writer) {
			switch {
			case len(plan.Triggers) == 0:
				fmt.Fprintf(w, "%s is not attached: nothing to do\n", plan.Table)
			case !plan.Done:
				fmt.Fprintln(w, plan.SQL)
			default:
				a.sayf(w, "detached %s: removed %s\n", plan.Table, strings.Join(plan.Triggers, ", "))
				for _, f := range plan.Functions {
					fmt.Fprintf(w, "removed function %s, which no table uses any more\n", f)
				}
			}
		})
	})
}
