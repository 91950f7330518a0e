package capture

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// checkTables looks at each of source.tables before it is published: published without a usable replica identity, a table
// refuses the application's own updates.
func checkTables(ctx context.Context, conn *pgx.Conn, cfg Config) error {
	version, err := serverVersion(ctx, conn)
	if err != nil {
		return err
	}
	for _, t := range cfg.Tables {
		if version < publishVersion && (len(t.Columns) > 0 || t.Where != "") {
			return &SetupError{
				fmt.Sprintf("source.tables: %s has columns or where, which PostgreSQL has from version 15 on", t.Table),
				"-- leave them out, or upgrade the server to PostgreSQL 15 or newer",
			}
		}
		if err := checkTable(ctx, conn, t); err != nil {
			return err
		}
	}
	return nil
}

// checkTablesPublication is for people: it changes nothing.
func checkTablesPublication(ctx context.Context, conn *pgx.Conn, cfg Config) error {
	version, err := serverVersion(ctx, conn)
	if err != nil {
		return err
	}
	have, err := readPublished(ctx, conn, cfg.tablesPublication())
	if err != nil || have == nil && len(cfg.Tables) == 0 {
		return err
	}
	steps := cfg.publicationSteps(have, version)
	if have != nil && slices.Equal(have.tables, cfg.wanted()) && have.options {
		return nil
	}
	if len(steps) > 0 {
		return &SetupError{
			fmt.Sprintf("publication %s is not as source.tables has it", cfg.tablesPublication()), strings.Join(steps, ";\n") + ";",
		}
	}
	return nil
}

// MayPublishTables says that a worker of this role would make the tables' publication what the configuration says.
func MayPublishTables(ctx context.Context, conn *pgx.Conn, cfg Config) (bool, error) {
	have, err := readPublished(ctx, conn, cfg.tablesPublication())
	if err != nil || have != nil && have.everything {
		return false, err
	}
	names := make([]string, len(cfg.Tables))
	for i, t := range cfg.Tables {
		names[i] = t.Table.SQL()
	}
	var may bool
	err = conn.QueryRow(ctx, `
		SELECT coalesce((SELECT pg_has_role(pubowner, 'USAGE') FROM pg_publication WHERE pubname = $1),
		                has_database_privilege(current_database(), 'CREATE'))
		   AND NOT EXISTS (SELECT FROM unnest($2::text[]) name JOIN pg_class c ON c.oid = to_regclass(name)
		                    WHERE NOT pg_has_role(c.relowner, 'USAGE'))`, cfg.tablesPublication(), names).Scan(&may)
	return may, err
}

// capturable is what the server says of a table, or of a part of one.
type capturable struct {
	Name      string // quoted
	Kind      string // as in pg_class.relkind
	Permanent bool
	Part      bool     // of another table
	Identity  string   // as in pg_class.relreplident
	Key       []string // the columns of the replica identity, sorted; none under FULL
	HasKey    bool     // a primary key that would do
}

// checkTable looks at a table and at its partitions, whose rows are written under their own replica identity.
func checkTable(ctx context.Context, conn *pgx.Conn, t CapturedTable) error {
	root, columns, err := readCapturable(ctx, conn, t.Table)
	if err != nil {
		return err
	}
	if root == nil {
		return &SetupError{fmt.Sprintf("source.tables: table %s does not exist", t.Table), "-- correct source.tables, or create it"}
	}
	switch {
	case root.Kind != "r" && root.Kind != "p":
		return &SetupError{
			fmt.Sprintf("source.tables: %s is no table: what changes in a view or a foreign table is not in the WAL", t.Table),
			"-- let source.tables name the table itself",
		}
	case root.Part:
		return &SetupError{
			fmt.Sprintf("source.tables: %s is a partition: changes are published as those of the whole table", t.Table),
			"-- let source.tables name the partitioned table",
		}
	}
	for _, named := range append([]string{t.ID, t.Tenant}, t.Columns...) {
		if named != "" && !slices.Contains(columns, named) {
			return &SetupError{
				fmt.Sprintf("source.tables: %s has no column %s", t.Table, named),
				fmt.Sprintf("-- its columns are: %s", strings.Join(columns, ", ")),
			}
		}
	}
	if err := root.fits(t); err != nil {
		return err
	}
	if root.Kind == "r" {
		return nil
	}
	parts, err := readPartitions(ctx, conn, t.Table)
	if err != nil {
		return err
	}
	for _, part := range parts {
		if err := part.belongs(root, t); err != nil {
			return err
		}
	}
	return nil
}

// fits says why a table cannot be captured. It is pure.
func (c *capturable) fits(t CapturedTable) error {
	full := fmt.Sprintf("ALTER TABLE %s REPLICA IDENTITY FULL;", c.Name)
	switch {
	case !c.Permanent:
		return &SetupError{
			fmt.Sprintf("source.tables: %s is unlogged: its changes are not in the WAL", c.Name),
			fmt.Sprintf("ALTER TABLE %s SET LOGGED;", c.Name),
		}
	case c.Identity == string(identityFull) && len(t.Columns) > 0:
		return &SetupError{
			fmt.Sprintf("source.tables: %s has a list of columns, which REPLICA IDENTITY FULL does not go with: its updates would fail",
				c.Name),
			fmt.Sprintf("ALTER TABLE %s REPLICA IDENTITY DEFAULT; -- or leave the columns out of source.tables", c.Name),
		}
	case c.Identity == string(identityFull):
		return nil
	case len(c.Key) == 0 && c.HasKey:
		return &SetupError{
			fmt.Sprintf("source.tables: %s has no replica identity: published like this, its updates would fail", c.Name),
			fmt.Sprintf("ALTER TABLE %s REPLICA IDENTITY DEFAULT; -- or FULL, for events with what was before", c.Name),
		}
	case len(c.Key) == 0:
		return &SetupError{
			fmt.Sprintf("source.tables: %s has no primary key and no other replica identity: published like this, its updates would fail",
				c.Name), full + " -- or give it a primary key",
		}
	case !slices.Contains(c.Key, t.ID):
		return &SetupError{
			fmt.Sprintf("source.tables: %s has the id %s, which is no part of its replica identity (%s): a DELETE would not say of which",
				c.Name, t.ID, strings.Join(c.Key, ", ")), full,
		}
	}
	for _, column := range c.Key {
		if len(t.Columns) > 0 && !slices.Contains(t.Columns, column) {
			return &SetupError{
				fmt.Sprintf("source.tables: the columns of %s lack %s of its replica identity: its updates would fail", c.Name, column),
				"-- add it to the columns in source.tables",
			}
		}
	}
	return nil
}

// belongs says why a partition cannot be captured as a part of the whole. The stream has the names of the whole table, and says
// by its replica identity what the old rows of every part hold.
func (c *capturable) belongs(root *capturable, t CapturedTable) error {
	if c.Kind == "f" {
		return &SetupError{
			fmt.Sprintf("source.tables: %s, a part of %s, is a foreign table: its changes are not in the WAL", c.Name, t.Table),
			fmt.Sprintf("ALTER TABLE %s DETACH PARTITION %s;", t.Table.SQL(), c.Name),
		}
	}
	if c.Kind == "r" { // whose identity rows are written under
		if err := c.fits(t); err != nil {
			return err
		}
	}
	switch full := string(identityFull); {
	case root.Identity == full && c.Kind == "r" && c.Identity != full:
		return &SetupError{
			fmt.Sprintf("source.tables: %s has REPLICA IDENTITY FULL and its part %s has not", t.Table, c.Name),
			fmt.Sprintf("ALTER TABLE %s REPLICA IDENTITY FULL;", c.Name),
		}
	case root.Identity != full && c.Kind == "r" && !slices.Equal(root.Key, c.Key):
		return &SetupError{
			fmt.Sprintf("source.tables: %s and its part %s have different replica identities", t.Table, c.Name),
			fmt.Sprintf("ALTER TABLE %s REPLICA IDENTITY DEFAULT; ALTER TABLE %s REPLICA IDENTITY DEFAULT;", t.Table.SQL(), c.Name),
		}
	}
	return nil
}

const capturableSQL = `
	SELECT format('%I.%I', n.nspname, c.relname) AS name, c.relkind::text AS kind, c.relpersistence = 'p' AS permanent,
	       c.relispartition AS part, c.relreplident::text AS identity,
	       ARRAY(SELECT a.attname::text FROM pg_index i JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey)
	              WHERE i.indrelid = c.oid AND i.indimmediate
	                AND (c.relreplident = 'd' AND i.indisprimary OR c.relreplident = 'i' AND i.indisreplident) ORDER BY 1) AS key,
	       EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary AND i.indimmediate) AS has_key
	  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace `

func readCapturable(ctx context.Context, conn *pgx.Conn, t Table) (c *capturable, columns []string, err error) {
	rows, _ := conn.Query(ctx, capturableSQL+`WHERE n.nspname = $1 AND c.relname = $2`, t.Schema, t.Name)
	c, err = pgx.CollectExactlyOneRow(rows, pgx.RowToAddrOfStructByName[capturable])
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil, nil
	}
	if err == nil {
		columns, err = columnNames(ctx, conn, t)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("look at table %s: %w", t, err)
	}
	return c, columns, nil
}

func readPartitions(ctx context.Context, conn *pgx.Conn, t Table) ([]*capturable, error) {
	rows, _ := conn.Query(ctx, capturableSQL+`JOIN pg_partition_tree((
		SELECT r.oid FROM pg_class r JOIN pg_namespace s ON s.oid = r.relnamespace WHERE s.nspname = $1 AND r.relname = $2)) p
		ON p.relid = c.oid WHERE p.level > 0 ORDER BY 1`, t.Schema, t.Name)
	parts, err := pgx.CollectRows(rows, pgx.RowToAddrOfStructByName[capturable])
	if err != nil {
		return nil, fmt.Errorf("look at the partitions of %s: %w", t, err)
	}
	return parts, nil
}
