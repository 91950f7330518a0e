package capture

import (
	"cmp"
	"slices"

	"github.com/goccy/go-yaml/ast"

	"github.com/fraiseql/weir/internal/setting"
	"github.com/fraiseql/weir/internal/store"
)

// CapturedTable is an entry of source.tables: a table whose rows become events without a change log.
type CapturedTable struct {
	// Table is the table, or the root of its partitions.
	Table Table `yaml:"table" jsonschema:"required"`
	// Entity is the events' entity type. Default: the table's name without its schema.
	Entity string `yaml:"entity,omitempty"`
	// ID is the column whose value is the entity's id. Default: id.
	ID string `yaml:"id,omitempty"`
	// Tenant is the column whose value is the tenant's id. Default: none.
	Tenant string `yaml:"tenant,omitempty"`
	// Columns are those that are published, from PostgreSQL 15 on. Default: all.
	Columns []string `yaml:"columns,omitempty" jsonschema:"minItems=1"`
	// Where is an SQL condition on the rows that are published, from PostgreSQL 15 on. Default: all rows.
	Where string `yaml:"where,omitempty"`
	// Snapshot makes an INSERT of each row that is there already. Default: false.
	Snapshot bool `yaml:"snapshot,omitempty"`
}

// tablesSuffix is what the tables' publication adds to the name of the change log's.
const tablesSuffix = "_tables"

// longestName is PostgreSQL's limit of a name in bytes.
const longestName = 63

// CapturesTables says that tables are captured directly, for which the change log cannot make up.
func (c Config) CapturesTables() bool { return len(c.Tables) > 0 }

// WantsSnapshot says whether the configuration asks for a snapshot of a table.
func (c Config) WantsSnapshot(table string) bool {
	return slices.ContainsFunc(c.Tables, func(t CapturedTable) bool { return t.Snapshot && t.Table.String() == table })
}

// Lacks says that a snapshot of the table is to be taken, or to be brought to its end: one that has begun is, also when the
// configuration does not ask for it any more.
func (t CapturedTable) Lacks(known store.CapturedTablesRow) bool {
	return known.FinishedAt == nil && (t.Snapshot || known.Joined > 0)
}

// Captures says whether a table is captured directly.
func (c Config) Captures(t Table) bool { return c.captured(t) != nil }

// tablesPublication is the name of the publication of source.tables: ours, by its name.
func (c Config) tablesPublication() string {
	return string(cmp.Or(c.Publication, "weir")) + tablesSuffix
}

func (t CapturedTable) withDefaults() CapturedTable {
	t.Entity = cmp.Or(t.Entity, t.Table.Name)
	t.ID = cmp.Or(t.ID, "id")
	return t
}

// captured finds the entry of a table, nil if there is none.
func (c Config) captured(t Table) *CapturedTable {
	for i := range c.Tables {
		if c.Tables[i].Table == t {
			return &c.Tables[i]
		}
	}
	return nil
}

// checkTables finds what is wrong in the tables together, and in what they need.
func (c Config) checkTables(value func(key string) ast.Node) error {
	if len(c.Tables) == 0 {
		return nil
	}
	with := c.WithDefaults()
	if name := with.tablesPublication(); len(name) > longestName {
		return setting.ErrorAt(value("publication"),
			"expected at most %d characters: with source.tables there is also a publication %s", longestName-len(tablesSuffix), name)
	}
	seen := map[Table]bool{}
	for i, t := range c.Tables {
		at := func(key string) ast.Node { return itemKey(value("tables"), i, key) }
		text, written := setting.Text(at("table"))
		switch {
		case t.Table == (Table{}) && (!written || text != ""):
			continue // reported where it was decoded
		case t.Table == (Table{}):
			return setting.ErrorAt(at("table"), "expected a table, as in public.orders")
		case t.Table == *with.ChangeLog:
			return setting.ErrorAt(at("table"), "%s is the change log, which is read as such: expected another table", t.Table)
		case t.Table.Schema == "weir":
			return setting.ErrorAt(at("table"), "%s is Weir's own: capturing it would never end", t.Table)
		case seen[t.Table]:
			return setting.ErrorAt(at("table"), "%s is named twice: expected one entry for each table", t.Table)
		}
		seen[t.Table] = true
		if err := t.checkColumns(at); err != nil {
			return err
		}
	}
	return nil
}

func (t CapturedTable) checkColumns(at func(key string) ast.Node) error {
	if len(t.Columns) == 0 {
		return nil
	}
	for i, name := range t.Columns {
		if name == "" || slices.Contains(t.Columns[:i], name) {
			return setting.ErrorAt(at("columns"), "expected the names of columns, each of them once")
		}
	}
	for _, key := range []struct{ key, column string }{{"id", t.withDefaults().ID}, {"tenant", t.Tenant}} {
		if key.column != "" && !slices.Contains(t.Columns, key.column) {
			return setting.ErrorAt(at("columns"), "%s is not among them: expected the column of %s, too", key.column, key.key)
		}
	}
	return nil
}

// itemKey is the node of a key of the i-th mapping of a list, or the nearest node that there is.
func itemKey(list ast.Node, i int, key string) ast.Node {
	items, ok := list.(*ast.SequenceNode)
	if !ok || i >= len(items.Values) {
		return list
	}
	item := items.Values[i]
	var pairs []*ast.MappingValueNode
	switch m := item.(type) {
	case *ast.MappingNode:
		pairs = m.Values
	case *ast.MappingValueNode:
		pairs = []*ast.MappingValueNode{m}
	}
	for _, pair := range pairs {
		if text, ok := setting.Text(pair.Key); ok && text == key {
			return pair.Value
		}
	}
	return item
}
