package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/fraiseql/weir/internal/index"
	"github.com/fraiseql/weir/internal/ops"
)

func newHistoryCommand(a *app) *cobra.Command {
	return group("history", "Build the history's documents again, or forget an entity",
		`The history is every event and what became of each delivery: see weir search. Workers write it by themselves.`,
		newReindexCommand(a), newForgetCommand(a))
}

func newReindexCommand(a *app) *cobra.Command {
	var from, to, store string
	cmd := &cobra.Command{
		Use:   "reindex",
		Short: "Store the history's documents again",
		Long: `Store the documents that weir search looks into again, from the events and outcomes that PostgreSQL has: for example when
an index of Elasticsearch is lost. Workers go on meanwhile; it may be stopped and run again.
Documents of which PostgreSQL has no event any more stay as they are. The exit code is 1 if Elasticsearch refused documents.`,
		Example: "  weir history reindex --from 2026-01-01 --to 2026-01-31 --store elasticsearch",
		Args:    noArguments,
		RunE: a.does(func(ctx context.Context, _ []string) error {
			var r index.Reindex
			var err error
			if r.From, err = dayFlag("from", from); err != nil {
				return err
			}
			if r.To, err = dayFlag("to", to); err != nil {
				return err
			}
			if from != "" && to != "" && r.To.Before(r.From) {
				return wrongUse("--to %s is before --from %s", to, from)
			}
			if err := checkStore(store); err != nil {
				return err
			}
			return a.reindex(ctx, r, store)
		}),
	}
	cmd.Flags().StringVar(&from, "from", "", "the first `day` (UTC) of the events, as in 2026-01-31 (default: the retention's)")
	cmd.Flags().StringVar(&to, "to", "", "the last `day` (UTC) of the events (default: the newest)")
	cmd.Flags().StringVar(&store, "store", "",
		"`where` to: postgres or elasticsearch (default: as the configuration says; of both, elasticsearch)")
	complete(cmd, "store", historyStores())
	return cmd
}

func dayFlag(flag, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	day, err := time.Parse(time.DateOnly, text)
	if err != nil {
		return day, wrongUse("--%s %q: expected a day, as in 2026-01-31", flag, text)
	}
	return day, nil
}

const (
	hoursOfDay = 24 * time.Hour
	// daysAhead is how far events may be ahead of this machine's clock.
	daysAhead = 365 * hoursOfDay
)

func (a *app) reindex(ctx context.Context, r index.Reindex, named string) error {
	return a.withStore(ctx, named, func(s *settings, conn *pgx.Conn, where string) error {
		today := time.Now().UTC().Truncate(hoursOfDay)
		if r.From.IsZero() {
			r.From = today.Add(-s.retention()).Truncate(hoursOfDay)
		}
		if r.To.IsZero() {
			r.To = today.Add(daysAhead)
		}
		bar := a.newBar("event")
		r.Progress = bar.show
		if where == ops.StorePostgres {
			done, err := ops.Reindex(ctx, conn, r)
			return a.concludeReindex(bar, done, err)
		}
		return s.withElasticsearch(func(e *index.Elasticsearch) error {
			if err := checkElasticsearch(ctx, e); err != nil {
				return err
			}
			r.Elasticsearch = e
			done, err := ops.Reindex(ctx, conn, r)
			return a.concludeReindex(bar, done, err)
		})
	})
}

// retention is how long the history is kept.
func (s *settings) retention() time.Duration {
	var c index.Config
	if s.file != nil {
		c = s.file.History
	}
	return c.WithDefaults().Retention.Std()
}

func (a *app) concludeReindex(bar *bar, done index.Reindexed, err error) error {
	bar.clear()
	if err != nil {
		return fmt.Errorf("%w (%s had been stored before; run it again)", err, count(done.Events, "event"))
	}
	err = a.print(done, func(w io.Writer) {
		fmt.Fprintf(w, "stored %s with %s of %s\n",
			count(done.Events, "event"), count(done.Deliveries, "finished delivery"), count(done.Days, "day"))
	})
	if err == nil && done.Refused > 0 {
		err = fmt.Errorf("%s refused, the first one because: %s", were(done.Refused), done.Reason)
	}
	return err
}

func were(documents int64) string {
	if documents == 1 {
		return "1 document was"
	}
	return fmt.Sprintf("%d documents were", documents)
}
