package config

import (
	"encoding/json"
	"reflect"
	"slices"
	"testing"

	"github.com/invopop/jsonschema"
)

const module = "github.com/fraiseql/weir/internal/config"

// The JSON Schema that is shipped for editors is the one of the structs.
//go:generate go test -run TestSchemaIsFresh -count=1 -update .

func TestSchemaIsFresh(t *testing.T) {
	t.Parallel()
	golden(t, "weir.schema.json", append(schema(t), '\n'))
}

// schema describes weir.yaml to editors. Descriptions are the structs' doc comments, so it is made where the source is.
func schema(t *testing.T) []byte {
	t.Helper()
	made := reflected(t)
	raw, err := json.Marshal(made)
	if err != nil {
		t.Fatal(err)
	}
	var tree map[string]any
	if err := json.Unmarshal(raw, &tree); err != nil {
		t.Fatal(err)
	}
	allowVariables(tree)
	tree["$defs"].(map[string]any)["variable"] = map[string]any{
		"type": "string", "pattern": `\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^}]*)?\}`,
		"description": "A value of the environment: ${NAME} or ${NAME:-default}.",
	}
	out, err := json.MarshalIndent(tree, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// reflected is the schema as the structs have it, its keys in their order.
func reflected(t *testing.T) *jsonschema.Schema {
	t.Helper()
	reflector := jsonschema.Reflector{
		FieldNameTag: "yaml", RequiredFromJSONSchemaTags: true, ExpandedStruct: true, BaseSchemaID: "https://github.com/fraiseql/weir",
		Namer: func(typ reflect.Type) string {
			if typ.Name() == "" {
				return "" // a list or map: described in its place
			}
			return typ.String() // two rooms' types may share a name
		},
	}
	for _, room := range []string{".", "../action", "../breaker", "../cache", "../capture", "../index", "../jobs", "../observer", "../outbound"} {
		if err := reflector.AddGoComments(module, room); err != nil {
			t.Fatalf("read the comments of %s: %v", room, err)
		}
	}
	made := reflector.Reflect(&Config{})
	made.ID, made.Title, made.Description = "", "weir.yaml", "The configuration of the Weir worker."
	return made
}

// allowVariables lets every value that is not just any text also be a ${NAME}.
func allowVariables(s map[string]any) {
	for _, key := range []string{"properties", "$defs"} {
		inner, _ := s[key].(map[string]any)
		for _, v := range inner {
			allowVariables(v.(map[string]any))
		}
	}
	for _, key := range []string{"items", "additionalProperties"} {
		if inner, ok := s[key].(map[string]any); ok {
			allowVariables(inner)
		}
	}
	for _, key := range []string{"oneOf", "anyOf"} {
		inner, _ := s[key].([]any)
		for _, v := range inner {
			allowVariables(v.(map[string]any))
		}
	}
	typ, _ := s["type"].(string)
	narrow := false
	for _, key := range []string{"pattern", "enum"} {
		if _, ok := s[key]; ok {
			narrow = true
		}
	}
	if !slices.Contains([]string{"integer", "boolean", "number"}, typ) && (typ != "string" || !narrow) {
		return
	}
	value := map[string]any{}
	for key, v := range s {
		if key != "description" && key != "title" && key != "default" {
			value[key] = v
			delete(s, key)
		}
	}
	s["anyOf"] = []any{value, map[string]any{"$ref": "#/$defs/variable"}}
}

// An editor must flag an unknown key, as Load does.
func TestSchemaIsStrict(t *testing.T) {
	t.Parallel()
	var tree map[string]any
	if err := json.Unmarshal(schema(t), &tree); err != nil {
		t.Fatal(err)
	}
	var objects int
	var visit func(path string, v any)
	visit = func(path string, v any) {
		switch v := v.(type) {
		case map[string]any:
			if _, ok := v["properties"].(map[string]any); ok && v["type"] == "object" {
				objects++
				if additional, ok := v["additionalProperties"].(bool); !ok || additional {
					t.Errorf("%s allows additional properties", path)
				}
			}
			for key, inner := range v {
				visit(path+"/"+key, inner)
			}
		case []any:
			for _, inner := range v {
				visit(path, inner)
			}
		}
	}
	visit("", tree)
	if objects < 8 {
		t.Errorf("only %d objects with keys", objects)
	}
	top := tree["properties"].(map[string]any)
	for _, f := range fieldsOf(reflect.ValueOf(Config{})) {
		if top[f.key] == nil {
			t.Errorf("the schema has no %s", f.key)
		}
	}
}
