package capture_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// literals are values of every built-in type, in SQL's text form.
var literals = map[string][]string{
	"bool": {"t", "f"},
	"int2": {"-32768", "0"}, "int4": {"2147483647", "-1"}, "int8": {"9007199254740993", "-9223372036854775808"},
	"float4": {"1.5", "NaN", "-Infinity", "1e-30", "-3.4e38", "-0", "16777217", "0.1"},
	"float8": {"0.1", "Infinity", "1e308", "-1.7976931348623157e308", "5e-324", "1e15", "123456789012345678", "-0", "-1.25e-7"},
	"numeric": {
		"100.10", "NaN", "Infinity", "-Infinity", "0", "-0.000", "1e-30", "12345678901234567890123456789.0123456789012345678900", "1e100",
	},
	"money": {"12.30", "-1"},
	"text":  {"", "a\"b\\c\n\r\t\b\f\x01\x1f\x7f", "ключ 🎉  </script>", "null", `{"a"}`}, "varchar": {"x "}, "name": {"n"},
	"bpchar": {"x  "}, `"char"`: {"c", ""},
	"bytea": {`\xDEADbeef`, ""}, "uuid": {"B6F9F6C8-3c86-4a4e-8ad6-4d2b9a2a9a10"},
	"date": {"2026-02-28", "infinity", "-infinity", "0044-03-15 BC", "5874897-12-31"},
	"time": {"23:59:59.123456", "24:00"}, "timetz": {"23:59:59+05:30", "00:00-02"},
	"timestamp":   {"2026-02-28 22:30:00.12", "infinity", "-infinity", "0044-03-15 12:00:00 BC", "294276-12-31 23:59:59"},
	"timestamptz": {"2026-02-28 22:30:00.123456+05:30", "infinity", "-infinity", "0044-03-15 12:00:00+00 BC", "294276-12-31 23:59:59+00"},
	"interval":    {"1 year 2 mons -3 days 04:05:06.789", "0", "-00:00:01"},
	"json":        {`{"a": 100.10, "b": [1e400, null], "c": "\u00e9"}`, `"x"`, `null`, " [1 , 2]\n"},
	"jsonb":       {`{"a": 100.10, "b": [1e30, null], "c": {"d": "x\"y"}}`, `null`, `9007199254740993123.50`},
	"jsonpath":    {"$.a[*]"}, "xml": {`<a b="c">d</a>`},
	"bit": {"1"}, "varbit": {"10110", ""},
	"inet": {"10.1.2.3/8", "::1", "192.168.0.1"}, "cidr": {"10.1.0.0/16"}, "macaddr": {"08:00:2b:01:02:03"}, "macaddr8": {"08:00:2b:01:02:03:04:05"},
	"point": {"(1.5,-2)"}, "line": {"{1,-1,0}"}, "lseg": {"[(0,0),(1,1)]"}, "box": {"(1,1),(0,0)"}, "path": {"((0,0),(1,1))", "[(0,0),(1,1)]"},
	"polygon": {"((0,0),(1,1),(2,0))"}, "circle": {"<(0,0),5>"},
	"oid": {"4294967295"}, "xid": {"4294967295"}, "xid8": {"18446744073709551615"}, "cid": {"1"}, "tid": {"(0,1)"},
	"regclass": {"pg_class", "0"}, "regcollation": {`"C"`}, "regconfig": {"english"}, "regdictionary": {"simple"}, "regnamespace": {"public"},
	"regoper": {"0"}, "regoperator": {"+(integer,integer)"}, "regproc": {"now"}, "regprocedure": {"now()"}, "regrole": {"0"}, "regtype": {"integer"},
	"regdatabase": {"template1"},
	"tsvector":    {"'a':1 'b c':2A"}, "tsquery": {"'a' & !'b'"},
	"pg_lsn": {"16/B374D848"}, "pg_snapshot": {"10:20:10,14"}, "txid_snapshot": {"10:20:10,14"}, "refcursor": {"c"}, "aclitem": {"=r/postgres"},
	"int2vector": {"1 2 -3", ""}, "oidvector": {"1 4294967295", ""},
	"int4range": {"[1,5)", "empty", "(,)"}, "int8range": {"[1,)"}, "numrange": {"[1.10,2.20]"}, "daterange": {"[2026-01-01,2026-02-01)"},
	"tsrange": {`["2026-01-01 00:00:00","2026-02-01 00:00:00")`}, "tstzrange": {`["2026-01-01 00:00:00+00",infinity)`},
	"int4multirange": {"{[1,5),[7,9)}", "{}"}, "int8multirange": {"{[1,5)}"}, "nummultirange": {"{[1.10,2.20]}"},
	"datemultirange": {"{[2026-01-01,2026-02-01)}"}, "tsmultirange": {`{["2026-01-01 00:00:00","2026-02-01 00:00:00")}`},
	"tstzmultirange": {`{["2026-01-01 00:00:00+00","2026-02-01 00:00:00+00")}`},
}

// ofTheServer are types that no table of an application has: PostgreSQL refuses their text form.
var ofTheServer = []string{
	"gtsvector", "pg_node_tree", "pg_ndistinct", "pg_dependencies", "pg_mcv_list", "pg_brin_bloom_summary", "pg_brin_minmax_multi_summary",
}

// ofOthers are made by users and extensions.
const ofOthers = `
	CREATE TYPE mood AS ENUM ('ok', 'not "so" ok');
	CREATE DOMAIN amount AS numeric(12, 2) CHECK (VALUE >= 0);
	CREATE DOMAIN amounts AS amount[];
	CREATE TYPE inner_row AS (n numeric, at timestamptz, m mood, list int[]);
	CREATE TYPE outer_row AS (id int8, "q""k" text, b bool, i inner_row, a amount, is_ inner_row[]);
	CREATE TYPE span AS RANGE (subtype = numeric);
	CREATE DOMAIN rowdomain AS inner_row;
	CREATE EXTENSION citext; CREATE EXTENSION ltree`

var literalsOfOthers = map[string][]string{
	"mood": {"ok", `not "so" ok`}, "amount": {"100.10"}, "amounts": {"{100.10,NULL}"}, "span": {"[1.0,2.00)"}, "citext": {"Ab"}, "ltree": {"a.b"},
	"inner_row": {`(100.10,"2026-02-28 22:30:00+00","not ""so"" ok","{1,NULL}")`, "(,,,)"},
	"outer_row": {`(9007199254740993," a,""b""\\ ",t,"(1.0,,,)",7.00,"{""(2.0,,ok,)"",NULL}")`, `(,"",,,,)`},
	"rowdomain": {`(100.10,"2026-02-28 22:30:00+00",ok,{})`},
}

// typed makes a table with a column of each type, and of arrays of it, and returns how many rows its values fill.
func typed(r *rig) (rows int, fill func(n int) string) {
	all := map[string][]string{}
	names, err := pgx.CollectRows(first(r.conn.Query(context.WithoutCancel(r.t.Context()), `
		SELECT format_type(oid, -1) FROM pg_type WHERE typnamespace = 'pg_catalog'::regnamespace AND typtype IN ('b', 'r', 'm')
		   AND NOT EXISTS (SELECT FROM pg_type e WHERE e.typarray = pg_type.oid)`)), pgx.RowTo[string])
	if err != nil {
		r.t.Fatal(err)
	}
	for _, name := range names {
		short := r.one(`SELECT CASE typname WHEN 'char' THEN '"char"' ELSE typname END FROM pg_type WHERE oid = $1::regtype`, name)
		values := literals[short]
		if len(values) == 0 && !slices.Contains(ofTheServer, short) {
			r.t.Errorf("there is no value of type %s", short)
		}
		if len(values) > 0 {
			all[short] = values
		}
	}
	r.exec(ofOthers)
	for name, values := range literalsOfOthers {
		all[name] = values
	}
	var columns []string
	fields := map[string][]string{} // a column's values, as SQL
	for name, values := range all {
		column := "v_" + strings.Trim(name, `"`)
		columns = append(columns, column+" "+name, column+"_a "+name+"[]")
		rows = max(rows, len(values)+2)
		for _, v := range values {
			fields[column] = append(fields[column], quote(v)+"::"+name)
		}
		list := "ARRAY[" + strings.Join(append(fields[column], "NULL"), ", ") + "]::" + name + "[]"
		fields[column+"_a"] = []string{list, "'{}'", "ARRAY[" + list + "," + list + "]", "('[3:3]={NULL}')::" + name + "[]"}
	}
	r.exec("CREATE TABLE typed (id int PRIMARY KEY, " + strings.Join(columns, ", ") + ")")
	return rows, func(n int) string {
		var into, values []string
		for column, list := range fields {
			if n < len(list) {
				into, values = append(into, column), append(values, list[n])
			}
		}
		if len(into) == 0 {
			return fmt.Sprintf("INSERT INTO typed (id) VALUES (%d)", n)
		}
		return fmt.Sprintf("INSERT INTO typed (id, %s) VALUES (%d, %s)", strings.Join(into, ", "), n, strings.Join(values, ", "))
	}
}

func first[T any](v T, _ error) T { return v }

func quote(s string) string {
	return "E'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}

// The values of every type are written as to_jsonb writes them, in every digit.
func TestValuesOfAllTypes(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.exec("SET timezone = 'UTC'")
	rows, fill := typed(r)
	for n := range rows {
		r.exec(fill(n))
	}
	with := table("typed")
	with.Snapshot = true
	r.capture(with)
	run := r.start("one")
	all := func() bool { return r.one("SELECT count(*)::text FROM ingested") == fmt.Sprint(rows) }
	r.await("a snapshot of all rows", all)
	r.sameAsJSONB()
	r.streaming(run)
	r.exec("CREATE TEMP TABLE kept AS TABLE typed; DELETE FROM typed")
	r.mark()
	r.exec("INSERT INTO typed TABLE kept") // an update would not write large values again
	r.await("all rows", all)
	r.sameAsJSONB()
	if got := r.one(`SELECT data FROM ingested WHERE object_id = '0'`); !strings.Contains(got, `"v_numeric":100.10,`) ||
		!strings.Contains(got, `"v_int8":9007199254740993,`) || !strings.Contains(got, `"v_float8":0.1,`) {
		t.Errorf("digits are lost: %.4000s", got)
	}
}

// sameAsJSONB compares each value of each event with that of the row.
func (r *rig) sameAsJSONB() {
	r.t.Helper()
	differ, err := pgx.CollectRows(first(r.conn.Query(r.t.Context(), `
		SELECT format('row %s: %s is %s, to_jsonb has %s', id, key, i.value, t.value)
		  FROM (SELECT object_id AS id, e.* FROM ingested, jsonb_each(data::jsonb) e) i
		  FULL JOIN (SELECT typed.id::text AS id, e.* FROM typed, jsonb_each(to_jsonb(typed)) e) t USING (id, key)
		 WHERE i.value::text IS DISTINCT FROM t.value::text`)), pgx.RowTo[string])
	if err != nil || len(differ) > 0 {
		r.t.Errorf("%v\n%s", err, strings.Join(differ, "\n"))
	}
}
