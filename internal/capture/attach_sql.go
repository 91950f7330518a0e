package capture

import (
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// captureFunction is the name of the trigger function. It is in the schema of the change log, which it writes.
const captureFunction = "weir_capture"

// captureTrigger is one of those that attach makes. Their names are fixed: they belong to their table.
type captureTrigger struct{ name, event, references string }

func captureTriggers() []captureTrigger {
	return []captureTrigger{
		{"weir_capture_insert", "INSERT", " REFERENCING NEW TABLE AS weir_new"},
		{"weir_capture_update", "UPDATE", " REFERENCING OLD TABLE AS weir_old NEW TABLE AS weir_new"},
		{"weir_capture_delete", "DELETE", " REFERENCING OLD TABLE AS weir_old"},
		{"weir_capture_truncate", "TRUNCATE", ""},
	}
}

func captureTriggerNames() []string {
	var names []string
	for _, t := range captureTriggers() {
		names = append(names, t.name)
	}
	return names
}

// usedColumns are those of the change log that the function fills. The others keep their defaults.
func usedColumns() []string {
	return []string{
		"object_type", "modification_type", "object_id", "object_data", "object_data_before", "updated_fields", "tenant_id",
		"actor_type", "acting_for", "schema_version", "change_status", "extra_metadata",
	}
}

// captureBody is the trigger function. What it rests on:
//
// It is SECURITY DEFINER, so that the application needs no right on the change log, and nobody else may make a trigger of it
// (REVOKE): firing one takes no right. Its search_path is fixed, and it runs no text as SQL.
//
// No write of the application may fail because of what a session has set: a setting that does not fit its column is left out.
// The settings of the function make the same value the same text, whatever the session has set.
//
// The old and the new rows of an UPDATE are two tables that nothing pairs: they are joined on the id. An id that is only in
// the old rows was deleted, one that is only in the new ones is new. Where rows share an id, the first goes with the first, so
// that they do not multiply. The subqueries number their rows also to be computed once.
//
// What is compared for updated_fields is the text of the values, whose digits count, as they do for `changes`.
const captureBody = `
DECLARE
    my_entity  CONSTANT text := TG_ARGV[0];
    my_id      CONSTANT text := TG_ARGV[1];
    my_tenant  CONSTANT text := nullif(TG_ARGV[2], '');
    my_before  CONSTANT boolean := TG_ARGV[3] = 'true';
    is_uuid    CONSTANT text := '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$';
    my_actor   text := current_setting('fraiseql.actor_type', true);
    my_version text := nullif(current_setting('fraiseql.schema_version', true), '');
    my_acting  text := current_setting('fraiseql.acting_for', true);
    my_session text := current_setting('fraiseql.tenant_id', true);
BEGIN
    IF current_setting('fraiseql.cdc_mediated', true) = 'on' THEN
        RETURN NULL; -- the application has logged it
    END IF;
    IF my_actor NOT IN ('human_user', 'service_account', 'ai_agent', 'system_job') THEN my_actor := NULL; END IF;
    IF my_acting !~ is_uuid THEN my_acting := NULL; END IF;
    IF my_session !~ is_uuid THEN my_session := NULL; END IF;

    IF TG_OP = 'INSERT' THEN
        INSERT INTO @log (@columns)
        SELECT my_entity, 'INSERT', CASE WHEN d.doc ->> my_id ~ is_uuid THEN (d.doc ->> my_id)::uuid END, d.doc, NULL, NULL,
               @tenant, my_actor, my_acting::uuid, my_version, 'success', '{"cdc_source": "fallback_trigger"}'
          FROM (SELECT to_jsonb(n.*) AS doc, row_number() OVER () AS ord FROM weir_new n) d
         ORDER BY d.ord;
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO @log (@columns)
        SELECT my_entity, 'DELETE', CASE WHEN d.doc ->> my_id ~ is_uuid THEN (d.doc ->> my_id)::uuid END, NULL, d.doc, NULL,
               @tenant, my_actor, my_acting::uuid, my_version, 'success', '{"cdc_source": "fallback_trigger"}'
          FROM (SELECT to_jsonb(o.*) AS doc, row_number() OVER () AS ord FROM weir_old o) d
         ORDER BY d.ord;
    ELSIF TG_OP = 'UPDATE' THEN
        INSERT INTO @log (@columns)
        SELECT my_entity, d.verb, CASE WHEN d.id ~ is_uuid THEN d.id::uuid END, d.after,
               CASE WHEN d.verb = 'DELETE' OR (d.verb = 'UPDATE' AND my_before) THEN d.before END,
               CASE WHEN d.verb = 'UPDATE' THEN ARRAY(
                   SELECT f.key FROM jsonb_each(d.after) f
                    WHERE f.value::text IS DISTINCT FROM (d.before -> f.key)::text ORDER BY f.key) END,
               @tenant, my_actor, my_acting::uuid, my_version, 'success', '{"cdc_source": "fallback_trigger"}'
          FROM (SELECT id, was.doc AS before, now.doc AS after, coalesce(now.doc, was.doc) AS doc,
                       CASE WHEN now.doc IS NULL THEN 'DELETE' WHEN was.doc IS NULL THEN 'INSERT' ELSE 'UPDATE' END AS verb,
                       row_number() OVER (ORDER BY coalesce(now.ord, was.ord), now.ord IS NOT NULL) AS ord
                  FROM (SELECT o.doc, o.ord, coalesce(o.doc ->> my_id, '') AS id,
                               row_number() OVER (PARTITION BY o.doc ->> my_id ORDER BY o.ord) AS nth
                          FROM (SELECT to_jsonb(o.*) AS doc, row_number() OVER () AS ord FROM weir_old o) o) was
                  FULL JOIN
                       (SELECT n.doc, n.ord, coalesce(n.doc ->> my_id, '') AS id,
                               row_number() OVER (PARTITION BY n.doc ->> my_id ORDER BY n.ord) AS nth
                          FROM (SELECT to_jsonb(n.*) AS doc, row_number() OVER () AS ord FROM weir_new n) n) now
                 USING (id, nth)) d
         ORDER BY d.ord;
    ELSE
        INSERT INTO @log (@columns)
        VALUES (my_entity, 'CUSTOM', NULL,
                jsonb_build_object('operation', 'TRUNCATE', 'table', TG_TABLE_SCHEMA || '.' || TG_TABLE_NAME), NULL, NULL,
                my_session::uuid, my_actor, my_acting::uuid, my_version, 'success', '{"cdc_source": "fallback_trigger"}');
    END IF;
    RETURN NULL;
END`

// captureTenant is the value of tenant_id: the column's where there is one.
const captureTenant = `CASE WHEN my_tenant IS NULL THEN my_session::uuid
                    WHEN d.doc ->> my_tenant ~ is_uuid THEN (d.doc ->> my_tenant)::uuid END`

// createFunction makes the function of a change log, or makes it the present one.
func createFunction(log Table) string {
	body := strings.NewReplacer("@log", log.SQL(), "@columns", strings.Join(usedColumns(), ", "), "@tenant", captureTenant).
		Replace(captureBody)
	tag := "$weir$"
	for n := 1; strings.Contains(body, tag); n++ { // in the name of a table
		tag = fmt.Sprintf("$weir%d$", n)
	}
	name := functionOf(log).SQL() + "()"
	return fmt.Sprintf(`CREATE OR REPLACE FUNCTION %[1]s RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC' SET datestyle = 'ISO' SET intervalstyle = 'postgres' SET bytea_output = 'hex'
    SET extra_float_digits = '1'
AS %[2]s%[3]s%[2]s;
REVOKE ALL ON FUNCTION %[1]s FROM PUBLIC;
COMMENT ON FUNCTION %[1]s IS %[4]s;`, name, tag, body, literal(functionComment(log)))
}

func functionOf(log Table) Table { return Table{Schema: log.Schema, Name: captureFunction} }

// functionComment also says which change log a function writes.
func functionComment(log Table) string {
	return "weir attach: writes " + log.String() + " for what the application does not log itself"
}

func createTriggers(a *Attached, log Table) string {
	arguments := make([]string, 0, 4)
	for _, value := range []string{a.Entity, a.ID, a.Tenant, fmt.Sprint(a.Before)} {
		arguments = append(arguments, literal(value))
	}
	var statements []string
	for _, t := range captureTriggers() {
		statements = append(statements, fmt.Sprintf(
			"CREATE OR REPLACE TRIGGER %s AFTER %s ON %s%s\n    FOR EACH STATEMENT EXECUTE FUNCTION %s(%s);",
			t.name, t.event, a.table.SQL(), t.references, functionOf(log).SQL(), strings.Join(arguments, ", ")))
	}
	return strings.Join(statements, "\n")
}

func dropTriggers(table Table, names []string) string {
	statements := make([]string, len(names))
	for i, name := range names {
		statements[i] = fmt.Sprintf("DROP TRIGGER %s ON %s;", pgx.Identifier{name}.Sanitize(), table.SQL())
	}
	return strings.Join(statements, "\n")
}
