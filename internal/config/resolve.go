package config

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"

	"github.com/fraiseql/weir/internal/setting"
)

// Limits that only a hostile file reaches: aliases of aliases of aliases would otherwise take for ever to decode.
const (
	maxDepth = 100
	maxNodes = 100_000
)

// resolver turns the syntax tree into one that a decoder may read as it is: without anchors, aliases, merge keys and
// duplicate keys, and with the variables of its scalars replaced. It changes copies: aliases share nodes.
type resolver struct {
	src    *source
	lookup func(name string) (string, bool)
	noEnv  bool

	anchors map[string]resolved
	unset   []string // variables without value and default
	unknown []span   // where a value is not known, so that nothing can be said about it
	errs    Errors
	stop    bool // an error after which the rest of the tree is not what was meant
}

// resolved is a node and how many nodes it stands for.
type resolved struct {
	node ast.Node
	size int
}

// span is a piece of the file: whole lines from the column of the first to the end of the last.
type span struct{ line, column, lastLine, endColumn int }

func (s span) contains(e Error) bool {
	switch {
	case e.Line < s.line || e.Line > s.lastLine:
		return false
	case s.line == s.lastLine:
		return s.column <= e.Column && e.Column <= s.endColumn
	default:
		return e.Line > s.line || e.Column >= s.column
	}
}

func (r *resolver) document(root ast.Node) ast.Node {
	r.anchors = map[string]resolved{}
	return r.node(root, 0).node
}

func (r *resolver) fail(node ast.Node, message, hint string) resolved {
	at := position(node)
	r.errs = append(r.errs, r.src.errorAt(at.Line, at.Column, message, hint))
	r.unknown = append(r.unknown, r.spanOf(node))
	return resolved{node: ast.Null(node.GetToken()), size: 1}
}

func (r *resolver) node(node ast.Node, depth int) resolved {
	if node == nil {
		return resolved{node: ast.Null(&token.Token{Position: &token.Position{Line: 1, Column: 1}}), size: 1}
	}
	if depth > maxDepth {
		r.stop = true
		return r.fail(node, "this is nested too deeply", fmt.Sprintf("expected at most %d levels", maxDepth))
	}
	switch n := node.(type) {
	case *ast.MappingNode:
		return r.mapping(n, depth)
	case *ast.MappingValueNode:
		return r.mapping(ast.Mapping(n.Start, n.IsFlowStyle, n), depth)
	case *ast.SequenceNode:
		return r.sequence(n, depth)
	case *ast.AnchorNode:
		v := r.node(n.Value, depth+1)
		r.anchors[n.Name.GetToken().Value] = v
		return v
	case *ast.AliasNode:
		v, ok := r.anchors[n.Value.GetToken().Value]
		if !ok {
			return r.fail(n, fmt.Sprintf("there is no anchor %q before this alias", n.Value.GetToken().Value),
				"define it with & above, or put quotes round the value: an unquoted * begins a YAML alias")
		}
		return v
	case *ast.TagNode:
		r.stop = true // the parser takes the following lines for the tag's
		return r.fail(n, fmt.Sprintf("%q is a YAML tag, which has no meaning here", n.Start.Value), quoteBang)
	case *ast.StringNode:
		return resolved{node: r.printable(n, r.text(n, n)), size: 1}
	case *ast.LiteralNode:
		literal := *n
		r.printable(n, n.Value)
		if text, ok := r.text(n, n.Value).(*ast.StringNode); ok {
			literal.Value = text
		}
		return resolved{node: &literal, size: 1}
	case *ast.NullNode, *ast.BoolNode, *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return resolved{node: n, size: 1}
	default:
		return r.fail(node, "this has no meaning here", "expected keys with values")
	}
}

func (r *resolver) sequence(n *ast.SequenceNode, depth int) resolved {
	c := *n
	c.Values = make([]ast.Node, len(n.Values))
	out := resolved{node: &c, size: 1}
	for i, value := range n.Values {
		v := r.node(value, depth+1)
		c.Values[i] = v.node
		out.size += v.size
	}
	return r.bounded(out)
}

func (r *resolver) mapping(n *ast.MappingNode, depth int) resolved {
	c := *n
	c.Values = make([]*ast.MappingValueNode, 0, len(n.Values))
	out := resolved{node: &c, size: 1}
	seen := map[string]ast.Node{}
	var merges []*ast.MappingValueNode
	for _, pair := range n.Values {
		if pair.Key.IsMergeKey() {
			merges = append(merges, pair)
			continue
		}
		key, ok := keyText(pair.Key)
		if !ok {
			r.stop = true
			return r.fail(n, "a mapping stands where a key is expected", quoteBraces)
		}
		if first, twice := seen[key]; twice {
			r.fail(pair.Key, fmt.Sprintf("key %q is written twice", key),
				fmt.Sprintf("remove one; the first is in line %d", position(first).Line))
			continue
		}
		seen[key] = pair.Key
		r.printable(pair.Key, pair.Key)
		v := r.node(pair.Value, depth+1)
		out.size += v.size
		p := *pair
		p.Value = v.node
		c.Values = append(c.Values, &p)
	}
	for _, pair := range merges {
		v := r.node(pair.Value, depth+1)
		out.size += v.size
		c.Values = append(c.Values, r.merged(v.node, seen)...)
	}
	return r.bounded(out)
}

// merged is what `<<` adds: the pairs whose key is not in seen, to which it adds them.
func (r *resolver) merged(node ast.Node, seen map[string]ast.Node) []*ast.MappingValueNode {
	var pairs []*ast.MappingValueNode
	switch n := node.(type) {
	case *ast.MappingNode:
		for _, pair := range n.Values {
			if key, _ := keyText(pair.Key); seen[key] == nil {
				seen[key] = pair.Key
				pairs = append(pairs, pair)
			}
		}
	case *ast.SequenceNode:
		for _, value := range n.Values {
			pairs = append(pairs, r.merged(value, seen)...)
		}
	default:
		r.fail(node, "<< merges mappings only", "expected an alias of a mapping, as in <<: *defaults")
	}
	return pairs
}

func (r *resolver) bounded(v resolved) resolved {
	if v.size > maxNodes {
		r.stop = true
		return r.fail(v.node, "this is too large with its aliases replaced", fmt.Sprintf("expected at most %d values", maxNodes))
	}
	return v
}

// text replaces the variables of a string. whole is the node in the file: the string itself or the block around it.
func (r *resolver) text(whole ast.Node, n *ast.StringNode) ast.Node {
	if !strings.Contains(n.Value, "${") {
		return n
	}
	e := expand(n.Value, r.lookup)
	switch {
	case e.nested != "":
		r.failInText(whole, e.nested, fmt.Sprintf("the default of a variable holds another one: %q", e.nested),
			"write the default itself, as in ${NAME:-default}: variables in it are not replaced")
		r.unknown = append(r.unknown, r.spanOf(whole))
		return n
	case e.bad != "":
		r.failInText(whole, e.bad, fmt.Sprintf("%q is no variable", e.bad),
			"write ${NAME} or ${NAME:-default}, $${ for a literal ${, and quotes round the value if it has special characters")
		r.unknown = append(r.unknown, r.spanOf(whole))
		return n
	}
	for _, name := range e.unset {
		r.unknown, r.unset = append(r.unknown, r.spanOf(whole)), append(r.unset, name)
		if r.noEnv {
			continue
		}
		r.failInText(whole, "${"+name, fmt.Sprintf("environment variable %s is not set", name),
			fmt.Sprintf("set it, or write a default as in ${%s:-…}", name))
	}
	return retyped(n, e.text)
}

// printable refuses a text with control characters, as escapes bring them in: PostgreSQL takes no NUL, and the others are in
// the way wherever a text is shown. whole is the node in the file.
func (r *resolver) printable(whole, n ast.Node) ast.Node {
	text, _ := setting.Text(n)
	if i := strings.IndexFunc(text, isControl); i >= 0 {
		c, _ := utf8.DecodeRuneInString(text[i:])
		r.fail(whole, fmt.Sprintf("the control character %U stands in this text", c), "expected text, with \\n and \\t at the most")
	}
	return n
}

func isControl(c rune) bool { return unicode.IsControl(c) && !strings.ContainsRune("\t\n\r", c) }

// failInText reports an error at a piece of a scalar's text, which may be lines below the scalar's beginning.
func (r *resolver) failInText(whole ast.Node, piece, message, hint string) {
	at := position(whole)
	line, column := at.Line, at.Column
	for l := at.Line; l <= min(r.spanOf(whole).lastLine, len(r.src.lines)); l++ {
		from := 0
		if l == at.Line {
			from = min(byteOffset(r.src.lines[l-1], at.Column), len(r.src.lines[l-1]))
		}
		if i := strings.Index(r.src.lines[l-1][from:], piece); i >= 0 {
			line, column = l, len([]rune(r.src.lines[l-1][:from+i]))+1
			break
		}
	}
	r.errs = append(r.errs, r.src.errorAt(line, column, message, hint))
}

func byteOffset(line string, column int) int {
	return len(string([]rune(line)[:min(max(column-1, 0), len([]rune(line)))]))
}

// spanOf is where a scalar stands in the file.
func (r *resolver) spanOf(n ast.Node) span {
	at, origin := position(n), n.GetToken().Origin
	if literal, ok := n.(*ast.LiteralNode); ok {
		origin += literal.Value.GetToken().Origin
	}
	origin = strings.TrimSpace(origin)
	return span{
		line: at.Line, column: at.Column,
		lastLine: at.Line + strings.Count(origin, "\n"), endColumn: at.Column + len([]rune(origin)),
	}
}

// retyped is a string node with another text. A plain scalar gets the type that YAML gives to the text; one in quotes
// stays a string. What would be YAML syntax in the text has no meaning: it was parsed before.
func retyped(n *ast.StringNode, text string) ast.Node {
	was := n.GetToken()
	tk := was.Clone()
	tk.Value, tk.Origin = text, text
	if was.Type != token.StringType {
		return ast.String(tk)
	}
	tk.Type = token.New(text, text, was.Position).Type
	if text == "" {
		tk.Type = token.NullType
	}
	switch tk.Type {
	case token.NullType:
		return ast.Null(tk)
	case token.BoolType:
		return ast.Bool(tk)
	case token.FloatType:
		return ast.Float(tk)
	case token.IntegerType, token.BinaryIntegerType, token.OctetIntegerType, token.HexIntegerType:
		return ast.Integer(tk)
	default:
		tk.Type = token.StringType
		return ast.String(tk)
	}
}

// keyText is a key as the file has it; false for a key that is no scalar.
func keyText(key ast.MapKeyNode) (string, bool) {
	switch k := key.(type) {
	case *ast.StringNode:
		return k.Value, true
	case *ast.MappingKeyNode:
		inner, ok := k.Value.(ast.MapKeyNode)
		if !ok {
			return "", false
		}
		return keyText(inner)
	case *ast.NullNode, *ast.BoolNode, *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return k.GetToken().Value, true
	default:
		return "", false
	}
}
