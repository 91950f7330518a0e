package capture_test

import (
	"context"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/internal/capture"
)

// say emits a message as an application does.
func (r *rig) say(content string) {
	r.t.Helper()
	r.exec("SELECT pg_logical_emit_message(true, 'weir', $1::text)", content)
}

func TestMessages(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.cfg.ChangeLog = &capture.Table{} // an outbox without a table
	r.streaming(r.start("one"))
	tests := []struct{ content, entity, id, data, more string }{
		{
			`{"entity_type": "Order", "entity_id": "7", "data": {"total": 100.10, "n": 9007199254740993123}}`, "Order", "7",
			`{"total":100.10,"n":9007199254740993123}`, `[null, null, null, null]`,
		},
		{
			`{"object_type": "Order", "entity_id": 12, "tenant_id": "t", "user_id": 90071992547409931, "duration_ms": 5,
				"updated_fields": ["a"], "trace_context": {"traceparent": "x"}, "actor_type": "ai_agent", "schema_version": "2"}`,
			"Order", "12", `{}`, `["t", "90071992547409931", 5, ["a"]]`,
		},
		{`{"total": 1, "entity_type": 5}`, "message", "", `{"total":1,"entity_type":5}`, `[null, null, null, null]`},
		{`[1, 2.50]`, "message", "", `[1,2.50]`, `[null, null, null, null]`},
		{`null`, "message", "", `{}`, `[null, null, null, null]`},
		{`{"entity_type": "A", "entity_id": null, "data": null}`, "A", "", `{}`, `[null, null, null, null]`},
	}
	r.exec("BEGIN")
	for _, tt := range tests {
		r.say(tt.content)
	}
	r.exec("COMMIT")
	r.exec("BEGIN")
	r.say(`{"rolled": "back"}`)
	r.exec("SELECT pg_logical_emit_message(false, 'weir', '{}'), pg_logical_emit_message(true, 'other', '{}')")
	r.exec("ROLLBACK")
	r.say(`{"last": 1}`)
	r.await("the last", func() bool { return r.one("SELECT count(*)::text FROM ingested WHERE data LIKE '%last%'") == "1" })
	rows, _ := r.conn.Query(t.Context(), `
		SELECT array[e ->> 'event_type', e ->> 'entity_type', e ->> 'entity_id', (e -> 'data')::text, reason, (e ->> 'id') || (e ->> 'lsn'),
			jsonb_build_array(e -> 'tenant_id', e -> 'user_id', e -> 'duration_ms', e -> 'updated_fields')::text]
		  FROM (SELECT *, event::json AS e FROM ingested) i ORDER BY n`)
	got, err := pgx.CollectRows(rows, pgx.RowTo[[]string])
	if err != nil || len(got) != len(tests)+1 {
		t.Fatalf("%v, %d events: %q", err, len(got), got)
	}
	ids := map[string]bool{}
	for i, tt := range tests {
		if want := []string{"CUSTOM", tt.entity, tt.id, tt.data, ""}; strings.Join(got[i][:5], "|") != strings.Join(want, "|") || got[i][6] != tt.more {
			t.Errorf("%s:\n got %q\nwant %q, %s", tt.content, got[i], want, tt.more)
		}
		ids[got[i][5]] = true
	}
	if len(ids) != len(tests) {
		t.Errorf("%d messages of a transaction have %d ids", len(tests), len(ids))
	}
	if n := r.metric("weir_capture_stray_messages_total"); n != 1 {
		t.Errorf("%v strays are counted, want 1", n)
	}
}

// metric is a counter's or a gauge's value, the first of its series.
func (r *rig) metric(name string) float64 {
	r.t.Helper()
	families, err := r.reg.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetCounter().GetValue() + f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	return 0
}

// What is no event by its content never stops the stream.
func TestBadMessages(t *testing.T) {
	t.Parallel()
	r := rigOn(t, databaseWith(t, "SQL_ASCII"))
	r.streaming(r.start("one"))
	for content, want := range map[string]string{
		`{"a":`:                                 "is not JSON",
		``:                                      "is not JSON",
		`{} {}`:                                 "is not JSON",
		`{"entity_type": ""}`:                   "entity_type is empty",
		`{"entity_type": "A", "tenant_id": {}}`: "tenant_id is neither a text nor a number",
		`{"entity_type": "A", "duration_ms": 1.5}`:          "duration_ms is no integer",
		`{"entity_type": "A", "updated_fields": "a"}`:       "updated_fields is no list",
		`{"entity_type": "A", "data": {"t": "` + "\xe4\"}}": "is not UTF-8",
	} {
		r.exec("TRUNCATE ingested")
		if _, err := r.conn.PgConn().Exec(context.WithoutCancel(t.Context()),
			`SELECT pg_logical_emit_message(true, 'weir', '`+content+`')`).ReadAll(); err != nil {
			t.Fatal(err)
		}
		r.await(want, func() bool { return r.one("SELECT count(*)::text FROM ingested") == "1" })
		if got := r.one("SELECT type || reason FROM ingested"); !strings.Contains(got, want) || !strings.HasPrefix(got, "CUSTOM") {
			t.Errorf("%s: %s, want %s", content, got, want)
		}
	}
}
