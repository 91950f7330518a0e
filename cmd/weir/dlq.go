package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/fraiseql/weir/internal/ops"
)

func newDeadLetterCommand(a *app) *cobra.Command {
	return group("dlq", "Look at dead letters, retry or remove them",
		`Dead letters are deliveries that failed for good, and changes that could not become events. They are kept until
somebody retries or removes them.`,
		newListCommand(a), newShowCommand(a), newRetryCommand(a), newRetryAllCommand(a), newRemoveCommand(a), newStatsCommand(a))
}

// filterFlags choose dead letters.
type filterFlags struct{ observer, action, since, errorText string }

func (f *filterFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.observer, "observer", "", "only of this observer, by `name`")
	flags.StringVar(&f.action, "action", "", "only of this action, by `name`")
	flags.StringVar(&f.since, "since", "", "only those that failed since a `time`: 24h (ago), 2026-01-31T12:00:00Z or 2026-01-31")
	flags.StringVar(&f.errorText, "error", "", "only those whose last error contains the `text`, in any case")
}

func (f *filterFlags) any() bool { return *f != filterFlags{} }

func (f *filterFlags) filter(now time.Time) (ops.Filter, error) {
	filter := ops.Filter{Observer: f.observer, Action: f.action, Error: f.errorText}
	var err error
	filter.Since, err = moment("since", f.since, now)
	return filter, err
}

// moment reads the value of a flag that names a time, as ops.ParseMoment does.
func moment(flag, text string, now time.Time) (time.Time, error) {
	t, err := ops.ParseMoment(text, now)
	if err != nil {
		return t, wrongUse("--%s %q: %w", flag, text, err)
	}
	return t, nil
}

// withDeadLetters runs a command on the dead letters of a migrated database.
func (a *app) withDeadLetters(ctx context.Context, do func(ops.DeadLetters) error) error {
	return a.withMigrated(ctx, func(conn *pgx.Conn) error { return do(ops.NewDeadLetters(conn)) })
}

func newListCommand(a *app) *cobra.Command {
	var flags filterFlags
	var limit int
	var after int64
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List dead letters, the newest job first",
		Long: `List dead letters, the newest job first, page by page: at the end of a page that is not the last one stands what --after
to go on with. weir dlq show has the whole of one, its event and every error.`,
		Example: "  weir dlq list --observer order-shipped --since 24h\n  weir dlq list --error timeout --limit 10",
		Args:    noArguments,
		RunE: a.does(func(ctx context.Context, _ []string) error {
			filter, err := flags.filter(time.Now())
			if err != nil {
				return err
			}
			if limit < 1 || limit > 1000 || after < 0 {
				return wrongUse("--limit must be 1 to 1000, and --after the id of a job")
			}
			return a.withDeadLetters(ctx, func(letters ops.DeadLetters) error {
				page, err := letters.List(ctx, filter, after, limit)
				if err != nil {
					return err
				}
				return a.print(page, func(w io.Writer) { a.writePage(w, page, flags.any() || after > 0) })
			})
		}),
	}
	flags.add(cmd)
	cmd.Flags().IntVar(&limit, "limit", 50, "at most so many")
	cmd.Flags().Int64Var(&after, "after", 0, "go on after this `job`, the last one of the page before")
	return cmd
}

func newShowCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "show ID",
		Short: "Show a dead letter with its event and the errors of all attempts",
		Args:  cobra.ExactArgs(1),
		RunE: a.does(func(ctx context.Context, args []string) error {
			ids, err := jobIDs(args)
			if err != nil {
				return err
			}
			return a.withDeadLetters(ctx, func(letters ops.DeadLetters) error {
				letter, err := letters.Show(ctx, ids[0])
				if errors.Is(err, ops.ErrNoDeadLetter) {
					return fmt.Errorf("%w, or no longer one (see weir dlq list)", err)
				}
				if err != nil {
					return err
				}
				return a.print(letter, func(w io.Writer) { a.writeDeadLetter(w, letter) })
			})
		}),
	}
}

const dryRunUsage = "change nothing, only say what would be done"

func newRetryCommand(a *app) *cobra.Command {
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "retry ID...",
		Short: "Try dead letters again, with a fresh budget of attempts",
		Long: `Give the jobs a fresh budget of attempts and let workers take them up at once. Receivers see the same webhook-id as
before. The exit code is 1 if one of them is no dead letter; the others are retried all the same.`,
		Example: "  weir dlq retry 4711 4712",
		Args:    cobra.MinimumNArgs(1),
		RunE: a.does(func(ctx context.Context, args []string) error {
			return a.actOn(ctx, args, func(letters ops.DeadLetters, ids []int64) (ops.Act, error) {
				return letters.Retry(ctx, ids, dryRun)
			}, "retried")
		}),
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, dryRunUsage)
	return cmd
}

func newRetryAllCommand(a *app) *cobra.Command {
	var flags filterFlags
	var dryRun bool
	cmd := &cobra.Command{
		Use:     "retry-all",
		Short:   "Try all dead letters again, or those that the flags choose",
		Example: "  weir dlq retry-all --observer order-shipped --since 24h --dry-run",
		Args:    noArguments,
		RunE: a.does(func(ctx context.Context, _ []string) error {
			filter, err := flags.filter(time.Now())
			if err != nil {
				return err
			}
			return a.withDeadLetters(ctx, func(letters ops.DeadLetters) error {
				act, err := letters.RetryAll(ctx, filter, a.bulk(dryRun))
				return a.concludeAct(act, err, "retried")
			})
		}),
	}
	flags.add(cmd)
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, dryRunUsage)
	return cmd
}

func newRemoveCommand(a *app) *cobra.Command {
	var flags filterFlags
	var all, yes, dryRun bool
	cmd := &cobra.Command{
		Use:     "remove ID... | --all",
		Short:   "Remove dead letters for good",
		Example: "  weir dlq remove 4711 4712\n  weir dlq remove --all --observer order-shipped --error timeout",
		RunE: a.does(func(ctx context.Context, args []string) error {
			filter, err := flags.filter(time.Now())
			switch {
			case err != nil:
				return err
			case len(args) > 0 && (all || flags.any()):
				return wrongUse("name dead letters, or say --all with filters, not both")
			case len(args) == 0 && !all:
				return wrongUse("name dead letters, or say --all (with filters or without)")
			case all:
				return a.removeAll(ctx, filter, dryRun, yes)
			}
			if !dryRun {
				if err := a.confirm(ctx, yes, "remove %s for good", count(len(args), "dead letter")); err != nil {
					return err
				}
			}
			return a.actOn(ctx, args, func(letters ops.DeadLetters, ids []int64) (ops.Act, error) {
				return letters.Remove(ctx, ids, dryRun)
			}, "removed")
		}),
	}
	flags.add(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "all of them, or those that the other flags choose")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, dryRunUsage)
	return cmd
}

// removeAll says how many it would be before it asks.
func (a *app) removeAll(ctx context.Context, filter ops.Filter, dryRun, yes bool) error {
	if !dryRun && !yes && !a.interactive {
		return a.confirm(ctx, yes, "remove dead letters for good")
	}
	return a.withDeadLetters(ctx, func(letters ops.DeadLetters) error {
		if !dryRun && !yes {
			would, err := letters.RemoveAll(ctx, filter, ops.Bulk{DryRun: true})
			if err != nil {
				return err
			}
			if would.Matched == 0 {
				would.DryRun = false
				return a.concludeAct(would, nil, "removed")
			}
			if err := a.confirm(ctx, yes, "remove %s for good", count(would.Matched, "dead letter")); err != nil {
				return err
			}
		}
		act, err := letters.RemoveAll(ctx, filter, a.bulk(dryRun))
		return a.concludeAct(act, err, "removed")
	})
}

func newStatsCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "stats",
		Short: "Count dead letters by observer, action and reason",
		Args:  noArguments,
		RunE: a.does(func(ctx context.Context, _ []string) error {
			return a.withDeadLetters(ctx, func(letters ops.DeadLetters) error {
				stats, err := letters.Stats(ctx)
				if err != nil {
					return err
				}
				return a.print(stats, func(w io.Writer) { a.writeStats(w, stats) })
			})
		}),
	}
}

func jobIDs(args []string) ([]int64, error) {
	ids := make([]int64, len(args))
	for i, text := range args {
		id, err := strconv.ParseInt(text, 10, 64)
		if err != nil || id < 1 {
			return nil, wrongUse("%q is no dead letter's id: expected a number, as weir dlq list shows it", text)
		}
		ids[i] = id
	}
	return ids, nil
}

func (a *app) bulk(dryRun bool) ops.Bulk {
	return ops.Bulk{DryRun: dryRun, Progress: func(done int) { a.progressf("%d so far", done) }}
}

// progressf rewrites one line on a terminal; elsewhere there is a line for each step, if -v asks for it.
func (a *app) progressf(format string, args ...any) {
	if a.interactive {
		_, _ = fmt.Fprintf(a.stderr, "\r"+format, args...)
		return
	}
	a.verbosef(format, args...)
}

func (a *app) actOn(
	ctx context.Context, args []string, do func(ops.DeadLetters, []int64) (ops.Act, error), done string,
) error {
	ids, err := jobIDs(args)
	if err != nil {
		return err
	}
	return a.withDeadLetters(ctx, func(letters ops.DeadLetters) error {
		act, err := do(letters, ids)
		return a.concludeAct(act, err, done)
	})
}

// concludeAct says what was done, also when an error came in between, and fails when a job that was named is no dead
// letter.
func (a *app) concludeAct(act ops.Act, err error, done string) error {
	if a.interactive && act.Matched > 0 {
		_, _ = fmt.Fprint(a.stderr, "\r\x1b[K") // the progress
	}
	if err != nil {
		if act.Changed > 0 {
			return fmt.Errorf("%w (%d had been %s before)", err, act.Changed, done)
		}
		return err
	}
	err = a.print(act, func(w io.Writer) {
		switch {
		case act.DryRun:
			fmt.Fprintf(w, "%s would be %s; nothing was changed\n", count(act.Matched, "dead letter"), done)
		case act.Matched == 0 && len(act.Missing) == 0:
			fmt.Fprintf(w, "no dead letters match: nothing to be %s\n", done)
		default:
			fmt.Fprintf(w, "%s %s\n", done, count(act.Changed, "dead letter"))
		}
	})
	if err == nil && len(act.Missing) > 0 {
		missing := make([]string, len(act.Missing))
		for i, id := range act.Missing {
			missing[i] = strconv.FormatInt(id, 10)
		}
		err = fmt.Errorf("no dead letter, or no longer one: %s (see weir dlq list)", strings.Join(missing, ", "))
	}
	return err
}
