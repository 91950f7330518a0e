package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/fraiseql/weir/internal/ops"
	"github.com/fraiseql/weir/internal/setting"
)

func newBreakerCommand(a *app) *cobra.Command {
	return group("breaker", "Look at circuit breakers, open or close them",
		`A circuit breaker stops deliveries to an endpoint that fails, in all workers, until it answers again. No delivery is lost
meanwhile, and none uses up an attempt. An action whose target answered 410 Gone is disabled by itself alone: its deliveries
become dead letters until its URL changes, or until it is closed here. Workers follow within about a second.`,
		newBreakerListCommand(a), newBreakerOpenCommand(a), newBreakerCloseCommand(a))
}

// withBreakers runs a command on a migrated database. A name that nobody knows is a mistake in the command line.
func (a *app) withBreakers(
	ctx context.Context, do func(*pgx.Conn) (ops.Breakers, error), say func(io.Writer, ops.Breakers),
) error {
	return a.withMigrated(ctx, func(conn *pgx.Conn) error {
		found, err := do(conn)
		var unknown *ops.UnknownBreakerError
		if errors.As(err, &unknown) {
			return wrongUse("%w", err)
		}
		if err != nil {
			return err
		}
		return a.print(found, func(w io.Writer) { say(w, found) })
	})
}

func newBreakerListCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List all circuit breakers, and the actions that are gone",
		Args:  noArguments,
		RunE: a.does(func(ctx context.Context, _ []string) error {
			return a.withBreakers(ctx, func(conn *pgx.Conn) (ops.Breakers, error) { return ops.ReadBreakers(ctx, conn) }, a.writeBreakers)
		}),
	}
}

func newBreakerOpenCommand(a *app) *cobra.Command {
	var span, reason string
	cmd := &cobra.Command{
		Use:   "open ENDPOINT",
		Short: "Stop deliveries to an endpoint",
		Long: `Stop deliveries to an endpoint, in all workers, until somebody closes its breaker or, with --for, for a while. Calls that
are under way end as they end. It holds whatever the configuration says of breakers.`,
		Example:           "  weir breaker open erp.example.org --for 30m --reason 'maintenance'",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.firstArgument(endpointNames),
		RunE: a.does(func(ctx context.Context, args []string) error {
			how := ops.ByHand{Reason: reason, By: whoami()}
			if span != "" {
				d, err := setting.ParseDuration(span)
				if err != nil || d <= 0 {
					return wrongUse("--for %q: expected how long, as in 10m or 2h", span)
				}
				how.For = d.Std()
			}
			return a.withBreakers(ctx, func(conn *pgx.Conn) (ops.Breakers, error) {
				return ops.OpenBreaker(ctx, conn, args[0], how)
			}, func(w io.Writer, b ops.Breakers) {
				fmt.Fprintf(w, "open: no deliveries to %s, %s\n", args[0], untilText(b.Endpoints[0], time.Time(b.Time)))
			})
		}),
	}
	cmd.Flags().StringVar(&span, "for", "", "let probes through after this `duration`, as in 10m (default: until it is closed)")
	cmd.Flags().StringVar(&reason, "reason", "", "`why`, for those who look at it")
	return cmd
}

func newBreakerCloseCommand(a *app) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "close ENDPOINT | OBSERVER/ACTION",
		Short: "Let deliveries to an endpoint, or of an action, go on",
		Long: `Let deliveries to an endpoint go on whose circuit breaker is open, or those of an action that was disabled since its
target answered 410 Gone. What has become dead letters stays that: see weir dlq retry-all.`,
		Example:           "  weir breaker close erp.example.org\n  weir breaker close order-shipped/notify",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.firstArgument(endpointNames),
		RunE: a.does(func(ctx context.Context, args []string) error {
			return a.withBreakers(ctx, func(conn *pgx.Conn) (ops.Breakers, error) {
				return ops.CloseBreaker(ctx, conn, args[0], ops.ByHand{Reason: reason, By: whoami()})
			}, func(w io.Writer, b ops.Breakers) {
				if len(b.Gone) == 0 {
					fmt.Fprintf(w, "closed: deliveries to %s go on\n", args[0])
					return
				}
				g := b.Gone[0]
				fmt.Fprintf(w, "closed: new deliveries of %s are made\n"+
					"Those that are dead letters: weir dlq retry-all --observer %s --action %s\n", args[0], g.Observer, g.Action)
			})
		}),
	}
	cmd.Flags().StringVar(&reason, "reason", "", "`why`, for those who look at it")
	return cmd
}

// whoami names the person for others.
func whoami() string {
	name, host := "somebody", "somewhere"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if h, err := os.Hostname(); err == nil {
		host = h
	}
	return name + "@" + host
}

func untilText(b ops.Breaker, now time.Time) string {
	switch {
	case b.State != "open":
		return "-"
	case time.Time(b.Until).IsZero():
		return "until somebody closes it"
	case time.Time(b.Until).Before(now):
		return "until a worker probes it"
	default:
		return "for " + span(max(time.Second, time.Time(b.Until).Sub(now).Round(time.Second)))
	}
}

func (a *app) writeBreakers(w io.Writer, b ops.Breakers) {
	now := time.Time(b.Time)
	if len(b.Endpoints) == 0 {
		fmt.Fprintln(w, "no endpoints: no worker has started yet with a configuration that goes anywhere")
	} else {
		t := table{header: []string{"ENDPOINT", "BREAKER", "SINCE", "FOR"}}
		for _, one := range b.Endpoints {
			since := ago(now, one.Since)
			if one.By == "" {
				since = "-" // since its row was made: nobody's business
			}
			t.add(c(one.Endpoint), breakerCell(one), c(since), c(untilText(one, now)))
			if why := whyText(one); why != "" {
				t.detail(dim, why)
			}
		}
		t.write(a, w)
	}
	if len(b.Gone) == 0 {
		return
	}
	fmt.Fprintln(w)
	t := table{header: []string{"GONE", "SINCE"}}
	for _, g := range b.Gone {
		t.add(cell{g.Name(), red}, c(ago(now, g.Since)))
	}
	t.write(a, w)
	fmt.Fprintln(w)
	a.sayf(w, "Their targets answered 410 Gone: give them other URLs, or: weir breaker close OBSERVER/ACTION")
}

// whyText says who put a breaker into its state, and why.
func whyText(b ops.Breaker) string {
	switch reason := ops.Short(b.Reason, errorLength); {
	case b.By == "":
		return reason
	case reason == "":
		return "by " + b.By
	default:
		return "by " + b.By + ": " + reason
	}
}

func breakerCell(b ops.Breaker) cell {
	switch b.State {
	case "open":
		return cell{b.State, red}
	case "half-open":
		return cell{b.State, yellow}
	default:
		return cell{b.State, green}
	}
}
