package index

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/invopop/jsonschema"

	"github.com/fraiseql/weir/internal/setting"
)

// Redact names a field that the history leaves out: of the events of one entity type, or with * of all.
type Redact struct {
	entity string
	path   []string // the keys below the event's data, at least one
}

// ParseRedact reads ENTITY.data.KEY, with as many keys as the field is deep.
func ParseRedact(s string) (Redact, error) {
	const want = "expected ENTITY.data.FIELD, as in Order.data.card_number, or *.data.card_number for every entity"
	parts := strings.Split(s, ".")
	switch {
	case parts[0] == "" || strings.ContainsAny(parts[0], " \t") || (strings.Contains(parts[0], "*") && parts[0] != "*"):
		return Redact{}, errors.New("a field to leave out begins with its entity type: " + want)
	case len(parts) < 2 || parts[1] != "data":
		return Redact{}, errors.New("only fields of an event's data can be left out: " + want)
	case len(parts) < 3 || slices.Contains(parts[2:], ""):
		return Redact{}, errors.New("the name of the field is missing: " + want)
	}
	return Redact{entity: parts[0], path: parts[2:]}, nil
}

// Entity is the entity type, or *.
func (r Redact) Entity() string { return r.entity }

// Path are the keys that lead to the field from the event's data, at least one.
func (r Redact) Path() []string { return slices.Clone(r.path) }

// Concerns says whether events of the entity type lose the field.
func (r Redact) Concerns(entityType string) bool { return r.entity == "*" || r.entity == entityType }

// String is the form that ParseRedact reads.
func (r Redact) String() string {
	if len(r.path) == 0 {
		return ""
	}
	return r.entity + ".data." + strings.Join(r.path, ".")
}

// MarshalText is String.
func (r Redact) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalYAML reads a field at a node of the file.
func (r *Redact) UnmarshalYAML(_ context.Context, node ast.Node) error {
	return setting.Parsed(node, r, ParseRedact)
}

// JSONSchema describes such a field to editors.
func (Redact) JSONSchema() *jsonschema.Schema {
	return &jsonschema.Schema{
		Type: "string", Pattern: `^([^.*\s]+|\*)\.data(\.[^.]+)+$|\$\{`,
		Description: "A field of an event's data: Order.data.card_number, or *.data.card_number for every entity.",
	}
}
