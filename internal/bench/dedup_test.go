package bench

import (
	"log/slog"
	"strconv"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"github.com/fraiseql/weir/internal/cache"
	"github.com/fraiseql/weir/internal/dedup"
	"github.com/fraiseql/weir/internal/setting"
)

const claimFor = time.Minute

// BenchmarkDedup asks for claims, of keys that are new and of one whose window runs, against the one command that does the
// least for it: with keys and values of the same length, by a client with the same settings.
func BenchmarkDedup(b *testing.B) {
	weirs, bare := redisClients(b)
	claims := dedup.NewRedis(weirs)
	name := func(k dedup.Key) string { return weirs.Key("bare", "o", "a", k.Key) }
	key, value := newKeys("b"), "claim "+uuid.NewString()+" "+uuid.NewString()
	inTurn(b, "redis/new", 10_000, 1, side{weir, claim(b, claims, newKeys("w"), dedup.Claimed)}, side{"SETNX", func() {
		if set, err := bare.SetNX(b.Context(), name(key()), value, claimFor).Result(); err != nil || !set {
			b.Fatal(set, err)
		}
	}})
	k := done(b, claims)
	check(b, bare.Set(b.Context(), name(k), "done "+uuid.NewString(), time.Hour).Err())
	inTurn(b, "redis/duplicate", 10_000, 1, side{weir, claim(b, claims, same(k), dedup.Duplicate)}, side{"GET", func() {
		check(b, bare.Get(b.Context(), name(k)).Err())
	}})

	pool, err := pgxpool.New(b.Context(), servers.Database(b))
	check(b, err)
	b.Cleanup(pool.Close)
	claims2 := dedup.NewPostgres(pool)
	inTurn(b, "postgres/new", 2000, 1, side{weir, claim(b, claims2, newKeys("w"), dedup.Claimed)}, side{"INSERT", insertClaim(b, pool)})
	inTurn(b, "postgres/duplicate", 2000, 1, side{"", claim(b, claims2, same(done(b, claims2)), dedup.Duplicate)})
}

// redisClients are Weir's connection and a bare client with the same settings, to one server.
func redisClients(b *testing.B) (*cache.Redis, *redis.Client) {
	b.Helper()
	server := servers.Redis(b).URL()
	u, err := cache.ParseURL(server)
	check(b, err)
	weirs := cache.Open(cache.Config{URL: u, Timeout: setting.Duration(5 * time.Second)}, slog.New(slog.DiscardHandler),
		prometheus.NewRegistry())
	weirs.Name("bench", b.Name()+uuid.NewString())
	b.Cleanup(func() { check(b, weirs.Close()) })
	options, err := redis.ParseURL(server)
	check(b, err)
	options.ContextTimeoutEnabled = true
	bare := redis.NewClient(options)
	b.Cleanup(func() { check(b, bare.Close()) })
	return weirs, bare
}

// newKeys are keys of 20 characters that nobody has, not even an earlier round of the same benchmark.
func newKeys(whose string) func() dedup.Key {
	n := 1_000_000_000
	prefix := whose + uuid.NewString()[:9]
	return func() dedup.Key {
		n++
		return dedup.Key{Observer: "o", Action: "a", Key: prefix + strconv.Itoa(n)}
	}
}

func same(k dedup.Key) func() dedup.Key { return func() dedup.Key { return k } }

// done is a key whose window runs.
func done(b *testing.B, claims dedup.Claims) dedup.Key {
	b.Helper()
	k := newKeys("d")()
	check(b, claims.Done(b.Context(), k, dedup.Holder{Delivery: uuid.New(), Attempt: uuid.New()}, time.Hour))
	return k
}

func claim(b *testing.B, claims dedup.Claims, key func() dedup.Key, want dedup.State) func() {
	b.Helper()
	h := dedup.Holder{Delivery: uuid.New(), Attempt: uuid.New()}
	return func() {
		if answer, err := claims.Claim(b.Context(), key(), h, claimFor); err != nil || answer.State != want {
			b.Fatal(answer.State, err)
		}
	}
}

// insertClaim is the least that a claim in PostgreSQL can be: a row that is new.
func insertClaim(b *testing.B, pool *pgxpool.Pool) func() {
	b.Helper()
	key, h := newKeys("b"), dedup.Holder{Delivery: uuid.New(), Attempt: uuid.New()}
	return func() {
		_, err := pool.Exec(b.Context(), `INSERT INTO weir.dedup (observer, action, key_hash, delivery, attempt, done, expires_at)
			VALUES ('o', 'a', $1, $2, $3, false, now() + interval '1 minute')`, []byte(key().Key+"0123456789ab"), h.Delivery, h.Attempt)
		check(b, err)
	}
}
