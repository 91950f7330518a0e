package capture

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// subject is what the catalog has of a table.
type subject struct {
	Table
	oid         uint32
	kind        string
	temporary   bool
	isPartition bool
	hasChildren bool // by inheritance, which is no partitioning
	columns     []subjectColumn
}

type subjectColumn struct {
	Name, Type string
	NotNull    bool
}

func (r *subject) names() []string {
	names := make([]string, len(r.columns))
	for i, c := range r.columns {
		names[i] = c.Name
	}
	return names
}

// findSubject takes the name as it is stored before it takes it as SQL.
func findSubject(ctx context.Context, conn *pgx.Conn, name string) (*subject, error) {
	var oid *uint32
	if schema, table, ok := strings.Cut(name, "."); ok {
		err := conn.QueryRow(ctx, `
			SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2`,
			schema, table).Scan(&oid)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return nil, err
		}
	}
	if oid == nil {
		err := conn.QueryRow(ctx, `SELECT to_regclass($1)::oid`, name).Scan(&oid)
		var syntax *pgconn.PgError
		if err != nil && !errors.As(err, &syntax) { // a name that is none
			return nil, err
		}
	}
	if oid == nil {
		return nil, noSuchTable(ctx, conn, name)
	}
	r := &subject{oid: *oid}
	err := conn.QueryRow(ctx, `
		SELECT n.nspname, c.relname, c.relkind::text, c.relpersistence = 't', c.relispartition,
		       c.relkind <> 'p' AND EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = c.oid)
		  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1`, *oid).
		Scan(&r.Schema, &r.Name, &r.kind, &r.temporary, &r.isPartition, &r.hasChildren)
	if err != nil {
		return nil, err
	}
	rows, _ := conn.Query(ctx, `
		SELECT attname::text, format_type(atttypid, atttypmod), attnotnull FROM pg_attribute
		 WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped ORDER BY attnum`, *oid)
	r.columns, err = pgx.CollectRows(rows, pgx.RowToStructByPos[subjectColumn])
	return r, err
}

// noSuchTable says what there is.
func noSuchTable(ctx context.Context, conn *pgx.Conn, name string) error {
	schema, _, _ := strings.Cut(name, ".")
	rows, _ := conn.Query(ctx, `
		SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		 WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence <> 't'
		   AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'weir')
		 ORDER BY n.nspname <> $1, c.relname NOT LIKE '%' || right($2, 4) || '%', 1 LIMIT 11`, schema, name)
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	return &AttachError{fmt.Sprintf("there is no table %s: %s", name, thereIs(tables, 10))}
}

// thereIs lists what exists.
func thereIs(names []string, most int) string {
	switch {
	case len(names) == 0:
		return "there are none"
	case len(names) > most:
		return "there are " + strings.Join(names[:most], ", ") + ", …"
	default:
		return "there is " + strings.Join(names, ", ")
	}
}

func (r *subject) attachable(log Table) error {
	kinds := map[string]string{
		"v": "a view", "m": "a materialized view", "f": "a foreign table", "S": "a sequence", "i": "an index", "I": "an index",
		"c": "a type",
	}
	switch {
	case kinds[r.kind] != "":
		return &AttachError{fmt.Sprintf("%s is %s: attach the tables that are behind it", r, kinds[r.kind])}
	case r.temporary:
		return &AttachError{r.Name + " is a temporary table"}
	case r.Table == log:
		return &AttachError{r.String() + " is the change log itself"}
	case r.Schema == "weir" || r.Schema == "pg_catalog" || r.Schema == "information_schema":
		return &AttachError{r.String() + " is none of the application's tables"}
	}
	return nil
}

// checkColumns returns the tenant's column.
func (r *subject) checkColumns(how Attach) (tenant string, err error) {
	if err := r.checkUUID(how.ID, "--id"); err != nil {
		return "", err
	}
	if how.Tenant != nil {
		if *how.Tenant == "" {
			return "", nil
		}
		return *how.Tenant, r.checkUUID(*how.Tenant, "--tenant")
	}
	const usual = "tenant_id"
	if slices.ContainsFunc(r.columns, func(c subjectColumn) bool { return c.Name == usual && c.Type == "uuid" }) {
		return usual, nil
	}
	return "", nil
}

func (r *subject) checkUUID(column, flag string) error {
	i := slices.Index(r.names(), column)
	switch {
	case i < 0:
		return &AttachError{fmt.Sprintf("%s has no column %q (%s): %s", r, column, flag, thereIs(r.names(), 30))}
	case r.columns[i].Type == "uuid":
		return nil
	case flag == "--id":
		return &AttachError{fmt.Sprintf("column %s of %s is %s, and the change log identifies entities by a uuid: name another column "+
			"with --id, or capture the table without a change log, with source.tables", column, r, r.columns[i].Type)}
	default:
		return &AttachError{fmt.Sprintf("column %s of %s is %s, expected a uuid (%s '' is for none)",
			column, r, r.columns[i].Type, flag)}
	}
}
