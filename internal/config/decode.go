package config

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"

	"github.com/fraiseql/weir/internal/setting"
)

// decoder fills structs from a resolved tree and goes on after an error, so that one run finds them all. (The library's
// decoder stops at the first, in no fixed order, takes 1.5 for an int, and cannot say what key was meant.)
//
// Struct tags are the rules: the yaml tag names the key (inline embeds), the jsonschema tag has required, minimum=,
// maximum=, minItems= and enum=, which the JSON Schema has from the same place. A type that implements one of
// goccy/go-yaml's node interfaces decodes itself; one with a Check method checks what spans several of its keys.
type decoder struct {
	src     *source
	unknown []span
	errs    Errors
}

// checked is what a room's Config struct implements to check what spans several of its keys. value returns the node of
// a key, nil if it is not written.
type checked interface {
	Check(value func(key string) ast.Node) error
}

func (d *decoder) fail(node ast.Node, message, hint string) {
	at := position(node)
	d.add(d.src.errorAt(at.Line, at.Column, message, hint))
}

// add keeps errors, except those in a scalar whose value is not known (validate-config --no-env).
func (d *decoder) add(errs ...Error) {
	for _, e := range errs {
		if !slices.ContainsFunc(d.unknown, func(s span) bool { return s.contains(e) }) {
			d.errs = append(d.errs, e)
		}
	}
}

func (d *decoder) isUnknown(node ast.Node) bool {
	at := position(node)
	return slices.ContainsFunc(d.unknown, func(s span) bool {
		return s.contains(Error{Line: at.Line, Column: at.Column})
	})
}

// value decodes a node into dst. A null is a key that is not written. path is for messages.
func (d *decoder) value(ctx context.Context, node ast.Node, dst reflect.Value, path string) {
	if dst.Kind() == reflect.Pointer {
		if node.Type() == ast.NullType {
			return
		}
		dst.Set(reflect.New(dst.Type().Elem()))
		dst = dst.Elem()
	}
	switch self := dst.Addr().Interface().(type) {
	case yaml.NodeUnmarshalerContext:
		if node.Type() != ast.NullType {
			d.own(node, self.UnmarshalYAML(ctx, node))
			d.positive(node, dst)
		}
		return
	case yaml.NodeUnmarshaler:
		if node.Type() != ast.NullType {
			d.own(node, self.UnmarshalYAML(node))
		}
		return
	}
	if dst.Kind() == reflect.Struct {
		d.structure(ctx, node, dst, path)
		return
	}
	if node.Type() == ast.NullType {
		return
	}
	switch dst.Kind() {
	case reflect.Map:
		d.dictionary(ctx, node, dst, path)
	case reflect.Slice:
		d.list(ctx, node, dst, path)
	case reflect.String, reflect.Bool, reflect.Int:
		d.scalar(node, dst)
	default:
		panic(fmt.Sprintf("config: no rule to decode a %s (%s)", dst.Type(), path))
	}
}

func (d *decoder) own(node ast.Node, err error) {
	if err != nil {
		d.add(d.src.convert(err, node)...)
	}
}

// positive refuses a duration of 0: as "not set" it would silently become the default.
func (d *decoder) positive(node ast.Node, dst reflect.Value) {
	if dst.Type() == reflect.TypeFor[setting.Duration]() && dst.IsZero() && !d.failedAt(node) && !d.isUnknown(node) {
		d.fail(node, "a duration of 0 has no meaning here", "expected more, as in 500ms, 30s, 12h or 30d")
	}
}

func (d *decoder) failedAt(node ast.Node) bool {
	at := position(node)
	return slices.ContainsFunc(d.errs, func(e Error) bool { return e.Line == at.Line && e.Column == at.Column })
}

func (d *decoder) structure(ctx context.Context, node ast.Node, dst reflect.Value, path string) {
	pairs, ok := d.pairs(node, path)
	if !ok {
		return
	}
	fields := fieldsOf(dst)
	values := map[string]ast.Node{}
	for _, pair := range pairs {
		key, _ := keyText(pair.Key)
		i := slices.IndexFunc(fields, func(f field) bool { return f.key == key })
		if i < 0 {
			d.fail(pair.Key, fmt.Sprintf("unknown key %q%s", key, in(path)), d.keysHint(key, fields))
			continue
		}
		values[key] = pair.Value
		d.value(ctx, pair.Value, fields[i].dst, join(path, key))
		d.rules(pair.Value, fields[i])
	}
	for _, f := range fields {
		if v := values[f.key]; f.rules.required && (v == nil || v.Type() == ast.NullType && !d.isUnknown(v)) {
			d.fail(node, fmt.Sprintf("key %q is missing%s", f.key, in(path)), "write it with a value")
		}
	}
	if c, ok := dst.Addr().Interface().(checked); ok {
		d.own(node, c.Check(func(key string) ast.Node { return values[key] }))
	}
}

// pairs are a mapping's; a null has none.
func (d *decoder) pairs(node ast.Node, path string) ([]*ast.MappingValueNode, bool) {
	switch n := node.(type) {
	case *ast.MappingNode:
		return n.Values, true
	case *ast.NullNode:
		return nil, true
	default:
		d.fail(node, "expected keys with values"+in(path), "found "+kindOf(node))
		return nil, false
	}
}

func (d *decoder) dictionary(ctx context.Context, node ast.Node, dst reflect.Value, path string) {
	pairs, ok := d.pairs(node, path)
	if !ok {
		return
	}
	dst.Set(reflect.MakeMapWithSize(dst.Type(), len(pairs)))
	for _, pair := range pairs {
		key, _ := keyText(pair.Key)
		value := reflect.New(dst.Type().Elem()).Elem()
		inner := pair.Value
		if inner.Type() == ast.NullType {
			inner = ast.Null(pair.Key.GetToken()) // so that a missing key is reported at the name
		}
		d.value(ctx, inner, value, join(path, key))
		dst.SetMapIndex(reflect.ValueOf(key), value)
	}
}

func (d *decoder) list(ctx context.Context, node ast.Node, dst reflect.Value, path string) {
	n, ok := node.(*ast.SequenceNode)
	if !ok {
		d.fail(node, "expected a list"+in(path), "found "+kindOf(node))
		return
	}
	dst.Set(reflect.MakeSlice(dst.Type(), len(n.Values), len(n.Values)))
	for i, v := range n.Values {
		if v.Type() == ast.NullType {
			d.fail(v, "this entry of the list is empty", "write a value or remove it")
			continue
		}
		d.value(ctx, v, dst.Index(i), fmt.Sprintf("%s[%d]", path, i))
	}
}

func (d *decoder) scalar(node ast.Node, dst reflect.Value) {
	switch dst.Kind() {
	case reflect.Bool:
		if n, ok := node.(*ast.BoolNode); ok {
			dst.SetBool(n.Value)
			return
		}
		d.fail(node, "expected true or false", "found "+kindOf(node))
	case reflect.Int:
		if n, ok := node.(*ast.IntegerNode); ok {
			if i, err := strconv.ParseInt(strings.ReplaceAll(n.GetToken().Value, "_", ""), 0, 64); err == nil {
				dst.SetInt(i)
				return
			}
		}
		d.fail(node, "expected a whole number", "found "+kindOf(node))
	default:
		if text, ok := setting.Text(node); ok {
			dst.SetString(text)
			return
		}
		d.fail(node, "expected text", "found "+kindOf(node))
	}
}

// rules checks a decoded value against the field's jsonschema tag.
func (d *decoder) rules(node ast.Node, f field) {
	if node.Type() == ast.NullType || d.failedAt(node) || d.isUnknown(node) {
		return
	}
	dst, r := f.dst, f.rules
	if dst.Kind() == reflect.Pointer && !dst.IsNil() {
		dst = dst.Elem()
	}
	switch {
	case dst.Kind() == reflect.Int && (dst.Int() < r.minimum || dst.Int() > r.maximum):
		d.fail(node, fmt.Sprintf("%d is out of range", dst.Int()), r.rangeText())
	case dst.Kind() == reflect.Slice && dst.Len() < r.minItems:
		d.fail(node, fmt.Sprintf("%s is empty", f.key), fmt.Sprintf("expected at least %d", r.minItems))
	case dst.Kind() == reflect.String && r.required && dst.Len() == 0:
		d.fail(node, fmt.Sprintf("%s is empty", f.key), "write a value")
	case dst.Kind() == reflect.String && len(r.enum) > 0 && !slices.Contains(r.enum, dst.String()):
		d.fail(node, fmt.Sprintf("%q is not a value of %s", dst.String(), f.key),
			didYouMean(dst.String(), r.enum)+"expected "+strings.Join(r.enum, ", "))
	}
}

func (d *decoder) keysHint(key string, fields []field) string {
	known := make([]string, len(fields))
	for i, f := range fields {
		known[i] = f.key
	}
	slices.Sort(known)
	return didYouMean(key, known) + "expected " + strings.Join(known, ", ")
}

func in(path string) string {
	if path == "" {
		return ""
	}
	return " in " + path
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func kindOf(node ast.Node) string {
	switch n := node.(type) {
	case *ast.MappingNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.StringNode, *ast.LiteralNode:
		return "text"
	case *ast.BoolNode:
		return fmt.Sprint(n.Value)
	default:
		return node.GetToken().Value // a number
	}
}
