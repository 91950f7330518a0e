package rule

import (
	"strings"

	"github.com/expr-lang/expr/ast"
)

// Explain names the smallest part that makes the condition false for the event, with its values: "total > 100 is false
// (total = 99.50)". It is "" when the condition is true, and the error's text when it fails.
func (c Condition) Explain(env *Env) string {
	result, err := c.Eval(env)
	switch {
	case err != nil:
		return err.Error()
	case result:
		return ""
	default:
		return c.program.why(c.program.tree, false, env)
	}
}

// why says what makes a node true or false, which it has been found to be.
func (p *program) why(n ast.Node, result bool, env *Env) string {
	switch n := n.(type) {
	case *ast.UnaryNode:
		if n.Operator == "!" || n.Operator == "not" {
			return p.why(n.Node, !result, env)
		}
	case *ast.BinaryNode:
		if op := logical(n.Operator); op != "" {
			return p.whyAll(operandsOf(n, op), (op == "and") == result, result, env)
		}
	}
	reason := p.textOf(n) + " is false"
	if result {
		reason = p.textOf(n) + " is true"
	}
	if values := p.values(n, env); values != "" {
		reason += " (" + values + ")"
	}
	return reason
}

// whyAll is why for the operands of && or ||. Either it took all of them to get the result, or the first that has it
// was enough.
func (p *program) whyAll(operands []ast.Node, tookAll, result bool, env *Env) string {
	if !tookAll {
		last := len(operands) - 1
		for _, operand := range operands[:last] {
			if p.value(operand, env) == result {
				return p.why(operand, result, env)
			}
		}
		return p.why(operands[last], result, env)
	}
	reasons := make([]string, len(operands))
	for i, operand := range operands {
		reasons[i] = p.why(operand, result, env)
	}
	return strings.Join(reasons, " and ")
}

// logical is "and" or "or" for the operators that are, however they are written.
func logical(operator string) string {
	switch operator {
	case "&&", "and":
		return "and"
	case "||", "or":
		return "or"
	default:
		return ""
	}
}

// operandsOf are a, b and c of a && b && c.
func operandsOf(n ast.Node, op string) []ast.Node {
	if b, ok := n.(*ast.BinaryNode); ok && logical(b.Operator) == op {
		return append(operandsOf(b.Left, op), operandsOf(b.Right, op)...)
	}
	return []ast.Node{n}
}

// value evaluates a part on its own, nil if that is not possible (a variable of let).
func (p *program) value(n ast.Node, env *Env) any {
	part, err := p.part(n)
	if err != nil {
		return nil
	}
	v, err := part.run(env)
	if err != nil {
		return nil
	}
	return v
}

// values are what the operands of a part are: "total = 99.50, limit = 100".
func (p *program) values(n ast.Node, env *Env) string {
	var operands []ast.Node
	var shown []string
	switch n := n.(type) {
	case *ast.BinaryNode:
		operands = []ast.Node{n.Left, n.Right}
	case *ast.CallNode:
		operands = n.Arguments
		if change := p.changeOf(n, env); change != "" {
			shown = append(shown, change)
		}
	case *ast.BuiltinNode:
		operands = n.Arguments[:1]
	}
	for _, operand := range operands {
		if isLiteral(operand) {
			continue
		}
		part, err := p.part(operand)
		if err != nil {
			continue
		}
		if v, err := part.run(env); err == nil {
			shown = append(shown, p.textOf(operand)+" = "+show(v))
		}
	}
	return strings.Join(shown, ", ")
}

// changeOf is what became of the field that field_changed and its like ask for.
func (p *program) changeOf(n *ast.CallNode, env *Env) string {
	callee, ok := n.Callee.(*ast.IdentifierNode)
	if !ok || !strings.HasPrefix(callee.Value, "field_changed") {
		return ""
	}
	name, ok := n.Arguments[0].(*ast.StringNode)
	if !ok {
		return ""
	}
	changed, change, err := env.change(name.Value)
	switch {
	case err != nil:
		return ""
	case !changed:
		return name.Value + " did not change"
	case change == nil:
		return name.Value + " changed"
	default:
		return name.Value + " changed from " + show(change["old"]) + " to " + show(change["new"])
	}
}

func isLiteral(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.NilNode, *ast.BoolNode, *ast.IntegerNode, *ast.FloatNode, *ast.StringNode:
		return true
	case *ast.IdentifierNode:
		return n.Value == "null"
	case *ast.UnaryNode:
		return isLiteral(n.Node)
	case *ast.ArrayNode:
		for _, element := range n.Nodes {
			if !isLiteral(element) {
				return false
			}
		}
		return true
	default:
		return false
	}
}

// show is a value for people.
func show(v any) string {
	b, err := appendJSON(nil, v)
	if err != nil {
		return "…"
	}
	return abbreviate(string(b))
}
