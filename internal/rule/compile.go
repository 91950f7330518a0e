package rule

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/compiler"
	"github.com/expr-lang/expr/conf"
	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/parser"
	"github.com/expr-lang/expr/vm"
)

// Limits of one expression.
const (
	maxSource = 4096 // bytes, as FraiseQL's
	maxNodes  = 1000
	maxDepth  = 200
)

// program is one compiled expression. It is safe for concurrent use with different Envs.
type program struct {
	source string
	tree   ast.Node // as parsed, for messages
	kind   kind     // of the result
	code   *vm.Program
}

// compile parses an expression and gives it our meaning. Errors are of type *sourceError.
func compile(source string) (*program, error) {
	switch {
	case strings.TrimSpace(source) == "":
		return nil, &sourceError{source: source, message: "the expression is empty: write one, as in total > 100"}
	case len(source) > maxSource:
		return nil, &sourceError{source: source, message: fmt.Sprintf(
			"the expression is longer than %d bytes: split it over several observers", maxSource)}
	case !utf8.ValidString(source):
		return nil, &sourceError{source: source, message: "the expression is not valid UTF-8"}
	}
	config := language()
	tree, err := parser.ParseWithConfig(source, config)
	if err != nil {
		return nil, syntaxError(source, err)
	}
	return build(source, tree.Node, config)
}

// language is expr's configuration with our functions.
func language() *conf.Config {
	config := conf.CreateNew()
	config.MaxNodes = maxNodes
	for name, f := range operators {
		config.Functions[name] = f.builtin(name)
	}
	for name, f := range functions {
		config.Functions[name] = f.builtin(name)
	}
	return config
}

// build translates and compiles a tree, which it does not change.
func build(source string, tree ast.Node, config *conf.Config) (*program, error) {
	t := translator{source: []rune(source)}
	node, k := t.node(tree)
	if t.err != nil {
		return nil, t.err
	}
	// Without expr's checker and optimizer: they know the types and operators of Go, not ours.
	code, err := compiler.Compile(&parser.Tree{Node: node, Source: file.NewSource(source)}, config)
	if err != nil {
		message, _, _ := strings.Cut(err.Error(), "\n") // a stack follows
		return nil, &sourceError{source: source, message: message}
	}
	return &program{source: source, tree: tree, kind: k, code: code}, nil
}

// part compiles a part of the expression on its own.
func (p *program) part(node ast.Node) (*program, error) { return build(p.source, node, language()) }

// run evaluates the expression.
func (p *program) run(env *Env) (any, error) {
	env.credit = maxCost
	v, err := env.machine.Run(p.code, env)
	if err != nil {
		return nil, p.runError(err)
	}
	return v, nil
}

// syntaxError words an error of expr's parser.
func syntaxError(source string, err error) error {
	var at *file.Error
	if !errors.As(err, &at) {
		return &sourceError{source: source, message: err.Error()}
	}
	message := tokenRE.ReplaceAllStringFunc(at.Message, func(token string) string {
		text, err := strconv.Unquote(tokenRE.FindStringSubmatch(token)[1])
		if err != nil {
			return token
		}
		return fmt.Sprintf("unexpected %q%s", text, syntaxHints[text])
	})
	message = strings.Replace(message, "unexpected token EOF", "unexpected end of the expression", 1)
	switch {
	case strings.HasPrefix(message, "invalid integer literal"):
		message = "the number is too large for an integer: write it with a fraction, as in 9223372036854775808.0"
	case strings.HasPrefix(message, "invalid float literal"):
		message = "the number is too large"
	}
	if strings.Contains(message, "invalid char escape") {
		message += `: write \\ for a backslash`
	}
	return &sourceError{source: source, offset: at.From, positioned: true, message: message}
}

var tokenRE = regexp.MustCompile(`unexpected token \w+\(("(?:[^"\\]|\\.)*")\)`)

// syntaxHints are for what other languages write.
var syntaxHints = map[string]string{
	"=": ": write == to compare", "AND": ": write &&", "OR": ": write ||", "NOT": ": write !",
	"is": ": write == null", "IS": ": write == null", "<>": ": write !=", "&": ": write &&", "|": ": write ||",
	"like": ": write matches, contains, startsWith or endsWith",
	"LIKE": ": write matches, contains, startsWith or endsWith",
	"IN":   ": write in, and the list in brackets, as in status in ['new', 'paid']", "BETWEEN": ": write a <= x && x <= b",
}
