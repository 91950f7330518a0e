package rule

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/expr-lang/expr/ast"
	yaml "github.com/goccy/go-yaml/ast"
	"github.com/invopop/jsonschema"

	"github.com/fraiseql/weir/internal/setting"
)

// maxTemplate bounds a template's source, in bytes.
const maxTemplate = 1 << 20

// Template is text with placeholders: {{ expression }}. One that exists has compiled, except for the zero value, which
// is for decoding and renders as empty text. It is safe for concurrent use, each goroutine with its own Env.
//
// A placeholder's value is written as the place needs it, so each method is for one kind of place. A literal {{ is
// written {{ '{{' }}.
type Template struct {
	source   string
	segments []segment
}

// segment is literal text and the placeholder after it; the last one has none.
type segment struct {
	literal string
	value   *program
	json    jsonPlace
	url     urlPlace
}

// CompileTemplate compiles a text. The error names the place in it.
func CompileTemplate(source string) (*Template, error) {
	if len(source) > maxTemplate {
		return nil, &sourceError{source: source, message: fmt.Sprintf("the template is longer than %d MiB", maxTemplate>>20)}
	}
	if !utf8.ValidString(source) {
		return nil, &sourceError{source: source, message: "the template is not valid UTF-8"}
	}
	t := &Template{source: source}
	json, url := jsonScanner{}, urlScanner{}
	for rest := source; ; {
		literal, after, found := strings.Cut(rest, "{{")
		s := segment{literal: literal}
		json.scan(literal)
		url.scan(literal)
		if found {
			start := len(source) - len(after)
			length, err := placeholder(source, start)
			if err != nil {
				return nil, err
			}
			if s.value, err = compileWithin(source, start, after[:length]); err != nil {
				return nil, err
			}
			rest = after[length+len("}}"):]
			s.json, s.url = json.value(), url.place
		}
		t.segments = append(t.segments, s)
		if !found {
			return t, nil
		}
	}
}

// placeholder is the length of the expression that starts behind {{. What stands in quotes or braces does not end it.
func placeholder(source string, start int) (int, error) {
	text, braces := source[start:], 0
	var quote byte
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case quote != 0 && c == '\\' && quote != '`':
			i++
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '\'' || c == '"' || c == '`':
			quote = c
		case c == '{':
			braces++
		case c == '}' && braces > 0:
			braces--
		case c == '}' && strings.HasPrefix(text[i:], "}}"):
			return i, nil
		}
	}
	message := "{{ is not closed: write }} behind the expression"
	if quote != 0 {
		message += fmt.Sprintf("; a quote %c in it is not closed either", quote)
	}
	return 0, templateError(source, start-len("{{"), message)
}

func templateError(source string, at int, message string) error {
	return &sourceError{source: source, offset: utf8.RuneCountInString(source[:at]), positioned: true, message: message}
}

// compileWithin compiles an expression and moves its error to the place in the template.
func compileWithin(template string, start int, source string) (*program, error) {
	trimmed := strings.TrimSpace(source)
	if trimmed == "" {
		return nil, templateError(template, start-len("{{"), "{{ }} is empty: write an expression in it, as in {{ status }}")
	}
	start += strings.Index(source, trimmed)
	p, err := compile(trimmed)
	var inner *sourceError
	if errors.As(err, &inner) {
		outer := &sourceError{source: template, message: inner.message, positioned: true}
		outer.offset = utf8.RuneCountInString(template[:start]) + inner.offset
		return nil, outer
	}
	return p, err
}

// String is the source.
func (t Template) String() string { return t.source }

// Static is the text of a template without placeholders.
func (t Template) Static() (string, bool) {
	if len(t.segments) > 1 {
		return "", false
	}
	return t.source, true
}

// Reads says that a placeholder reads the field of the event with this name. A name that `let` gives to something else is none.
func (t Template) Reads(field string) bool {
	reads, given := false, false
	for _, s := range t.segments {
		if s.value == nil {
			continue
		}
		ast.Walk(&s.value.tree, visit(func(n ast.Node) {
			switch n := n.(type) {
			case *ast.IdentifierNode:
				reads = reads || n.Value == field
			case *ast.VariableDeclaratorNode:
				given = given || n.Name == field
			}
		}))
	}
	return reads && !given
}

// Split cuts the template at each sep of its literal text that does not stand in double quotes. What a value holds cuts
// nothing. The pieces are for places of text: Text, HTML, Slack and Header.
func (t Template) Split(sep byte) []Template {
	var (
		pieces  []Template
		piece   Template
		quoted  bool
		escaped bool
	)
	for _, s := range t.segments {
		from := 0
		for i := range len(s.literal) {
			switch c := s.literal[i]; {
			case escaped:
				escaped = false
			case quoted && c == '\\':
				escaped = true
			case c == '"':
				quoted = !quoted
			case c == sep && !quoted:
				pieces = append(pieces, piece.with(segment{literal: s.literal[from:i]}))
				piece, from = Template{}, i+1
			}
		}
		piece = piece.with(segment{literal: s.literal[from:], value: s.value})
	}
	return append(pieces, piece)
}

func (t Template) with(s segment) Template {
	t.segments = append(t.segments, s)
	t.source += s.literal
	if s.value != nil {
		t.source += "{{ " + s.value.source + " }}"
	}
	return t
}

// UnmarshalYAML compiles a template at a node of the file: text, or {file: path} relative to the file's folder. One
// line break at the end of such a file is not part of the template.
func (t *Template) UnmarshalYAML(ctx context.Context, node yaml.Node) error {
	source, err := templateSource(ctx, node)
	if err != nil {
		return err
	}
	compiled, err := CompileTemplate(source.text)
	if err != nil {
		return setting.ErrorAt(source.node, "the template%s does not compile: %s", source.name, err)
	}
	*t = *compiled
	return nil
}

// foundSource is the text of a template, the node that it is from, and " " and the path if it is from a file.
type foundSource struct {
	text string
	node yaml.Node
	name string
}

func templateSource(ctx context.Context, node yaml.Node) (foundSource, error) {
	if source, ok := setting.Text(node); ok {
		return foundSource{text: source, node: node}, nil
	}
	var pairs []*yaml.MappingValueNode
	switch n := node.(type) {
	case *yaml.MappingNode:
		pairs = n.Values
	case *yaml.MappingValueNode:
		pairs = []*yaml.MappingValueNode{n}
	}
	if len(pairs) != 1 || pairs[0].Key.GetToken().Value != "file" {
		return foundSource{}, setting.ErrorAt(node, "expected a template: text, or {file: path}")
	}
	path, ok := setting.Text(pairs[0].Value)
	if !ok || path == "" {
		return foundSource{}, setting.ErrorAt(node, "expected the path of a file, as in {file: mail/cart.html}")
	}
	raw, path, err := setting.OpenNamed(ctx, path)
	if err != nil {
		return foundSource{}, setting.ErrorAt(pairs[0].Value, "the template cannot be read: %s", err)
	}
	text := strings.TrimSuffix(strings.TrimSuffix(string(raw), "\n"), "\r")
	return foundSource{text: text, node: pairs[0].Value, name: " " + path}, nil
}

// JSONSchema describes a template to editors.
func (Template) JSONSchema() *jsonschema.Schema {
	properties := jsonschema.NewProperties()
	properties.Set("file", &jsonschema.Schema{Type: "string", Description: "Relative to the folder of this file."})
	return &jsonschema.Schema{
		Description: "Text with placeholders, {{ expression }}, or {file: path}.",
		OneOf: []*jsonschema.Schema{
			{Type: "string"},
			{
				Type: "object", Properties: properties, Required: []string{"file"},
				AdditionalProperties: jsonschema.FalseSchema,
			},
		},
	}
}
