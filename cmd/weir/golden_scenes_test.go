package main

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/fraiseql/weir/internal/cache"
	"github.com/fraiseql/weir/internal/ops"
)

const (
	readerID  = "db-1-4711-1a2b3c4d"
	standbyID = "db-2-4712-5e6f7a8b"
)

var goldenScenes = []goldenScene{
	{"empty", emptyScene, []goldenCall{
		{args: "migrate status"},
		{args: "migrate up", json: true},
		{args: "status", json: true},
		{args: "dlq list"},
		{args: "dlq stats"},
		{args: "search"},
		{args: "debug-event --last 1"},
		{args: "breaker list"},
		{args: "adopt"},
		{args: "accept-gap"},
	}},
	{"shop", shopScene("shop"), []goldenCall{
		{name: "root-help", args: "--help"},
		{args: "version", json: true},
		{args: "migrate status", json: true},
		{args: "status", json: true},
		{args: "status", call: call{color: true}},
		{args: "doctor", json: true},
		{args: "dlq list", json: true},
		{args: "dlq list", call: call{color: true}},
		{name: "dlq-list-page", args: "dlq list --limit 1"},
		{args: "dlq show 1", json: true, wide: "a value of the event"},
		{args: "dlq stats", json: true},
		{args: "search status:shipped", json: true},
		{args: "search status:shipped", call: call{color: true}},
		{args: "debug-event --last 2", json: true, wide: "a value of the event"},
		{name: "debug-event-verbose", args: "debug-event --last 1 -v"},
		{args: "breaker list", json: true},
		{args: "replay --from 30d --dry-run", json: true},
		{args: "test order-shipped --event testdata/event.json", json: true},
		{name: "test-no-match", args: "test order-large --event-id 1087ebe8-1ef8-5d97-8873-735b4949004d"},
		{args: "validate-config", json: true},
		{name: "validate-config-mistakes", args: "validate-config testdata/mistakes.yaml", code: 3, json: true},
		{name: "attach-dry-run", args: "attach orders --entity Order --dry-run", wide: "SQL to read or run"},
		{args: "attach orders --entity Order", json: true},
		{name: "detach-dry-run", args: "detach orders --dry-run"},
		{args: "detach orders", json: true},
		{args: "history reindex", json: true},
		{name: "history-forget-dry-run", args: "history forget --entity Order --id order-1 --dry-run"},
		{args: "metrics", json: true},
		{name: "wrong-command", args: "statsu", code: 2},
		{name: "wrong-flag", args: "dlq list --since yesterday", code: 2},
	}},
	{"acts", shopScene("acts"), []goldenCall{
		{name: "dlq-retry-dry-run", args: "dlq retry 1 99 --dry-run", code: 1, json: true},
		{name: "dlq-remove-dry-run", args: "dlq remove 1 --dry-run", json: true},
		{args: "dlq retry 1"},
		{args: "dlq remove 2 --yes"},
		{args: "dlq retry-all", json: true},
		{args: "breaker open erp.example.org --for 30m --reason maintenance", json: true},
		{args: "breaker close erp.example.org", json: true},
		{args: "history forget --entity Order --id order-1 --yes", json: true},
		{name: "pause-endpoint", args: "pause --endpoint crm.example.org --reason moving", json: true},
		{name: "pause-observer", args: "pause --observer order-shipped --observer order-mailed"},
		{args: "pause"},
		{name: "pause-stream", args: "pause --stream --yes", json: true},
		{name: "pause-again", args: "pause --stream --yes"},
		{name: "status-paused", args: "status"},
		{name: "resume-observer", args: "resume --observer order-shipped"},
		{args: "resume", json: true},
		{name: "resume-stream", args: "resume --stream"},
		{name: "pause-unknown", args: "pause --endpoint erp", code: 2},
		{args: "migrate down --yes", json: true},
	}},
	{"streaming", streamingScene, []goldenCall{{args: "status", json: true}}},
	{"gap", gapScene, []goldenCall{
		{args: "status", code: 5},
		{name: "accept-gap-dry-run", args: "accept-gap --dry-run", json: true},
		{name: "adopt-gap", args: "adopt"},
		{args: "accept-gap --yes"},
		{name: "status-recovering", args: "status"},
	}},
	{"refused", refusedScene, []goldenCall{
		{args: "status", json: true},
		{name: "adopt-dry-run", args: "adopt --dry-run", json: true, wide: "a query to copy"},
		{args: "adopt --yes", wide: "a query to copy"},
		{name: "status-adopted", args: "status"},
	}},
	{"lost", lostScene, []goldenCall{
		{args: "status"},
		{args: "adopt"},
	}},
	{"cache", cacheScene, []goldenCall{
		{args: "cache stats", json: true},
		{args: "cache clear --tag total:1", json: true},
	}},
}

// golden is the environment of a scene. Its slot has a name of its own: slots belong to the server.
func golden(databaseURL, scene string) map[string]string {
	return map[string]string{
		"DATABASE_URL": databaseURL, "SLOT": "weir_" + scene, "WEIR_CONFIG": "testdata/weir.yaml", "ERP_SECRET": "whsec_MfKQ9r8GKYqrTwjU",
	}
}

func emptyScene(t *testing.T) map[string]string {
	return golden(postgres.EmptyDatabase(t), "empty")
}

// old is the age of everything in the scenes: its text is the same for half an hour.
const old = "interval '3 days 2 hours 30 minutes'"

// checkpointed is a database that workers have been at until long ago.
func checkpointed(t *testing.T, scene string) (map[string]string, *pgx.Conn) {
	t.Helper()
	url, db := database(t)
	env := golden(url, scene)
	exec(t, db, `CREATE PUBLICATION weir FOR TABLE core.tb_entity_change_log WITH (publish = 'insert')`)
	exec(t, db, `SELECT pg_create_logical_replication_slot($1, 'pgoutput')`, env["SLOT"])
	exec(t, db, `
		INSERT INTO weir.checkpoint (system_identifier, timeline, installation, slot, lsn, epoch, owner, owned_since, events, commit_time,
		                             created_at, updated_at, began_at)
		SELECT c.system_identifier::text, 1, 'production', s.slot_name, s.confirmed_flush_lsn, 3, $2, now() - `+old+`, 42, now() - `+old+`,
		       now() - `+old+`, now() - `+old+`, now() - `+old+`
		  FROM pg_control_system() c, pg_replication_slots s WHERE s.slot_name = $1`, env["SLOT"], readerID)
	return env, db
}

// shopScene is a database whose workers have ended: with events, deliveries in many states, breakers and dead letters.
func shopScene(name string) func(*testing.T) map[string]string {
	return func(t *testing.T) map[string]string {
		env, db := checkpointed(t, name)
		paid := at(1, 0, `{"status":"paid","customer":"Acme","total":1500.10,"note":"`+strings.Repeat("please ring twice, ", 8)+`"}`)
		shipped := at(2, 0, `{"status":"shipped","customer":"Acme","total":100.10,"big":9007199254740993123}`)
		record(t, db, paid, shipped)
		someJob(t, db, paid, "order-large", "discarded", `{"output": {"result": "dead", "status": 503, "duration_ms": 12, "response_body": "try later"},
			"weir_dead_letter": "attempts_exhausted"}`)
		someJob(t, db, shipped, "order-shipped", "discarded", `{"weir_dead_letter": "condition_error"}`)
		someJob(t, db, shipped, "order-mailed", "retryable", "{}")
		someJob(t, db, shipped, "order-logged", "completed", delivered)
		movedOutcome(t, db, paid, "order-archived", "delivered", "")
		exec(t, db, `UPDATE weir.river_job SET created_at = now() - `+old+`, attempted_at = now() - `+old+`,
			finalized_at = CASE WHEN finalized_at IS NOT NULL THEN now() - `+old+` END, scheduled_at = now() + `+old+`,
			queue = 'erp.example.org'`)
		exec(t, db, `UPDATE weir.river_job SET errors = ARRAY[jsonb_set(errors[1], '{at}', to_jsonb(now() - `+old+`))] WHERE errors[1] IS NOT NULL`)
		exec(t, db, `UPDATE weir.event SET ingested_at = now() - `+old)
		exec(t, db, `UPDATE weir.outcome SET started_at = now() - `+old+`, finished_at = now() - `+old)
		inPostgres(t, env["DATABASE_URL"])
		exec(t, db, `UPDATE weir.history SET updated_at = now() - `+old)
		exec(t, db, `
			INSERT INTO weir.endpoint (name, state, changed_at, changed_by, reason, open_until, manual) VALUES
				('crm.example.org', 'closed', now() - `+old+`, '', '', NULL, false),
				('erp.example.org', 'open', now() - `+old+`, $1, '5 of 8 calls failed: 503 Service Unavailable', now() + `+old+`, false),
				('smtp', 'half-open', now() - `+old+`, $1, 'a probe', NULL, false)`, standbyID)
		exec(t, db, `INSERT INTO weir.gone (observer, action, target, since) VALUES ('order-shipped', 'sms', 'x', now() - `+old+`)`)
		exec(t, db, `CREATE TABLE orders (id uuid PRIMARY KEY, tenant_id uuid, total numeric)`)
		text, err := os.ReadFile("testdata/scrape.txt")
		check(t, err)
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(text) }))
		t.Cleanup(server.Close)
		env["LISTEN"] = strings.TrimPrefix(server.URL, "http://")
		return env
	}
}

// streamingScene has a worker that reads, one that stands by, and one that is dead. The reader is a real session of the server;
// what it says of itself is made up.
func streamingScene(t *testing.T) map[string]string {
	env, db := checkpointed(t, "streaming")
	exec(t, db, `
		INSERT INTO weir.worker (client_id, hostname, pid, version, started_at, seen_at, stream_at, config_loaded_at, config_error) VALUES
			($1, 'db-1', 4711, 'v1.2.0', now() - `+old+`, now() + interval '1 hour', now() + interval '1 hour', now() - `+old+`, ''),
			($2, 'db-2', 4712, 'v1.2.0', now() - `+old+`, now() + interval '1 hour', NULL, now() - `+old+`,
			 'weir.yaml:7:5: unknown key "ulr": did you mean url?'),
			('db-3-4713-9c0d1e2f', 'db-3', 4713, 'v1.1.0', now() - `+old+`, now() - `+old+`, NULL, now() - `+old+`, '')`,
		readerID, standbyID)
	cfg, err := pgconn.ParseConfig(env["DATABASE_URL"])
	check(t, err)
	cfg.RuntimeParams["replication"], cfg.RuntimeParams["application_name"] = "database", "weir:"+readerID
	reader, err := pgconn.ConnectConfig(t.Context(), cfg)
	check(t, err)
	t.Cleanup(func() { _ = reader.Conn().Close() }) // Close would wait for the server, which waits for us
	check(t, pglogrepl.StartReplication(t.Context(), reader, env["SLOT"], 0, pglogrepl.StartReplicationOptions{
		PluginArgs: []string{"proto_version '1'", "publication_names 'weir'"},
	}))
	return env
}

func gapScene(t *testing.T) map[string]string {
	env, db := checkpointed(t, "gap")
	exec(t, db, `UPDATE weir.checkpoint SET state = 'gap', recovery_rows = 1200,
		problem = 'slot weir_gap does not exist any more, and source.tables were captured through it'`)
	return env
}

// refusedScene is a restored dump: another cluster.
func refusedScene(t *testing.T) map[string]string {
	env, db := checkpointed(t, "refused")
	exec(t, db, `SELECT pg_drop_replication_slot($1)`, env["SLOT"])
	exec(t, db, `UPDATE weir.checkpoint SET system_identifier = '7300000000000000000', server = 'port 5432', database_system = '7300000000000000000'`)
	return env
}

// lostScene has no slot any more.
func lostScene(t *testing.T) map[string]string {
	env, db := checkpointed(t, "lost")
	exec(t, db, `SELECT pg_drop_replication_slot($1)`, env["SLOT"])
	return env
}

// cacheScene has the results of a worker and its figures, told by the worker's own code.
func cacheScene(t *testing.T) map[string]string {
	env, db := checkpointed(t, "cache")
	exec(t, db, `INSERT INTO weir.worker (client_id, hostname, pid, version, seen_at) VALUES
		($1, 'db-1', 4711, 'v1.2.0', now() + interval '1 hour'), ($2, 'db-2', 4712, 'v1.2.0', now() + interval '1 hour')`, readerID, standbyID)
	server := postgres.Redis(t)
	env["REDIS_URL"], env["WEIR_CONFIG"] = server.URL(), "testdata/cache.yaml"
	log := slog.New(slog.NewTextHandler(testLog{t}, nil))
	var redis cache.Config
	check(t, yaml.Unmarshal([]byte("timeout: 5s\nurl: "+server.URL()), &redis))
	r := cache.Open(redis, log, prometheus.NewRegistry())
	t.Cleanup(func() { check(t, r.Close()) })
	check(t, ops.NameKeys(t.Context(), db, r, "production"))
	remote := cache.NewRemote(r)
	until(t, "a worker that hears of invalidations before it keeps a result, so that it has them in its memory", func() bool {
		_, err := remote.Invalidate(t.Context(), cache.Selection{All: true})
		check(t, err)
		return lookedUp(t, cache.NewResults(r, cache.ResultsOptions{
			ClientID: readerID, Logger: log, Registerer: prometheus.NewRegistry(),
		}))
	})
	until(t, "the figures", func() bool {
		stats, err := remote.WorkerStats(t.Context(), []string{readerID})
		check(t, err)
		return stats[readerID].HitsMemory == 2
	})
	return env
}

// lookedUp stores two results and finds each once more: in memory, or the worker has begun too late and is stopped.
func lookedUp(t *testing.T, results *cache.Results) bool {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); results.Run(ctx) }()
	stop := func() { cancel(); <-ended }
	t.Cleanup(stop)
	for _, total := range []string{"1", "2"} {
		key := cache.Key{Observer: "hook", Action: "get", Key: "order-" + total}
		look := func() cache.Lookup { return results.Get(t.Context(), key, []string{"total:" + total}, time.Minute, 0) }
		look().Fill.Store(t.Context(), []byte("a result"), time.Hour)
		if found := look().Found; found != cache.Hit {
			t.Fatalf("a result that was stored is not found: %v", found)
		}
	}
	if results.Stats().HitsMemory < 2 {
		stop()
		return false
	}
	return true
}
