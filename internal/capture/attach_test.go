package capture_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/internal/capture"
)

// id is the n-th entity's.
func id(n int) string { return fmt.Sprintf("00000000-0000-0000-0000-%012d", n) }

const someOrders = `
	CREATE TABLE public.orders (id uuid PRIMARY KEY DEFERRABLE, status text, total numeric, tenant_id uuid);
	CREATE FUNCTION public.id(n int) RETURNS uuid LANGUAGE sql IMMUTABLE AS
		$$ SELECT ('00000000-0000-0000-0000-' || lpad(n::text, 12, '0'))::uuid $$;
	INSERT INTO public.orders SELECT public.id(n), 'paid', n FROM generate_series(1, 3) n`

func (r *rig) attach(how capture.Attach) *capture.Attached {
	r.t.Helper()
	plan, err := r.plan(how)
	if err == nil {
		err = plan.Apply(r.t.Context(), r.conn)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return plan
}

func (r *rig) plan(how capture.Attach) (*capture.Attached, error) {
	if how.Entity == "" {
		how.Entity = "Order"
	}
	if how.ID == "" {
		how.ID = "id"
	}
	if how.LockTimeout == 0 {
		how.LockTimeout = 5 * time.Second
	}
	return capture.PlanAttach(r.t.Context(), r.conn, r.cfg, how)
}

// logged is what is in the change log, in its order: verb, number of the entity, images, fields.
func (r *rig) logged() string {
	r.t.Helper()
	return r.one(`
		SELECT coalesce(string_agg(concat_ws(' ', modification_type, right(object_id::text, 12)::int,
		           nullif(concat_ws(',', object_data ->> 'status', object_data ->> 'operation', object_data ->> 'table'), ''),
		           '<' || (object_data_before ->> 'status'), updated_fields::text), '; ' ORDER BY pk_entity_change_log), '')
		  FROM core.tb_entity_change_log`)
}

// Each statement, and what it leaves in the change log.
func TestAttachedTable(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		sql    string
		before bool
		want   string
	}{
		"insert":       {sql: `INSERT INTO orders VALUES (id(4), 'new'), (id(5), 'new')`, want: "INSERT 4 new; INSERT 5 new"},
		"update":       {sql: `UPDATE orders SET status = 'sent', total = 9 WHERE id = id(1)`, want: "UPDATE 1 sent {status,total}"},
		"before-image": {sql: `UPDATE orders SET status = 'sent' WHERE id = id(1)`, before: true, want: "UPDATE 1 sent <paid {status}"},
		"digits count": {sql: `UPDATE orders SET total = 1.00 WHERE id = id(1)`, want: "UPDATE 1 paid {total}"},
		"no change":    {sql: `UPDATE orders SET total = total WHERE id = id(1)`, want: "UPDATE 1 paid {}"},
		"delete":       {sql: `DELETE FROM orders WHERE id = id(2)`, want: "DELETE 2 <paid"},
		"nothing": {sql: `UPDATE orders SET total = 0 WHERE false; DELETE FROM orders WHERE false;
			INSERT INTO orders SELECT FROM orders WHERE false`},
		"truncate": {sql: `TRUNCATE orders`, want: "CUSTOM TRUNCATE,public.orders"},
		"another id": {
			sql:    `UPDATE orders SET id = id(9), status = 'moved' WHERE id = id(1)`,
			before: true, want: "DELETE 1 <paid; INSERT 9 moved",
		},
		"ids shift": {
			sql:  `UPDATE orders SET id = id(right(id::text, 2)::int + 1)`,
			want: "DELETE 1 <paid; UPDATE 2 paid {total}; UPDATE 3 paid {total}; INSERT 4 paid",
		},
		"ids change places": {
			sql:  `UPDATE orders SET id = CASE id WHEN id(1) THEN id(2) ELSE id(1) END WHERE id <> id(3)`,
			want: "UPDATE 2 paid {total}; UPDATE 1 paid {total}",
		},
		"many rows": {sql: `UPDATE orders SET status = 'x'`, want: "UPDATE 1 x {status}; UPDATE 2 x {status}; UPDATE 3 x {status}"},
		"on conflict": {
			sql: `ALTER TABLE orders DROP CONSTRAINT orders_pkey, ADD PRIMARY KEY (id);
			INSERT INTO orders VALUES (id(1), 'again'), (id(8), 'new') ON CONFLICT (id) DO UPDATE SET status = excluded.status`,
			want: "UPDATE 1 again {status}; INSERT 8 new",
		},
		"with several": {
			sql:  `WITH d AS (DELETE FROM orders WHERE id = id(1) RETURNING *) UPDATE orders SET status = 'y' FROM d WHERE orders.id = id(2)`,
			want: "DELETE 1 <paid; UPDATE 2 y {status}",
		},
		"inside a function": {sql: `DO $$ BEGIN UPDATE public.orders SET status = 'f' WHERE id = public.id(3); END $$`, want: "UPDATE 3 f {status}"},
		"savepoint": {
			sql:  `BEGIN; SAVEPOINT s; DELETE FROM orders; ROLLBACK TO s; UPDATE orders SET status = 'k' WHERE id = id(1); COMMIT`,
			want: "UPDATE 1 k {status}",
		},
		"merge": {
			sql: `DO $$ BEGIN IF current_setting('server_version_num')::int < 150000 THEN
				DELETE FROM public.orders WHERE id = public.id(2); UPDATE public.orders SET status = 'm' WHERE id = public.id(1); RETURN; END IF;
			EXECUTE 'MERGE INTO public.orders o USING (VALUES (public.id(1)), (public.id(2))) v (k) ON o.id = v.k
				WHEN MATCHED AND k = public.id(1) THEN UPDATE SET status = ''m'' WHEN MATCHED THEN DELETE'; END $$`,
			want: "DELETE 2 <paid; UPDATE 1 m {status}",
		},
		"logged by the application": {sql: `BEGIN; SET LOCAL fraiseql.cdc_mediated = 'on'; UPDATE orders SET status = 'a'; TRUNCATE orders; COMMIT;
			INSERT INTO orders VALUES (id(7), 'after')`, want: "INSERT 7 after"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.exec(someOrders)
			r.attach(capture.Attach{Table: "public.orders", Before: tt.before})
			r.exec(tt.sql)
			if got := r.logged(); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

// Rows that share an id are as many changes as they are rows.
func TestAttachedRowsThatShareAnID(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.exec(someOrders + `; ALTER TABLE orders DROP CONSTRAINT orders_pkey, ALTER id DROP NOT NULL;
		INSERT INTO orders VALUES (id(1), 'twin'), (id(1), 'twin'), (NULL, 'none')`)
	plan := r.attach(capture.Attach{Table: "public.orders"})
	if len(plan.Notes) != 1 || !strings.Contains(plan.Notes[0], "may be NULL") {
		t.Errorf("notes %q", plan.Notes)
	}
	r.exec(`UPDATE orders SET total = 7 WHERE id = id(1) OR id IS NULL`)
	if got := r.one(`SELECT string_agg(concat_ws(' ', modification_type, object_id IS NULL, n), ', ' ORDER BY 1) FROM (
		SELECT modification_type, object_id, count(*) n FROM core.tb_entity_change_log GROUP BY 1, 2) x
		GROUP BY () `); !strings.Contains(got, "UPDATE f 3") || !strings.Contains(got, "UPDATE t 1") {
		t.Errorf("got %s", got)
	}
	r.exec(`TRUNCATE core.tb_entity_change_log; UPDATE orders SET id = id(9) WHERE ctid = (SELECT min(ctid) FROM orders WHERE id = id(1))`)
	if got := r.one(`SELECT string_agg(modification_type || right(object_id::text, 1), ' ' ORDER BY 1) FROM core.tb_entity_change_log`); got != "DELETE1 INSERT9" {
		t.Errorf("one of three moves: %s", got)
	}
}

// What a row has besides its images.
func TestAttachedRowsEnvelope(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.exec(someOrders)
	none := ""
	envelope := func() string {
		r.t.Helper()
		return r.one(`DELETE FROM core.tb_entity_change_log RETURNING concat_ws(' ', object_type, right(tenant_id::text, 1), actor_type,
			right(acting_for::text, 1), schema_version, change_status, extra_metadata ->> 'cdc_source')`)
	}
	said := `SET LOCAL fraiseql.actor_type = 'ai_agent'; SET LOCAL fraiseql.acting_for = '` + id(8) + `';
		SET LOCAL fraiseql.schema_version = 'v7'; SET LOCAL fraiseql.tenant_id = '` + id(6) + `';`
	insert := `INSERT INTO orders VALUES (gen_random_uuid(), 'new', 1, '` + id(5) + `');`
	for _, tt := range []struct {
		tenant         *string
		sql, want, why string
	}{
		{nil, insert, "Order 5 success fallback_trigger", "nothing is set"},
		{nil, said + insert, "Order 5 ai_agent 8 v7 success fallback_trigger", "the column goes before the setting"},
		{&none, said + insert, "Order 6 ai_agent 8 v7 success fallback_trigger", "no column"},
		{&none, said + `TRUNCATE orders`, "Order 6 ai_agent 8 v7 success fallback_trigger", "truncate"},
		{
			&none, `SET LOCAL fraiseql.actor_type = 'robot'; SET LOCAL fraiseql.acting_for = 'me'; SET LOCAL fraiseql.tenant_id = '';` + insert,
			"Order success fallback_trigger", "settings that fit no column fail nobody's write",
		},
	} {
		r.attach(capture.Attach{Table: "public.orders", Tenant: tt.tenant})
		r.exec("BEGIN;" + tt.sql + ";COMMIT")
		if got := envelope(); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.why, got, tt.want)
		}
	}
	// The same value is the same text, whatever the session has set.
	r.exec(`CREATE TABLE odd (id uuid, at timestamptz, span interval, raw bytea, f float8); SET TimeZone = 'Asia/Tokyo'; SET intervalstyle = 'iso_8601';
		SET bytea_output = 'escape'; SET extra_float_digits = -5`)
	r.attach(capture.Attach{Table: "odd"})
	r.exec(`INSERT INTO odd VALUES (gen_random_uuid(), '2026-01-31 12:00Z', '1 day', '\x00ff', 0.1::float8 + 0.2)`)
	want := `{"f": 0.30000000000000004, "at": "2026-01-31T12:00:00+00:00", "raw": "\\x00ff", "span": "1 day"}`
	if got := r.one(`SELECT (object_data - 'id')::text FROM core.tb_entity_change_log`); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// COPY, cascades, partitions and tables that inherit.
func TestAttachedOtherWays(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.exec(someOrders + `;
		CREATE TABLE items (id uuid PRIMARY KEY, order_id uuid, status text);
		ALTER TABLE orders DROP CONSTRAINT orders_pkey, ADD PRIMARY KEY (id);
		ALTER TABLE items ADD FOREIGN KEY (order_id) REFERENCES orders ON DELETE CASCADE;
		INSERT INTO items VALUES (id(21), id(1), 'i'), (id(22), id(1), 'i');
		CREATE TABLE parts (id uuid, day int, status text) PARTITION BY RANGE (day);
		CREATE TABLE parts1 PARTITION OF parts FOR VALUES FROM (0) TO (10);
		CREATE TABLE parts2 PARTITION OF parts FOR VALUES FROM (10) TO (20);
		CREATE TABLE base (id uuid, status text); CREATE TABLE derived (more int) INHERITS (base);
		INSERT INTO derived VALUES (id(31), 'd')`)
	for _, table := range []string{"orders", "items", "parts", "base"} {
		r.attach(capture.Attach{Table: table})
	}
	if notes := r.attach(capture.Attach{Table: "parts"}).Notes; len(notes) != 2 || !strings.Contains(notes[0], "partition") {
		t.Errorf("notes %q", notes)
	}
	is := func(what, want string) {
		t.Helper()
		if got := r.logged(); got != want {
			t.Errorf("%s: got %s, want %s", what, got, want)
		}
		r.exec(`TRUNCATE core.tb_entity_change_log`)
	}
	_, err := r.conn.CopyFrom(t.Context(), pgx.Identifier{"orders"}, []string{"status", "id"},
		pgx.CopyFromRows([][]any{{"copied", id(4)}, {"copied", id(5)}}))
	if err != nil {
		t.Fatal(err)
	}
	is("copy", "INSERT 4 copied; INSERT 5 copied")
	r.exec(`DELETE FROM orders WHERE id = id(1)`)
	is("cascade", "DELETE 1 <paid; DELETE 21 <i; DELETE 22 <i")
	r.exec(`INSERT INTO parts VALUES (id(41), 1, 'a'), (id(42), 11, 'b')`)
	is("partitioned", "INSERT 41 a; INSERT 42 b")
	r.exec(`UPDATE parts SET day = 12 WHERE id = id(41)`)
	is("moves to another partition", "UPDATE 41 a {day}")
	r.exec(`UPDATE parts1 SET status = 'x'; UPDATE parts2 SET status = 'x'`)
	is("names a partition", "")
	r.attach(capture.Attach{Table: "parts2"})
	r.exec(`UPDATE parts2 SET status = 'y' WHERE id = id(41); UPDATE parts SET status = 'z' WHERE id = id(41)`)
	is("an attached partition", "UPDATE 41 y {status}; UPDATE 41 z {status}")
	r.exec(`UPDATE base SET status = 'e'`)
	is("inherited", "UPDATE 31 e {status}")
	r.exec(`SET session_replication_role = replica; UPDATE orders SET status = 'r'; SET session_replication_role = origin`)
	is("replicas are not captured", "")
}

// The application's role needs no right on the change log, and can make no trigger that writes it.
func TestAttachedForOthers(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.exec(someOrders + `; ALTER TABLE core.tb_entity_change_log ENABLE ROW LEVEL SECURITY;
		CREATE TABLE theirs (id uuid)`)
	r.attach(capture.Attach{Table: "orders"})
	role := r.one(`SELECT 'app_' || current_database()`)
	r.exec(fmt.Sprintf(`CREATE ROLE %[1]s; GRANT USAGE ON SCHEMA public, core TO %[1]s; GRANT ALL ON orders, theirs TO %[1]s; SET ROLE %[1]s`, role))
	r.exec(`UPDATE orders SET status = 'theirs' WHERE id = id(1)`)
	_, err := r.conn.Exec(t.Context(), `CREATE TRIGGER mine AFTER TRUNCATE ON theirs EXECUTE FUNCTION core.weir_capture('Order', 'id')`)
	if err == nil || !strings.Contains(err.Error(), "permission denied for function core.weir_capture") {
		t.Errorf("a trigger of somebody else's: %v", err)
	}
	r.exec(`RESET ROLE; REASSIGN OWNED BY ` + role + ` TO CURRENT_USER; DROP OWNED BY ` + role + `; DROP ROLE ` + role)
	if got := r.logged(); got != "UPDATE 1 theirs {status}" {
		t.Errorf("got %s", got)
	}
}

// Attached columns come and go.
func TestAttachedTableChanges(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.exec(someOrders)
	r.attach(capture.Attach{Table: "orders"})
	r.exec(`UPDATE orders SET total = 1 WHERE id = id(2)`)
	r.exec(`ALTER TABLE orders ADD more text; UPDATE orders SET more = 'm' WHERE id = id(2)`)
	r.exec(`ALTER TABLE orders DROP total, ALTER id TYPE text; INSERT INTO orders (id, status) VALUES ('no uuid', 'odd')`)
	if got, want := r.logged(), "UPDATE 2 paid {total}; UPDATE 2 paid {more}; INSERT odd"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// Names that need quotes, in every place.
func TestAttachOddNames(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.exec(`CREATE SCHEMA "my ""schema"; CREATE TABLE "my ""schema"."Weir $weir$ 'Log'" (LIKE core.tb_entity_change_log INCLUDING ALL);
		CREATE TABLE "my ""schema"."Or.der'""s" ("the ""id'" uuid, doc text, n text, o text, d text, id text)`)
	r.cfg.ChangeLog = &capture.Table{Schema: `my "schema`, Name: `Weir $weir$ 'Log'`}
	plan := r.attach(capture.Attach{Table: `"my ""schema"."Or.der'""s"`, ID: `the "id'`, Entity: `It's \a "ü" type`})
	r.exec(`INSERT INTO "my ""schema"."Or.der'""s" VALUES (gen_random_uuid(), 'doc', 'n', 'o', 'd', 'i'); UPDATE "my ""schema"."Or.der'""s" SET o = 'p'`)
	got := r.one(`SELECT string_agg(concat_ws(' ', object_type, object_id IS NOT NULL, object_data ->> 'o', updated_fields), ';' ORDER BY 1)
		FROM "my ""schema"."Weir $weir$ 'Log'"`)
	if want := `It's \a "ü" type t o;It's \a "ü" type t p {o}`; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	tables, err := capture.AttachedTables(t.Context(), r.conn)
	if err != nil || len(tables) != 1 || tables[0].Entities[0] != `It's \a "ü" type` || tables[0].LacksID || len(tables[0].Missing) > 0 {
		t.Errorf("attached: %+v, %v", tables, err)
	}
	detached, err := capture.PlanDetach(t.Context(), r.conn, plan.Table, time.Second) // it says the name as it is stored
	if err != nil {
		detached, err = capture.PlanDetach(t.Context(), r.conn, `"my ""schema"."Or.der'""s"`, time.Second)
	}
	if err != nil || detached.Apply(t.Context(), r.conn) != nil || len(detached.Functions) != 1 {
		t.Errorf("detached %+v, %v", detached, err)
	}
}

// Attached again, a table has the new arguments, and its triggers fire.
func TestAttachAgainAndDetach(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.exec(someOrders + `; CREATE TABLE other (id uuid); CREATE FUNCTION own() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
		CREATE TRIGGER own AFTER INSERT ON orders EXECUTE FUNCTION own()`)
	r.attach(capture.Attach{Table: "orders"})
	r.attach(capture.Attach{Table: "other"})
	r.exec(`ALTER TABLE orders DISABLE TRIGGER weir_capture_update`)
	if plan := r.attach(capture.Attach{Table: "orders", Entity: "Sale", Before: true}); !plan.Replaced {
		t.Error("it does not say that there was one")
	}
	r.exec(`UPDATE orders SET status = 'new' WHERE id = id(1)`)
	if got := r.one(`SELECT object_type FROM core.tb_entity_change_log`) + " " + r.logged(); got != "Sale UPDATE 1 new <paid {status}" {
		t.Errorf("got %s", got)
	}
	for _, table := range []string{"orders", "other", "orders"} {
		d, err := capture.PlanDetach(t.Context(), r.conn, table, time.Second)
		if err == nil {
			err = d.Apply(t.Context(), r.conn)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	left := r.one(`SELECT string_agg(tgname, ' ') || ' ' || (SELECT count(*) FROM pg_proc WHERE proname = 'weir_capture')
		FROM pg_trigger WHERE NOT tgisinternal AND tgrelid IN ('orders'::regclass, 'other'::regclass)`)
	if left != "own 0" {
		t.Errorf("left: %s", left)
	}
}

// Who cannot have the lock gives up, and changes nothing.
func TestAttachDoesNotQueue(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.exec(someOrders)
	other, err := pgx.Connect(t.Context(), r.url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close(t.Context()) }()
	if _, err := other.Exec(t.Context(), `BEGIN; UPDATE orders SET status = 'long'`); err != nil {
		t.Fatal(err)
	}
	plan, err := r.plan(capture.Attach{Table: "orders", LockTimeout: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	var busy *capture.SetupError
	if err := plan.Apply(t.Context(), r.conn); !errors.As(err, &busy) || !strings.Contains(busy.Problem, "public.orders for longer than 50ms") {
		t.Errorf("got %v", err)
	}
	hint, _, _ := strings.Cut(busy.Hint, ";")
	if got := r.one("SELECT query FROM (" + hint + ") q"); !strings.Contains(got, "SET status = 'long'") {
		t.Errorf("the hint finds %s", got)
	}
	if got := r.one(`SELECT count(*)::text FROM pg_trigger WHERE NOT tgisinternal AND tgrelid = 'orders'::regclass`); got != "0" {
		t.Errorf("%s triggers", got)
	}
}

func TestAttachRefuses(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.exec(someOrders + `; CREATE TABLE numbered (id bigint, tenant_id text, key uuid); CREATE VIEW seen AS SELECT * FROM orders;
		CREATE TEMPORARY TABLE brief (id uuid); CREATE TABLE theirs (id uuid);
		CREATE FUNCTION core.fn_entity_change_log_capture() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
		CREATE TRIGGER tr_cdc_capture_ins_theirs AFTER INSERT ON theirs EXECUTE FUNCTION core.fn_entity_change_log_capture();
		CREATE TABLE named (id uuid); CREATE TRIGGER weir_capture_insert AFTER INSERT ON named EXECUTE FUNCTION core.fn_entity_change_log_capture('x')`)
	tenant := "tenant_id"
	for _, tt := range []struct {
		how  capture.Attach
		use  bool // the caller's mistake
		want string
	}{
		{capture.Attach{Table: "public.ordres"}, true, "there is no table public.ordres: there is "},
		{capture.Attach{Table: `no"such`}, true, "there is no table"},
		{capture.Attach{Table: "orders", ID: "key"}, true, `public.orders has no column "key" (--id): there is id, status, total, tenant_id`},
		{capture.Attach{Table: "numbered"}, true, "column id of public.numbered is bigint, and the change log identifies entities by a uuid: name another column with --id, or capture the table without a change log, with source.tables"},
		{capture.Attach{Table: "numbered", ID: "key", Tenant: &tenant}, true, "column tenant_id of public.numbered is text, expected a uuid"},
		{capture.Attach{Table: "seen"}, true, "public.seen is a view"},
		{capture.Attach{Table: "brief"}, true, "brief is a temporary table"},
		{capture.Attach{Table: "core.tb_entity_change_log"}, true, "is the change log itself"},
		{capture.Attach{Table: "weir.event"}, true, "none of the application's tables"},
		{capture.Attach{Table: "theirs"}, false, "capture triggers of FraiseQL (tr_cdc_capture_ins_theirs)"},
		{capture.Attach{Table: "named"}, false, "a trigger weir_capture_insert that is none of ours"},
	} {
		_, err := r.plan(tt.how)
		var use *capture.AttachError
		if err == nil || !strings.Contains(err.Error(), tt.want) || errors.As(err, &use) != tt.use {
			t.Errorf("%s: got %v, want %q", tt.how.Table, err, tt.want)
		}
	}
	r.exec(`ALTER TABLE core.tb_entity_change_log ADD ours text NOT NULL`)
	plan, err := r.plan(capture.Attach{Table: "orders"})
	if err == nil {
		err = plan.Apply(t.Context(), r.conn)
	}
	if err == nil || !strings.Contains(err.Error(), "the application's writes would fail") {
		t.Errorf("a change log that refuses the rows: %v", err)
	}
	r.exec(`ALTER TABLE core.tb_entity_change_log DROP ours, DROP change_status`)
	if _, err := r.plan(capture.Attach{Table: "orders"}); err == nil || !strings.Contains(err.Error(), "lacks change_status; to mend it: weir migrate up") {
		t.Errorf("a change log that lacks a column: %v", err)
	}
}
