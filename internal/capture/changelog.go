package capture

import (
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Column is one of the change log's.
type Column struct {
	Name    string
	Type    string // as format_type names it
	NotNull bool
	Default string // of new rows, as SQL; "" for none

	read reading
}

// reading is how row takes the text of a column's values.
type reading int

const (
	notAtAll reading = iota
	asText
	asInteger
	asUUID
	asJSON
	asArray
	asTime
)

// keyColumn is the primary key, numbered by the server.
const keyColumn = "pk_entity_change_log"

const (
	typeTime = "timestamp with time zone"
	typeText = "text"
)

// ChangeLogColumns are those of a change log, in their order; a test compares them with what the migrations make.
func ChangeLogColumns() []Column {
	return []Column{
		{Name: keyColumn, Type: "bigint", NotNull: true, read: asInteger},
		{Name: "id", Type: "uuid", NotNull: true, Default: "gen_random_uuid()", read: asUUID},
		{Name: "object_type", Type: typeText, NotNull: true, read: asText},
		{Name: "modification_type", Type: typeText, NotNull: true, read: asText},
		{Name: "object_id", Type: "uuid", read: asText},
		{Name: "object_data", Type: "jsonb", read: asJSON},
		{Name: "object_data_before", Type: "jsonb", read: asJSON},
		{Name: "updated_fields", Type: "text[]", read: asArray},
		{Name: "cascade", Type: "jsonb"},
		{Name: "tenant_id", Type: "uuid", read: asText},
		{Name: "fk_customer_org", Type: "bigint"},
		{Name: "fk_contact", Type: "bigint", read: asText},
		{Name: "actor_type", Type: typeText, read: asText},
		{Name: "acting_for", Type: "uuid", read: asText},
		{Name: "schema_version", Type: typeText, read: asText},
		{Name: "trace_id", Type: typeText},
		{Name: "trace_context", Type: "jsonb", read: asJSON},
		{Name: "started_at", Type: typeTime},
		{Name: "duration_ms", Type: "integer", read: asInteger},
		{Name: "commit_time", Type: typeTime},
		{Name: "seq", Type: "bigint", Default: "nextval", read: asInteger}, // of a sequence beside the table
		{Name: "change_status", Type: typeText},
		{Name: "extra_metadata", Type: "jsonb", read: asJSON},
		{Name: "created_at", Type: typeTime, NotNull: true, Default: "now()", read: asTime},
		{Name: "nats_published_at", Type: typeTime},
		{Name: "nats_event_id", Type: "uuid"},
	}
}

// isDocument says that a column of this name holds JSON that is read.
func isDocument(name string) bool {
	return slices.ContainsFunc(ChangeLogColumns(), func(c Column) bool { return c.Name == name && c.read == asJSON })
}

// IsKey says that it is the primary key.
func (c Column) IsKey() bool { return c.Name == keyColumn }

// Reads says whether a worker reads values of another type, given by its name in pg_type, in the column's place. It cannot
// tell of a text what stands in it.
func (c Column) Reads(typname string) bool {
	text := slices.Contains([]string{"text", "varchar", "bpchar", "name", "citext"}, typname)
	switch c.read {
	case asInteger:
		return text || slices.Contains([]string{"int2", "int4", "int8", "oid"}, typname)
	case asUUID:
		return text || typname == "uuid"
	case asJSON:
		return text || typname == "json" || typname == "jsonb"
	case asArray:
		return strings.HasPrefix(typname, "_")
	case asTime:
		return typname == "timestamptz"
	case notAtAll, asText:
	}
	return true
}

// DefaultIn is the column's default in a table, "" for none.
func (c Column) DefaultIn(log Table) string {
	if c.Default == "nextval" {
		return fmt.Sprintf("nextval(%s)", literal(sequence(log)))
	}
	return c.Default
}

func (c Column) definition(log Table) string {
	def := pgx.Identifier{c.Name}.Sanitize() + " " + c.Type
	if c.Name == keyColumn {
		return def + " GENERATED ALWAYS AS IDENTITY PRIMARY KEY"
	}
	if c.NotNull {
		def += " NOT NULL"
	}
	if value := c.DefaultIn(log); value != "" {
		def += " DEFAULT " + value
	}
	return def
}

// IsDefault says that it is the table that the migrations make.
func (t Table) IsDefault() bool { return t == *Config{}.WithDefaults().ChangeLog }

// createChangeLog makes a table that the migrations do not know.
func createChangeLog(log Table, schemaExists bool) string {
	columns := ChangeLogColumns()
	definitions := make([]string, len(columns))
	for i, c := range columns {
		definitions[i] = "  " + c.definition(log)
	}
	statements := []string{createSequence(log), fmt.Sprintf("CREATE TABLE %s (\n%s);", log.SQL(), strings.Join(definitions, ",\n"))}
	if !schemaExists {
		schema := fmt.Sprintf("CREATE SCHEMA %s;", pgx.Identifier{log.Schema}.Sanitize())
		statements = slices.Insert(statements, 0, schema)
	}
	return strings.Join(statements, "\n")
}

// CompleteChangeLog is what adds columns to a change log: the migrations know the one table that they make, once it has a
// key. hasKey says that the table has a primary key already, whatever that is.
func CompleteChangeLog(log Table, missing []Column, hasKey bool) string {
	noKey := slices.ContainsFunc(missing, func(c Column) bool { return c.Name == keyColumn })
	if log.IsDefault() && !noKey {
		return "weir migrate up"
	}
	return AddColumns(log, missing, hasKey)
}

// AddColumns is CompleteChangeLog in SQL.
func AddColumns(log Table, missing []Column, hasKey bool) string {
	var statements, add, alter []string
	for _, c := range missing {
		name, def := pgx.Identifier{c.Name}.Sanitize(), c.definition(log)
		switch {
		case c.Name == keyColumn && hasKey:
			def = strings.Replace(def, "PRIMARY KEY", "UNIQUE", 1)
		case c.Name == keyColumn:
		case c.Name == "seq": // rows that are there keep NULL, as the migrations have it: nothing is rewritten
			statements = append(statements, createSequence(log))
			def = name + " " + c.Type
			alter = append(alter, fmt.Sprintf("ALTER COLUMN %s SET DEFAULT %s", name, c.DefaultIn(log)))
		case c.NotNull && c.Default == "": // there may be rows
			def += " DEFAULT ''"
			alter = append(alter, fmt.Sprintf("ALTER COLUMN %s DROP DEFAULT", name))
		}
		add = append(add, "ADD COLUMN "+def)
	}
	statements = append(statements, fmt.Sprintf("ALTER TABLE %s %s;", log.SQL(), strings.Join(add, ", ")))
	if len(alter) > 0 {
		statements = append(statements, fmt.Sprintf("ALTER TABLE %s %s;", log.SQL(), strings.Join(alter, ", ")))
	}
	return strings.Join(statements, "\n")
}

func sequence(log Table) string {
	if log.IsDefault() {
		return pgx.Identifier{log.Schema, "seq_entity_change_log"}.Sanitize()
	}
	return pgx.Identifier{log.Schema, "seq_" + log.Name}.Sanitize()
}

// createSequence is for seq. Whoever may insert into the table must be able to take a number.
func createSequence(log Table) string {
	return fmt.Sprintf("CREATE SEQUENCE IF NOT EXISTS %s; GRANT USAGE ON SEQUENCE %[1]s TO PUBLIC;", sequence(log))
}

func literal(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
