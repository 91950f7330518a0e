package rule

import (
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/builtin"
)

// translator replaces names, members, operators and functions by calls of ours. It makes new nodes and leaves the
// parsed ones as they are.
type translator struct {
	source []rune
	locals []string // of let
	depth  int
	err    *sourceError // the first
}

func (t *translator) fail(at ast.Node, format string, args ...any) (ast.Node, kind) {
	if t.err == nil {
		t.err = &sourceError{
			source: string(t.source), offset: at.Location().From, positioned: true,
			message: fmt.Sprintf(format, args...),
		}
	}
	return constant(at, nil), kindAny
}

func (t *translator) node(n ast.Node) (ast.Node, kind) {
	if t.err != nil {
		return constant(n, nil), kindAny
	}
	t.depth++
	defer func() { t.depth-- }()
	if t.depth > maxDepth {
		return t.fail(n, "the expression is nested more than %d deep: write it flatter", maxDepth)
	}
	switch n := n.(type) {
	case *ast.NilNode:
		return constant(n, nil), kindNull
	case *ast.BoolNode:
		return constant(n, n.Value), kindBool
	case *ast.StringNode:
		return constant(n, n.Value), kindString
	case *ast.IntegerNode:
		return t.integer(n)
	case *ast.FloatNode:
		return t.fraction(n)
	case *ast.IdentifierNode:
		return t.identifier(n)
	case *ast.UnaryNode:
		return t.unary(n)
	case *ast.BinaryNode:
		return t.binary(n)
	case *ast.ChainNode:
		inner, k := t.node(n.Node)
		return call(n, opChain, inner), k
	case *ast.MemberNode:
		return t.member(n)
	case *ast.SliceNode:
		return t.slice(n)
	case *ast.CallNode:
		return t.call(n)
	case *ast.BuiltinNode:
		return t.loop(n)
	case *ast.PointerNode:
		if n.Name != "" && n.Name != "index" {
			return t.fail(n, "#%s is not available: # is the element, #index its place", n.Name)
		}
		return &ast.PointerNode{Name: n.Name}, kindAny
	default:
		return t.composite(n)
	}
}

func (t *translator) composite(n ast.Node) (ast.Node, kind) {
	switch n := n.(type) {
	case *ast.ConditionalNode:
		yes, k1 := t.node(n.Exp1)
		no, k2 := t.node(n.Exp2)
		if k1 != k2 {
			k1 = kindAny
		}
		return &ast.ConditionalNode{Ternary: true, Cond: t.truth(n.Cond), Exp1: yes, Exp2: no}, k1
	case *ast.ArrayNode:
		return t.list(n)
	case *ast.MapNode:
		return t.object(n)
	case *ast.VariableDeclaratorNode:
		if strings.HasPrefix(n.Name, "$") {
			return t.fail(n, "the name %s is not available", n.Name)
		}
		value, _ := t.node(n.Value)
		t.locals = append(t.locals, n.Name)
		body, k := t.node(n.Expr)
		t.locals = t.locals[:len(t.locals)-1]
		return &ast.VariableDeclaratorNode{Name: n.Name, Value: value, Expr: body}, k
	case *ast.SequenceNode:
		return t.fail(n.Nodes[1], "expected one expression, found a second one after ;")
	case *ast.BytesNode:
		return t.fail(n, "bytes are not available: write a string, as in 'shipped'")
	default:
		return t.fail(n, "this is not available in an expression")
	}
}

// digits is the text of a number's literal, without the underscores that expr allows.
func (t *translator) digits(n ast.Node) string {
	at := n.Location()
	return strings.ReplaceAll(string(t.source[at.From:at.To]), "_", "")
}

var leadingZeroRE = regexp.MustCompile(`^0[0-9]`)

func (t *translator) integer(n *ast.IntegerNode) (ast.Node, kind) {
	if leadingZeroRE.MatchString(t.digits(n)) {
		return t.fail(n, "a number does not begin with 0; a date is a string: write it in quotes, as in '2026-01-31'")
	}
	return constant(n, n.Value), kindNumber
}

// fraction reads the literal again: the parsed one has been through float64.
func (t *translator) fraction(n *ast.FloatNode) (ast.Node, kind) {
	text := strings.TrimLeft(t.digits(n), "0")
	if text == "" || text[0] < '0' || text[0] > '9' { // .5, or e3 of 0e3
		text = "0" + text
	}
	text = strings.Replace(text, ".e", ".0e", 1)
	text = strings.Replace(text, ".E", ".0E", 1)
	text = strings.TrimSuffix(text, ".")
	if _, err := decodeJSON([]byte(text)); err != nil {
		return t.fail(n, "%q is no number", t.digits(n))
	}
	return constant(n, exactNumber(text)), kindNumber
}

func (t *translator) identifier(n *ast.IdentifierNode) (ast.Node, kind) {
	switch {
	case slices.Contains(t.locals, n.Value):
		return &ast.IdentifierNode{Value: n.Value}, kindAny
	case n.Value == "null": // expr writes nil
		return constant(n, nil), kindNull
	case strings.HasPrefix(n.Value, "$"):
		return t.fail(n, "the name %s is not available: names are the event's fields and the keys of its data", n.Value)
	}
	if k, ok := fieldKind(n.Value); ok {
		return call(n, opField, constant(n, n.Value)), k
	}
	return call(n, opKey, constant(n, n.Value)), kindAny
}

func (t *translator) unary(n *ast.UnaryNode) (ast.Node, kind) {
	if n.Operator == "!" || n.Operator == "not" {
		not := &ast.UnaryNode{Operator: "!", Node: t.truth(n.Node)}
		not.SetLocation(n.Location())
		return typed(not, kindBool), kindBool
	}
	inner, k := t.node(n.Node)
	if k != kindAny && k != kindNumber && k != kindNull {
		return t.fail(n, "%s needs a number, found %s", n.Operator, k)
	}
	if c, ok := inner.(*ast.ConstantNode); ok && n.Operator == "-" {
		switch v := c.Value.(type) {
		case int:
			return constant(n, -v), kindNumber
		case number:
			return constant(n, negative(v)), kindNumber
		}
	}
	return call(n, n.Operator+"x", inner), kindNumber
}

func (t *translator) binary(n *ast.BinaryNode) (ast.Node, kind) {
	switch n.Operator {
	case "&&", "and", "||", "or":
		both := &ast.BinaryNode{Operator: n.Operator, Left: t.truth(n.Left), Right: t.truth(n.Right)}
		both.SetLocation(n.Location())
		return typed(both, kindBool), kindBool
	case "??":
		left, k1 := t.node(n.Left)
		right, k2 := t.node(n.Right)
		if k1 != k2 {
			k1 = kindAny
		}
		either := &ast.BinaryNode{Operator: "??", Left: left, Right: right}
		either.SetLocation(n.Location())
		return either, k1
	case "matches":
		return t.matches(n)
	}
	name := n.Operator
	if name == "^" {
		name = "**"
	}
	op, ok := operators[name]
	if !ok {
		return t.fail(n, "the operator %s is not available", n.Operator)
	}
	left, k1 := t.node(n.Left)
	right, k2 := t.node(n.Right)
	if t.err == nil {
		if err := checkOperands(name, k1, k2); err != nil {
			return t.fail(n, "%s", err)
		}
	}
	return call(n, name, left, right), op.result
}

// checkOperands finds what can only fail: it would be an error for every event.
func checkOperands(op string, x, y kind) error {
	want := kindAny
	switch op {
	case "==", "!=":
		if !equatable(x, y) {
			return mismatch(x, y)
		}
	case "<", "<=", ">", ">=":
		if !ordered(x, y) {
			return orderError(x, y)
		}
	case "+":
		return checkAdd(x, y)
	case "-", "*", "/", "%", "**", "..":
		want = kindNumber
	case "contains", "startsWith", "endsWith":
		want = kindString
	}
	for _, k := range []kind{x, y} {
		if want != kindAny && k != want && k != kindAny && k != kindNull {
			return fmt.Errorf("%s needs %s on both sides, found %s", op, want, k)
		}
	}
	return nil
}

func (t *translator) matches(n *ast.BinaryNode) (ast.Node, kind) {
	pattern, ok := n.Right.(*ast.StringNode)
	if !ok {
		return t.fail(n.Right, "matches needs a pattern in quotes, as in name matches '^A'")
	}
	re, err := regexp.Compile(pattern.Value)
	if err != nil {
		return t.fail(n.Right, "%s", strings.TrimPrefix(err.Error(), "error "))
	}
	left, k := t.node(n.Left)
	if k != kindAny && k != kindString && k != kindNull {
		return t.fail(n, "matches needs a string, found %s", k)
	}
	return call(n, opMatches, left, constant(n.Right, re)), kindBool
}

// truth translates a node where true or false is needed.
func (t *translator) truth(n ast.Node) ast.Node {
	inner, k := t.node(n)
	switch k {
	case kindBool:
		if _, ok := inner.(*ast.ConstantNode); ok || inner.Type().Kind() == reflect.Bool {
			return inner
		}
		return call(n, opBool, inner) // a function's, which is null when its argument is
	case kindAny:
		return call(n, opBool, inner)
	default:
		node, _ := t.fail(n, "expected true or false, found %s", k)
		return node
	}
}

func (t *translator) member(n *ast.MemberNode) (ast.Node, kind) {
	base, _ := t.node(n.Node)
	property, _ := t.node(n.Property)
	if n.Optional {
		return call(n, opMaybe, base, property), kindAny
	}
	return call(n, opMember, base, property), kindAny
}

func (t *translator) slice(n *ast.SliceNode) (ast.Node, kind) {
	base, k := t.node(n.Node)
	from, to := constant(n, nil), constant(n, nil)
	if n.From != nil {
		from, _ = t.node(n.From)
	}
	if n.To != nil {
		to, _ = t.node(n.To)
	}
	return call(n, opSlice, base, from, to), k
}

func (t *translator) list(n *ast.ArrayNode) (ast.Node, kind) {
	nodes, values := make([]ast.Node, len(n.Nodes)), make([]any, len(n.Nodes))
	constants := true
	for i := range n.Nodes {
		nodes[i], _ = t.node(n.Nodes[i])
		c, ok := nodes[i].(*ast.ConstantNode)
		if constants = constants && ok; constants {
			values[i] = c.Value
		}
	}
	if constants { // made once, not in every evaluation
		return constant(n, values), kindList
	}
	list := &ast.ArrayNode{Nodes: nodes}
	list.SetLocation(n.Location())
	return typed(list, kindList), kindList
}

func (t *translator) object(n *ast.MapNode) (ast.Node, kind) {
	object := &ast.MapNode{}
	object.SetLocation(n.Location())
	for _, p := range n.Pairs {
		pair := p.(*ast.PairNode)
		key, ok := pair.Key.(*ast.StringNode)
		if !ok {
			return t.fail(pair.Key, "the key of an object must be a name or a string in quotes")
		}
		value, _ := t.node(pair.Value)
		object.Pairs = append(object.Pairs, &ast.PairNode{Key: constant(key, key.Value), Value: value})
	}
	return typed(object, kindObject), kindObject
}

func (t *translator) call(n *ast.CallNode) (ast.Node, kind) {
	callee, ok := n.Callee.(*ast.IdentifierNode)
	if !ok {
		return t.fail(n, "values have no methods: write a function, as in upper(name)")
	}
	f, ok := functions[callee.Value]
	if !ok {
		return t.unknownFunction(n, callee.Value)
	}
	if err := f.checkCount(len(n.Arguments)); err != nil {
		return t.fail(n, "%s %s", callee.Value, err)
	}
	args := make([]ast.Node, len(n.Arguments))
	for i, a := range n.Arguments {
		var k kind
		args[i], k = t.node(a)
		if want := f.param(i); t.err == nil && want != kindAny && k != kindAny && k != kindNull && k != want {
			return t.fail(a, "%s needs %s here, found %s", callee.Value, want, k)
		}
	}
	return call(n, callee.Value, args...), f.result
}

func (t *translator) unknownFunction(at ast.Node, name string) (ast.Node, kind) {
	names := slices.Sorted(maps.Keys(functions))
	names = append(names, slices.Sorted(maps.Keys(loops))...)
	if _, ok := builtin.Index[name]; ok {
		return t.fail(at, "the function %s is not available; there are %s", name, strings.Join(names, ", "))
	}
	return t.fail(at, "there is no function %s%s", name, suggestion[any](name, nil, names))
}

// loops are the functions of expr that run an expression for each element of a list, and what they give. Not findLast
// and findLastIndex: expr 1.17.8 leaves a value on the stack, where a call around them takes it for an argument.
var loops = map[string]kind{
	"all": kindBool, "any": kindBool, "none": kindBool, "one": kindBool, "filter": kindList, "map": kindList,
	"find": kindAny, "findIndex": kindAny, "count": kindNumber, "sum": kindNumber,
}

func (t *translator) loop(n *ast.BuiltinNode) (ast.Node, kind) {
	result, ok := loops[n.Name]
	if !ok {
		return t.unknownFunction(n, n.Name)
	}
	list, k := t.node(n.Arguments[0])
	if k != kindAny && k != kindList {
		return t.fail(n.Arguments[0], "%s needs a list, found %s", n.Name, k)
	}
	list = typed(call(n.Arguments[0], opList, list), kindList)
	name, body := n.Name, t.body(n)
	if name == "sum" { // expr's would add Go's numbers
		if body == nil {
			return call(n, opSum, list), result
		}
		name = "map"
	}
	loop := &ast.BuiltinNode{Name: name, Arguments: []ast.Node{list}}
	loop.SetLocation(n.Location())
	if body != nil {
		loop.Arguments = append(loop.Arguments, body)
	}
	if n.Name == "sum" {
		return call(n, opSum, typed(loop, kindList)), result
	}
	return typed(loop, result), result
}

// body is what a loop evaluates for each element, nil without. Each step costs, so that no loop runs for ever.
func (t *translator) body(n *ast.BuiltinNode) ast.Node {
	if len(n.Arguments) < 2 {
		if n.Name != "count" {
			return nil
		}
		return call(n, opStep, call(n, opBool, &ast.PointerNode{}))
	}
	predicate, ok := n.Arguments[1].(*ast.PredicateNode)
	if !ok {
		node, _ := t.fail(n, "%s needs an expression over the elements, as in .total > 100", n.Name)
		return node
	}
	if n.Name == "map" || n.Name == "sum" {
		inner, _ := t.node(predicate.Node)
		return call(predicate.Node, opStep, inner)
	}
	return typed(call(predicate.Node, opStep, t.truth(predicate.Node)), kindBool)
}

func constant(at ast.Node, v any) ast.Node {
	n := &ast.ConstantNode{Value: v}
	n.SetLocation(at.Location())
	return n
}

// call is a call of one of operators or functions, with the Env as its first argument.
func call(at ast.Node, name string, args ...ast.Node) ast.Node {
	n := &ast.CallNode{
		Callee:    &ast.IdentifierNode{Value: name},
		Arguments: append([]ast.Node{&ast.IdentifierNode{Value: "$env"}}, args...),
	}
	n.SetLocation(at.Location())
	if f, ok := operators[name]; ok {
		return typed(n, f.result)
	}
	return n
}
