package worker_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/fraiseql/weir/internal/sandbox"
)

// TestPairsLeadToOneCall offers pairs of events with the same key to two workers at the same time.
func TestPairsLeadToOneCall(t *testing.T) {
	t.Parallel()
	for _, where := range []struct {
		name  string
		redis bool
		pairs int
	}{{"Redis", true, 10_000}, {"PostgreSQL", false, 1_000}} {
		t.Run(where.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			rc := newReceiver(t, func(http.ResponseWriter, *http.Request) { time.Sleep(5 * time.Millisecond) })
			section := ""
			if where.redis {
				section = fmt.Sprintf("redis: {url: %q, timeout: 5s, pool_size: 50}\n", postgres.Redis(t).URL())
			}
			config := r.write(section + fmt.Sprintf(`
outbound: {allow: [127.0.0.1]}
endpoints: {erp: {concurrency: 100}}
observers:
  pair:
    entity: Order
    actions:
      - {type: webhook, url: %q, endpoint: erp, dedup: {key: "{{ pair }}", window: 1h, required: true}}
`, rc.URL))
			r.spawn(t, config)
			r.spawn(t, config)
			r.exec(`INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data)
				SELECT 'Order', 'INSERT', gen_random_uuid(), jsonb_build_object('pair', pair)
				FROM generate_series(1, $1::int) pair, generate_series(1, 2) half ORDER BY pair, half`, where.pairs)
			r.awaitFor(4*time.Minute, "every delivery is done", func() bool {
				return r.jobs("state = 'completed'") == strconv.Itoa(2*where.pairs)
			})
			r.oneCallEach(rc, where.pairs)
			duplicates := r.jobs("metadata->'output'->>'result' = 'duplicate'")
			if duplicates != strconv.Itoa(where.pairs) {
				t.Errorf("%s deliveries say that they are duplicates, of %d pairs", duplicates, where.pairs)
			}
			if met := r.number("SELECT count(*)::text FROM job WHERE metadata ? 'snoozes'"); met < where.pairs/10 {
				t.Errorf("only %d deliveries have met another's claim", met)
			}
			called := map[string]bool{}
			for _, req := range rc.seen() {
				called[req.id] = true
			}
			rows, err := r.conn.Query(t.Context(), `
				SELECT metadata->'output'->>'duplicate_of' FROM job WHERE metadata->'output'->>'result' = 'duplicate'`)
			if err != nil {
				t.Fatal(err)
			}
			defer rows.Close()
			for rows.Next() {
				var of string
				if err := rows.Scan(&of); err != nil || !called[of] {
					t.Fatalf("a duplicate of delivery %q, which made no call (%v)", of, err)
				}
			}
		})
	}
}

// oneCallEach checks that the receiver has heard of each pair once.
func (r *rig) oneCallEach(rc *receiver, pairs int) {
	r.t.Helper()
	calls := map[string]int{}
	for _, req := range rc.seen() {
		calls[pairOf(r.t, req)]++
	}
	repeated := 0
	for _, n := range calls {
		repeated += n - 1
	}
	if len(calls) != pairs || repeated != 0 {
		r.t.Errorf("%d pairs of %d were called, %d calls too many", len(calls), pairs, repeated)
	}
}

func pairOf(t testing.TB, req request) string {
	t.Helper()
	return field(t, field(t, req.body, "data"), "pair")
}

// TestRedisAway kills Redis under load, starts it again, and empties it.
func TestRedisAway(t *testing.T) {
	t.Parallel()
	server := sandbox.TestRedis(t)
	r := newRig(t)
	rc := newReceiver(t, nil)
	run := r.started(fmt.Sprintf(`
redis: {url: %q}
outbound: {allow: [127.0.0.1]}
observers:
  free:
    entity: Order
    actions:
      - {name: deduped, type: webhook, url: "%[2]s/deduped", dedup: {key: "{{ n }}", window: 1h}}
      - {name: cached, type: webhook, url: "%[2]s/cached", cache: {key: "{{ n }}", ttl: 1h}}
      - {name: plain, type: webhook, url: "%[2]s/plain"}
  waits:
    entity: Order
    condition: n %% 20 == 0
    actions:
      - {type: webhook, url: "%[2]s/required", dedup: {key: "{{ n }}", window: 1h, required: true}}
`, server.URL(), rc.URL))
	const each = 200
	batch := 0
	load := func() {
		t.Helper()
		for range each / 20 {
			r.exec(`INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data)
				SELECT 'Order', 'INSERT', gen_random_uuid(), jsonb_build_object('n', n) FROM generate_series($1::int + 1, $1::int + 20) n`, batch)
			batch += 20
		}
	}
	finished := func(what, where string, n int) {
		t.Helper()
		r.await(what, func() bool { return r.jobs("state = 'completed' AND "+where) == strconv.Itoa(n) })
	}
	const free, waits = "args->>'observer' = 'free'", "args->>'observer' = 'waits'"

	load()
	finished("all with Redis", "true", 3*batch+batch/20)
	before := r.latency("true")
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	r.await("readiness names Redis", func() bool { return strings.Contains(run.get(t, "/readyz").body, "redis: ") })
	last := r.one("SELECT max(id)::text FROM job")
	load()
	finished("all that may go on without Redis", free, 3*batch)
	away := r.latency(free + " AND id > " + last)
	if probe := run.get(t, "/readyz"); probe.code != http.StatusOK {
		t.Errorf("not ready without Redis: %d %s", probe.code, probe.body)
	}
	if got := r.jobs("state = 'completed' AND " + waits); got != strconv.Itoa(each/20) {
		t.Errorf("%s deliveries with required: true are done, of %d that came before Redis went away", got, each/20)
	}
	if run.metric(t, "weir_dedup_lookups_total", `result="unavailable"`) == 0 {
		t.Error("no look is counted as unavailable")
	}
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	finished("those that had to wait", waits, batch/20)
	r.await("readiness is clean", func() bool { return !strings.Contains(run.get(t, "/readyz").body, "redis: ") })
	load()
	for range 5 {
		flush(t, server)
		load()
	}
	finished("all, with a Redis that forgets", "true", 3*batch+batch/20)
	t.Logf("p50 and p99 of a delivery: %s with Redis, %s while it is away", before, away)
	seen := map[string]bool{}
	for _, req := range rc.seen() {
		seen[req.path+" "+field(t, field(t, req.body, "data"), "n")] = true
	}
	if want := 3*batch + batch/20; len(seen) != want {
		t.Errorf("%d of %d calls were made", len(seen), want)
	}
}

// TestRedisHangs stops Redis: it takes connections and does not answer. Deliveries go on, events come in, and the worker stops.
func TestRedisHangs(t *testing.T) {
	t.Parallel()
	server := sandbox.TestRedis(t)
	r := newRig(t)
	rc := newReceiver(t, nil)
	config := fmt.Sprintf(`
redis: {url: %q}
outbound: {allow: [127.0.0.1]}
observers:
  free:
    entity: Order
    actions:
      - {name: deduped, type: webhook, url: "%[2]s/deduped", dedup: {key: "{{ n }}", window: 1h}}
      - {name: cached, type: webhook, url: "%[2]s/cached", cache: {key: "{{ n }}", ttl: 1h}}
  waits:
    entity: Order
    retry: {max_attempts: 1}
    actions:
      - {type: webhook, url: "%[2]s/required", dedup: {key: "{{ n }}", window: 1h, required: true}}
`, server.URL(), rc.URL)
	run := r.started(config)
	if err := server.Process().Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Process().Signal(syscall.SIGCONT) })
	const events = 300
	began := time.Now()
	r.exec(`INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data)
		SELECT 'Order', 'INSERT', gen_random_uuid(), jsonb_build_object('n', n) FROM generate_series(1, $1::int) n`, events)
	r.await("every event is there", func() bool { return r.one("SELECT count(*)::text FROM weir.event") == strconv.Itoa(events) })
	ingested := time.Since(began)
	const free, waits = "args->>'observer' = 'free'", "args->>'observer' = 'waits'"
	r.await("what goes on without Redis", func() bool { return r.jobs("state = 'completed' AND "+free) == strconv.Itoa(2*events) })
	took := time.Since(began)
	t.Logf("events in after %s, deliveries after %s; p99 from the start of an attempt to its completion: %s ms", ingested, took,
		r.one(`SELECT (1000 * percentile_disc(0.99) WITHIN GROUP (ORDER BY extract(epoch FROM finalized_at - attempted_at)))::int::text
			FROM job WHERE state = 'completed' AND `+free))
	if run.metric(t, "weir_dedup_lookups_total", `result="unavailable"`) < events {
		t.Error("not every look is counted as unavailable")
	}
	if ingested > 5*time.Second {
		t.Errorf("the stream was held up for %s", ingested)
	}
	began = time.Now()
	run.stop(t)
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("the worker took %s to stop", took)
	}
	if lost := r.jobs("state NOT IN ('available', 'scheduled') AND " + waits); lost != "0" {
		t.Errorf("%s deliveries that have to wait for Redis do not", lost)
	}
	if err := server.Process().Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	r.started(config)
	r.await("those that had to wait", func() bool { return r.jobs("state = 'completed' AND "+waits) == strconv.Itoa(events) })
}

// TestRetryOfWhatIsCompleted retries completed deliveries as a person does: they are sent again, also when Redis still holds the
// mark that they were made, and however often that is tried. One in the window of its own call is not.
func TestRetryOfWhatIsCompleted(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rc := newReceiver(t, nil)
	server := sandbox.TestRedis(t)
	r.started(fmt.Sprintf(`
redis: {url: %q, timeout: 5s}
outbound: {allow: [127.0.0.1]}
observers:
  plain: {entity: Order, actions: [{type: webhook, url: "%[2]s/plain"}]}
  windowed: {entity: Order, actions: [{type: webhook, url: "%[2]s/windowed", dedup: {key: "{{ entity_id }}", window: 1h}}]}
`, server.URL(), rc.URL))
	r.order(`{}`)
	completed := func(what string) {
		t.Helper()
		r.await(what, func() bool { return r.jobs("state = 'completed'") == "2" })
	}
	completed("the first deliveries")
	options, err := redis.ParseURL(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	client := redis.NewClient(options)
	t.Cleanup(func() { _ = client.Close() })
	keys := func(pattern string) []string {
		t.Helper()
		found, err := client.Keys(t.Context(), pattern).Result()
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	r.await("the marks are gone", func() bool { return len(keys("*:once:*")) == 0 })
	r.press(t, retryButton, "args->>'observer' = 'plain'")
	r.await("it is sent again", func() bool { return len(rc.seen()) == 3 })
	completed("the second delivery")
	r.await("its mark is gone, too", func() bool { return len(keys("*:once:*")) == 0 })

	prefix := strings.TrimSuffix(keys("*:up")[0], "up")
	if err := client.Set(t.Context(), prefix+"once:"+rc.seen()[2].id, 200, time.Hour).Err(); err != nil {
		t.Fatal(err)
	}
	r.press(t, retryButton, "args->>'observer' = 'plain'")
	completed("the third delivery")
	r.await("it is sent once more", func() bool { return len(rc.seen()) == 4 })

	r.press(t, retryButton, "args->>'observer' = 'windowed'")
	completed("the one in its window")
	if n := len(rc.seen()); n != 4 {
		t.Errorf("%d calls, want 4", n)
	}
}

// flush empties a Redis.
func flush(t *testing.T, server *sandbox.Redis) {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", server.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	answer := make([]byte, len("+OK"))
	if _, err = io.WriteString(conn, "FLUSHALL\r\n"); err == nil {
		_, err = io.ReadFull(conn, answer)
	}
	if err != nil || string(answer) != "+OK" {
		t.Fatalf("FLUSHALL: %q, %v", answer, err)
	}
}

// latency is how long attempts took, with what they ask of Redis.
func (r *rig) latency(where string) string {
	r.t.Helper()
	return r.one(`SELECT format('%s and %s ms', percentile_disc(0.5) WITHIN GROUP (ORDER BY d), percentile_disc(0.99) WITHIN GROUP (ORDER BY d))
		FROM (SELECT round(1000 * extract(epoch FROM finalized_at - attempted_at)) AS d FROM job WHERE ` + where + `) one`)
}

// TestInvalidationReachesEveryWorker: a result for a customer that every worker keeps, and an event that makes it old.
func TestInvalidationReachesEveryWorker(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	version := make(chan int, 1)
	version <- 0
	rc := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) {
		n := <-version + 1
		version <- n
		fmt.Fprintf(w, "version %d", n)
	})
	config := fmt.Sprintf(`
redis: {url: %q, timeout: 5s}
outbound: {allow: [127.0.0.1]}
observers:
  lookup:
    entity: Order
    actions:
      - {type: webhook, url: %q, cache: {key: "{{ customer }}", ttl: 1h, tags: ["customer:{{ customer }}"]}}
  customer-updated:
    entity: Customer
    event_type: UPDATE
    actions:
      - {type: cache, tags: ["customer:{{ number }}"]}
`, postgres.Redis(t).URL(), rc.URL)
	workers := []*running{r.started(config), r.started(config)}
	ordered := 0
	order := func(n int) {
		t.Helper()
		r.exec(`INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data)
			SELECT 'Order', 'INSERT', gen_random_uuid(), '{"customer": "X"}' FROM generate_series(1, $1::int)`, n)
		ordered += n
		r.await("the deliveries", func() bool { return r.jobs("kind = 'weir_webhook' AND state = 'completed'") == strconv.Itoa(ordered) })
	}
	for round := 1; round <= 3; round++ {
		had := []float64{workers[0].metric(t, "weir_cache_lookups_total", fromMemory), workers[1].metric(t, "weir_cache_lookups_total", fromMemory)}
		r.await("both workers keep the result", func() bool {
			order(10)
			return workers[0].metric(t, "weir_cache_lookups_total", fromMemory) > had[0] && workers[1].metric(t, "weir_cache_lookups_total", fromMemory) > had[1]
		})
		want := fmt.Sprintf("version %d", round)
		if n := len(rc.seen()); n != round {
			t.Fatalf("%d calls, expected %d", n, round)
		}
		if got := r.one("SELECT metadata->'output'->>'body' FROM job WHERE kind = 'weir_webhook' ORDER BY id DESC LIMIT 1"); got != want {
			t.Fatalf("the result is %q, expected %q", got, want)
		}
		r.exec(`INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data)
			VALUES ('Customer', 'UPDATE', gen_random_uuid(), '{"number": "X"}')`)
		r.await("the invalidation", func() bool { return r.jobs("kind = 'weir_cache' AND state = 'completed'") == strconv.Itoa(round) })
		last := r.one("SELECT max(id)::text FROM job")
		order(20)
		want = fmt.Sprintf("version %d", round+1)
		if old := r.jobs("kind = 'weir_webhook' AND id > " + last + " AND metadata->'output'->>'body' <> '" + want + "'"); old != "0" {
			t.Fatalf("%s deliveries after the invalidation have the old result", old)
		}
	}
}

const fromMemory = `result="memory"`
