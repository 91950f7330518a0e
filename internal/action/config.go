package action

import (
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"

	"github.com/fraiseql/weir/internal/setting"
)

// Config is one element of an observer's `actions:`: the struct of its type. A Config that was decoded without an error
// is valid. Its zero value has no name and no type, and must not be bound.
type Config struct {
	spec   spec
	unread []string // the values that could not be decoded
}

// spec is what each type's struct implements.
type spec interface {
	Action
	common() *Common
	// check looks at what spans several keys or is more than a scalar, and prepares what Do needs.
	check(f fields) []error
	warnings() []string
	bind(d Deps) Action
}

// Types lists the types of actions that weir.yaml accepts.
func Types() []string {
	return []string{"webhook", slackType, emailType, smsType, pushType, searchType, cacheType, databaseType, "log"}
}

// newSpec returns an empty struct of the type, nil for an unknown one.
func newSpec(kind string) spec {
	switch kind {
	case "webhook":
		return &Webhook{}
	case slackType:
		return &Slack{}
	case emailType:
		return &Email{}
	case smsType:
		return &SMS{}
	case pushType:
		return &Push{}
	case searchType:
		return &Search{}
	case cacheType:
		return &Cache{}
	case databaseType:
		return &Database{}
	case "log":
		return &Log{}
	default:
		return nil
	}
}

// Name is unique in the observer. Default: the type.
func (c Config) Name() string {
	if c.spec == nil {
		return ""
	}
	return c.spec.Name()
}

// Type is the type's name.
func (c Config) Type() string {
	if c.spec == nil {
		return ""
	}
	return c.spec.Type()
}

// Endpoint names the place where the action goes: the name that it gives itself, else the host and port of its URL (in
// lower case, https's port 443 dropped), else smtp for email, elasticsearch for search and redis for cache, else the type. It
// is "" when the URL stands in the environment and secrets were not looked up.
func (c Config) Endpoint() string { return c.spec.Endpoint() }

// Priority is River's: 1 (first, the default) to 4.
func (c Config) Priority() int { return c.spec.Priority() }

// Timeout is how long one call may take. Default: 30 s.
func (c Config) Timeout() time.Duration { return c.spec.Timeout() }

// Warnings are sentences on what is allowed but unwise.
func (c Config) Warnings() []string {
	if c.spec == nil {
		return nil
	}
	return append(c.spec.warnings(), c.spec.common().reuseWarnings()...)
}

// Bind gives the action what it needs at run time.
func (c Config) Bind(d Deps) Action {
	if len(c.unread) > 0 {
		return incomplete{c.spec, c.unread}
	}
	return c.spec.bind(d)
}

// Format prints type and name, whatever the verb: the struct behind it holds secrets.
func (c Config) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, c.Type()+" "+c.Name()) }

// UnmarshalYAML reads an action at a node of the file, by its type and strictly. It reports every error that it finds,
// joined, each with its place.
func (c *Config) UnmarshalYAML(ctx context.Context, node ast.Node) error {
	f, err := fieldsOf(node, "an action: keys with values, as in {type: log}")
	if err != nil {
		return err
	}
	known := strings.Join(Types(), ", ")
	if !f.has("type") {
		return f.errorAt("type", "the action has no type: add one of %s", known)
	}
	kind, _ := setting.Text(f.values["type"])
	if c.spec = newSpec(kind); c.spec == nil {
		return f.errorAt("type", "%q is no type of action: expected one of %s", kind, known)
	}
	var errs []error
	if errs, c.unread = f.decode(ctx, c.spec, "in "+kindOf(c.spec)+" action"); len(errs) == 0 { // else what follows repeats them
		errs = append(c.spec.common().check(f), c.spec.check(f)...)
	}
	return errors.Join(errs...)
}

// fields are the keys of an action, or of a section of it, in the file.
type fields struct {
	node   ast.Node
	pairs  []*ast.MappingValueNode
	values map[string]ast.Node
}

// fieldsOf reads the keys of a node. expected says what it has to be.
func fieldsOf(node ast.Node, expected string) (fields, error) {
	m, ok := node.(ast.MapNode)
	if !ok {
		return fields{}, setting.ErrorAt(node, "expected %s", expected)
	}
	f := fields{node: node, values: map[string]ast.Node{}}
	for iter := m.MapRange(); iter.Next(); {
		f.pairs = append(f.pairs, iter.KeyValue())
		f.values[iter.Key().GetToken().Value] = iter.Value()
	}
	return f, nil
}

// has says that a key is written with a value.
func (f fields) has(key string) bool {
	v, ok := f.values[key]
	return ok && v.Type() != ast.NullType
}

// errorAt is an error at the key's value, or at the beginning of all of them when it is not written.
func (f fields) errorAt(key, format string, args ...any) error {
	if f.has(key) {
		return setting.ErrorAt(f.values[key], format, args...)
	}
	if m, ok := f.node.(*ast.MappingNode); ok && !m.IsFlowStyle && len(f.pairs) > 0 {
		return setting.ErrorAt(f.pairs[0].Key, format, args...) // the mapping's own token is its first colon
	}
	return setting.ErrorAt(f.node, format, args...)
}

// decode fills the struct key by key, since the decoder stops at the first error. They come in the order of the file, and so do
// the values that they are about. where says whose keys they are.
func (f fields) decode(ctx context.Context, into any, where string) (errs []error, unread []string) {
	decoder := yaml.NewDecoder(strings.NewReader(""), yaml.Strict())
	for _, pair := range f.pairs {
		one := ast.Mapping(pair.GetToken(), false, pair)
		if err := decoder.DecodeFromNodeContext(ctx, one, into); err != nil {
			errs, unread = append(errs, explain(err, pair, into, where)), append(unread, pair.Value.String())
		}
	}
	return errs, unread
}

// explain says for people what the decoder says about Go's types.
func explain(err error, pair *ast.MappingValueNode, into any, where string) error {
	var (
		unknown  *yaml.UnknownFieldError
		mismatch *yaml.TypeError
		shape    *yaml.UnexpectedNodeTypeError
	)
	key := pair.Key.GetToken().Value
	switch {
	case errors.As(err, &unknown):
		return setting.ErrorAt(pair.Key, "unknown key %q %s: expected one of %s", key, where,
			strings.Join(keysOf(reflect.TypeOf(into).Elem()), ", "))
	case errors.As(err, &mismatch):
		return &yaml.SyntaxError{Message: "expected " + nounOf(mismatch.DstType), Token: mismatch.Token}
	case errors.As(err, &shape):
		return setting.ErrorAt(pair.Value, "%s has the wrong shape: expected %s, found %s", key,
			strings.ToLower(shape.Expected.String()), strings.ToLower(shape.Actual.String()))
	default:
		return err
	}
}

// kindOf is "a webhook", "an email", …
func kindOf(s spec) string {
	kind := strings.ToLower(reflect.TypeOf(s).Elem().Name())
	if strings.ContainsRune("aeiou", rune(kind[0])) {
		return "an " + kind
	}
	return "a " + kind
}

// keysOf lists the keys that the struct has, sorted.
func keysOf(t reflect.Type) []string {
	var keys []string
	for _, field := range reflect.VisibleFields(t) {
		if key, _, _ := strings.Cut(field.Tag.Get("yaml"), ","); key != "" {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

func nounOf(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int:
		return "a whole number"
	case reflect.String:
		return "text"
	case reflect.Slice:
		return "a list"
	default:
		return fmt.Sprintf("keys with values (%s)", t.Kind())
	}
}
