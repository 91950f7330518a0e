package dedup_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"github.com/fraiseql/weir/internal/cache"
	"github.com/fraiseql/weir/internal/dedup"
	"github.com/fraiseql/weir/internal/sandbox"
	"github.com/fraiseql/weir/internal/setting"
)

// sha is what stands in Redis for a long key.
func sha(key string) string {
	sum := sha256.Sum256([]byte(key))
	return "sha256:" + hex.EncodeToString(sum[:])
}

func TestInstallationsDoNotMeet(t *testing.T) {
	t.Parallel()

	server := servers.Redis(t)
	databases := []string{uuid.NewString(), uuid.NewString()}
	for _, whose := range [][2]string{
		{"shop", databases[0]}, {"shop", databases[1]}, {"other", databases[0]}, {"shop:dedup", databases[0]}, {"", databases[0]},
	} {
		r := connect(t, server, whose[0], whose[1])
		h := dedup.Holder{Delivery: uuid.NewSHA1(uuid.Nil, []byte("the same")), Attempt: uuid.New()}
		p := place{Claims: dedup.NewRedis(r)}
		p.gets(t, order42, h, long)
		p.done(t, order42, h, long)
		marks := dedup.NewMarks(r)
		if _, ok, err := marks.Has(t.Context(), h.Delivery); ok || err != nil {
			t.Errorf("%v: got the mark of another installation, or %v", whose, err)
		}
		check(t, marks.Set(t.Context(), h.Delivery, 200))
	}
}

// People read the keys, and a long one does not fill the memory.
func TestWhatStandsInRedis(t *testing.T) {
	t.Parallel()

	r := connect(t, servers.Redis(t), "shop", uuid.NewString())
	p := place{Claims: dedup.NewRedis(r)}
	h := someone()
	stands := func(key string) (value string) {
		t.Helper()
		check(t, r.Do(t.Context(), func(ctx context.Context, c redis.UniversalClient) (err error) {
			value, err = c.Get(ctx, r.Key(key)).Result()
			return err
		}))
		return value
	}
	p.gets(t, order42, h, long)
	if got, want := stands("dedup:order-paid:mail:order 42"), "claim "+h.Delivery.String()+" "+h.Attempt.String(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	p.done(t, order42, h, long)
	if got, want := stands("dedup:order-paid:mail:order 42"), "done "+h.Delivery.String(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	tenKB := strings.Repeat("0123456789", 1024)
	p.gets(t, dedup.Key{Observer: "order-paid", Action: "mail", Key: tenKB}, h, long)
	stands("dedup:order-paid:mail:" + sha(tenKB))
}

// Something that is no claim is an error, not a claim.
func TestSomethingElseInRedis(t *testing.T) {
	t.Parallel()

	r := connect(t, servers.Redis(t), "shop", uuid.NewString())
	p := place{Claims: dedup.NewRedis(r)}
	for _, value := range []string{"", "claim", "claim x y", "done x", "held " + uuid.NewString()} {
		check(t, r.Do(t.Context(), func(ctx context.Context, c redis.UniversalClient) error {
			return c.Set(ctx, r.Key("dedup", order42.Observer, order42.Action, order42.Key), value, 0).Err()
		}))
		got, err := p.Claim(t.Context(), order42, someone(), long)
		if away := (*cache.AwayError)(nil); !errors.As(err, &away) || !strings.Contains(err.Error(), value) {
			t.Errorf("%q: got %v, %v, want an error that shows it", value, got.State, err)
		}
	}
}

func TestRedisRestarts(t *testing.T) {
	t.Parallel()

	server := sandbox.TestRedis(t)
	r := connect(t, server, "shop", "db")
	p, marks := place{Claims: dedup.NewRedis(r)}, dedup.NewMarks(r)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); r.Run(ctx) }()
	defer func() { cancel(); <-ended }()

	h := someone()
	p.gets(t, order42, h, long)
	check(t, server.Kill())
	for range 5 {
		_, claim := p.Claim(ctx, order42, h, long)
		_, _, has := marks.Has(ctx, h.Delivery)
		for what, err := range map[string]error{
			"Claim": claim, "Done": p.Done(ctx, order42, h, long), "Release": p.Release(ctx, order42, h), "Has": has,
			"Set": marks.Set(ctx, h.Delivery, 200), "Forget": marks.Forget(ctx, []uuid.UUID{h.Delivery}),
		} {
			if away := (*cache.AwayError)(nil); !errors.As(err, &away) {
				t.Errorf("%s: got %v, want an AwayError", what, err)
			}
		}
	}

	// The new server is empty and has never seen the scripts.
	check(t, server.Start(ctx))
	eventually(t, "Redis serves again", func() bool { return p.Done(ctx, order42, h, long) == nil })
	p.claims(t, order42, someone(), long, duplicateOf(h))
	p.claims(t, order42, again(h), long, repeatOf(h))
}

// Before anybody said whose the keys are there are none to be had.
func TestUnnamedRedis(t *testing.T) {
	t.Parallel()

	u, err := cache.ParseURL(servers.Redis(t).URL())
	check(t, err)
	r := unnamed(t, u)
	_, claim := dedup.NewRedis(r).Claim(t.Context(), order42, someone(), long)
	_, _, has := dedup.NewMarks(r).Has(t.Context(), uuid.New())
	for _, err := range []error{claim, has} {
		if away := (*cache.AwayError)(nil); !errors.As(err, &away) {
			t.Errorf("got %v, want an AwayError", err)
		}
	}
}

func TestMarks(t *testing.T) {
	t.Parallel()

	r := connect(t, servers.Redis(t), "shop", uuid.NewString())
	marks := dedup.NewMarks(r)
	wants := func(d uuid.UUID, want int, wantOK bool) {
		t.Helper()
		status, ok, err := marks.Has(t.Context(), d)
		check(t, err)
		if status != want || ok != wantOK {
			t.Errorf("got %d, %t, want %d, %t", status, ok, want, wantOK)
		}
	}
	a, b, kept := uuid.New(), uuid.New(), uuid.New()
	wants(a, 0, false)
	check(t, marks.Set(t.Context(), a, 200))
	check(t, marks.Set(t.Context(), a, 202))
	check(t, marks.Set(t.Context(), b, 0))
	check(t, marks.Set(t.Context(), kept, 204))
	wants(a, 202, true)
	wants(b, 0, true)
	check(t, r.Do(t.Context(), func(ctx context.Context, c redis.UniversalClient) error {
		life, err := c.PTTL(ctx, r.Key("once", a.String())).Result()
		if life.Hours() < 23.9 || life.Hours() > 24 {
			t.Errorf("got a mark for %s, want 24 h", life)
		}
		return err
	}))

	check(t, marks.Forget(t.Context(), nil))
	check(t, marks.Forget(t.Context(), []uuid.UUID{uuid.New(), a, b, a}))
	wants(a, 0, false)
	wants(b, 0, false)
	wants(kept, 204, true)
}

// More than one round trip takes.
func TestForgetMany(t *testing.T) {
	t.Parallel()

	marks := dedup.NewMarks(connect(t, servers.Redis(t), "shop", uuid.NewString()))
	many := make([]uuid.UUID, 1201)
	for i := range many {
		many[i] = uuid.New()
		check(t, marks.Set(t.Context(), many[i], 200))
	}
	check(t, marks.Forget(t.Context(), many))
	for _, d := range many {
		if _, ok, err := marks.Has(t.Context(), d); ok || err != nil {
			t.Fatalf("got %t, %v, want it to be forgotten", ok, err)
		}
	}
}

// In a Cluster each key may be on another node.
func TestCluster(t *testing.T) {
	t.Parallel()

	nodes := []*sandbox.Redis{sandbox.TestRedis(t, "--cluster-enabled", "yes"), sandbox.TestRedis(t, "--cluster-enabled", "yes")}
	cluster(t, nodes)
	r := cache.Open(cache.Config{Addrs: []string{nodes[0].Addr()}, Timeout: setting.Duration(5 * time.Second)},
		slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	t.Cleanup(func() { check(t, r.Close()) })
	r.Name("shop", "db")
	p, marks := place{Claims: dedup.NewRedis(r)}, dedup.NewMarks(r)
	var deliveries []uuid.UUID
	for range 20 {
		k, h := dedup.Key{Observer: "o", Action: "a", Key: uuid.NewString()}, someone()
		p.gets(t, k, h, long)
		p.claims(t, k, someone(), long, busyWith(h))
		p.release(t, k, h)
		p.done(t, k, h, long)
		p.claims(t, k, someone(), long, duplicateOf(h))
		check(t, marks.Set(t.Context(), h.Delivery, 200))
		deliveries = append(deliveries, h.Delivery)
	}
	check(t, marks.Forget(t.Context(), deliveries))
	for _, d := range deliveries {
		if _, ok, err := marks.Has(t.Context(), d); ok || err != nil {
			t.Errorf("got %t, %v, want it to be forgotten", ok, err)
		}
	}
}

// cluster makes a Cluster of two nodes, each with half of the slots.
func cluster(t *testing.T, nodes []*sandbox.Redis) {
	t.Helper()
	const slots = 16384
	host, port, err := net.SplitHostPort(nodes[0].Addr())
	check(t, err)
	clients := make([]*redis.Client, len(nodes))
	for i, node := range nodes {
		clients[i] = redis.NewClient(&redis.Options{Addr: node.Addr()})
		t.Cleanup(func() { check(t, clients[i].Close()) })
		check(t, clients[i].ClusterAddSlotsRange(t.Context(), i*slots/2, (i+1)*slots/2-1).Err())
		check(t, clients[i].ClusterMeet(t.Context(), host, port).Err())
	}
	for _, c := range clients {
		eventually(t, "the Cluster is one", func() bool {
			info, err := c.ClusterInfo(t.Context()).Result()
			return err == nil && strings.Contains(info, "cluster_state:ok") && strings.Contains(info, "cluster_known_nodes:2")
		})
	}
}
