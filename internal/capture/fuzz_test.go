package capture_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"pgregory.net/rapid"

	"github.com/fraiseql/weir/internal/capture"
	"github.com/fraiseql/weir/internal/event"
)

var changeLog = capture.Table{Schema: "core", Name: "tb_entity_change_log"}

// decoding is a database of which the decoder gets the messages that a walsender would send it.
type decoding struct {
	conn *pgx.Conn
	slot string
	dec  capture.Decoder
}

func newDecoding(tb testing.TB) *decoding {
	tb.Helper()
	ctx := context.WithoutCancel(tb.Context())
	cfg, err := pgx.ParseConfig(postgres.Database(tb))
	if err != nil {
		tb.Fatal(err)
	}
	cfg.RuntimeParams["timezone"], cfg.RuntimeParams["datestyle"] = "UTC", "ISO" // as capture's sessions have it
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		tb.Fatal(err)
	}
	d := &decoding{conn: conn, slot: cfg.Database, dec: capture.NewDecoder(changeLog)}
	tb.Cleanup(func() { _ = conn.Close(ctx) })
	_, err = conn.Exec(ctx, `CREATE PUBLICATION weir FOR ALL TABLES`)
	if err == nil {
		_, err = conn.Exec(ctx, `SELECT pg_create_logical_replication_slot($1, 'pgoutput')`, d.slot)
	}
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

// messages are those of what has been committed since the last call.
func (d *decoding) messages(ctx context.Context) ([][]byte, error) {
	rows, _ := d.conn.Query(ctx, `
		SELECT data FROM pg_logical_slot_get_binary_changes($1, NULL, NULL, 'proto_version', '1', 'publication_names', 'weir', 'messages', 'true')`,
		d.slot)
	return pgx.CollectRows(rows, pgx.RowTo[[]byte])
}

// logRow is a row of the change log as a random writer fills it. nil is NULL.
type logRow struct {
	Type, Verb                 string
	ID                         *uuid.UUID
	Data, Before, Trace, Extra *string
	Updated                    []*string
	Tenant, ActingFor          *uuid.UUID
	Contact, Seq               *int64
	Duration                   *int32
	Version                    *string
	Created                    time.Time
}

func drawRow(t *rapid.T) logRow {
	text := rapid.OneOf(rapid.String(), rapid.StringMatching(`[ "'\\{},a-z0-9\n\t]*`))
	document := rapid.Ptr(rapid.Custom(drawJSON), true)
	id := rapid.Ptr(rapid.Custom(func(t *rapid.T) uuid.UUID {
		return uuid.UUID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "uuid"))
	}), true)
	return logRow{
		Type: text.Draw(t, "type"), ID: id.Draw(t, "id"),
		Verb: rapid.SampledFrom([]string{"INSERT", "update", "Delete", "CUSTOM", "noop", "READ", "UPSERT", ""}).Draw(t, "verb"),
		Data: document.Draw(t, "data"), Before: document.Draw(t, "before"), Trace: document.Draw(t, "trace"), Extra: document.Draw(t, "extra"),
		Updated: rapid.OneOf(rapid.Just([]*string(nil)), rapid.SliceOf(rapid.Ptr(text, true))).Draw(t, "updated"),
		Tenant:  id.Draw(t, "tenant"), ActingFor: id.Draw(t, "acting"),
		Contact: rapid.Ptr(rapid.Int64(), true).Draw(t, "contact"), Seq: rapid.Ptr(rapid.Int64(), true).Draw(t, "seq"),
		Duration: rapid.Ptr(rapid.Int32(), true).Draw(t, "duration"), Version: rapid.Ptr(text, true).Draw(t, "version"),
		Created: time.UnixMicro(rapid.Int64Range(-60_000_000_000_000_000, 250_000_000_000_000_000).Draw(t, "created")).UTC(), // years 69 to 9892
	}
}

// drawJSON is a document, mostly an object, with numbers of every length.
func drawJSON(t *rapid.T) string {
	number := rapid.StringMatching(`-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,30})?(e[+-]?[0-9]{1,2})?`)
	scalar := rapid.OneOf(
		number, rapid.SampledFrom([]string{"null", "true", "false", "{}", "[]"}),
		rapid.Map(rapid.String(), func(s string) string { raw, _ := json.Marshal(s); return string(raw) }),
		rapid.Map(number, func(n string) string { return `[` + n + `, {"n":` + n + `}]` }),
	)
	if rapid.IntRange(0, 9).Draw(t, "shape") == 0 {
		return scalar.Draw(t, "scalar")
	}
	var fields []string
	for range rapid.IntRange(0, 4).Draw(t, "fields") {
		key, _ := json.Marshal(rapid.SampledFrom([]string{"a", "b", "ключ", `q"\`, "", "cdc_source"}).Draw(t, "key"))
		fields = append(fields, string(key)+":"+scalar.Draw(t, "value"))
	}
	return "{" + strings.Join(fields, ",") + "}"
}

// write inserts the row; false: PostgreSQL refuses it, so it never comes out of a stream.
func (d *decoding) write(ctx context.Context, r logRow) (pk int64, taken bool, err error) {
	err = d.conn.QueryRow(ctx, `
		INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data, object_data_before, trace_context,
			extra_metadata, updated_fields, tenant_id, acting_for, fk_contact, seq, duration_ms, schema_version, created_at)
		VALUES ($1, $2, $3, $4::text::jsonb, $5::text::jsonb, $6::text::jsonb, $7::text::jsonb, $8, $9, $10, $11, $12, $13, $14, $15)
		RETURNING pk_entity_change_log`,
		r.Type, r.Verb, r.ID, r.Data, r.Before, r.Trace, r.Extra, r.Updated, r.Tenant, r.ActingFor, r.Contact, r.Seq, r.Duration, r.Version,
		r.Created).Scan(&pk)
	var refused *pgconn.PgError
	if errors.As(err, &refused) {
		return 0, false, nil
	}
	return pk, err == nil, err
}

// selected is what SQL says of a row: it shares no code with the decoder.
type selected struct {
	ID                                        uuid.UUID
	Type, Verb                                string
	ObjectID, Tenant, Actor, Contact, Version *string
	Data, Changes, Trace, Source, Updated     *string
	Seq, Duration                             *int64
	Created                                   time.Time
	BothObjects, HasBefore, KnownVerb         bool
}

func (d *decoding) read(ctx context.Context, pk int64) (selected, error) {
	rows, _ := d.conn.Query(ctx, `
		WITH log AS (SELECT *, CASE upper(modification_type) WHEN 'NOOP' THEN 'CUSTOM' WHEN 'READ' THEN 'CUSTOM'
			ELSE upper(modification_type) END AS verb, nullif(object_data, 'null') AS d, nullif(object_data_before, 'null') AS b
			FROM core.tb_entity_change_log WHERE pk_entity_change_log = $1)
		SELECT id, object_type AS "type", verb, object_id::text AS object_id, tenant_id::text AS tenant, acting_for::text AS actor,
			fk_contact::text AS contact, schema_version AS version,
			coalesce(CASE verb WHEN 'DELETE' THEN b ELSE d END, '{}')::text AS data,
			CASE WHEN verb = 'UPDATE' AND jsonb_typeof(b) = 'object' AND jsonb_typeof(coalesce(d, '{}')) = 'object' THEN (
				SELECT coalesce(json_object_agg(key, json_build_object('old', o.value, 'new', n.value)), '{}')
				  FROM jsonb_each(b) o FULL JOIN jsonb_each(coalesce(d, '{}')) n USING (key)
				 WHERE o.value::text IS DISTINCT FROM n.value::text)::text END AS changes,
			nullif(trace_context, 'null')::text AS trace,
			CASE WHEN jsonb_typeof(extra_metadata -> 'cdc_source') = 'string' THEN extra_metadata ->> 'cdc_source' END AS source,
			to_json(array_remove(updated_fields, NULL))::text AS updated, seq, duration_ms::bigint AS duration, created_at AS created,
			coalesce(jsonb_typeof(b) = 'object' AND jsonb_typeof(coalesce(d, '{}')) = 'object', false) AS both_objects,
			b IS NOT NULL AS has_before, verb IN ('INSERT', 'UPDATE', 'DELETE', 'CUSTOM') AS known_verb
		FROM log`, pk)
	return pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[selected])
}

// reason says why the row can be no event, "" when it can.
func (s selected) reason() string {
	switch {
	case !s.KnownVerb:
		return "unknown modification_type"
	case s.Type == "":
		return "object_type is empty"
	case s.ObjectID == nil && s.Verb != "CUSTOM":
		return "object_id is NULL"
	case s.Verb == "UPDATE" && s.HasBefore && !s.BothObjects:
		return "is not an object"
	}
	return ""
}

// checkRow writes a random row and compares what the decoder makes of its message with what SELECT says.
func (d *decoding) checkRow(t *rapid.T) {
	ctx := context.Background()
	pk, taken, err := d.write(ctx, drawRow(t))
	if err != nil {
		t.Fatal(err)
	}
	if !taken {
		t.Skip("PostgreSQL refuses the row")
	}
	want, err := d.read(ctx, pk)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := d.messages(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var got *event.Change
	for _, message := range messages {
		change, err := d.dec.Decode(message)
		if err != nil {
			t.Fatalf("decode %q: %v", message, err)
		}
		if change != nil {
			got = change
		}
	}
	if got == nil || got.PK != pk || got.ID != want.ID || got.EntityType != want.Type {
		t.Fatalf("got %+v, want row %d", got, pk)
	}
	if reason := want.reason(); reason != "" || got.Reason != "" {
		if reason == "" || !strings.Contains(got.Reason, reason) {
			t.Fatalf("reason %q, want %q in it", got.Reason, reason)
		}
		return
	}
	want.compare(t, got)
}

func (s selected) compare(t *rapid.T, got *event.Change) {
	if string(got.Type) != s.Verb || got.EntityID != deref(s.ObjectID) || string(got.Data) != *s.Data ||
		string(got.TraceContext) != deref(s.Trace) || !time.Time(got.Timestamp).Equal(s.Created) {
		t.Fatalf("got %+v, want %+v", got, s)
	}
	for name, pair := range map[string][2]*string{
		"tenant": {got.TenantID, s.Tenant}, "acting_for": {got.ActingFor, s.Actor}, "contact": {got.UserID, s.Contact},
		"schema_version": {got.SchemaVersion, s.Version}, "cdc_source": {got.CDCSource, s.Source},
	} {
		if !reflect.DeepEqual(pair[0], pair[1]) {
			t.Fatalf("%s: got %q, want %q", name, deref(pair[0]), deref(pair[1]))
		}
	}
	if !reflect.DeepEqual(got.Seq, s.Seq) || !reflect.DeepEqual(got.DurationMS, s.Duration) {
		t.Fatalf("got %+v, want %+v", got, s)
	}
	var updated []string
	if s.Updated != nil {
		if err := json.Unmarshal([]byte(*s.Updated), &updated); err != nil {
			t.Fatal(err)
		}
	}
	if len(updated) != len(got.UpdatedFields) || (len(updated) > 0 && !reflect.DeepEqual(updated, got.UpdatedFields)) {
		t.Fatalf("updated_fields: got %q, want %q", got.UpdatedFields, updated)
	}
	if (got.Changes == nil) != (s.Changes == nil) {
		t.Fatalf("changes: got %s, want %s", got.Changes, deref(s.Changes))
	}
	if got.Changes != nil && canonical(t, string(got.Changes)) != canonical(t, *s.Changes) {
		t.Fatalf("changes: got %s, want %s", got.Changes, *s.Changes)
	}
}

// canonical has sorted keys, and numbers digit by digit.
func canonical(t *rapid.T, document string) string {
	var v any
	d := json.NewDecoder(strings.NewReader(document))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%s: %v", document, err)
	}
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// TestRowsAgainstSelect has SELECT tell what the decoder should have read.
func TestRowsAgainstSelect(t *testing.T) {
	t.Parallel()
	rapid.Check(t, newDecoding(t).checkRow)
}

// FuzzRow is TestRowsAgainstSelect for as long as one likes.
func FuzzRow(f *testing.F) { f.Fuzz(rapid.MakeFuzz(newDecoding(f).checkRow)) }

// FuzzDecode: no bytes make the decoder panic, whatever came before them. A message is its length (16 bits) and its bytes.
func FuzzDecode(f *testing.F) {
	d := newDecoding(f)
	ctx := context.WithoutCancel(f.Context())
	for _, sql := range []string{
		`INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data, updated_fields)
			VALUES ('Order', 'UPDATE', gen_random_uuid(), '{"a": 1}', '{a,"b c"}')`,
		`UPDATE core.tb_entity_change_log SET object_data = '{}'`, `DELETE FROM core.tb_entity_change_log`,
		`CREATE TYPE mood AS ENUM ('ok'); CREATE TABLE t (m mood PRIMARY KEY, n int[])`, `INSERT INTO t VALUES ('ok', '{1}')`, `TRUNCATE t`,
		`SELECT pg_logical_emit_message(true, 'weir.heartbeat', ''), pg_logical_emit_message(false, 'other', 'x')`,
	} {
		if _, err := d.conn.Exec(ctx, sql); err != nil {
			f.Fatal(err)
		}
		messages, err := d.messages(ctx)
		if err != nil {
			f.Fatal(err)
		}
		var seed []byte
		for _, m := range messages {
			seed = append(binary.BigEndian.AppendUint16(seed, uint16(len(m))), m...)
		}
		f.Add(seed)
	}
	f.Fuzz(func(_ *testing.T, stream []byte) {
		dec := capture.NewDecoder(changeLog)
		for len(stream) >= 2 {
			n := min(int(binary.BigEndian.Uint16(stream)), len(stream)-2)
			_, _ = dec.Decode(stream[2 : 2+n]) // an error is fine
			stream = stream[2+n:]
		}
	})
}
