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

// The publication of source.tables is ours: it is made, and kept equal to the configuration, by the worker that takes the
// stream. It is not looked at as the change log's is, which may be somebody's.

// publishVersion is from when on a publication has column lists and row filters.
const publishVersion = 150000

// generatedVersion is from when on it can have stored generated columns.
const generatedVersion = 180000

// tableSQL is the table's entry in a publication.
func (t CapturedTable) tableSQL() string {
	sql := t.Table.SQL()
	if len(t.Columns) > 0 {
		sql += " (" + quoted(t.Columns) + ")"
	}
	if t.Where != "" {
		sql += " WHERE (" + t.Where + ")"
	}
	return sql
}

func quoted(columns []string) string {
	names := make([]string, len(columns))
	for i, c := range columns {
		names[i] = pgx.Identifier{c}.Sanitize()
	}
	return strings.Join(names, ", ")
}

// tablesSQL is the list of a publication's tables.
func (c Config) tablesSQL() string {
	list := make([]string, len(c.Tables))
	for i, t := range c.Tables {
		list[i] = t.tableSQL()
	}
	return strings.Join(list, ", ")
}

const publishEverything = "insert, update, delete, truncate"

// publicationOptions are those of the tables' publication.
func publicationOptions(version int) string {
	options := "publish = '" + publishEverything + "', publish_via_partition_root = true"
	if version >= generatedVersion {
		options += ", publish_generated_columns = stored" // where there is no list of columns
	}
	return options
}

// published is what the server says of the tables' publication.
type published struct {
	everything bool     // FOR ALL TABLES, or of a schema: not ours to take back
	options    bool     // as publicationOptions has them
	tables     []string // schema.table (column, column) [filtered], sorted
	names      []string // schema.table, quoted
}

// readPublished returns nil where there is no such publication.
func readPublished(ctx context.Context, conn *pgx.Conn, name string) (*published, error) {
	p := &published{}
	// Through jsonb the query does for versions that lack a column, too.
	err := conn.QueryRow(ctx, `
		SELECT q.puballtables OR EXISTS (SELECT FROM pg_publication_tables t WHERE t.pubname = q.pubname AND NOT EXISTS (
		           SELECT FROM pg_publication_rel r JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace
		            WHERE r.prpubid = q.oid AND n.nspname = t.schemaname AND c.relname = t.tablename)),
		       q.pubinsert AND q.pubupdate AND q.pubdelete AND q.pubtruncate AND q.pubviaroot
		           AND coalesce(to_jsonb(q) ->> 'pubgencols', 's') = 's',
		       ARRAY(SELECT format('%s.%s (%s)%s', n.nspname, c.relname,
		                (SELECT coalesce(string_agg(a.attname, ', ' ORDER BY a.attname), '') FROM pg_attribute a
		                  WHERE a.attrelid = c.oid AND a.attnum > 0
		                    AND CASE jsonb_typeof(to_jsonb(r) -> 'prattrs')
		                        WHEN 'array' THEN to_jsonb(r) -> 'prattrs' @> to_jsonb(a.attnum)
		                        WHEN 'string' THEN a.attnum::text = ANY (string_to_array(to_jsonb(r) ->> 'prattrs', ' ')) END),
		                CASE WHEN to_jsonb(r) ->> 'prqual' IS NOT NULL THEN ' filtered' END)
		           FROM pg_publication_rel r JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace
		          WHERE r.prpubid = q.oid),
		       ARRAY(SELECT format('%I.%I', n.nspname, c.relname) FROM pg_publication_rel r JOIN pg_class c ON c.oid = r.prrelid
		                JOIN pg_namespace n ON n.oid = c.relnamespace WHERE r.prpubid = q.oid)
		  FROM pg_publication q WHERE q.pubname = $1`, name).Scan(&p.everything, &p.options, &p.tables, &p.names)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	slices.Sort(p.tables)
	return p, err
}

// wanted is published as the configuration has it.
func (c Config) wanted() []string {
	list := make([]string, len(c.Tables))
	for i, t := range c.Tables {
		columns := slices.Sorted(slices.Values(t.Columns))
		list[i] = fmt.Sprintf("%s.%s (%s)", t.Table.Schema, t.Table.Name, strings.Join(columns, ", "))
		if t.Where != "" {
			list[i] += " filtered"
		}
	}
	slices.Sort(list)
	return list
}

// publicationSteps are the statements that make the publication what the configuration says; none: it is. What a filter says
// cannot be compared, since the server keeps it in a form of its own: it is set again, which changes nothing where it is
// the same.
func (c Config) publicationSteps(p *published, version int) []string {
	name := pgx.Identifier{c.tablesPublication()}.Sanitize()
	if p == nil {
		if len(c.Tables) == 0 {
			return nil
		}
		return []string{"CREATE PUBLICATION " + name + " FOR TABLE " + c.tablesSQL() + " WITH (" + publicationOptions(version) + ")"}
	}
	var steps []string
	filtered := slices.ContainsFunc(c.Tables, func(t CapturedTable) bool { return t.Where != "" })
	switch {
	case len(c.Tables) == 0 && len(p.tables) > 0:
		return []string{"ALTER PUBLICATION " + name + " DROP TABLE " + strings.Join(p.names, ", ")}
	case len(c.Tables) == 0:
		return nil
	case filtered || !slices.Equal(p.tables, c.wanted()):
		steps = append(steps, "ALTER PUBLICATION "+name+" SET TABLE "+c.tablesSQL())
	}
	if !p.options {
		steps = append(steps, "ALTER PUBLICATION "+name+" SET ("+publicationOptions(version)+")")
	}
	return steps
}

// publishTables makes the tables' publication what the configuration says, if the role may. It is the worker's that takes the
// stream: two with different configurations, one of them standing by, must not change it to and fro. It says whether there is
// one now that was not there before, and what it has changed.
func publishTables(ctx context.Context, conn *pgx.Conn, cfg Config) (made bool, changed []string, err error) {
	version, err := serverVersion(ctx, conn)
	if err != nil {
		return false, nil, err
	}
	if err := checkTables(ctx, conn, cfg); err != nil {
		return false, nil, err
	}
	before, err := readPublished(ctx, conn, cfg.tablesPublication())
	if err != nil {
		return false, nil, fmt.Errorf("read publication %s: %w", cfg.tablesPublication(), err)
	}
	if before != nil && before.everything && len(cfg.Tables) > 0 {
		return false, nil, &SetupError{
			fmt.Sprintf("publication %s publishes more than tables that it names, which is not Weir's doing", cfg.tablesPublication()),
			fmt.Sprintf("DROP PUBLICATION %s;", pgx.Identifier{cfg.tablesPublication()}.Sanitize()),
		}
	}
	steps := cfg.publicationSteps(before, version)
	if len(steps) == 0 {
		return false, nil, nil
	}
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		for _, step := range steps {
			if _, err := tx.Exec(ctx, step); err != nil {
				return err
			}
		}
		return rehearse(ctx, tx, cfg)
	})
	if err == nil || hasCode(err, "42710") { // another worker has made it at the same time
		return before == nil, steps, nil
	}
	if hasCode(err, "42501") && before != nil && slices.Equal(before.tables, cfg.wanted()) && before.options {
		return false, nil, nil // a filter that we may not set again; that there is one, we have seen
	}
	return false, nil, cfg.notPublished(err, steps)
}

// rehearse has the server plan an update of each table. It refuses one of which the publication would not have what identifies
// a row: better here than to the application.
func rehearse(ctx context.Context, tx pgx.Tx, cfg Config) error {
	for _, t := range cfg.Tables {
		_, err := tx.Exec(ctx, fmt.Sprintf("EXPLAIN UPDATE %s SET %s = DEFAULT", t.Table.SQL(), pgx.Identifier{t.ID}.Sanitize()))
		var said *pgconn.PgError
		if !errors.As(err, &said) {
			if err != nil {
				return err
			}
			continue
		}
		switch said.Code {
		case "42501": // who owns a table need not have the right to change it
			return nil
		case "42P10", "55000", "0A000":
			return &SetupError{
				fmt.Sprintf("table %s cannot be published like this, or its updates would fail: %s", t.Table, said.Detail),
				"-- leave columns of the replica identity only in its where, and all of them in its columns; or, without columns: " +
					fmt.Sprintf("ALTER TABLE %s REPLICA IDENTITY FULL;", t.Table.SQL()),
			}
		}
		return err
	}
	return nil
}

// notPublished says what the server does not like about the publication.
func (c Config) notPublished(err error, steps []string) error {
	var said *pgconn.PgError
	if !errors.As(err, &said) {
		return err
	}
	mend := strings.Join(steps, ";\n") + ";"
	switch said.Code[:2] {
	case "42":
		if said.Code == "42501" {
			return &SetupError{
				fmt.Sprintf("publication %s is not as source.tables has it, and the role may not change it: %s",
					c.tablesPublication(), said.Message),
				mend + " -- by the owner of the tables and the publication",
			}
		}
		return &SetupError{"source.tables cannot be published: " + said.Message, "-- correct source.tables: " + mend}
	case "22", "0A", "55":
		return &SetupError{
			"source.tables cannot be published: " + strings.TrimSpace(said.Message+" "+said.Detail),
			"-- correct source.tables: " + mend,
		}
	}
	return fmt.Errorf("publish source.tables: %w", err)
}
