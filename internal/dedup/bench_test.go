package dedup_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"github.com/fraiseql/weir/internal/dedup"
)

// BenchmarkClaim compares a claim of a new key, and one of a key whose window runs, with the bare command that does the least
// for it. Both take turns, so that what else the machine does hits them alike.
func BenchmarkClaim(b *testing.B) {
	server := servers.Redis(b)
	claims := dedup.NewRedis(connect(b, server, "shop", uuid.NewString()))
	options, err := redis.ParseURL(server.URL())
	check(b, err)
	bare := redis.NewClient(options)
	b.Cleanup(func() { check(b, bare.Close()) })
	ask := func(b *testing.B, k dedup.Key, h dedup.Holder, want dedup.State) {
		got, err := claims.Claim(b.Context(), k, h, time.Minute)
		check(b, err)
		if got.State != want {
			b.Fatalf("got %s, want %s", got.State, want)
		}
	}

	b.Run("new", func(b *testing.B) {
		compare(b, "SETNX", func() {
			ask(b, newKey(), someone(), dedup.Claimed)
		}, func() {
			value := "claim " + uuid.NewString() + " " + uuid.NewString()
			check(b, bare.SetNX(b.Context(), "weir:1:shop:0123456789abcdef:dedup:o:a:"+uuid.NewString(), value, time.Minute).Err())
		})
	})
	b.Run("duplicate", func(b *testing.B) {
		k, h, late := newKey(), someone(), someone()
		check(b, claims.Done(b.Context(), k, h, time.Hour))
		name := "weir:1:shop:0123456789abcdef:dedup:o:a:" + k.Key
		check(b, bare.Set(b.Context(), name, "done "+h.Delivery.String(), time.Hour).Err())
		compare(b, "GET", func() {
			ask(b, k, late, dedup.Duplicate)
		}, func() {
			check(b, bare.Get(b.Context(), name).Err())
		})
	})
}

func BenchmarkClaimPostgres(b *testing.B) {
	claims := dedup.NewPostgres(database(b))
	k, h := newKey(), someone()
	check(b, claims.Done(b.Context(), k, h, time.Hour))
	for name, key := range map[string]func() dedup.Key{"new": newKey, "duplicate": func() dedup.Key { return k }} {
		b.Run(name, func(b *testing.B) {
			var took []time.Duration
			for b.Loop() {
				took = append(took, timed(func() {
					_, err := claims.Claim(b.Context(), key(), someone(), time.Minute)
					check(b, err)
				}))
			}
			report(b, "claim", took)
		})
	}
}

func newKey() dedup.Key { return dedup.Key{Observer: "o", Action: "a", Key: uuid.NewString()} }

// compare reports both in microseconds, and how many times the bare command a claim takes.
func compare(b *testing.B, command string, claim, bare func()) {
	b.Helper()
	claim() // connects, and loads the script
	bare()
	var claims, bares []time.Duration
	for b.Loop() {
		claims = append(claims, timed(claim))
		bares = append(bares, timed(bare))
	}
	b.ReportMetric(float64(report(b, "claim", claims))/float64(report(b, command, bares)), "ratio-p50")
}

func timed(f func()) time.Duration {
	begun := time.Now()
	f()
	return time.Since(begun)
}

func report(b *testing.B, what string, took []time.Duration) (p50 time.Duration) {
	b.Helper()
	slices.Sort(took)
	p50 = took[len(took)/2]
	b.ReportMetric(float64(p50)/float64(time.Microsecond), what+"-p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100])/float64(time.Microsecond), what+"-p99-µs")
	return p50
}
