package ops

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/fraiseql/weir/internal/capture"
)

// columnType is what a column of the change log is.
type columnType struct {
	shown    string // by format_type
	base     string // name in pg_type, of the type beneath a domain; whatever schema an extension is in
	category string // pg_type.typcategory of it
	def      string // the default as SQL, "" for none
}

// equivalent are types of which every value has the same text as one of the type that is expected, by name in pg_type.
func equivalent(typ string) []string {
	switch typ {
	case "text":
		return []string{"text", "varchar", "citext"}
	case "bigint", "integer":
		return []string{"int8", "int4", "int2"}
	case "jsonb":
		return []string{"jsonb", "json"}
	case "text[]":
		return []string{"_text", "_varchar"}
	case "timestamp with time zone":
		return []string{"timestamptz"}
	default:
		return []string{typ}
	}
}

// columns finds missing and mistyped columns of the change log. Those without which nothing works are preflight's.
func (c *checkup) columns(ctx context.Context) error {
	const check = "change log columns"
	log := *c.cfg.ChangeLog
	rows, _ := c.source.Query(ctx, `
		SELECT a.attname::text, format_type(a.atttypid, NULL), b.typname::text, b.typcategory::text,
		       CASE WHEN a.attgenerated = '' THEN coalesce(pg_get_expr(d.adbin, d.adrelid), '') ELSE '' END
		  FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
		  JOIN pg_type t ON t.oid = a.atttypid JOIN pg_type b ON b.oid = CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.oid END
		  LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
		 WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped`,
		log.Schema, log.Name)
	types := map[string]columnType{}
	var name string
	var typ columnType
	_, err := pgx.ForEachRow(rows, []any{&name, &typ.shown, &typ.base, &typ.category, &typ.def}, func() error {
		types[name] = typ
		return nil
	})
	if err != nil {
		return err
	}
	if len(types) == 0 {
		return nil // none is wanted, or preflight has said that there is no table
	}
	var missing []string
	var add []capture.Column
	sound := true
	for _, want := range capture.ChangeLogColumns() {
		switch have, ok := types[want.Name]; {
		case !ok:
			missing, add = append(missing, want.Name), append(add, want)
		case slices.Contains(equivalent(want.Type), have.base):
		case want.Reads(have.base):
			sound = false
			c.add(check, LevelWarning, fmt.Sprintf("%s is %s, expected %s", want.Name, have.shown, want.Type), retype(log, want, have))
		default:
			sound = false
			c.add(check, LevelError, fmt.Sprintf("%s is %s, expected %s: a worker cannot read it", want.Name, have.shown, want.Type),
				retype(log, want, have))
		}
	}
	if len(missing) > 0 && !c.failed("change log") { // which has a mend for all of them
		sound = false
		c.add(check, LevelWarning, "missing: "+strings.Join(missing, ", "), capture.CompleteChangeLog(log, add, true))
	}
	if sound {
		c.ok(check)
	}
	return nil
}

// toTexts makes an array of text of what stands in a JSON value or a text in its place.
const toTexts = `CREATE FUNCTION pg_temp.weir_texts(v text) RETURNS text[] LANGUAGE sql IMMUTABLE AS ` +
	`$$SELECT CASE WHEN v IN ('', 'null') THEN NULL WHEN v LIKE '[%%' THEN ARRAY(SELECT jsonb_array_elements_text(v::jsonb)) ` +
	`WHEN v LIKE '"%%' THEN ARRAY[v::jsonb #>> '{}'] %s ELSE string_to_array(v, ',') END$$;`

// retype gives a column its type, and keeps what is in it as far as there is a way from the one type to the other.
func retype(log capture.Table, want capture.Column, have columnType) string {
	name := quoted(want.Name)
	using, ok := convert(name, want.Type, have)
	switch {
	case !ok && want.Reads(have.base):
		return fmt.Sprintf("-- no %s can be made of a %s; a worker takes it as it is", want.Type, have.shown)
	case !ok:
		return replaced(log, want, have)
	}
	var steps []string
	if have.def != "" { // the old one would have to be of the new type
		steps = append(steps, fmt.Sprintf("ALTER COLUMN %s DROP DEFAULT", name))
	}
	steps = append(steps, fmt.Sprintf("ALTER COLUMN %s TYPE %s USING %s", name, want.Type, using))
	if have.def != "" {
		def := want.DefaultIn(log)
		if def == "" {
			def, _ = convert("("+have.def+")", want.Type, have)
		}
		if strings.Contains(def, "pg_temp.") { // which is gone with the session
			def = "'{}'"
		}
		steps = append(steps, fmt.Sprintf("ALTER COLUMN %s SET DEFAULT %s", name, def))
	}
	alter := fmt.Sprintf("ALTER TABLE %s %s;", log.SQL(), strings.Join(steps, ", "))
	if strings.Contains(using, "pg_temp.") {
		keys := "WHEN v LIKE '{%' THEN v::text[]"
		if have.category != "S" {
			keys = "WHEN v LIKE '{%' THEN ARRAY(SELECT jsonb_object_keys(v::jsonb))"
		}
		alter = strings.Join([]string{fmt.Sprintf(toTexts, keys), alter, "DROP FUNCTION pg_temp.weir_texts(text);"}, "\n")
	}
	if want.Type == "timestamp with time zone" && have.category == "D" {
		alter += " -- without a time zone in it, it is taken for a time of the session's: SET TIME ZONE before, if it is of another"
	}
	return alter
}

// replaced keeps a column under another name beside one of the right type.
func replaced(log capture.Table, want capture.Column, have columnType) string {
	name, old := quoted(want.Name), quoted(want.Name+"_old")
	rename := fmt.Sprintf("ALTER TABLE %s RENAME COLUMN %s TO %s;", log.SQL(), name, old)
	if !want.IsKey() { // new rows leave it out
		rename += fmt.Sprintf(" ALTER TABLE %s ALTER COLUMN %s DROP NOT NULL;", log.SQL(), old)
	}
	return fmt.Sprintf("%s\n%s -- no %s can be made of a %s: the old column is kept", rename,
		capture.AddColumns(log, []capture.Column{want}, true), want.Type, have.shown)
}

// convert is the expression that makes one type of another, false if there is none.
func convert(value, typ string, have columnType) (sql string, ok bool) {
	text := fmt.Sprintf("nullif(btrim(%s::text), '')", value)
	is := func(categories string) bool { return strings.Contains(categories, have.category) }
	switch typ {
	case "text":
		return value + "::text", true
	case "uuid":
		if have.base == "bytea" {
			return fmt.Sprintf("encode(%s, 'hex')::uuid", value), true
		}
		return text + "::uuid", is("S")
	case "bigint", "integer":
		switch {
		case have.base == "interval":
			return fmt.Sprintf("round(extract(epoch FROM %s) * 1000)::%s", value, typ), true
		case is("NS"): // also of fractions
			return fmt.Sprintf("round(%s::numeric)::%s", text, typ), true
		}
	case "jsonb":
		switch {
		case have.base == "bytea":
			return fmt.Sprintf("convert_from(%s, 'UTF8')::jsonb", value), true
		case is("S"):
			return text + "::jsonb", true
		}
		return fmt.Sprintf("to_jsonb(%s)", value), true
	case "text[]":
		switch {
		case is("A"):
			return value + "::text[]", true
		case is("S"), have.base == "json", have.base == "jsonb":
			return fmt.Sprintf("pg_temp.weir_texts(%s::text)", value), true
		}
	case "timestamp with time zone":
		switch {
		case have.base == "timestamp" || have.base == "date":
			return value + "::timestamptz", true
		case is("S"):
			return text + "::timestamptz", true
		case is("N"): // seconds or milliseconds since 1970
			return fmt.Sprintf("to_timestamp(CASE WHEN abs(%s) > 100000000000 THEN %[1]s / 1000.0 ELSE %[1]s END)", value), true
		}
	}
	return "", false
}

// readable reads the change log as the worker does when it reads a row again: a policy that hides rows must be an error.
func (c *checkup) readable(ctx context.Context) error {
	const check = "row-level security"
	log := *c.cfg.ChangeLog
	if log == (capture.Table{}) {
		return nil
	}
	var role string
	if err := c.source.QueryRow(ctx, `SELECT current_user::text`).Scan(&role); err != nil {
		return err
	}
	_, err := c.source.Exec(ctx, `SET LOCAL row_security = off`) // until the end of the check
	if err == nil {
		_, err = c.source.Exec(ctx, "SELECT FROM "+log.SQL()+" LIMIT 1")
	}
	var refused *pgconn.PgError
	switch {
	case err == nil:
		c.ok(check)
	case capture.NotMigrated(err): // there is no table, as said
	case errors.As(err, &refused) && refused.Code == "42501" && strings.Contains(refused.Message, "row-level security"):
		c.add(check, LevelError, fmt.Sprintf("role %s is subject to policies of %s: rows could be hidden from it", role, log),
			fmt.Sprintf("ALTER ROLE %s BYPASSRLS;", quoted(role)))
	case errors.As(err, &refused) && refused.Code == "42501":
		c.add(check, LevelError, fmt.Sprintf("role %s may not read %s", role, log), fmt.Sprintf(
			"GRANT USAGE ON SCHEMA %s TO %s; GRANT SELECT ON %s TO %[2]s;", quoted(log.Schema), quoted(role), log.SQL()))
	default:
		return err
	}
	return nil
}
