package worker_test

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/fraiseql/weir/internal/sandbox"
)

// versions is a receiver that answers with a version, which counts up, or fails.
type versions struct {
	*receiver

	fails chan bool // holds one
}

func newVersions(t *testing.T, pause time.Duration) *versions {
	t.Helper()
	count, v := make(chan int, 1), &versions{fails: make(chan bool, 1)}
	count <- 0
	v.fails <- false
	v.receiver = newReceiver(t, func(w http.ResponseWriter, _ *http.Request) {
		n := <-count + 1
		count <- n
		time.Sleep(pause)
		fails := <-v.fails
		v.fails <- fails
		if fails {
			w.WriteHeader(http.StatusInternalServerError)
		}
		fmt.Fprintf(w, "version %d", n)
	})
	return v
}

func (v *versions) fail(fails bool) {
	<-v.fails
	v.fails <- fails
}

func cacheConfig(redisURL, receiver string) string {
	return fmt.Sprintf(`
redis: {url: %q, timeout: 2s}
outbound: {allow: [127.0.0.1]}
endpoints: {crm: {breaker: {min_requests: 1000}}, redis: {breaker: {min_requests: 2, window: 1m}}}
observers:
  lookup:
    entity: Order
    actions:
      - {name: get, type: webhook, endpoint: crm, url: %q, cache: {key: "{{ customer }}", ttl: 1h, tags: ["customer:{{ customer }}"]}}
  changed:
    entity: Customer
    retry: {max_attempts: 100, initial_delay: 50ms, backoff: fixed}
    actions:
      - {type: cache, action: refresh, webhook: lookup/get}
  removed:
    entity: Removal
    actions:
      - {type: cache, keys: ["app:{{ customer }}"], key_pattern: "page:*:{{ customer }}", tags: ["customer:{{ customer }}"]}
`, redisURL, receiver)
}

// commit commits so many events about customer X.
func (r *rig) commit(entity string, n int) {
	r.t.Helper()
	r.exec(`INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data)
		SELECT $1, 'UPDATE', gen_random_uuid(), '{"customer": "X"}' FROM generate_series(1, $2::int)`, entity, n)
}

// outcomes are those of an observer's last n deliveries, the last one first.
func (r *rig) outcomes(observer string, n int) string {
	r.t.Helper()
	return r.one(`SELECT coalesce(string_agg(format('%s %s', metadata->'output'->>'result', metadata->'output'->>'body'), ', '), '')
		FROM (SELECT * FROM job WHERE args->>'observer' = $1 AND state = 'completed' ORDER BY id DESC LIMIT $2::int) last`, observer, n)
}

func (r *rig) awaitDone(observer string, n int) {
	r.t.Helper()
	r.await(fmt.Sprintf("%d deliveries of %s", n, observer), func() bool {
		return r.jobs("state = 'completed' AND args->>'observer' = '"+observer+"'") == strconv.Itoa(n)
	})
}

// TestRefresh: a refresh makes a call of its own, one that fails leaves what is there and is nobody's fault but the receiver's.
func TestRefresh(t *testing.T) {
	t.Parallel()
	r, rc := newRig(t), newVersions(t, 0)
	run := r.started(cacheConfig(postgres.Redis(t).URL(), rc.URL))
	r.commit("Order", 1)
	r.awaitDone("lookup", 1)
	r.commit("Customer", 1)
	r.awaitDone("changed", 1)
	r.commit("Order", 1)
	r.awaitDone("lookup", 2)
	if got := r.outcomes("changed", 1) + "; " + r.outcomes("lookup", 2); got != "delivered version 2; cached version 2, delivered version 1" {
		t.Errorf("got %s", got)
	}

	rc.fail(true)
	r.commit("Customer", 1)
	r.await("failures", func() bool { return len(rc.seen()) >= 2+5 })
	r.commit("Order", 1)
	r.awaitDone("lookup", 3)
	if got := r.outcomes("lookup", 1); got != "cached version 2" {
		t.Errorf("got %s, want the old result while the refresh fails", got)
	}
	if open := r.one("SELECT count(*)::text FROM weir.endpoint WHERE state <> 'closed'"); open != "0" {
		t.Errorf("%s endpoints are not closed", open)
	}
	rc.fail(false)
	r.awaitDone("changed", 2)
	r.commit("Order", 1)
	r.awaitDone("lookup", 4)
	if got, want := r.outcomes("lookup", 1), strings.Replace(r.outcomes("changed", 1), "delivered", "cached", 1); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	ids := map[string]int{}
	for _, req := range rc.seen() {
		ids[req.id]++
	}
	if len(ids) != 3 {
		t.Errorf("calls by webhook-id: %v, want those of three deliveries", ids)
	}
	if n := run.metric(t, "weir_cache_lookups_total", `result="miss"`); n != 1 {
		t.Errorf("%v misses", n)
	}
}

// TestRefreshMeetsAnInvalidation: what was asked before an invalidation is not what deliveries get after it.
func TestRefreshMeetsAnInvalidation(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	answer := make(chan string)
	rc := newReceiver(t, func(w http.ResponseWriter, req *http.Request) {
		select {
		case text := <-answer:
			_, _ = w.Write([]byte(text))
		case <-req.Context().Done():
		}
	})
	r.started(cacheConfig(postgres.Redis(t).URL(), rc.URL))
	r.commit("Customer", 1)
	r.await("the call", func() bool { return len(rc.seen()) == 1 })
	r.commit("Removal", 1)
	r.awaitDone("removed", 1)
	answer <- "old"
	r.awaitDone("changed", 1)
	r.commit("Order", 1)
	r.await("a call of its own", func() bool { return len(rc.seen()) == 2 || r.outcomes("lookup", 1) != "" })
	if got := r.outcomes("lookup", 1); got != "" {
		t.Fatalf("got %s", got)
	}
	answer <- "new"
	r.awaitDone("lookup", 1)
	if got := r.outcomes("lookup", 1); got != "delivered new" {
		t.Errorf("got %s", got)
	}
}

// TestRefreshWithoutRedis: no call is made whose result nobody could keep, and it is Redis that is to blame.
func TestRefreshWithoutRedis(t *testing.T) {
	t.Parallel()
	server := sandbox.TestRedis(t)
	r, rc := newRig(t), newVersions(t, 0)
	run := r.started(cacheConfig(server.URL(), rc.URL))
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	r.await("readiness names Redis", func() bool { return strings.Contains(run.get(t, "/readyz").body, "redis: ") })
	r.commit("Customer", 5)
	r.await("the breaker", func() bool { return r.one("SELECT state FROM weir.endpoint WHERE name = 'redis'") == "open" })
	if n := len(rc.seen()); n != 0 {
		t.Errorf("%d calls", n)
	}
}

// TestApplicationsKeys: the cache action removes the application's keys from the same Redis, and no others.
func TestApplicationsKeys(t *testing.T) {
	t.Parallel()
	server := sandbox.TestRedis(t)
	r, rc := newRig(t), newVersions(t, 0)
	r.started(cacheConfig(server.URL(), rc.URL))
	options, err := redis.ParseURL(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	application := redis.NewClient(options)
	t.Cleanup(func() { _ = application.Close() })
	ctx := context.WithoutCancel(t.Context())
	for _, key := range []string{"app:X", "app:XX", "page:1:X", "page:2:X", "page:1:Y"} {
		if err := application.Set(ctx, key, "1", 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	r.commit("Order", 1)
	r.awaitDone("lookup", 1)
	r.commit("Removal", 1)
	r.awaitDone("removed", 1)
	if got := r.outcomes("removed", 1); got != "delivered 3 keys and 1 result removed" {
		t.Errorf("got %s", got)
	}
	if n, err := application.Exists(ctx, "app:X", "app:XX", "page:1:X", "page:2:X", "page:1:Y").Result(); n != 2 || err != nil {
		t.Errorf("%d keys are left, want 2 (%v)", n, err)
	}
}

// TestManyDeliveriesOneCall: deliveries with one key at the same time, on two workers.
func TestManyDeliveriesOneCall(t *testing.T) {
	t.Parallel()
	r, rc := newRig(t), newVersions(t, 1500*time.Millisecond) // some are put off meanwhile
	config := r.write(cacheConfig(postgres.Redis(t).URL(), rc.URL))
	r.spawn(t, config)
	r.spawn(t, config)
	r.await("two workers", func() bool { return r.one("SELECT count(*)::text FROM weir.worker") == "2" })
	r.commit("Order", 50)
	r.awaitDone("lookup", 50)
	if n := len(rc.seen()); n != 1 {
		t.Errorf("%d calls", n)
	}
	if n := r.jobs("metadata->'output'->>'result' = 'cached' AND attempt = 1"); n != "49" {
		t.Errorf("%s are cached in their first attempt", n)
	}
}
