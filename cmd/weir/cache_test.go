package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"

	"github.com/fraiseql/weir/internal/ops"
	"github.com/fraiseql/weir/internal/sandbox"
)

// What a live worker has is told and can be cleared, and the next delivery then makes its call again.
func TestCache(t *testing.T) {
	t.Parallel()
	url, db := database(t)
	receiver := &counter{status: http.StatusOK, calls: map[string]int{}}
	server := httptest.NewServer(receiver)
	t.Cleanup(server.Close)
	path, _ := slotFile(t, db, fmt.Sprintf(`database: {url: %q}
http: {listen: ""}
redis: {url: %q, timeout: 5s}
outbound: {allow: ["127.0.0.1"]}
observers:
  hook:
    entity: Order
    actions: [{name: get, type: webhook, url: %q, cache: {key: "order-{{ total }}", ttl: 1h, tags: ["total:{{ total }}"]}}]
`, url, postgres.Redis(t).URL(), server.URL))
	cache := func(args ...string) result {
		t.Helper()
		return weir(t, append([]string{"cache", "--config", path}, args...)...)
	}
	cache("stats").exits(0).says("0 results in Redis\n", "WORKER", "HIT RATE")
	live(t, path)
	stats := func() (found ops.ResultCache) {
		t.Helper()
		cache("stats", "--format", "json").exits(0).json(&found)
		return found
	}
	until(t, "the worker", func() (reads bool) { // what is committed before its slot is there is not its business
		check(t, db.QueryRow(t.Context(), "SELECT EXISTS (SELECT FROM weir.checkpoint)").Scan(&reads))
		return reads && len(stats().Workers) == 1
	})
	if stats().Workers[0].Stats != nil {
		t.Error("figures of a worker that has looked nothing up")
	}
	cache("stats").exits(0).says(stats().Workers[0].ClientID, "-")

	done := 0
	order := func(calls int) {
		t.Helper()
		done += 2
		commitOrders(t, db, 2) // of 1 and of 2
		until(t, "the deliveries", func() bool { return jobsWhere(t, db, "state = 'completed' AND kind = 'weir_webhook'") == done })
		if _, made := receiver.seen(); made != calls {
			t.Errorf("%d calls, want %d", made, calls)
		}
	}
	order(2)
	order(2)
	order(2)
	until(t, "the figures", func() bool {
		s := stats().Workers[0].Stats
		return s != nil && s.HitsMemory+s.HitsRedis == 4
	})
	found := stats()
	if s := found.Workers[0].Stats; found.Results != 2 || s.Misses != 2 || s.HitRatio < 0.66 || s.HitRatio > 0.67 {
		t.Errorf("got %+v, %+v", found, s)
	}
	cache("stats").exits(0).says("2 results in Redis\n", "66.7 %")
	cache("stats", "--format", "yaml").exits(0).says("results: 2\n", "misses: 2\n")

	cache("clear", "--tag", "total:1").exits(0).says("removed 1 result\n")
	order(3)
	cache("clear", "--key", "order-2", "--key", "order-3").exits(0).says("removed 1 result\n")
	order(4)
	cache("clear", "--pattern", "*-[12]", "--observer", "other").exits(0).says("removed 0 results\n")
	cache("clear", "--pattern", "*-[12]", "--action", "other").exits(0).says("removed 0 results\n")
	cache("clear", "--observer", "other").exits(0).says("removed 0 results\n")
	cache("clear", "--tag", "").exits(0).says("removed 0 results\n")
	order(4)
	cache("clear", "--pattern", "*-[12]", "--observer", "hook", "--format", "json").exits(0).says(`"results": 2`)
	order(6)
	cache("clear").exits(0).says("removed 2 results\n")
	order(8)
}

func TestCacheCannotBeAsked(t *testing.T) {
	t.Parallel()
	url, _ := database(t)
	away := sandbox.TestRedis(t)
	if err := away.Kill(); err != nil {
		t.Fatal(err)
	}
	locked := sandbox.TestRedis(t, "--requirepass", "another")
	with := func(redis string) string {
		return file(t, fmt.Sprintf("database: {url: %q}\nredis: {%s}\nobservers: {}\n", url, redis))
	}
	for _, command := range []string{"stats", "clear"} {
		cache := func(args ...string) result { return weir(t, append([]string{"cache", command}, args...)...) }
		cache("--database-url", url).exits(3).complains("there is no section redis in the configuration")
		cache("--config", file(t, fmt.Sprintf("database: {url: %q}\nobservers: {}\n", url))).exits(3).
			complains("there is no section redis in the configuration")
		cache("--config", "/nonexistent/weir.yaml").exits(3).complains("no such file")
		cache("--config", with("url: nowhere")).exits(3).complains("this is no URL of Redis")
		cache("--config", with("url: redis://localhost, password_env: NOT_SET")).exits(3).complains("NOT_SET")
		cache("--config", with("url: "+away.URL()+", timeout: 5s")).exits(4).
			complains("cannot ask the Redis at "+away.Addr()+": Redis: dial tcp", "check that it runs, and the section redis")
		denied := cache("--config", with("url: 'redis://:hunter2@"+locked.Addr()+"', timeout: 5s")).exits(4).complains("WRONGPASS")
		if strings.Contains(denied.stdout+denied.stderr, "hunter2") {
			t.Errorf("the password shows: %s", denied.stderr)
		}
		call{
			args: []string{"cache", command, "--config", with("url: redis://" + locked.Addr() + ", timeout: 5s, password_env: PASSWORD")},
			env:  map[string]string{"PASSWORD": "another"},
		}.run(t).exits(0)
		cache("surplus", "--database-url", url).exits(2).complains("takes no argument")
	}
	hung := with("url: " + away.URL() + ", timeout: 50ms")
	if err := away.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := away.Process().Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	weir(t, "cache", "clear", "--config", hung).exits(4).complains(": Redis: no answer within 50ms: context deadline exceeded\n")
	weir(t, "cache").exits(2).complains("weir cache needs one of its commands: stats, clear")
	weir(t, "cache", "forget").exits(2).complains("expected one of stats, clear")
	weir(t, "cache", "clear", "--tag").exits(2)
}
