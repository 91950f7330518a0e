package capture_test

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/internal/capture"
)

// capture has the stream capture tables, and nothing else.
func (r *rig) capture(tables ...capture.CapturedTable) {
	r.cfg.ChangeLog, r.cfg.Tables = &capture.Table{}, tables
	r.cfg.Publication = r.cfg.Slot // of several rigs on a server, each has its own
}

func table(name string) capture.CapturedTable {
	return capture.CapturedTable{Table: capture.Table{Schema: "public", Name: name}}
}

// mark writes a message, waits for it, and returns what was ingested before it and after the mark before: for each event its
// type, entity, id, data, changes and what was unchanged.
func (r *rig) mark() []string {
	r.t.Helper()
	r.say(`{"entity_type": "mark"}`)
	r.await("the mark", func() bool { return r.one(`SELECT count(*)::text FROM ingested WHERE event LIKE '%"mark"%'`) == "1" })
	rows, _ := r.conn.Query(context.WithoutCancel(r.t.Context()), `
		SELECT concat_ws(' ', e ->> 'event_type', e ->> 'entity_type', e ->> 'entity_id', e ->> 'data',
			CASE WHEN e ->> 'changes' <> '' THEN 'changes ' || (e ->> 'changes') || ' ' || (e ->> 'updated_fields') END,
			'unchanged ' || (e ->> 'unchanged_fields'), 'tenant ' || (e ->> 'tenant_id'), nullif(reason, ''))
		  FROM (SELECT *, event::json AS e FROM ingested) i WHERE e ->> 'entity_type' <> 'mark' ORDER BY n`)
	got, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		r.t.Fatal(err)
	}
	if twice := r.one(`SELECT count(*)::text FROM (SELECT FROM ingested GROUP BY event::json ->> 'id' HAVING count(*) > 1) t`); twice != "0" {
		r.t.Errorf("%s ids are taken twice", twice)
	}
	r.exec("TRUNCATE ingested")
	return got
}

// became compares what was ingested since the last time.
func (r *rig) became(what string, want ...string) {
	r.t.Helper()
	if got := r.mark(); strings.Join(got, "\n") != strings.Join(want, "\n") {
		r.t.Errorf("%s\n got %s\nwant %s", what, strings.Join(got, "\n     "), strings.Join(want, "\n     "))
	}
}

func TestTableOperations(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.exec(`CREATE TABLE orders (id bigint PRIMARY KEY, tenant_id uuid, status text, total numeric, big text)`)
	r.exec(`ALTER TABLE orders ALTER big SET STORAGE EXTERNAL`)
	r.exec(`CREATE TABLE other (id int)`)
	orders := table("orders")
	orders.Entity, orders.Tenant = "Order", "tenant_id"
	r.capture(orders)
	r.streaming(r.start("one"))
	const tenant = "b6f9f6c8-3c86-4a4e-8ad6-4d2b9a2a9a10"

	r.exec(`INSERT INTO orders VALUES (1, $1, 'new', 100.10, NULL), (9007199254740993, NULL, E'a"\\\n', 'NaN', 'x')`, tenant)
	r.became("INSERT",
		`INSERT Order 1 {"id":1,"tenant_id":"`+tenant+`","status":"new","total":100.10,"big":null} tenant `+tenant,
		`INSERT Order 9007199254740993 {"id":9007199254740993,"tenant_id":null,"status":"a\"\\\n","total":"NaN","big":"x"}`)

	r.exec(`BEGIN; UPDATE orders SET status = 'paid' WHERE id = 1; SAVEPOINT s; DELETE FROM orders; ROLLBACK TO s;
		UPDATE orders SET total = 0 WHERE id > 1; COMMIT`)
	r.became("UPDATE",
		`UPDATE Order 1 {"id":1,"tenant_id":"`+tenant+`","status":"paid","total":100.10,"big":null} tenant `+tenant,
		`UPDATE Order 9007199254740993 {"id":9007199254740993,"tenant_id":null,"status":"a\"\\\n","total":0,"big":"x"}`)

	r.exec(`UPDATE orders SET id = 7 WHERE id > 1; DELETE FROM orders WHERE id = 7`)
	r.became("a key's change and DELETE", `DELETE Order 9007199254740993 {"id":9007199254740993}`,
		`INSERT Order 7 {"id":7,"tenant_id":null,"status":"a\"\\\n","total":0,"big":"x"}`, `DELETE Order 7 {"id":7}`)

	r.exec(`UPDATE orders SET big = (SELECT string_agg(md5(n::text), '') FROM generate_series(1, 300) n)`)
	r.exec(`INSERT INTO other VALUES (1); TRUNCATE ingested`)
	r.mark()
	r.exec(`UPDATE orders SET total = 5`)
	r.became("unchanged TOAST",
		`UPDATE Order 1 {"id":1,"tenant_id":"`+tenant+`","status":"paid","total":5} unchanged ["big"] tenant `+tenant)
	r.exec(`ALTER TABLE orders REPLICA IDENTITY FULL; UPDATE orders SET total = 5.0, status = NULL; UPDATE orders SET total = total`)
	got := r.mark()
	big := r.one(`SELECT big FROM orders`)
	want := `UPDATE Order 1 {"id":1,"tenant_id":"` + tenant + `","status":null,"total":5.0,"big":"` + big + `"} ` +
		`changes {"status":{"old":"paid","new":null},"total":{"old":5,"new":5.0}} ["status","total"] tenant ` + tenant
	if len(got) != 2 || got[0] != want || !strings.Contains(got[1], `changes {} [] tenant`) {
		t.Errorf("FULL\n got %.3000s\nwant %s", got, want)
	}
	r.exec(`UPDATE orders SET id = 8; DELETE FROM orders`)
	row := `"tenant_id":"` + tenant + `","status":null,"total":5.0,"big":"` + big + `"} tenant ` + tenant
	r.became("a key's change under FULL", `DELETE Order 1 {"id":1,`+row, `INSERT Order 8 {"id":8,`+row, `DELETE Order 8 {"id":8,`+row)

	r.exec(`TRUNCATE other; TRUNCATE orders; TRUNCATE other, orders RESTART IDENTITY CASCADE`)
	r.became("TRUNCATE",
		`CUSTOM Order  {"operation":"TRUNCATE","table":"public.orders","cascade":false,"restart_identity":false}`,
		`CUSTOM Order  {"operation":"TRUNCATE","table":"public.orders","cascade":true,"restart_identity":true}`)
}

func TestTablesBesideTheChangeLog(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.exec(`CREATE TABLE orders (id uuid PRIMARY KEY)`)
	r.capture(table("orders"))
	r.cfg.ChangeLog = nil
	r.streaming(r.start("one"))
	r.exec("BEGIN")
	r.write(1, 1)
	r.exec(`INSERT INTO orders VALUES ('b6f9f6c8-3c86-4a4e-8ad6-4d2b9a2a9a10')`)
	r.write(2, 2)
	r.exec("COMMIT")
	r.await("all", func() bool { return r.one(`SELECT count(*)::text FROM ingested`) == "3" })
	if got := r.one(`SELECT string_agg(type || ' ' || data || tx_index, ' ' ORDER BY n) FROM ingested`); got !=
		`INSERT {"n": 1}1 INSERT {"id":"b6f9f6c8-3c86-4a4e-8ad6-4d2b9a2a9a10"}2 INSERT {"n": 2}3` {
		t.Errorf("got %s", got)
	}
}

// before15 says that the server has no column lists and no row filters yet.
func (r *rig) before15() bool {
	return r.one(`SELECT (current_setting('server_version_num')::int < 150000)::text`) == "true"
}

// needsLists leaves out a test on PostgreSQL 14, where TestRefusedTables has them refused.
func (r *rig) needsLists() {
	if r.before15() {
		r.t.Skip("PostgreSQL 14 has no column lists and no row filters")
	}
}

func TestStrangeNames(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.needsLists()
	const schema, name = `Sch ma'`, `or"ders (x) $1; --é`
	strange := capture.Table{Schema: schema, Name: strings.ReplaceAll(name, `"`, "")}
	r.exec(`CREATE SCHEMA ` + pgx.Identifier{schema}.Sanitize())
	r.exec(`CREATE TABLE ` + strange.SQL() + ` ("I d" int PRIMARY KEY, "q""\uote" text, "ключ, )" text)`)
	r.capture(capture.CapturedTable{Table: strange, ID: "I d", Columns: []string{"I d", "ключ, )"}, Where: `"I d" > 0`})
	for _, id := range []string{"one", "two"} { // the second finds everything as it should be
		run := r.start(id)
		r.streaming(run)
		r.exec(`INSERT INTO ` + strange.SQL() + ` VALUES (1, 'x', 'y'), (-1, 'x', 'y'); DELETE FROM ` + strange.SQL())
		r.became(id, `INSERT `+strange.Name+` 1 {"I d":1,"ключ, )":"y"}`, `DELETE `+strange.Name+` 1 {"I d":1}`)
		run.stop(t)
		r.letGo()
	}
}

func TestPartitionedTable(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.exec(`CREATE TABLE part (id int, day int, v text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
		CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (10);
		CREATE TABLE part_2 (v text, gone int, day int NOT NULL, id int NOT NULL);
		ALTER TABLE part_2 DROP COLUMN gone; ALTER TABLE part_2 ADD PRIMARY KEY (id, day);
		ALTER TABLE part ATTACH PARTITION part_2 FOR VALUES FROM (10) TO (20)`)
	r.capture(table("part"))
	r.streaming(r.start("one"))
	r.exec(`INSERT INTO part VALUES (1, 1, 'a'), (2, 11, 'b')`)
	r.became("INSERT", `INSERT part 1 {"id":1,"day":1,"v":"a"}`, `INSERT part 2 {"id":2,"day":11,"v":"b"}`)
	r.exec(`UPDATE part SET v = 'c' WHERE id = 2; UPDATE part SET day = 12 WHERE id = 1`)
	r.became("UPDATE, and one to another partition", `UPDATE part 2 {"id":2,"day":11,"v":"c"}`,
		`DELETE part 1 {"id":1,"day":1}`, `INSERT part 1 {"id":1,"day":12,"v":"a"}`)
	r.exec(`CREATE TABLE part_3 PARTITION OF part FOR VALUES FROM (20) TO (30); INSERT INTO part VALUES (3, 20, 'd')`)
	r.exec(`TRUNCATE part_3; TRUNCATE part`)
	r.became("a new one", `INSERT part 3 {"id":3,"day":20,"v":"d"}`,
		`CUSTOM part  {"operation":"TRUNCATE","table":"public.part","cascade":false,"restart_identity":false}`)
}

func TestSchemaChangesOfATable(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.exec(`CREATE TABLE orders (id int PRIMARY KEY, a text)`)
	r.capture(table("orders"))
	r.streaming(r.start("one"))
	r.exec(`BEGIN; INSERT INTO orders VALUES (1, 'x'); ALTER TABLE orders ADD b int DEFAULT 5; INSERT INTO orders VALUES (2, 'y');
		ALTER TABLE orders DROP a; INSERT INTO orders VALUES (3, 6); COMMIT`)
	r.became("added and dropped in a transaction", `INSERT orders 1 {"id":1,"a":"x"}`, `INSERT orders 2 {"id":2,"a":"y","b":5}`,
		`INSERT orders 3 {"id":3,"b":6}`)
	r.exec(`ALTER TABLE orders RENAME b TO c; UPDATE orders SET c = 7 WHERE id = 1; ALTER TABLE orders ALTER c TYPE text;
		UPDATE orders SET c = 'z' WHERE id = 1`)
	r.became("renamed and retyped", `UPDATE orders 1 {"id":1,"c":7}`, `UPDATE orders 1 {"id":1,"c":"z"}`)
	r.exec(`ALTER TABLE orders RENAME id TO no; UPDATE orders SET c = 'w' WHERE no = 1; DELETE FROM orders WHERE no = 1`)
	r.became("the id renamed", `UPDATE orders 1 {"no":1,"c":"w"}`, `DELETE orders 1 {"no":1}`)
	r.exec(`ALTER TABLE orders DROP CONSTRAINT orders_pkey; ALTER TABLE orders REPLICA IDENTITY FULL; DELETE FROM orders WHERE no = 2`)
	got := r.mark()
	if len(got) != 1 || !strings.HasPrefix(got[0], "DELETE orders  {}") || !strings.Contains(got[0], "there is no column id any more") {
		t.Errorf("no id at all: %q", got)
	}
	r.exec(`ALTER TABLE orders RENAME no TO id; ALTER TABLE orders ALTER id DROP NOT NULL; INSERT INTO orders VALUES (NULL, 'n'), (5, 'm')`)
	got = r.mark()
	if len(got) != 2 || !strings.Contains(got[0], "id is NULL") || got[1] != `INSERT orders 5 {"id":5,"c":"m"}` {
		t.Errorf("an id that is NULL: %q", got)
	}
}

func TestGeneratedColumns(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.exec(`CREATE TABLE orders (id int PRIMARY KEY, a int, twice int GENERATED ALWAYS AS (a * 2) STORED)`)
	r.capture(table("orders"))
	r.streaming(r.start("one"))
	r.exec(`INSERT INTO orders VALUES (1, 2); UPDATE orders SET a = 3`)
	want := []string{`INSERT orders 1 {"id":1,"a":2}`, `UPDATE orders 1 {"id":1,"a":3}`}
	if r.one(`SELECT (current_setting('server_version_num')::int >= 180000)::text`) == "true" {
		want = []string{`INSERT orders 1 {"id":1,"a":2,"twice":4}`, `UPDATE orders 1 {"id":1,"a":3,"twice":6}`}
	}
	r.became("a generated column", want...)
}

// Each replica identity that is not usable is refused with what mends it, before anything is published.
func TestRefusedTables(t *testing.T) {
	t.Parallel()
	with := func(change func(*capture.CapturedTable)) capture.CapturedTable {
		c := table("t")
		change(&c)
		return c
	}
	tests := map[string]struct {
		sql   string
		table capture.CapturedTable
		want  string
		mend  string // makes it good
	}{
		"no table": {"SELECT", table("t"), "table public.t does not exist", ""},
		"a view":   {"CREATE VIEW t AS SELECT 1 AS id", table("t"), "is no table", ""},
		"unlogged": {"CREATE UNLOGGED TABLE t (id int PRIMARY KEY)", table("t"), "is unlogged", "ALTER TABLE public.t SET LOGGED;"},
		"no key":   {"CREATE TABLE t (id int)", table("t"), "no primary key", "ALTER TABLE public.t REPLICA IDENTITY FULL;"},
		"nothing": {
			"CREATE TABLE t (id int PRIMARY KEY); ALTER TABLE t REPLICA IDENTITY NOTHING", table("t"), "no replica identity",
			"ALTER TABLE public.t REPLICA IDENTITY DEFAULT;",
		},
		"deferrable": {
			"CREATE TABLE t (id int PRIMARY KEY DEFERRABLE)", table("t"), "no primary key", "ALTER TABLE public.t REPLICA IDENTITY FULL;",
		},
		"dropped index": {
			"CREATE TABLE t (id int NOT NULL, CONSTRAINT u UNIQUE (id)); ALTER TABLE t REPLICA IDENTITY USING INDEX u; ALTER TABLE t DROP CONSTRAINT u",
			table("t"), "no primary key", "ALTER TABLE public.t REPLICA IDENTITY FULL;",
		},
		"no id": {"CREATE TABLE t (no int PRIMARY KEY)", table("t"), "has no column id", ""},
		"id beside the key": {
			"CREATE TABLE t (no int PRIMARY KEY, id int)", table("t"), "no part of its replica identity (no)", "ALTER TABLE public.t REPLICA IDENTITY FULL;",
		},
		"no tenant": {
			"CREATE TABLE t (id int PRIMARY KEY)", with(func(c *capture.CapturedTable) { c.Tenant = "x" }), "has no column x", "",
		},
		"columns without the key": {
			"CREATE TABLE t (id int, no int, PRIMARY KEY (id, no))", with(func(c *capture.CapturedTable) { c.Columns = []string{"id"} }),
			"lack no of its replica identity", "",
		},
		"columns and FULL": {
			"CREATE TABLE t (id int PRIMARY KEY); ALTER TABLE t REPLICA IDENTITY FULL",
			with(func(c *capture.CapturedTable) { c.Columns = []string{"id"} }), "does not go with", "ALTER TABLE public.t REPLICA IDENTITY DEFAULT;",
		},
		"a filter beside the key": {
			"CREATE TABLE t (id int PRIMARY KEY, total int)", with(func(c *capture.CapturedTable) { c.Where = "total > 0" }),
			"WHERE expression is not part of the replica identity", "ALTER TABLE public.t REPLICA IDENTITY FULL;",
		},
		"a filter that is none": {
			"CREATE TABLE t (id int PRIMARY KEY)", with(func(c *capture.CapturedTable) { c.Where = "idd > 0" }), `column "idd" does not exist`, "",
		},
		"a partition": {
			"CREATE TABLE w (id int PRIMARY KEY) PARTITION BY LIST (id); CREATE TABLE t PARTITION OF w DEFAULT", table("t"), "is a partition", "",
		},
		"a part without": {
			"CREATE TABLE t (id int PRIMARY KEY) PARTITION BY LIST (id); CREATE TABLE p PARTITION OF t DEFAULT; ALTER TABLE p REPLICA IDENTITY NOTHING",
			table("t"), "public.p has no replica identity", "ALTER TABLE public.p REPLICA IDENTITY DEFAULT;",
		},
		"a part that is not FULL": {
			"CREATE TABLE t (id int PRIMARY KEY) PARTITION BY LIST (id); CREATE TABLE p PARTITION OF t DEFAULT; ALTER TABLE t REPLICA IDENTITY FULL",
			table("t"), "FULL and its part public.p has not", "ALTER TABLE public.p REPLICA IDENTITY FULL;",
		},
		"a part that is FULL": {
			"CREATE TABLE t (id int PRIMARY KEY) PARTITION BY LIST (id); CREATE TABLE p PARTITION OF t DEFAULT; ALTER TABLE p REPLICA IDENTITY FULL",
			table("t"), "different replica identities", "ALTER TABLE public.t REPLICA IDENTITY DEFAULT; ALTER TABLE public.p REPLICA IDENTITY DEFAULT;",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.exec(tt.sql)
			r.capture(tt.table)
			got := r.refusal(r.start("one"))
			if r.before15() && (tt.table.Where != "" || len(tt.table.Columns) > 0) {
				tt.want, tt.mend = "which PostgreSQL has from version 15 on", ""
			}
			if !strings.Contains(got, tt.want) || !strings.Contains(strings.ReplaceAll(got, `"`, ""), tt.mend) {
				t.Errorf("got %s\nwant %s; %s", got, tt.want, tt.mend)
			}
			if left := r.one(`SELECT (SELECT count(*) FROM pg_publication_rel) || ' ' || (SELECT count(*) FROM pg_replication_slots WHERE database = current_database())`); left != "0 0" {
				t.Errorf("tables published, slots made: %s", left)
			}
			if tt.mend == "" {
				return
			}
			r.exec(tt.mend)
			r.streaming(r.start("two"))
			r.exec(`UPDATE t SET id = id`) // what the application does
		})
	}
}

// as is the URL for another role.
func as(t *testing.T, databaseURL, user, password string) string {
	t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(user, password)
	return u.String()
}

// Who may not publish is told the statement, and who then does so has done enough.
func TestTablesOfAnotherOwner(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.needsLists()
	role := "weir_" + string(r.cfg.Slot)
	r.exec(`CREATE TABLE orders (id int PRIMARY KEY)`)
	r.exec(fmt.Sprintf(`CREATE ROLE %[1]s LOGIN REPLICATION PASSWORD 'p'; GRANT CREATE ON DATABASE %[2]s TO %[1]s;
		GRANT USAGE ON SCHEMA weir, core, public TO %[1]s; GRANT ALL ON ALL TABLES IN SCHEMA weir, core TO %[1]s;
		GRANT ALL ON ALL TABLES IN SCHEMA public TO %[1]s; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA weir TO %[1]s`, role, r.one("SELECT current_database()")))
	t.Cleanup(func() {
		if _, err := r.conn.Exec(context.WithoutCancel(t.Context()), fmt.Sprintf(`DROP OWNED BY %[1]s; DROP ROLE %[1]s`, role)); err != nil {
			t.Error(err)
		}
	})
	owner := r.url
	r.url = as(t, owner, role, "p")
	orders := table("orders")
	orders.Where = "id > 0"
	r.capture(orders)
	got := r.refusal(r.start("one"))
	want := fmt.Sprintf(`CREATE PUBLICATION "%s_tables" FOR TABLE "public"."orders" WHERE (id > 0) WITH (publish = `, r.cfg.Slot)
	if !strings.Contains(got, want) {
		t.Fatalf("got %s\nwant %s", got, want)
	}
	_, statement, _ := strings.Cut(got, "to mend it: ")
	r.exec(statement)
	run := r.start("two")
	r.streaming(run)
	r.exec(`INSERT INTO orders VALUES (1), (-1)`)
	r.became("published by another", `INSERT orders 1 {"id":1}`)
	run.stop(t)
	r.url = owner
}
