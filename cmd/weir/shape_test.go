package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/fraiseql/weir/internal/event"
)

// shapeField is a key of a JSON object.
type shapeField struct {
	key      string
	typ      reflect.Type
	owner    reflect.Type // the struct that declares it
	name     string       // of the field
	optional bool         // it may be absent
}

// shapeFields are the keys that encoding/json writes for a struct, in order.
func shapeFields(typ reflect.Type) []shapeField {
	var all []shapeField
	for i := range typ.NumField() {
		f := typ.Field(i)
		tag, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && tag == "":
			inner, optional := f.Type, false
			if inner.Kind() == reflect.Pointer {
				inner, optional = inner.Elem(), true
			}
			for _, one := range shapeFields(inner) {
				one.optional = one.optional || optional
				all = append(all, one)
			}
		case !f.IsExported() || tag == "-":
		default:
			all = append(all, shapeField{tag, f.Type, typ, f.Name, strings.Contains(options, "omit")})
		}
	}
	return all
}

// leaves are types that are one JSON value, and what the reference calls it.
var leaves = map[reflect.Type]string{
	reflect.TypeFor[event.Time]():      "time or null",
	reflect.TypeFor[time.Time]():       "time",
	reflect.TypeFor[event.LSN]():       "LSN",
	reflect.TypeFor[uuid.UUID]():       "UUID",
	reflect.TypeFor[json.RawMessage](): "any JSON",
}

// typeText is how the reference names a type. A struct is described in a table of its own.
func typeText(typ reflect.Type) string {
	if text, ok := leaves[typ]; ok {
		return text
	}
	switch typ.Kind() {
	case reflect.Pointer:
		return typeText(typ.Elem()) + " or null"
	case reflect.Slice:
		return "list of " + typeText(typ.Elem())
	case reflect.Map:
		return "object of " + typeText(typ.Elem())
	case reflect.Struct:
		return "[" + typ.Name() + "](#" + strings.ToLower(typ.Name()) + ")"
	case reflect.String:
		return "string"
	case reflect.Bool:
		return "boolean"
	case reflect.Float64:
		return "number"
	default:
		return "integer"
	}
}

// innerStruct is the struct that a value consists of, if any.
func innerStruct(typ reflect.Type) (reflect.Type, bool) {
	for leaves[typ] == "" && (typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice || typ.Kind() == reflect.Map) {
		typ = typ.Elem()
	}
	return typ, typ.Kind() == reflect.Struct && leaves[typ] == ""
}

// deviations says where a JSON value is not what a type says: an unknown or missing key, another type, a list that is null.
func deviations(value any, typ reflect.Type, path string) []string {
	if value == nil {
		if nullable := typ.Kind() == reflect.Pointer || strings.HasSuffix(leaves[typ], "or null") || leaves[typ] == "any JSON"; nullable {
			return nil
		}
		return []string{path + " is null"}
	}
	if typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	want := map[reflect.Kind]string{
		reflect.Bool: "bool", reflect.String: "string", reflect.Slice: "[]interface {}",
		reflect.Map: "map[string]interface {}", reflect.Struct: "map[string]interface {}",
	}[typ.Kind()]
	switch {
	case leaves[typ] == "any JSON":
		return nil
	case leaves[typ] != "":
		want = "string"
	case want == "":
		want = "json.Number"
	}
	if got := fmt.Sprintf("%T", value); got != want {
		return []string{fmt.Sprintf("%s is a %s, not a %s", path, got, want)}
	}
	var bad []string
	switch v := value.(type) {
	case []any:
		for i, one := range v {
			bad = append(bad, deviations(one, typ.Elem(), fmt.Sprintf("%s[%d]", path, i))...)
		}
	case map[string]any:
		if typ.Kind() == reflect.Map {
			return nil
		}
		bad = objectDeviations(v, typ, path)
	}
	return bad
}

func objectDeviations(object map[string]any, typ reflect.Type, path string) (bad []string) {
	left := maps.Clone(object)
	for _, f := range shapeFields(typ) {
		value, ok := object[f.key]
		delete(left, f.key)
		switch {
		case ok:
			bad = append(bad, deviations(value, f.typ, path+"."+f.key)...)
		case !f.optional:
			bad = append(bad, path+" lacks "+f.key)
		}
	}
	for key := range left {
		bad = append(bad, path+" has the unknown key "+key)
	}
	return bad
}

// commented are the doc comments of a package's structs and the values of its string types.
type commented struct {
	types  map[string]string   // by package.Type
	fields map[string]string   // by package.Type.Field
	values map[string][]string // by package.Type
	same   map[string]string   // by package.Type: the type of the same package that it is made of
}

// readComments reads the packages of directories.
func readComments(t *testing.T, dirs ...string) commented {
	t.Helper()
	all := commented{map[string]string{}, map[string]string{}, map[string][]string{}, map[string]string{}}
	for _, dir := range dirs {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		check(t, err)
		for _, name := range files {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
			check(t, err)
			for _, decl := range file.Decls {
				if general, ok := decl.(*ast.GenDecl); ok {
					all.read(file.Name.Name, general)
				}
			}
		}
	}
	return all
}

func (c *commented) read(pkg string, decl *ast.GenDecl) {
	for _, spec := range decl.Specs {
		switch s := spec.(type) {
		case *ast.TypeSpec:
			name := pkg + "." + s.Name.Name
			c.types[name] = oneLine(s.Doc.Text() + decl.Doc.Text())
			if other, ok := s.Type.(*ast.Ident); ok {
				c.same[name] = pkg + "." + other.Name
			}
			if structure, ok := s.Type.(*ast.StructType); ok {
				for _, f := range structure.Fields.List {
					for _, id := range f.Names {
						c.fields[name+"."+id.Name] = oneLine(f.Doc.Text() + " " + f.Comment.Text())
					}
				}
			}
		case *ast.ValueSpec:
			typ, ok := s.Type.(*ast.Ident)
			if !ok || decl.Tok != token.CONST || len(s.Values) != 1 {
				continue
			}
			if literal, ok := s.Values[0].(*ast.BasicLit); ok && literal.Kind == token.STRING {
				if text, err := strconv.Unquote(literal.Value); err == nil {
					value := "`" + text + "`"
					if why := oneLine(s.Comment.Text()); why != "" {
						value += " (" + why + ")"
					}
					c.values[pkg+"."+typ.Name] = append(c.values[pkg+"."+typ.Name], value)
				}
			}
		}
	}
}

// meaning is what the reference says of a key: the comment, with the names of keys in place of those of fields.
func (c *commented) meaning(f shapeField) string {
	text := cmp.Or(c.fields[f.owner.String()+"."+f.name], c.fields[c.same[f.owner.String()]+"."+f.name])
	for _, other := range shapeFields(f.owner) {
		text = regexp.MustCompile(`\b`+other.name+`\b`).ReplaceAllString(text, "`"+other.key+"`")
	}
	text = strings.TrimPrefix(text, "`"+f.key+"` is ")
	text = strings.TrimPrefix(text, "`"+f.key+"` are ")
	if values := c.values[f.typ.String()]; len(values) > 0 {
		text = strings.TrimSpace(text + " One of " + strings.Join(values, ", ") + ".")
	}
	if text != "" {
		text = strings.ToUpper(text[:1]) + text[1:]
	}
	return strings.ReplaceAll(text, "|", "\\|")
}

// tables describes types and those within them, each once.
func (c *commented) tables(t *testing.T, seen map[reflect.Type]bool, types ...reflect.Type) string {
	t.Helper()
	var b strings.Builder
	for len(types) > 0 {
		typ := types[0]
		types = types[1:]
		if seen[typ] {
			continue
		}
		seen[typ] = true
		fmt.Fprintf(&b, "#### %s\n\n", typ.Name())
		b.WriteString(c.table(t, typ))
		for _, f := range shapeFields(typ) {
			if inner, ok := innerStruct(f.typ); ok {
				types = append(types, inner)
			}
		}
	}
	return b.String()
}

// table describes a type.
func (c *commented) table(t *testing.T, typ reflect.Type) string {
	t.Helper()
	var b strings.Builder
	if text := c.types[typ.String()]; text != "" {
		fmt.Fprintf(&b, "%s\n\n", strings.ToUpper(text[:1])+text[1:])
	}
	b.WriteString("| key | type | meaning |\n|---|---|---|\n")
	for _, f := range shapeFields(typ) {
		text := c.meaning(f)
		if text == "" {
			t.Errorf("%s.%s (%s) has no comment for the reference", f.owner, f.name, f.key)
		}
		kind := typeText(f.typ)
		if f.optional {
			kind += ", may be absent"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", f.key, kind, text)
	}
	b.WriteString("\n")
	return b.String()
}

// section replaces what stands between two marks of a page: <!-- begin NAME --> and <!-- end NAME -->.
func section(t *testing.T, page, name, content string) string {
	t.Helper()
	begin, end := "<!-- begin "+name+" -->\n", "<!-- end "+name+" -->"
	head, rest, ok := strings.Cut(page, begin)
	_, tail, closed := strings.Cut(rest, end)
	if !ok || !closed {
		t.Fatalf("the page has no section %s", name)
	}
	return head + begin + "\n" + strings.TrimSpace(content) + "\n\n" + end + tail
}

// TestDeviations: each is found.
func TestDeviations(t *testing.T) {
	t.Parallel()
	type inner struct {
		N int `json:"n"`
	}
	type outer struct {
		Text  string     `json:"text"`
		Lists []inner    `json:"lists"`
		When  event.Time `json:"when"`
		Maybe *inner     `json:"maybe"`
		Rare  string     `json:"rare,omitempty"`
	}
	const right = `{"text": "x", "lists": [{"n": 1}], "when": null, "maybe": null}`
	for document, want := range map[string]string{
		right: "",
		`{"text": "x", "lists": null, "when": null, "maybe": null}`:                "v.lists is null",
		`{"text": "x", "lists": [], "when": 1, "maybe": null}`:                     "v.when is a json.Number, not a string",
		`{"text": "x", "lists": [{"n": "1"}], "when": null, "maybe": null}`:        "v.lists[0].n is a string, not a json.Number",
		`{"text": "x", "lists": [], "when": null}`:                                 "v lacks maybe",
		`{"text": "x", "lists": [], "when": null, "maybe": {"n": 1, "m": 2}}`:      "v.maybe has the unknown key m",
		`{"text": null, "lists": [], "when": "now", "maybe": null, "rare": "yes"}`: "v.text is null",
	} {
		if got := strings.Join(deviations(decodeJSON(t, document), reflect.TypeFor[outer](), "v"), "; "); got != want {
			t.Errorf("%s: got %q, want %q", document, got, want)
		}
	}
}

func decodeJSON(t *testing.T, document string) (value any) {
	t.Helper()
	decoder := json.NewDecoder(strings.NewReader(document))
	decoder.UseNumber()
	check(t, decoder.Decode(&value))
	return value
}

// readPage is a page of docs/.
func readPage(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", name))
	check(t, err)
	return string(text)
}
