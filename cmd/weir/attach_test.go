package main

import (
	"strings"
	"testing"

	"github.com/fraiseql/weir/internal/capture"
)

func TestAttach(t *testing.T) {
	t.Parallel()
	url, db := database(t)
	path, _ := slotFile(t, db, "")
	with := func(args ...string) result {
		t.Helper()
		return weir(t, append(args, "--config", path, "--database-url", url)...)
	}
	triggers := func() (n int) {
		t.Helper()
		check(t, db.QueryRow(t.Context(), `SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal AND tgrelid = 'orders'::regclass`).Scan(&n))
		return n
	}
	exec(t, db, `CREATE TABLE orders (id uuid PRIMARY KEY, total numeric, tenant_id uuid); CREATE TABLE counted (id bigint)`)

	with("attach", "orders").exits(2).complains("--entity")
	with("attach").exits(2)
	with("attach", "public.order", "--entity", "Order").exits(2).complains("there is no table public.order: there is public.orders")
	with("attach", "counted", "--entity", "C").exits(2).complains("column id of public.counted is bigint", "source.tables")
	with("attach", "orders", "--entity", "Order", "--id", "key").exits(2).complains("there is id, total, tenant_id")
	with("attach", "orders", "--entity", "Order", "--lock-timeout", "soon").exits(2).complains("--lock-timeout")
	with("attach", "orders", "--entity", "Order", "--dry-run").exits(0).says("CREATE OR REPLACE FUNCTION \"core\".\"weir_capture\"()",
		"CREATE OR REPLACE TRIGGER weir_capture_insert AFTER INSERT ON \"public\".\"orders\"")
	if n := triggers(); n != 0 {
		t.Fatalf("a dry run made %d triggers", n)
	}
	sql := with("attach", "orders", "--entity", "Order", "--dry-run").stdout
	with("attach", "orders", "--entity", "Order").exits(0).says("attached public.orders as Order", "column tenant_id", "of DELETE\n",
		"weir debug-event --last 1")
	if n := triggers(); n != 4 {
		t.Fatalf("%d triggers", n)
	}
	exec(t, db, `INSERT INTO orders VALUES (gen_random_uuid(), 100.10)`)
	exec(t, db, sql) // what a dry run prints is what is done
	with("doctor").exits(0).says("attached tables", "public.orders (Order)")

	var plan capture.Attached
	with("attach", "orders", "--entity", "Order", "--tenant", "", "--before", "--format", "json").exits(0).json(&plan)
	if !plan.Replaced || !plan.Done || !plan.Before || plan.Tenant != "" || plan.Table != "public.orders" || len(plan.Triggers) != 4 {
		t.Errorf("%+v", plan)
	}
	var data string
	check(t, db.QueryRow(t.Context(), `SELECT object_data ->> 'total' FROM core.tb_entity_change_log`).Scan(&data))
	if data != "100.10" {
		t.Errorf("logged %s", data)
	}

	with("detach", "orders", "--dry-run").exits(0).says(`DROP TRIGGER "weir_capture_insert" ON "public"."orders";`, "DROP FUNCTION")
	with("detach", "orders").exits(0).says("detached public.orders", "removed function core.weir_capture")
	with("detach", "orders").exits(0).says("not attached")
	with("detach", "nothing").exits(2).complains("there is no table")
	if said := with("doctor").exits(0).stdout; strings.Contains(said, "attached tables") {
		t.Errorf("doctor: %s", said)
	}
}

// TestDoctorAttached: what keeps triggers from their work, and that what the doctor says mends it.
func TestDoctorAttached(t *testing.T) {
	t.Parallel()
	url, db := database(t)
	path, _ := slotFile(t, db, "")
	exec(t, db, `CREATE TABLE orders (id uuid PRIMARY KEY)`)
	weir(t, "attach", "orders", "--entity", "Order", "--config", path, "--database-url", url).exits(0)
	for _, tt := range []struct{ sql, says, mend string }{
		{
			`ALTER TABLE orders DISABLE TRIGGER weir_capture_delete`, "public.orders has triggers that are disabled",
			`ALTER TABLE "public"."orders" ENABLE TRIGGER "weir_capture_delete";`,
		},
		{
			`CREATE FUNCTION core.fn_entity_change_log_capture() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
		  CREATE TRIGGER tr_cdc_capture_ins_orders AFTER INSERT ON orders EXECUTE FUNCTION core.fn_entity_change_log_capture()`,
			"logged twice", `DROP TRIGGER "tr_cdc_capture_ins_orders" ON "public"."orders";`,
		},
		{`ALTER TABLE orders RENAME id TO key`, "no uuid column id any more", `ALTER TABLE orders RENAME key TO id`},
		{`DROP TRIGGER weir_capture_insert ON orders`, "lacks triggers that weir attach makes: weir_capture_insert", ""},
	} {
		exec(t, db, tt.sql)
		doctor := weir(t, "doctor", "--config", path, "--database-url", url).exits(0).says("warning", tt.says)
		if tt.mend == "" {
			doctor.says(`to mend it: weir attach '"public"."orders"' --entity 'Order' --id 'id'`)
			continue
		}
		exec(t, db, tt.mend)
		weir(t, "doctor", "--config", path, "--database-url", url).exits(0).says("public.orders (Order)")
	}
}

// TestDoctorAttachedAndCaptured: a table that comes both ways gives each change twice.
func TestDoctorAttachedAndCaptured(t *testing.T) {
	t.Parallel()
	url, db := database(t)
	path, slot := slotFile(t, db, "")
	exec(t, db, `CREATE TABLE orders (id uuid PRIMARY KEY); CREATE TABLE items (id uuid PRIMARY KEY)`)
	for _, table := range []string{"orders", "items"} {
		weir(t, "attach", table, "--entity", "Order", "--config", path, "--database-url", url).exits(0)
	}
	both := file(t, "source: {slot: "+slot+", tables: [{table: public.orders}]}\n")
	with := []string{"--config", both, "--database-url", url}
	said := weir(t, append([]string{"doctor"}, with...)...).exits(0).says("public.items (Order)",
		"not as source.tables has it yet: the worker that takes the stream makes it so",
		"public.orders is attached, and source.tables captures it, too: each change is delivered twice",
		`to mend it: weir detach '"public"."orders"' # or take it out of source.tables`).stdout
	if strings.Contains(said, "public.items is") {
		t.Errorf("doctor: %s", said)
	}
	weir(t, append([]string{"detach", `"public"."orders"`}, with...)...).exits(0)
	said = weir(t, append([]string{"doctor"}, with...)...).exits(0).stdout
	if strings.Contains(said, "twice") {
		t.Errorf("doctor: %s", said)
	}
	unread := file(t, `source: {slot: `+slot+`, change_log: "", tables: [{table: public.orders}]}`+"\n")
	weir(t, "doctor", "--config", unread, "--database-url", url).exits(0).says(
		"the triggers of public.items write a change log, and none is read", `weir detach '"public"."items"'`)
}
