package worker_test

import (
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/fraiseql/weir/internal/sandbox"
)

// movedElsewhere are the metrics that the run below cannot move in its short time, by the test that does.
var movedElsewhere = map[string]string{
	"weir_cache_waits_total":           "../cache/results_test.go TestOneCallForManyMisses",
	"weir_cache_not_stored_total":      "../cache/results_test.go TestTooLarge",
	"weir_elasticsearch_retries_total": "../index/elastic_test.go TestElasticsearchRepeatsWhatWasTooMuch",
	"weir_history_refused_total":       "history_test.go TestHistoryOfConflicts",
	"weir_jobs_moved_total":            "../jobs/housekeeping_test.go TestMoverLeavesWhatIsNeeded",
	"weir_partitions_dropped_total":    "../jobs/housekeeping_test.go TestPartitionsAreMadeAndDropped",
	"weir_slot_safe_wal_bytes":         "../capture/slothealth_test.go TestSlotHealth",
	"weir_paused":                      "pause_test.go TestPauseAllDeliveries",
	"weir_trace_spans_dropped_total":   "../telemetry/provider_test.go TestCollectorHangs",
	"weir_trace_spans_exported_total":  "../telemetry/provider_test.go TestCollectorAway",
	"weir_build_info":                  "metrics_doc_test.go TestMetricsDocumentation", // its value is 1
}

// movement is what several scrapes have shown of the metrics.
type movement struct {
	first map[string]float64
	moved map[string]bool
}

var sample = regexp.MustCompile(`(?m)^(weir_[a-z_]+?)(_count|_sum|_bucket)?(\{.*\})? (\S+)$`)

// see adds a scrape. A metric has moved when the sum of its series, or the number of its observations, is another, or is there
// at last and not 0.
func (m *movement) see(t *testing.T, text string) {
	t.Helper()
	sums := map[string]float64{}
	for _, s := range sample.FindAllStringSubmatch(text, -1) {
		if s[2] == "_sum" || s[2] == "_bucket" {
			continue
		}
		value, err := strconv.ParseFloat(s[4], 64)
		if err != nil {
			t.Fatal(err)
		}
		sums[s[1]] += value
	}
	if m.first == nil {
		m.first, m.moved = sums, map[string]bool{}
	}
	for name, sum := range sums {
		if sum != m.first[name] {
			m.moved[name] = true
		}
	}
}

// documented are the names in the worker's part of docs/metrics.md, which another test holds against what is registered.
func documented(t *testing.T) []string {
	t.Helper()
	_, part, _ := strings.Cut(read(t, metricsDoc), workerPart)
	part, _, ok := strings.Cut(part, workerPartEnd)
	if !ok {
		t.Fatal("docs/metrics.md has no part of the worker")
	}
	var names []string
	for _, row := range regexp.MustCompile("(?m)^\\| `(weir_[a-z_]+)`").FindAllStringSubmatch(part, -1) {
		names = append(names, row[1])
	}
	return names
}

// moving is a worker with everything that it can have, of which everything can be taken away.
type moving struct {
	*rig
	*movement
	test    *testing.T
	rc      *receiver
	redis   *sandbox.Redis
	elastic *relay
	path    string
	w       *process
}

func newMoving(t *testing.T) *moving {
	t.Helper()
	m := &moving{rig: newRig(t), movement: &movement{}, test: t, redis: sandbox.TestRedis(t)}
	m.rc = newReceiver(t, func(w http.ResponseWriter, req *http.Request) {
		switch req.URL.Path {
		case "/gone":
			w.WriteHeader(http.StatusGone)
		case "/bad":
			w.WriteHeader(http.StatusBadRequest)
		case "/down":
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	elastic, through := newRelay(t, postgres.Elasticsearch(t))
	m.elastic = elastic
	m.path = m.write(fmt.Sprintf(`
installation: %s
outbound: {allow: ["127.0.0.0/8"]}
redis: {url: %q}
elasticsearch: {urls: [%q]}
history: {store: both}
endpoints:
  %[4]s: {rate_limit: 100/s, breaker: off}
  down: {breaker: {min_requests: 2, open_for: 5m}}
observers:
  good:
    entity: Order
    actions: [{type: webhook, url: "%[5]s/good", cache: {key: "{{ c }}", ttl: 1m, tags: [c]}, dedup: {key: "{{ entity_id }}", window: 1m}}]
  forget: {entity: Forget, actions: [{type: cache, tags: [c]}]}
  gone: {entity: Bad, actions: [{type: webhook, url: "%[5]s/gone"}]}
  alert: {entity: Bad, on_failure: alert, actions: [{type: webhook, url: "%[5]s/bad"}]}
  down: {entity: Bad, retry: {initial_delay: 100ms, max_delay: 1s}, actions: [{type: webhook, url: "%[5]s/down", endpoint: down}]}
  broken: {entity: Bad, condition: missing > 1, actions: [{type: log}]}
  large: {entity: Order, condition: total > 100, actions: [{type: log}]}
`, historyName(), m.redis.URL(), through, strconv.Quote(m.rc.endpoint(t)), m.rc.URL))
	m.w = m.spawn(t, m.path)
	m.scrape()
	return m
}

func (m *moving) scrape() { m.see(m.test, m.w.get(m.test, "/metrics").body) }

// until waits for metrics to have moved.
func (m *moving) until(names ...string) {
	m.t.Helper()
	still := func(name string) bool { return !m.moved[name] }
	for deadline := time.Now().Add(time.Minute); slices.ContainsFunc(names, still); m.scrape() {
		if time.Now().After(deadline) {
			m.t.Fatalf("of %q these do not move: %q", names, slices.DeleteFunc(slices.Clone(names), func(n string) bool { return !still(n) }))
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (m *moving) log(entity, data string) {
	m.t.Helper()
	m.exec(`INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data)
		VALUES ($1, 'INSERT', gen_random_uuid(), $2)`, entity, data)
}

// deliveries moves what has to do with events and what becomes of them.
func (m *moving) deliveries() {
	m.t.Helper()
	m.log("Order", `{"c": 1, "total": 500}`)
	m.await("the result", func() bool { return m.jobs("state = 'completed' AND args->>'observer' = 'good'") == "1" })
	m.log("Order", `{"c": 1, "total": 1}`)
	m.await("the result again", func() bool { return m.jobs("state = 'completed' AND args->>'observer' = 'good'") == "2" })
	m.until("weir_cache_entries", "weir_cache_bytes", "weir_cache_age_seconds", "weir_commit_to_delivery_seconds", "weir_misses_total")
	m.log("Forget", `{}`)
	for range 3 {
		m.log("Bad", `{}`)
	}
	m.log("Nobody's", `{}`)
	m.exec("SELECT pg_logical_emit_message(false, 'weir', '{}')")
	m.until("weir_cache_invalidated_total", "weir_dead_letters", "weir_alerts_total", "weir_actions_gone", "weir_condition_errors_total",
		"weir_breaker_state", "weir_breaker_transitions_total", "weir_unmatched_total", "weir_rate_limit_wait_seconds",
		"weir_capture_stray_messages_total")
	m.exec(`INSERT INTO weir.river_job (kind, queue, max_attempts, state, attempt, attempted_at, attempted_by, args, scheduled_at)
		VALUES ('weir_log', 'log', 22, 'running', 1, now(), '{ghost}', '{}', now() - interval '1 minute')`)
	m.until("weir_rescued_total", "weir_river_jobs", "weir_river_oldest_job_seconds")
}

// faults takes away what a worker uses, and moves what says so.
func (m *moving) faults() {
	m.t.Helper()
	good := read(m.test, m.path)
	rewrite(m.test, m.path, good+"nonsense: 1\n")
	m.until("weir_config_reloads_total", "weir_config_last_reload_successful", "weir_degraded")
	rewrite(m.test, m.path, good)

	if err := m.redis.Kill(); err != nil {
		m.t.Fatal(err)
	}
	m.elastic.lead("127.0.0.1:1") // where nobody listens
	m.elastic.cut()
	m.log("Order", `{"c": 2, "total": 1}`)
	m.until("weir_redis_up", "weir_redis_failures_total", "weir_elasticsearch_up", "weir_history_up", "weir_history_lag_seconds")

	tx, err := m.conn.Begin(m.t.Context())
	if err == nil {
		_, err = tx.Exec(m.t.Context(), "LOCK TABLE weir.checkpoint IN EXCLUSIVE MODE")
	}
	if err != nil {
		m.t.Fatal(err)
	}
	m.rigOfItsOwn().order(`{"c": 3, "total": 1}`)
	m.until("weir_capture_lag_bytes", "weir_capture_lag_seconds")
	if err := tx.Rollback(m.t.Context()); err != nil {
		m.t.Fatal(err)
	}
}

// rigOfItsOwn has another session.
func (m *moving) rigOfItsOwn() *rig { return rigOn(m.t, m.url) }

// lost takes the slot away, which is made up for, and the lease, which begins another life.
func (m *moving) lost() {
	m.t.Helper()
	m.await("the slot to be gone", func() bool {
		_, err := m.conn.Exec(m.t.Context(), `
			SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1 AND active`, m.slot)
		if err == nil {
			_, err = m.conn.Exec(m.t.Context(), "SELECT pg_drop_replication_slot($1)", m.slot)
		}
		return err == nil
	})
	m.until("weir_capture_reconnects_total", "weir_recoveries_total", "weir_recovery_rows_total", "weir_stream_owned", "weir_ready")
	m.await("the stream", func() bool {
		return m.one("SELECT count(*)::text FROM pg_replication_slots WHERE slot_name = $1 AND active", m.slot) == "1"
	})
	m.exec("DELETE FROM weir.worker")
	m.until("weir_lease_losses_total", "weir_stream_takeovers_total", "weir_workers", "weir_river_leader")
}

// gap is another worker, with a table of which a slot has lost something for good.
func (m *moving) gap(t *testing.T) {
	t.Helper()
	other := newRig(t)
	other.exec("CREATE TABLE things (id int PRIMARY KEY); INSERT INTO things VALUES (1)")
	w := other.spawn(t, other.write(other.tablesSource("{table: public.things, entity: Thing, id: id, snapshot: true}")+"observers: {}\n"))
	m.w = w
	m.until("weir_snapshot_rows_total")
	other.await("the slot to be gone", func() bool {
		_, err := other.conn.Exec(t.Context(), "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1 AND active", other.slot)
		if err == nil {
			_, err = other.conn.Exec(t.Context(), "SELECT pg_drop_replication_slot($1)", other.slot)
		}
		return err == nil
	})
	m.until("weir_stream_gap")
}

// TestEveryMetricMoves runs a worker through everything that it counts, scrapes it, and wants every metric of the reference to
// have moved. A new metric has to be moved here, or name the test that does.
func TestEveryMetricMoves(t *testing.T) {
	t.Parallel()
	m := newMoving(t)
	m.deliveries()
	m.faults()
	m.lost()
	m.gap(t)
	names := documented(t)
	for _, name := range names {
		if !m.moved[name] && movedElsewhere[name] == "" {
			t.Errorf("%s has not moved: move it here, or name the test that does", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(movedElsewhere)) {
		file, test, _ := strings.Cut(movedElsewhere[name], " ")
		text, err := os.ReadFile(filepath.FromSlash(file))
		if err != nil || !strings.Contains(string(text), "func "+test+"(t *testing.T)") {
			t.Errorf("%s: there is no %s in %s", name, test, file)
		}
		if !slices.Contains(names, name) {
			t.Errorf("%s is no metric any more", name)
		}
	}
}
