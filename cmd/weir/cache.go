package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"github.com/fraiseql/weir/internal/cache"
	"github.com/fraiseql/weir/internal/ops"
)

func newCacheCommand(a *app) *cobra.Command {
	return group("cache", "Look at the result cache, or clear it",
		`The result cache keeps the results of actions that have a cache: in their configuration, in Redis and in each worker. Cleared
results cost calls, never a delivery.`,
		newCacheStatsCommand(a), newCacheClearCommand(a))
}

// withCache runs a command that needs the Redis of the configuration.
func (a *app) withCache(ctx context.Context, do func(conn *pgx.Conn, r *cache.Redis) error) error {
	return a.withDatabase(ctx, func(s *settings, conn *pgx.Conn) error {
		switch {
		case s.mistakes != nil:
			return s.mistakes
		case s.file == nil || s.file.Redis == nil:
			return configError{errors.New("there is no section redis in the configuration, and so no result cache: " +
				"name the file with --config, or write one, as in redis: {url: redis://localhost:6379/0}")}
		case s.unset != nil && !s.file.Redis.PasswordEnv.IsZero() && s.file.Redis.PasswordEnv.Value() == "":
			return configError{s.unset}
		}
		if _, err := ops.CheckMigrated(ctx, conn); err != nil {
			return err
		}
		r := openRedis(s)
		err := ops.NameKeys(ctx, conn, r, s.name)
		if err == nil {
			err = do(conn, r)
		}
		var away *cache.AwayError
		if errors.As(err, &away) {
			err = &redisError{s.file.Redis.String(), err}
		}
		return errors.Join(err, r.Close())
	})
}

// openRedis prepares the connection to the Redis of the configuration.
func openRedis(s *settings) *cache.Redis {
	return cache.Open(*s.file.Redis, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
}

// redisError says that Redis cannot be reached.
type redisError struct {
	servers string
	err     error
}

func (e *redisError) Error() string {
	return fmt.Sprintf("cannot ask the Redis at %s: %s\ncheck that it runs, and the section redis of the configuration",
		e.servers, strings.ReplaceAll(e.err.Error(), "\n", ": "))
}

func (e *redisError) Unwrap() error { return e.err }

func newCacheStatsCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "stats",
		Short: "Show how the result cache of every live worker does",
		Args:  noArguments,
		RunE: a.does(func(ctx context.Context, _ []string) error {
			return a.withCache(ctx, func(conn *pgx.Conn, r *cache.Redis) error {
				found, err := ops.ReadResultCache(ctx, conn, r)
				if err != nil {
					return err
				}
				return a.print(found, func(w io.Writer) { a.writeCache(w, found) })
			})
		}),
	}
}

func (a *app) writeCache(w io.Writer, found ops.ResultCache) {
	fmt.Fprintf(w, "%s in Redis\n\n", count(found.Results, "result"))
	t := table{header: []string{"WORKER", "HIT RATE"}}
	for _, one := range found.Workers {
		s := one.Stats
		if s == nil {
			t.add(c(one.ClientID), c("-"))
			t.detail(dim, "it has looked nothing up yet, or cannot reach Redis")
			continue
		}
		t.add(c(one.ClientID), c(hitRate(s)))
		t.detail(plain, fmt.Sprintf("found: %d in its memory, %d in Redis; missed: %d; Redis was away: %d", s.HitsMemory, s.HitsRedis,
			s.Misses, s.Away))
		t.detail(plain, fmt.Sprintf("its memory holds %s, %s", count(int64(s.Entries), "result"), ops.Size(int64(s.Bytes))))
	}
	t.write(a, w)
}

func hitRate(s *cache.Stats) string {
	if s.HitsMemory+s.HitsRedis+s.Misses == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f %%", 100*s.HitRatio)
}

func newCacheClearCommand(a *app) *cobra.Command {
	var s cache.Selection
	cmd := &cobra.Command{
		Use:   "clear",
		Short: "Remove results from the cache, at every worker",
		Long: `Remove results from the cache, in Redis and at every worker: all, or those that are selected. Several of --key, --pattern
and --tag remove what any of them names; --observer and --action narrow keys, patterns and all.`,
		Example: `  weir cache clear
  weir cache clear --tag customer:4711
  weir cache clear --observer order-shipped --pattern 'acme-*'`,
		Args: noArguments,
		RunE: a.does(func(ctx context.Context, _ []string) error {
			s.All = len(s.Keys)+len(s.Patterns)+len(s.Tags) == 0
			return a.withCache(ctx, func(_ *pgx.Conn, r *cache.Redis) error {
				cleared, err := ops.ClearResultCache(ctx, r, s)
				if err != nil {
					return err
				}
				return a.print(cleared, func(w io.Writer) { fmt.Fprintf(w, "removed %s\n", count(cleared.Results, "result")) })
			})
		}),
	}
	cmd.Flags().StringArrayVar(&s.Keys, "key", nil, "the result with this rendered `key`; may be given again")
	cmd.Flags().StringArrayVar(&s.Patterns, "pattern", nil, "those whose key matches this glob `pattern`; may be given again")
	cmd.Flags().StringArrayVar(&s.Tags, "tag", nil, "those with this `tag`; may be given again")
	cmd.Flags().StringVar(&s.Observer, "observer", "", "only those of the observer with this `name`")
	cmd.Flags().StringVar(&s.Action, "action", "", "only those of the action with this `name`")
	return cmd
}
