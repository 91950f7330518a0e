package capture

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/goccy/go-yaml/ast"
	"github.com/invopop/jsonschema"
	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/internal/setting"
)

// Config is the section `source:` of weir.yaml, without its url, which the configuration resolves (it defaults to
// database.url).
type Config struct {
	// Slot is the replication slot's name. Default: weir.
	Slot Name `yaml:"slot,omitempty"`
	// Publication is the name of the change log's publication. Default: weir.
	Publication Name `yaml:"publication,omitempty"`
	// ChangeLog is the change log's table. Default: core.tb_entity_change_log; "" for none.
	ChangeLog *Table `yaml:"change_log,omitempty"`
	// Tables are captured directly, without a change log. Default: none.
	Tables []CapturedTable `yaml:"tables,omitempty"`
	// Lease is how long an owner of the stream may hang, or be cut off, until another worker has taken over. At least 6s.
	// Default: 10s.
	Lease setting.Duration `yaml:"lease,omitempty"`
	// RecoveryWindow is how long a transaction may have been open before its commit for a lost slot to be made up for from the
	// change log. Default: 24h.
	RecoveryWindow setting.Duration `yaml:"recovery_window,omitempty"`
	// Heartbeat is how often at the most an idle slot is moved on. Default: 10s.
	Heartbeat setting.Duration `yaml:"heartbeat,omitempty"`
}

// WithDefaults fills in what is not set.
func (c Config) WithDefaults() Config {
	c.Slot = cmp.Or(c.Slot, "weir")
	c.Publication = cmp.Or(c.Publication, "weir")
	c.Heartbeat = cmp.Or(c.Heartbeat, setting.Duration(10*time.Second))
	c.Lease = cmp.Or(c.Lease, setting.Duration(10*time.Second))
	c.RecoveryWindow = cmp.Or(c.RecoveryWindow, setting.Duration(24*time.Hour))
	if c.ChangeLog == nil {
		c.ChangeLog = &Table{Schema: "core", Name: "tb_entity_change_log"}
	}
	c.Tables = slices.Clone(c.Tables)
	for i := range c.Tables {
		c.Tables[i] = c.Tables[i].withDefaults()
	}
	return c
}

// Check finds a lease that a healthy owner could overrun, and what is wrong in several keys together.
func (c Config) Check(value func(key string) ast.Node) error {
	if c.Lease != 0 && c.Lease.Std() < MinLease {
		return setting.ErrorAt(value("lease"), "a lease of %s is too short: expected at least %s, since an owner renews it every 2s "+
			"and may take 2s for that", c.Lease, setting.Duration(MinLease))
	}
	return c.checkTables(value)
}

// Name is the name of a slot or a publication: what PostgreSQL allows for a slot, so that it never needs quotes.
type Name string

var nameRE = regexp.MustCompile(`^[a-z0-9_]{1,63}$`)

// UnmarshalYAML reads a name at a node of the file.
func (n *Name) UnmarshalYAML(_ context.Context, node ast.Node) error {
	text, ok := setting.Text(node)
	if !ok || !nameRE.MatchString(text) {
		return setting.ErrorAt(node, "expected a name of lower-case letters, digits and underscores, at most 63, as in weir")
	}
	*n = Name(text)
	return nil
}

// JSONSchema describes a name to editors.
func (Name) JSONSchema() *jsonschema.Schema {
	return &jsonschema.Schema{Type: "string", Pattern: nameRE.String()}
}

// Table is a table's qualified name. The zero value is no table.
type Table struct{ Schema, Name string }

// ParseTable reads schema.name, each part as PostgreSQL stores it (case matters; no quotes), or "" for none.
func ParseTable(s string) (Table, error) {
	if s == "" {
		return Table{}, nil
	}
	schema, name, ok := strings.Cut(s, ".")
	if !ok || schema == "" || name == "" || strings.ContainsAny(s, `"`) || strings.Contains(name, ".") ||
		strings.ContainsFunc(s, unicode.IsControl) {
		return Table{}, fmt.Errorf("%q is not a table: write schema.table, as in core.tb_entity_change_log", s)
	}
	return Table{Schema: schema, Name: name}, nil
}

// String is schema.name, "" for no table.
func (t Table) String() string {
	if t == (Table{}) {
		return ""
	}
	return t.Schema + "." + t.Name
}

// SQL is the name quoted for a statement.
func (t Table) SQL() string { return pgx.Identifier{t.Schema, t.Name}.Sanitize() }

// MarshalText is String.
func (t Table) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalYAML reads a table at a node of the file.
func (t *Table) UnmarshalYAML(_ context.Context, node ast.Node) error {
	text, ok := setting.Text(node)
	if !ok {
		return setting.ErrorAt(node, "expected a table, as in core.tb_entity_change_log")
	}
	v, err := ParseTable(text)
	if err != nil {
		return setting.ErrorAt(node, "%s", err)
	}
	*t = v
	return nil
}

// JSONSchema describes a table to editors.
func (Table) JSONSchema() *jsonschema.Schema {
	return &jsonschema.Schema{Type: "string", Description: `A table as schema.name; "" for none.`}
}
