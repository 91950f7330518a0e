package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/invopop/jsonschema"

	"github.com/fraiseql/weir/internal/action"
	"github.com/fraiseql/weir/internal/setting"
)

// The reference for people is made of the same schema as the one for editors.
//go:generate go test -run TestReferenceIsFresh -count=1 -update .

const referenceHead = `# Configuration reference

<!-- Written by ` + "`go generate ./internal/config`" + ` from the structs that weir.yaml is decoded into. Do not edit. -->

Every key of ` + "`weir.yaml`" + `, its type, its default and what it means. What the keys do together, with examples, is in
[configuration.md](configuration.md). ` + "`<name>`" + ` stands for a name of yours, ` + "`[]`" + ` for each entry of a list. Any scalar may be
` + "`${NAME}`" + ` or ` + "`${NAME:-default}`" + `; "a variable's name" is the name of an environment variable that holds the value.

Types: a *duration* is written as in ` + "`500ms`, `30s`, `12h`, `30d`" + `, a *rate* as in ` + "`50/s`, `600/m`, `1000/h`" + `; a *template* is text
with ` + "`{{ expression }}`" + `, or ` + "`{file: path}`" + `; a *condition* is an expression that is true or false.
`

func TestReferenceIsFresh(t *testing.T) {
	t.Parallel()
	golden(t, "../../docs/configuration-reference.md", []byte(referenceOf(t).text()))
}

// Each key says what holds without it, and the keys whose default Load fills in say the true one.
func TestReferenceTellsTheDefaults(t *testing.T) {
	t.Parallel()
	cfg := mustLoad(t, `
database: {url: "postgres://localhost/app"}
source: {tables: [{table: public.orders}]}
smtp: {host: mail.example.org, from: weir@example.org}
redis: {url: "redis://localhost:6379/0"}
elasticsearch: {urls: ["http://localhost:9200"]}
endpoints: {erp: {}}
observers:
  orders: {entity: Order, actions: [{type: log}]}
`[1:], nil)
	holds := map[string]string{}
	collect(reflect.ValueOf(*cfg), "", holds)
	collect(reflect.ValueOf(cfg.Source.Tables[0]), "source.tables[]", holds)
	collect(reflect.ValueOf(cfg.Endpoints["erp"]), "endpoints.<name>", holds)
	collect(reflect.ValueOf(cfg.Observers["orders"]), "observers.<name>", holds)
	inWords := []string{"source.tables[].entity", "source.tables[].where"}
	compared := 0
	for _, k := range referenceOf(t).keys() {
		if k.standard == "" {
			t.Errorf("%s: its comment does not end with a default (Default: none.), nor is it required", k.path)
		}
		value, ok := holds[k.path]
		if !ok || k.standard == required || slices.Contains(inWords, k.path) {
			continue
		}
		compared++
		told, _, _ := strings.Cut(k.standard, " ")
		told = strings.TrimRight(told, ";,")
		if d, err := setting.ParseDuration(told); err == nil && told != "0" {
			told = d.String()
		}
		nothing := value == "" && (told == "none" || told == `""`)
		if told != value && !nothing {
			t.Errorf("%s: the default is said to be %s, and is %q", k.path, k.standard, value)
		}
	}
	if compared < 25 {
		t.Errorf("only %d defaults could be compared", compared)
	}
}

// collect notes the scalars under the keys of a struct, pointers to them included.
func collect(structure reflect.Value, path string, into map[string]string) {
	for _, f := range fieldsOf(structure) {
		key, v := join(path, f.key), reflect.Indirect(f.dst)
		switch {
		case !v.IsValid() || v.Type() == reflect.TypeFor[setting.Secret]():
		case v.Type() == reflect.TypeFor[setting.Duration]() || v.Kind() == reflect.Bool || v.Kind() == reflect.Int:
			into[key] = fmt.Sprint(v.Interface())
		case v.Kind() == reflect.String:
			into[key] = v.String()
		case v.Kind() == reflect.Struct && len(fieldsOf(v)) > 0:
			collect(v, key, into)
		}
	}
}

const required = "required"

// reference is docs/configuration-reference.md: a table for each group of keys.
type reference struct {
	defs   jsonschema.Definitions
	groups []group
}

type group struct {
	path, says string
	keys       []key
}

type key struct{ path, name, kind, standard, meaning string }

func referenceOf(t *testing.T) *reference {
	t.Helper()
	made := reflected(t)
	r := &reference{defs: made.Definitions}
	r.group("", "", made, nil)
	return r
}

func (r *reference) keys() []key {
	var all []key
	for _, g := range r.groups {
		all = append(all, g.keys...)
	}
	return all
}

func (r *reference) text() string {
	var b strings.Builder
	b.WriteString(referenceHead)
	for _, g := range r.groups {
		heading := "Top level"
		if g.path != "" {
			heading = "`" + g.path + "`"
		}
		fmt.Fprintf(&b, "\n## %s\n\n", heading)
		if g.says != "" {
			fmt.Fprintf(&b, "%s\n\n", g.says)
		}
		b.WriteString("| key | type | default | meaning |\n|---|---|---|---|\n")
		for _, k := range g.keys {
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", k.name, cell(k.kind), cell(k.standard), cell(k.meaning))
		}
	}
	return b.String()
}

func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }

// group adds the keys of an object, without those in skip, and after them the groups that are below.
func (r *reference) group(path, says string, object *jsonschema.Schema, skip []string) {
	at := len(r.groups)
	r.groups = append(r.groups, group{path: path, says: says})
	for pair := object.Properties.Oldest(); pair != nil; pair = pair.Next() {
		if slices.Contains(skip, pair.Key) {
			continue
		}
		s := r.resolved(pair.Value)
		k := key{path: join(path, pair.Key), name: pair.Key, kind: r.kind(pair.Key, s)}
		k.meaning, k.standard = split(described(pair.Value, s), pair.Key)
		if slices.Contains(object.Required, pair.Key) {
			k.standard = required
		}
		if below := r.below(k.path, s); below != "" {
			k.kind = fmt.Sprintf("[%s](#%s)", k.kind, anchor(below))
			if k.standard == "" {
				k.standard = "those of its keys"
			}
		}
		r.groups[at].keys = append(r.groups[at].keys, k)
	}
}

// below adds the groups of a key that holds keys, and says which is the first.
func (r *reference) below(path string, s *jsonschema.Schema) string {
	switch {
	case s.Items != nil:
		return r.below(path+"[]", r.resolved(s.Items))
	case s.Properties == nil && s.AdditionalProperties != nil && r.resolved(s.AdditionalProperties).Properties != nil:
		return r.below(path+".<name>", r.resolved(s.AdditionalProperties))
	case strings.HasSuffix(path, ".actions[]"):
		return r.actions(path, s.OneOf)
	case s.Properties != nil:
		r.group(path, "", s, nil)
		return path
	}
	for _, one := range s.OneOf {
		if one.Properties != nil && !isFile(one) {
			r.group(path, "", one, nil)
			return path
		}
	}
	return ""
}

// actions adds what all types of actions have, and what each one has.
func (r *reference) actions(path string, types []*jsonschema.Schema) string {
	common := &jsonschema.Schema{Properties: jsonschema.NewProperties(), Required: []string{"type"}}
	names := []string{}
	for _, k := range fieldsOf(reflect.ValueOf(action.Common{})) {
		s, _ := types[0].Properties.Get(k.key)
		if k.key == "type" {
			s = &jsonschema.Schema{Type: "string", Description: s.Description}
			for _, one := range types {
				s.Enum = append(s.Enum, one.Title)
			}
		}
		common.Properties.Set(k.key, s)
		names = append(names, k.key)
	}
	r.group(path, "What every type of action has; `cache` those only that call something outside.", common, nil)
	for _, one := range types {
		r.group(path+" type: "+one.Title, "", one, names)
	}
	return path
}

func (r *reference) resolved(s *jsonschema.Schema) *jsonschema.Schema {
	if name, ok := strings.CutPrefix(s.Ref, "#/$defs/"); ok {
		return r.defs[name]
	}
	return s
}

// kind names the type for people, with the values that are allowed.
func (r *reference) kind(name string, s *jsonschema.Schema) string {
	if strings.HasSuffix(name, "_env") && s.Items == nil {
		return "a variable's name"
	}
	switch {
	case s.Items != nil:
		one := r.kind("", r.resolved(s.Items))
		if strings.HasSuffix(name, "_env") {
			one = "variables' names"
		}
		return "list of: " + one
	case isTemplate(s):
		return "template"
	case len(s.Enum) > 0:
		return alternatives(s.Enum)
	case s.Properties != nil:
		return "keys"
	case len(s.OneOf) > 0:
		var kinds []string
		for _, one := range s.OneOf {
			switch one = r.resolved(one); {
			case isFile(one):
			case slices.ContainsFunc(s.OneOf, isFile) && one.Type == "string":
				kinds = append(kinds, "template")
			default:
				kinds = append(kinds, r.kind("", one))
			}
		}
		return strings.Join(slices.Compact(kinds), ", or ")
	case s.AdditionalProperties != nil && s.Type == "object":
		return "names with: " + r.kind("", r.resolved(s.AdditionalProperties))
	}
	return scalar(s)
}

func scalar(s *jsonschema.Schema) string {
	switch {
	case s.Pattern == setting.Duration(0).JSONSchema().Pattern:
		return "duration"
	case s.Pattern == setting.Rate{}.JSONSchema().Pattern:
		return "rate"
	case s.Type == "integer" || s.Type == "number":
		kind := map[string]string{"integer": "whole number", "number": "number"}[s.Type]
		if s.Maximum != "" {
			return fmt.Sprintf("%s, %s to %s", kind, s.Minimum, s.Maximum)
		}
		if s.Minimum != "" {
			return fmt.Sprintf("%s, at least %s", kind, s.Minimum)
		}
		return kind
	case s.Type == "boolean":
		return "`true` or `false`"
	case s.Type == "string":
		return "text"
	default:
		return "any value"
	}
}

func alternatives(values []any) string {
	var quoted []string
	for _, v := range values {
		one := fmt.Sprintf("`%v`", v)
		if !slices.Contains(quoted, strings.ToUpper(one)) { // insert is INSERT
			quoted = append(quoted, one)
		}
	}
	return strings.Join(quoted, ", ")
}

// isTemplate and isFile know a template by its second form, {file: path}.
func isTemplate(s *jsonschema.Schema) bool { return len(s.OneOf) == 2 && isFile(s.OneOf[1]) }

func isFile(s *jsonschema.Schema) bool {
	if s.Properties == nil || s.Properties.Len() != 1 {
		return false
	}
	_, ok := s.Properties.Get("file")
	return ok
}

// described is the description of a key, else that of its type.
func described(at, of *jsonschema.Schema) string {
	if at.Description != "" {
		return at.Description
	}
	return of.Description
}

// split parts a description into what it says and the default, and names the key as the file does.
func split(description, name string) (meaning, standard string) {
	meaning, standard, _ = strings.Cut(strings.Join(strings.Fields(description), " "), "Default: ")
	first, rest, _ := strings.Cut(meaning, " ")
	if strings.EqualFold(first, strings.ReplaceAll(name, "_", "")) && first != name {
		meaning = "`" + name + "` " + rest
		if verb, what, _ := strings.Cut(rest, " "); verb == "is" || verb == "are" {
			meaning = strings.ToUpper(what[:1]) + what[1:]
		}
	}
	return strings.TrimSpace(meaning), strings.TrimSuffix(standard, ".")
}

// anchor is the link that Markdown viewers make of a heading.
func anchor(heading string) string {
	return strings.Map(func(c rune) rune {
		switch {
		case c == ' ':
			return '-'
		case c == '-' || c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z':
			return c
		default:
			return -1
		}
	}, strings.ToLower(heading))
}
