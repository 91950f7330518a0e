package main

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/fraiseql/weir/internal/index"
	"github.com/fraiseql/weir/internal/ops"
)

// searchFlags narrow a search.
type searchFlags struct {
	since, until, entity, observer, outcome, store string
	limit                                          int
	after                                          int64
}

func newSearchCommand(a *app) *cobra.Command {
	var f searchFlags
	cmd := &cobra.Command{
		Use:   "search [QUERY...]",
		Short: "Find events, and what became of them",
		Long: `Find events by the words of their data and of what became of their deliveries, the last recorded first. Several arguments
are one query; without any, every event that the flags let through is found. A query that begins with "-" comes after "--".

` + index.Syntax,
		Example: `  weir search status:shipped customer:acme --since 24h
  weir search '"acme corp" -cancelled' --entity Order --outcome dead
  weir search --observer order-shipped --outcome dead --since 2026-01-31`,
		RunE: a.does(func(ctx context.Context, args []string) error {
			s, err := f.search(strings.Join(args, " "), time.Now())
			if err != nil {
				return err
			}
			return a.search(ctx, f.store, s)
		}),
	}
	f.add(cmd)
	return cmd
}

const storeUsage = "`where` to look: postgres or elasticsearch (default: as the configuration says)"

func (f *searchFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.since, "since", "", "only events since a `time`: 24h (ago), 2026-01-31T12:00:00Z or 2026-01-31 (UTC)")
	flags.StringVar(&f.until, "until", "", "only events before a `time`, as with --since")
	flags.StringVar(&f.entity, "entity", "", "only of this entity type, or of the one entity `TYPE/ID`")
	flags.StringVar(&f.observer, "observer", "", "only events with a finished delivery of this observer, by `name`")
	flags.StringVar(&f.outcome, "outcome", "", "only events with a delivery that ended so: `one` of "+
		strings.Join(index.Outcomes(), ", "))
	flags.IntVar(&f.limit, "limit", 50, "at most so many events")
	flags.Int64Var(&f.after, "after", 0, "go on after this `place`, the last one of the page before")
	flags.StringVar(&f.store, "store", "", storeUsage)
	complete(cmd, "outcome", index.Outcomes())
	complete(cmd, "store", historyStores())
}

func historyStores() []string { return []string{ops.StorePostgres, ops.StoreElasticsearch} }

func complete(cmd *cobra.Command, flag string, values []string) {
	err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	if err != nil {
		panic(err) // the flag is one of ours
	}
}

func (f *searchFlags) search(text string, now time.Time) (index.Search, error) {
	s := index.Search{Entity: f.entity, Observer: f.observer, Outcome: f.outcome, Before: f.after, Limit: f.limit}
	var err error
	if s.Query, err = index.ParseQuery(text); err != nil {
		return s, wrongUse("%w", err)
	}
	if s.Since, err = moment("since", f.since, now); err != nil {
		return s, err
	}
	if s.Until, err = moment("until", f.until, now); err != nil {
		return s, err
	}
	switch kind, id, one := strings.Cut(f.entity, "/"); {
	case !s.Since.IsZero() && !s.Until.IsZero() && !s.Since.Before(s.Until):
		return s, wrongUse("--since %s is not before --until %s: nothing could be found", f.since, f.until)
	case f.entity != "" && (kind == "" || (one && id == "")):
		return s, wrongUse("--entity %q: expected TYPE or TYPE/ID, as in Order or Order/4711", f.entity)
	case f.outcome != "" && !slices.Contains(index.Outcomes(), f.outcome):
		return s, wrongUse("--outcome %q: expected one of %s", f.outcome, strings.Join(index.Outcomes(), ", "))
	case f.limit < 1 || f.limit > 1000 || f.after < 0:
		return s, wrongUse("--limit must be 1 to 1000, and --after the place of an event")
	}
	return s, checkStore(f.store)
}

func checkStore(name string) error {
	if name != "" && !slices.Contains(historyStores(), name) {
		return wrongUse("--store %q: expected %s", name, strings.Join(historyStores(), " or "))
	}
	return nil
}

// chosenStore is the store to ask: the named one, or that of the configuration; Elasticsearch where both are.
func (s *settings) chosenStore(named string) (string, error) {
	switch {
	case named != "":
		return named, nil
	case s.mistakes != nil:
		return "", s.mistakes
	case s.file != nil && s.file.History.InElasticsearch():
		return ops.StoreElasticsearch, nil
	default:
		return ops.StorePostgres, nil
	}
}

// instead says whether PostgreSQL has the history, too, and may answer in Elasticsearch's place.
func (s *settings) instead(named string) bool {
	return named == "" && s.file != nil && s.file.History.InPostgres()
}

// withStore runs a command that needs a store of the history: the named one, or that of the configuration.
func (a *app) withStore(ctx context.Context, named string, do func(s *settings, conn *pgx.Conn, where string) error) error {
	return a.withDatabase(ctx, func(s *settings, conn *pgx.Conn) error {
		where, err := s.chosenStore(named)
		if err != nil {
			return err
		}
		if _, err := ops.CheckMigrated(ctx, conn); err != nil {
			return err
		}
		return do(s, conn, where)
	})
}

func (a *app) search(ctx context.Context, named string, q index.Search) error {
	return a.withStore(ctx, named, func(s *settings, conn *pgx.Conn, where string) error {
		found, err := a.find(ctx, s, conn, where, q)
		if unasked(err) && s.instead(named) {
			a.notef("weir: PostgreSQL answers: %v", err)
			found, err = a.find(ctx, s, conn, ops.StorePostgres, q)
		}
		if err != nil {
			return err
		}
		if found.LagSeconds > 0 {
			a.notef("weir: %s of events are not searchable yet: is a worker running? see weir status",
				span(time.Duration(found.LagSeconds*float64(time.Second))))
		}
		return a.print(found, a.foundText(found, q))
	})
}

// unasked says that Elasticsearch did not answer, or was not asked for want of credentials.
func unasked(err error) bool {
	var away *elasticError
	var incomplete configError
	return errors.As(err, &away) || errors.As(err, &incomplete)
}

func (a *app) find(ctx context.Context, s *settings, conn *pgx.Conn, where string, q index.Search) (found ops.Found, err error) {
	if where == ops.StorePostgres {
		return ops.HistoryInPostgres(conn).Search(ctx, q)
	}
	err = s.withElasticsearch(func(e *index.Elasticsearch) error {
		found, err = ops.HistoryInElasticsearch(conn, e).Search(ctx, q)
		return err
	})
	if err == nil {
		a.verbosef("asked Elasticsearch at %s", s.file.Elasticsearch)
	}
	return found, err
}
