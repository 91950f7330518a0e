// Package setting holds the scalar types of weir.yaml that decode and check themselves: a Duration or a Secret that
// exists is valid, and an error names the place in the file. It also carries what such a type needs from its
// surroundings (the environment, the file's folder) through the decoder's context.
package setting

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/invopop/jsonschema"
	"github.com/prometheus/common/model"
)

// Surroundings is what a setting may need while it is decoded.
type Surroundings struct {
	// Lookup finds an environment variable. nil: secrets are not looked up (validate-config --no-env).
	Lookup func(name string) (string, bool)
	// Unset is told of each secret that Lookup does not find, which then is no error. nil: it is one.
	Unset func(name string)
	// Dir is the folder of the configuration file: `{file: …}` is relative to it.
	Dir string
	// Opened is told of each file that is read, as it was. nil: nobody wants to know.
	Opened func(File)
}

type contextKey struct{}

// NewContext returns a context for yaml's DecodeContext.
func NewContext(ctx context.Context, s Surroundings) context.Context {
	return context.WithValue(ctx, contextKey{}, s)
}

// FromContext returns the surroundings that NewContext stored, or none.
func FromContext(ctx context.Context) Surroundings {
	s, _ := ctx.Value(contextKey{}).(Surroundings)
	return s
}

// ErrorAt is an error at a node of the file: the decoder keeps its line, column and source.
func ErrorAt(node ast.Node, format string, args ...any) error {
	return &yaml.SyntaxError{Message: fmt.Sprintf(format, args...), Token: node.GetToken()}
}

// Text returns the node's text when it is a scalar that YAML reads as a string or as a number.
func Text(node ast.Node) (string, bool) {
	switch n := node.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode:
		return n.GetToken().Value, true
	default:
		return "", false
	}
}

// Parsed reads a node's text with a function that says what is wrong with it, and of "", which is what a node without a text has.
func Parsed[T any](node ast.Node, into *T, parse func(string) (T, error)) error {
	text, _ := Text(node)
	v, err := parse(text)
	if err != nil {
		return ErrorAt(node, "%s", err)
	}
	*into = v
	return nil
}

// Written finds what value finds, and nothing for a key that stands there without a value.
func Written(value func(key string) ast.Node) func(key string) ast.Node {
	return func(key string) ast.Node {
		if n := value(key); n != nil && n.Type() != ast.NullType {
			return n
		}
		return nil
	}
}

// Duration is a span of time, written as Prometheus writes it: 30s, 12h, 30d, 1h30m.
type Duration time.Duration

// ParseDuration reads Prometheus' form.
func ParseDuration(s string) (Duration, error) {
	d, err := model.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("%q is not a duration: write a number and a unit, as in 500ms, 30s, 12h or 30d", s)
	}
	return Duration(d), nil
}

// Std is the duration as the standard library has it.
func (d Duration) Std() time.Duration { return time.Duration(d) }

// String is the form that ParseDuration reads.
func (d Duration) String() string { return model.Duration(d).String() }

// MarshalText writes the form that ParseDuration reads.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalYAML reads a duration at a node of the file.
func (d *Duration) UnmarshalYAML(_ context.Context, node ast.Node) error {
	text, ok := Text(node)
	if !ok {
		return ErrorAt(node, "expected a duration, as in 30s, 12h or 30d")
	}
	v, err := ParseDuration(text)
	if err != nil {
		return ErrorAt(node, "%s", err)
	}
	*d = v
	return nil
}

// JSONSchema describes a duration to editors.
func (Duration) JSONSchema() *jsonschema.Schema {
	return &jsonschema.Schema{
		Type: "string", Pattern: `^([0-9]+(ms|[ywdhms]))+$`,
		Description: "A duration as Prometheus writes it: 500ms, 30s, 12h, 30d.",
	}
}

// Secret is a value of the environment, named in the file. It never prints its value.
type Secret struct {
	env string
	// Behind a pointer, since fmt does not call the methods of what stands in an unexported field, nor any for %d: it
	// prints an address then. nil: none.
	value *string
}

// LiteralSecret is a secret that stands in the file itself, or that a test makes up.
func LiteralSecret(value string) Secret { return Secret{value: &value} }

// Env is the name of the environment variable, "" for a literal.
func (s Secret) Env() string { return s.env }

// Value is the secret itself. Keep it out of logs, errors and job arguments.
func (s Secret) Value() string {
	if s.value == nil {
		return ""
	}
	return *s.value
}

// IsZero says that no secret was given.
func (s Secret) IsZero() bool { return s.env == "" && s.Value() == "" }

// String names the variable, never the value.
func (s Secret) String() string {
	if s.env != "" {
		return "$" + s.env
	}
	return "[redacted]"
}

// GoString is String, for %#v.
func (s Secret) GoString() string { return s.String() }

// LogValue is String, for log/slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText is String, so that no encoder writes the value.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalYAML reads the variable's name and looks it up.
func (s *Secret) UnmarshalYAML(ctx context.Context, node ast.Node) error {
	name, ok := Text(node)
	if !ok || name == "" || strings.ContainsAny(name, " =$") {
		return ErrorAt(node, "expected the name of an environment variable that holds the secret, as in ERP_SECRET")
	}
	s.env = name
	around := FromContext(ctx)
	if around.Lookup == nil {
		return nil
	}
	value, ok := around.Lookup(name)
	if !ok || value == "" {
		if around.Unset != nil {
			around.Unset(name)
			return nil
		}
		return ErrorAt(node, "environment variable %s is not set: set it to the secret", name)
	}
	s.value = &value
	return nil
}

// JSONSchema describes a secret to editors.
func (Secret) JSONSchema() *jsonschema.Schema {
	return &jsonschema.Schema{Type: "string", Description: "The name of an environment variable that holds the secret."}
}
