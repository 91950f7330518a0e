package rule

import (
	"context"
	"fmt"

	"github.com/goccy/go-yaml/ast"
	"github.com/invopop/jsonschema"

	"github.com/fraiseql/weir/internal/setting"
)

// Condition is an expression that is true or false for an event. One that exists has compiled, except for the zero
// value, which is for decoding. It is safe for concurrent use, each goroutine with its own Env.
type Condition struct{ program *program }

// CompileCondition compiles an expression. The error names the place in it and what was expected.
func CompileCondition(source string) (*Condition, error) {
	p, err := compile(source)
	if err != nil {
		return nil, err
	}
	if p.kind != kindAny && p.kind != kindBool {
		return nil, &sourceError{source: source, message: fmt.Sprintf(
			"a condition is true or false, but this is always %s: compare it with something", p.kind)}
	}
	return &Condition{program: p}, nil
}

// Eval says whether the condition is true for the event. An error names the part of the condition and the key; it is
// never to be taken for "no match".
func (c Condition) Eval(env *Env) (bool, error) {
	v, err := c.program.run(env)
	if err != nil {
		return false, err
	}
	result, ok := v.(bool)
	if !ok {
		return false, fmt.Errorf("a condition is true or false, but this is %s: compare it, as in x == true", kindOf(v))
	}
	return result, nil
}

// String is the source.
func (c Condition) String() string { return c.program.source }

// UnmarshalYAML compiles a condition at a node of the file.
func (c *Condition) UnmarshalYAML(_ context.Context, node ast.Node) error {
	source, ok := setting.Text(node)
	if !ok {
		return setting.ErrorAt(node, "expected a condition, as in status == 'shipped' && total > 100")
	}
	compiled, err := CompileCondition(source)
	if err != nil {
		return setting.ErrorAt(node, "the condition does not compile: %s", err)
	}
	*c = *compiled
	return nil
}

// JSONSchema describes a condition to editors.
func (Condition) JSONSchema() *jsonschema.Schema {
	return &jsonschema.Schema{
		Type:        "string",
		Description: "An expression over the event that is true or false: status == 'shipped' && total > 100.",
	}
}
