package rule

import (
	"errors"
	"fmt"
	"strings"

	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/parser/lexer"
)

// sourceError is an expression or template that does not compile.
type sourceError struct {
	source     string
	offset     int  // in characters
	positioned bool // offset is set
	message    string
}

// Error says where in the source.
func (e *sourceError) Error() string {
	if !e.positioned {
		return e.message
	}
	return fmt.Sprintf("%s: %s", place(e.source, e.offset), e.message)
}

// place is "column 8", or "line 2, column 8" in a text of several lines. Both count from 1, columns in characters.
func place(source string, offset int) string {
	runes := []rune(source)
	before := string(runes[:min(max(offset, 0), len(runes))])
	line := strings.Count(before, "\n") + 1
	column := len([]rune(before[strings.LastIndexByte(before, '\n')+1:])) + 1
	if !strings.Contains(strings.TrimRight(source, "\n"), "\n") {
		return fmt.Sprintf("column %d", column)
	}
	return fmt.Sprintf("line %d, column %d", line, column)
}

// runError words an error of an evaluation: the part of the expression, its place, and the reason.
func (p *program) runError(err error) error {
	var at *file.Error
	if !errors.As(err, &at) {
		return err
	}
	reason := at.Prev
	switch {
	case reason != nil:
	case at.Message == "memory budget exceeded": // of expr's machine
		reason = errTooExpensive
	default:
		reason = errors.New(at.Message)
	}
	where := place(p.source, at.From)
	if node := p.find(at.Location); node != nil {
		if part := p.textOf(node); part != "" {
			return fmt.Errorf("%s (%s): %w", where, abbreviate(part), reason)
		}
	}
	return fmt.Errorf("%s: %w", where, reason)
}

// visit is a function as a Visitor of expr.
type visit func(n ast.Node)

// Visit calls the function.
func (v visit) Visit(n *ast.Node) { v(*n) } //nolint:gocritic // expr's interface, which lets a node be replaced

// find is the node at a location. Several share one: the callee with its call, the chain with its last member.
func (p *program) find(at file.Location) ast.Node {
	var found ast.Node
	ast.Walk(&p.tree, visit(func(n ast.Node) {
		if n.Location() != at {
			return
		}
		switch n := n.(type) {
		case *ast.ChainNode, *ast.PairNode, *ast.PredicateNode, *ast.ConditionalNode:
			return
		case *ast.BinaryNode:
			if n.Operator == "&&" { // of 1 < x < 5, which shares the place of the second <
				return
			}
		}
		found = n
	}))
	return found
}

// textOf is the part of the source that a node was parsed from. A node knows only the place of its first or most
// important token, so the part reaches over all of its nodes and then to the brackets that belong to it.
func (p *program) textOf(node ast.Node) string {
	tokens, err := lexer.Lex(file.NewSource(p.source))
	if err != nil || len(tokens) == 0 {
		return ""
	}
	tokens = tokens[:len(tokens)-1] // the end
	index := make(map[int]int, len(tokens))
	for i, t := range tokens {
		index[t.From] = i
	}
	first, last := len(tokens), -1
	ast.Walk(&node, visit(func(n ast.Node) {
		if _, ok := n.(*ast.ConditionalNode); ok { // is placed at the token after it
			return
		}
		i, ok := index[n.Location().From]
		if !ok {
			return
		}
		first, last = min(first, i), max(last, i)
		switch n.(type) {
		case *ast.VariableDeclaratorNode: // is placed at the name
			first = min(first, i-1)
		case *ast.CallNode, *ast.BuiltinNode:
			if i+1 < len(tokens) && tokens[i+1].Value == "(" {
				last = max(last, i+1)
			}
		}
	}))
	if last < 0 {
		return ""
	}
	first, last = balance(tokens, first, last)
	return string([]rune(p.source)[tokens[first].From:tokens[last].To])
}

// balance widens a range of tokens until its brackets are closed.
func balance(tokens []lexer.Token, first, last int) (from, to int) {
	open, missing := 0, 0
	for _, t := range tokens[first : last+1] {
		if d := bracket(t); d < 0 && open == 0 {
			missing++
		} else {
			open += d
		}
	}
	for open > 0 && last+1 < len(tokens) {
		last++
		open += bracket(tokens[last])
	}
	for missing > 0 && first > 0 {
		first--
		missing -= bracket(tokens[first])
	}
	return first, last
}

func bracket(t lexer.Token) int {
	switch {
	case t.Kind != lexer.Bracket:
		return 0
	case t.Value == "(" || t.Value == "[" || t.Value == "{":
		return 1
	default:
		return -1
	}
}
