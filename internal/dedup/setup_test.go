package dedup_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/fraiseql/weir/internal/cache"
	"github.com/fraiseql/weir/internal/dedup"
	"github.com/fraiseql/weir/internal/sandbox"
	"github.com/fraiseql/weir/internal/setting"
)

var servers sandbox.Suite

func TestMain(m *testing.M) { goleak.VerifyTestMain(servers.Main(m)) }

// place is where claims are kept.
type place struct {
	dedup.Claims
	empty func() // takes away what is kept, as a FLUSHALL does
}

// inEachPlace runs the test on Redis and on PostgreSQL.
func inEachPlace(t *testing.T, test func(t *testing.T, p place)) {
	t.Helper()
	t.Parallel()
	for name, open := range map[string]func(*testing.T) place{"redis": redisPlace, "postgres": postgresPlace} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open(t))
		})
	}
}

// redisPlace is an installation of its own on the server of all tests.
func redisPlace(t *testing.T) place {
	t.Helper()
	r := connect(t, servers.Redis(t), "shop", uuid.NewString())
	return place{dedup.NewRedis(r), func() {
		check(t, r.Do(t.Context(), func(ctx context.Context, c redis.UniversalClient) error {
			keys, err := c.Keys(ctx, r.Key("dedup", "*")).Result()
			if err != nil || len(keys) == 0 {
				return err
			}
			return c.Del(ctx, keys...).Err()
		}))
	}}
}

func postgresPlace(t *testing.T) place {
	t.Helper()
	pool := database(t)
	return place{dedup.NewPostgres(pool), func() {
		_, err := pool.Exec(t.Context(), "TRUNCATE weir.dedup")
		check(t, err)
	}}
}

// database is a pool with nothing in the search_path, so that every name in a query must be qualified.
func database(t testing.TB) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig(servers.Database(t))
	check(t, err)
	config.ConnConfig.RuntimeParams["search_path"] = ""
	config.MaxConns = 16
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	check(t, err)
	t.Cleanup(pool.Close)
	return pool
}

// connect opens a connection for an installation.
func connect(t testing.TB, server *sandbox.Redis, installation, database string) *cache.Redis {
	t.Helper()
	u, err := cache.ParseURL(server.URL())
	check(t, err)
	r := unnamed(t, u)
	r.Name(installation, database)
	return r
}

// unnamed waits for an answer longer than the default: tests share a small machine.
func unnamed(t testing.TB, u cache.URL) *cache.Redis {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	r := cache.Open(cache.Config{URL: u, Timeout: setting.Duration(5 * time.Second)}, quiet, prometheus.NewRegistry())
	t.Cleanup(func() { check(t, r.Close()) })
	return r
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// someone is an attempt of a delivery that nobody else has.
func someone() dedup.Holder { return dedup.Holder{Delivery: uuid.New(), Attempt: uuid.New()} }

// again is another attempt of the same delivery.
func again(h dedup.Holder) dedup.Holder {
	return dedup.Holder{Delivery: h.Delivery, Attempt: uuid.New()}
}

// eventually waits until it is so.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}
