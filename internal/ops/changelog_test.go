package ops_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/internal/capture"
	"github.com/fraiseql/weir/internal/ops"
)

// TestDoctorColumns also holds the doctor's list against what the migrations make: a healthy database has no finding.
func TestDoctorColumns(t *testing.T) {
	t.Parallel()
	db := examined(t)
	cfg := slotOf(t, db)
	exec(t, db, `ALTER TABLE core.tb_entity_change_log DROP COLUMN trace_context, DROP COLUMN seq,
		ADD COLUMN ours text, ALTER COLUMN duration_ms TYPE text, ALTER COLUMN actor_type TYPE varchar(20)`)
	d := diagnose(t, db, db, cfg)
	equal(t, "healthy", d.Healthy, true)
	found := find(d, "change log columns")
	equal(t, "findings", len(found), 2)
	equal(t, "mistyped", found[0].Problem, "duration_ms is text, expected integer")
	equal(t, "missing", found[1].Problem, "missing: trace_context, seq")
	equal(t, "mend", found[1].Mend, "weir migrate up")
	exec(t, db, found[0].Mend)
	equal(t, "findings after mending one", len(find(diagnose(t, db, db, cfg), "change log columns")), 1)
}

// TestDoctorMistypedColumns runs each mend on a table with a row, and looks again.
func TestDoctorMistypedColumns(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		column, as string // ALTER COLUMN column as…
		level      ops.Level
		becomes    string // the row's value as text after the mend; "": whatever
	}{
		"time without a zone":    {"created_at", "TYPE timestamp", ops.LevelError, ""},
		"day":                    {"created_at", "DROP DEFAULT, ALTER COLUMN created_at TYPE date USING '2026-02-03'::date, ALTER COLUMN created_at SET DEFAULT current_date", ops.LevelError, "2026-02-03 00:00:00+00"},
		"time as text":           {"created_at", "DROP DEFAULT, ALTER COLUMN created_at TYPE text, ALTER COLUMN created_at SET DEFAULT now()::text", ops.LevelError, ""},
		"milliseconds":           {"created_at", "DROP DEFAULT, ALTER COLUMN created_at TYPE bigint USING 1700000000000, ALTER COLUMN created_at SET DEFAULT 0", ops.LevelError, "2023-11-14 22:13:20+00"},
		"JSON for an array":      {"updated_fields", `TYPE jsonb USING '["a", "b c", "d,\"e"]', ALTER COLUMN updated_fields SET DEFAULT '[]'`, ops.LevelError, `{a,"b c","d,\"e"}`},
		"JSON null":              {"updated_fields", `TYPE json USING 'null'`, ops.LevelError, "NULL"},
		"JSON object":            {"updated_fields", `TYPE jsonb USING '{"a": 1}'`, ops.LevelError, "{a}"},
		"list in a text":         {"updated_fields", `TYPE text USING 'a,b', ALTER COLUMN updated_fields SET DEFAULT ''`, ops.LevelError, "{a,b}"},
		"array in a text":        {"updated_fields", `TYPE text USING '{a,"b c"}'`, ops.LevelError, `{a,"b c"}`},
		"array of another type":  {"updated_fields", `TYPE name[] USING '{a}'`, ops.LevelWarning, "{a}"},
		"fractions":              {"duration_ms", "TYPE double precision USING 12.5, ALTER COLUMN duration_ms SET DEFAULT 0.5", ops.LevelError, "13"},
		"interval":               {"duration_ms", "TYPE interval USING interval '1.5 s'", ops.LevelError, "1500"},
		"number as text":         {"duration_ms", "TYPE text USING '12', ALTER COLUMN duration_ms SET DEFAULT '7'", ops.LevelWarning, "12"},
		"id as text":             {"id", "DROP DEFAULT, ALTER COLUMN id TYPE text, ALTER COLUMN id SET DEFAULT gen_random_uuid()::text", ops.LevelWarning, ""},
		"id as a number":         {"id", "DROP DEFAULT, ALTER COLUMN id TYPE bigint USING 7", ops.LevelError, ""},
		"document as text":       {"object_data", `TYPE text USING '{"a": 1}', ALTER COLUMN object_data SET DEFAULT '{}'`, ops.LevelWarning, `{"a": 1}`},
		"document as bytes":      {"object_data", `TYPE bytea USING '{"a": 1}'`, ops.LevelError, `{"a": 1}`},
		"sequence with decimals": {"seq", "TYPE numeric(12,2) USING 3", ops.LevelError, "3"},
		"tenant as text":         {"tenant_id", "TYPE text USING ''", ops.LevelWarning, "NULL"},
		"unread column":          {"started_at", "TYPE timestamp", ops.LevelWarning, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := examined(t)
			cfg := slotOf(t, db)
			exec(t, db, `SET TIME ZONE 'UTC'; INSERT INTO core.tb_entity_change_log (object_type, modification_type) VALUES ('Order', 'CUSTOM')`)
			exec(t, db, fmt.Sprintf("ALTER TABLE core.tb_entity_change_log ALTER COLUMN %s %s", tt.column, tt.as))
			found := one(t, diagnose(t, db, db, cfg), "change log columns", tt.level)
			if !strings.HasPrefix(found.Problem, tt.column+" is ") {
				t.Errorf("problem %q", found.Problem)
			}
			exec(t, db, found.Mend)
			one(t, diagnose(t, db, db, cfg), "change log columns", ops.LevelOK)
			var value string
			check(t, db.QueryRow(t.Context(), fmt.Sprintf(
				"SELECT coalesce(%s::text, 'NULL') FROM core.tb_entity_change_log", tt.column)).Scan(&value))
			if tt.becomes != "" && value != tt.becomes {
				t.Errorf("the row has %s, want %s", value, tt.becomes)
			}
			// The application goes on writing.
			exec(t, db, `INSERT INTO core.tb_entity_change_log (object_type, modification_type) VALUES ('Order', 'CUSTOM')`)
		})
	}
}

// TestDoctorHarmlessColumns has types that are as good: one of an extension, wherever that was installed, and a domain. And
// one that nothing can be made of and that is read all the same.
func TestDoctorHarmlessColumns(t *testing.T) {
	t.Parallel()
	db := examined(t)
	exec(t, db, `CREATE SCHEMA extensions; CREATE TYPE extensions.citext AS ENUM ('human_user');
		CREATE DOMAIN public.verb AS varchar(10);
		ALTER TABLE core.tb_entity_change_log ALTER COLUMN actor_type TYPE extensions.citext USING NULL,
			ALTER COLUMN modification_type TYPE public.verb`)
	one(t, diagnose(t, db, db, slotOf(t, db)), "change log columns", ops.LevelOK)
	exec(t, db, `ALTER TABLE core.tb_entity_change_log ALTER COLUMN tenant_id TYPE bigint USING NULL`)
	asItIs := one(t, diagnose(t, db, db, slotOf(t, db)), "change log columns", ops.LevelWarning)
	equal(t, "mend", asItIs.Mend, "-- no uuid can be made of a bigint; a worker takes it as it is")
}

// columnsOf describes a table's columns. The sequence's name is its own.
func columnsOf(t *testing.T, db *pgx.Conn, table string) []string {
	t.Helper()
	rows, _ := db.Query(t.Context(), `
		SELECT format('%s %s %s %s %s %s', attname, format_type(atttypid, atttypmod), attnotnull, attidentity,
		              CASE WHEN attname = 'seq' THEN (pg_get_expr(adbin, adrelid) LIKE 'nextval(%')::text ELSE pg_get_expr(adbin, adrelid) END,
		              EXISTS (SELECT FROM pg_index WHERE indrelid = attrelid AND indisunique AND indkey[0] = attnum))
		  FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
		 WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum`, table)
	columns, err := pgx.CollectRows(rows, pgx.RowTo[string])
	check(t, err)
	return columns
}

// TestDoctorAnotherChangeLog makes and completes a table that the migrations do not know, by the mends alone. It holds the
// list of columns against what the migrations make.
func TestDoctorAnotherChangeLog(t *testing.T) {
	t.Parallel()
	db := examined(t)
	cfg := slotOf(t, db)
	want := columnsOf(t, db, "core.tb_entity_change_log")
	for _, log := range []capture.Table{{Schema: "app", Name: "log"}, {Schema: "My App", Name: "the Log's"}} {
		cfg.ChangeLog = &log
		missing := one(t, diagnose(t, db, db, cfg), "change log", ops.LevelError)
		exec(t, db, missing.Mend)
		d := diagnose(t, db, db, cfg)
		equal(t, "healthy", d.Healthy, true)
		one(t, d, "change log columns", ops.LevelOK)
		if got := columnsOf(t, db, log.SQL()); !slices.Equal(got, want) {
			t.Errorf("got columns\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}

		exec(t, db, fmt.Sprintf(`INSERT INTO %s (object_type, modification_type) VALUES ('Order', 'CUSTOM')`, log.SQL()))
		exec(t, db, fmt.Sprintf(`ALTER TABLE %s DROP COLUMN id, DROP COLUMN object_type, DROP COLUMN modification_type,
			DROP COLUMN created_at, DROP COLUMN pk_entity_change_log, ADD COLUMN key int NOT NULL DEFAULT 1, ADD PRIMARY KEY (key)`, log.SQL()))
		exec(t, db, one(t, diagnose(t, db, db, cfg), "change log", ops.LevelError).Mend)
		exec(t, db, fmt.Sprintf(`ALTER TABLE %s DROP COLUMN seq, DROP COLUMN cascade, DROP COLUMN key`, log.SQL()))
		exec(t, db, one(t, diagnose(t, db, db, cfg), "change log columns", ops.LevelWarning).Mend)
		one(t, diagnose(t, db, db, cfg), "change log columns", ops.LevelOK)
		got, sorted := columnsOf(t, db, log.SQL()), slices.Sorted(slices.Values(want))
		slices.Sort(got)
		if !slices.Equal(got, sorted) {
			t.Errorf("completed: got columns\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(sorted, "\n"))
		}
	}
}

func TestDoctorViewAsChangeLog(t *testing.T) {
	t.Parallel()
	db := examined(t)
	cfg := slotOf(t, db)
	cfg.ChangeLog = &capture.Table{Schema: "core", Name: "shown"}
	exec(t, db, `CREATE VIEW core.shown AS SELECT pk_entity_change_log, created_at::date FROM core.tb_entity_change_log`)
	d := diagnose(t, db, db, cfg)
	view := one(t, d, "change log", ops.LevelError)
	if !strings.Contains(view.Problem, "core.shown is no table") {
		t.Errorf("problem %q", view.Problem)
	}
	equal(t, "findings about its columns", len(find(d, "change log columns")), 0)
}
