package config

import (
	"errors"
	"fmt"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Hints for values that mean something else in YAML than what their writer had in mind.
const (
	quoteBang   = "put quotes round the value: an unquoted ! begins a YAML tag"
	quoteBraces = "put quotes round the value: an unquoted {{ begins a YAML mapping"
	quoteDollar = "put quotes round the value: it contains ${…} and characters that have a meaning in YAML"
	useSpaces   = "indent with spaces: YAML allows no tabs"
)

// parse returns the file's one document, nil for an empty file.
func (s *source) parse() (ast.Node, error) {
	file, err := s.parseFile()
	if err != nil {
		return nil, Errors{s.syntaxError(err)}
	}
	var root ast.Node
	for _, doc := range file.Docs {
		switch {
		case doc.Body == nil:
		case root == nil:
			root = doc.Body
		default:
			at := position(doc.Body)
			return nil, Errors{s.errorAt(at.Line, at.Column, "a second YAML document begins here",
				"expected one, without --- between its parts")}
		}
	}
	return root, nil
}

// parseFile allows duplicate keys, since resolve finds them with a better message.
func (s *source) parseFile() (file *ast.File, err error) {
	defer func() {
		// The parser has panicked on garbage in the past; a configuration must not bring a running worker down.
		if r := recover(); r != nil {
			err = fmt.Errorf("this is not YAML (%v)", r)
		}
	}()
	return parser.ParseBytes(s.raw, 0, parser.AllowDuplicateMapKey())
}

func (s *source) syntaxError(err error) Error {
	at, message := &token.Position{Line: 1, Column: 1}, err.Error()
	var positioned yaml.Error
	if errors.As(err, &positioned) {
		message = positioned.GetMessage()
		if tk := positioned.GetToken(); tk != nil && tk.Position != nil {
			at = tk.Position
		}
	}
	if strings.Contains(message, "\t") {
		return s.errorAt(at.Line, at.Column, "a tab begins this line", useSpaces)
	}
	if cause, hint := s.unquoted(at); hint != "" {
		at = cause
		return s.errorAt(at.Line, at.Column, "this is not YAML ("+message+")", hint)
	}
	return s.errorAt(at.Line, at.Column, "this is not YAML ("+message+")",
		"expected keys with values, indented by spaces, and quotes round a value with special characters")
}

// unquoted looks for the likeliest reason why the parser stumbled at a place: a value before it, on its line or, if the
// parser noticed later, above, that should have had quotes. It asks the lexer, which knows strings and comments.
func (s *source) unquoted(at *token.Position) (where *token.Position, hint string) {
	defer func() { _ = recover() }() // see parseFile; then there is no hint
	tokens := lexer.Tokenize(string(s.raw))
	for i, tk := range tokens {
		if tk.Position == nil || tk.Position.Line > at.Line {
			break
		}
		var next *token.Token
		if i+1 < len(tokens) {
			next = tokens[i+1]
		}
		switch {
		case tk.Type == token.TagType:
			where, hint = tk.Position, quoteBang
		case tk.Type == token.MappingStartType && next != nil && next.Type == token.MappingStartType && adjacent(tk, next):
			where, hint = tk.Position, quoteBraces
		case tk.Type != token.StringType:
		case strings.HasSuffix(tk.Value, "$") && next != nil && next.Type == token.MappingStartType:
			where, hint = tk.Position, quoteDollar // within a flow mapping
		case strings.Contains(tk.Value, "${") && tk.Position.Line == at.Line:
			where, hint = tk.Position, quoteDollar
		case strings.Contains(tk.Value, "{{") && tk.Position.Line == at.Line:
			where, hint = tk.Position, quoteBraces
		}
	}
	return where, hint
}

func adjacent(a, b *token.Token) bool {
	return a.Position.Line == b.Position.Line && a.Position.Column+1 == b.Position.Column
}
