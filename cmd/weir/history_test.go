package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/internal/event"
)

// traces are the tables of schemas weir and core that have a text in some column.
func traces(t *testing.T, db *pgx.Conn, text string) string {
	t.Helper()
	rows, err := db.Query(t.Context(), `
		SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname IN ('weir', 'core') AND c.relkind = 'r' ORDER BY 1`)
	check(t, err)
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	check(t, err)
	if len(tables) < 10 {
		t.Fatalf("only %v", tables)
	}
	var found []string
	for _, table := range tables {
		var n int
		check(t, db.QueryRow(t.Context(), "SELECT count(*) FROM "+table+" x WHERE strpos(x::text, $1) > 0", text).Scan(&n))
		if n > 0 {
			found = append(found, fmt.Sprintf("%s %d", table, n))
		}
	}
	return strings.Join(found, ", ")
}

// customers are two entities, each with jobs in all states, outcomes, documents and a row of the change log.
func customers(t *testing.T, db *pgx.Conn) (forgotten, kept uuid.UUID) {
	t.Helper()
	forgotten, kept = uuid.New(), uuid.New()
	for i, id := range []uuid.UUID{forgotten, kept} {
		of := func(n int64) *event.Event {
			e := at(n+int64(100*i), 0, fmt.Sprintf(`{"customer":%q,"name":"Ada"}`, id))
			e.EntityType, e.EntityID = "Customer", id.String()
			return e
		}
		record(t, db, of(1), of(2))
		for _, state := range []string{"available", "scheduled", "retryable", "pending", "completed", "discarded"} {
			someJob(t, db, of(1), state, state, "{}")
		}
		someJob(t, db, of(1), "marked", "cancelled", `{"weir_dead_letter": "refused"}`)
		movedOutcome(t, db, of(2), "hook", "delivered", "")
		movedOutcome(t, db, of(2), "mailer", "dead", "no such customer: "+id.String())
		exec(t, db, `INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data)
			VALUES ('Customer', 'INSERT', $1, jsonb_build_object('id', $1::uuid))`, id)
	}
	record(t, db, at(999, 0, fmt.Sprintf(`{"customer":%q}`, kept)))
	return forgotten, kept
}

func TestForget(t *testing.T) {
	t.Parallel()
	url, db := database(t)
	gone, kept := customers(t, db)
	inPostgres(t, url)
	before := traces(t, db, kept.String())
	forget := func(args ...string) result {
		t.Helper()
		return weir(t, append([]string{"history", "forget", "--entity", "Customer", "--database-url", url, "--id"}, args...)...)
	}
	all := []string{"  2 events\n", "  2 outcomes\n", "  7 jobs, of them 4 unfinished and 2 dead letters\n", "  7 documents of the history"}
	forget(gone.String(), "--dry-run").exits(0).says(append(all, "would be removed", "nothing was changed", "1 row of the change log")...)
	if got := traces(t, db, gone.String()); !strings.Contains(got, "weir.river_job 7") {
		t.Fatalf("after a dry run: %s", got)
	}
	no := call{args: []string{
		"history", "forget", "--entity", "Customer", "--id", gone.String(), "--change-log", "--database-url", url,
	}, stdin: "n\n"}
	no.run(t).exits(1).complains("remove 2 events, 2 outcomes and 7 jobs (4 unfinished), and 1 row of the change log", "[y/N]")

	forget(gone.String()).exits(0).says(append(all, "removed", "receipt 1 in weir.forgotten", "--change-log removes them")...)
	if got, want := traces(t, db, gone.String()), "core.tb_entity_change_log 1, weir.forgotten 1"; got != want {
		t.Errorf("traces: %s, want %s", got, want)
	}
	forget(gone.String(), "--change-log", "--format", "json").exits(0).
		says(`"receipt": 2`, `"events": 0`, `"change_log": 1`, `"change_log_removed": true`, `"elasticsearch": null`, `"events": 0`)
	if got, want := traces(t, db, gone.String()), "weir.forgotten 2"; got != want {
		t.Errorf("traces: %s, want %s", got, want)
	}
	if got := traces(t, db, kept.String()); got != before {
		t.Errorf("the other customer has %s, had %s", got, before)
	}
	weir(t, "search", gone.String(), "--database-url", url).exits(0).says("no events match")
	forget(kept.String(), "--dry-run").exits(0).says("1 event of other entities that mention the id")
	exec(t, db, "UPDATE weir.history SET event_seq = 7 WHERE store = 'elasticsearch'")
	forget(kept.String(), "--dry-run").exits(0).complains("an Elasticsearch once had the history")
}

func TestHistoryWrongUse(t *testing.T) {
	t.Parallel()
	for _, args := range []string{
		"forget", "forget --entity Customer", "forget --id 1", "forget --entity Customer --id", "forget Customer 1",
		"reindex --from yesterday", "reindex --to 24h", "reindex --from 2026-02-01 --to 2026-01-01", "reindex --store redis", "reindex all",
	} {
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			fields := strings.Fields(args)
			weir(t, append([]string{"history"}, fields...)...).exits(2).complains("See weir history " + fields[0] + " --help.")
		})
	}
	weir(t, "history").exits(2).complains("weir history needs one of its commands: reindex, forget")
}

func TestReindexInPostgres(t *testing.T) {
	t.Parallel()
	url, db := database(t)
	customers(t, db)
	reindex := func(args ...string) result {
		t.Helper()
		return weir(t, append([]string{"history", "reindex", "--database-url", url}, args...)...)
	}
	reindex("-v").exits(0).says("stored 5 events with 10 finished deliveries of 1 day\n").complains("5 of 5 events")
	reindex("--from", "2026-01-01", "--to", "2026-01-31").exits(0).says("stored 0 events with 0 finished deliveries of 0 days\n")
	call{args: []string{"history", "reindex", "--database-url", url, "--format", "json"}, stdin: "x"}.run(t).exits(0).
		says(`"events": 5`, `"refused": 0`).complains("100 %  5 of 5 events", " \r")
	weir(t, "search", "--outcome", "dead", "--database-url", url).exits(0).says("no such customer")
}

// A document of the history that Elasticsearch refused.
func TestDeadLetterOfTheHistory(t *testing.T) {
	t.Parallel()
	url, db := database(t)
	e := shippedOrder(1)
	record(t, db, e)
	insert := func(observer, action string) (id string) {
		t.Helper()
		var n int64
		check(t, db.QueryRow(t.Context(), `
			INSERT INTO weir.river_job (kind, queue, state, attempt, max_attempts, args, metadata, errors, finalized_at)
			VALUES ('weir_document', 'weir_document', 'cancelled', 1, 3,
			        jsonb_build_object('observer', $5::text, 'action', $6::text, 'entity', 'Order', 'entity_id', $1::text,
			                           'event_type', 'UPDATE', 'event_id', $2::text, 'lsn', $3::text, 'tx_index', 1,
			                           'day', $4::text, 'pk', 1, 'reason', 'mapping conflict'),
			        '{"weir_dead_letter": "document_refused"}', '{}', now()) RETURNING id`,
			e.EntityID, e.ID.String(), e.LSN.String(), e.Timestamp.String()[:10], observer, action).Scan(&n))
		return fmt.Sprint(n)
	}
	ofEvent, ofDelivery := insert("", ""), insert("hook", "notify")
	weir(t, "dlq", "list", "--database-url", url).exits(0).
		says("history  ", "history: hook/notify", "document_refused", "mapping conflict")
	for _, id := range []string{ofEvent, ofDelivery} {
		shown := weir(t, "dlq", "show", id, "--database-url", url).exits(0).
			says("history", "UPDATE Order order-1", "document_refused", `"status": "shipped"`, "weir dlq retry "+id)
		if strings.Contains(shown.stdout, "webhook-id") {
			t.Errorf("a document has no webhook-id:\n%s", shown.stdout)
		}
	}
	weir(t, "debug-event", e.ID.String(), "--database-url", url).exits(0).says("history: hook/notify", "dead letter")
}
