package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// Error is one thing that is wrong in a file. Its JSON is the output of `weir validate-config --format json`.
type Error struct {
	File string `json:"file"` // of the mistake
	// Line and Column count from 1; Column counts characters.
	Line   int `json:"line"`
	Column int `json:"column"` // from 1
	// Message says what is wrong.
	Message string `json:"message"`
	// Hint says what was expected, if Message does not.
	Hint string `json:"hint,omitempty"`
	// Source is the offending line, passwords masked.
	Source string `json:"source"`
}

// Error is `file:line:column: what is wrong: what was expected`, the offending line and a caret under the column.
func (e Error) Error() string {
	margin := strings.Repeat(" ", len(strconv.Itoa(e.Line)))
	return fmt.Sprintf("%s\n  %d | %s\n  %s | %s^", e.place(), e.Line, e.Source, margin, indentTo(e.Source, e.Column))
}

func (e Error) place() string {
	text := fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Message)
	if e.Hint != "" {
		text += ": " + e.Hint
	}
	return text
}

// Brief is Error without the offending line: for where others than the file's owner read it. Passwords are masked.
func (e Error) Brief() string { return maskSecrets(e.place()) }

// compare orders by place.
func (e Error) compare(f Error) int {
	return cmp.Or(cmp.Compare(e.Line, f.Line), cmp.Compare(e.Column, f.Column))
}

// indentTo is blank space as wide as the line before the column: tabs stay tabs.
func indentTo(line string, column int) string {
	var b strings.Builder
	for i, r := range []rune(line) {
		if i >= column-1 {
			break
		}
		if r != '\t' {
			r = ' '
		}
		b.WriteRune(r)
	}
	return b.String()
}

// Warning is something that is allowed but probably not meant.
type Warning Error

// String is like Error's.
func (w Warning) String() string { return Error(w).Error() }

// Errors is everything that was found wrong, in the order of the file.
type Errors []Error

// Error is all of them, one after the other.
func (es Errors) Error() string {
	texts := make([]string, len(es))
	for i, e := range es {
		texts[i] = e.Error()
	}
	return strings.Join(texts, "\n")
}

// sorted puts the errors in the order of the file and drops repeats (an anchor's contents are decoded at each alias).
func (es Errors) sorted() Errors {
	slices.SortStableFunc(es, Error.compare)
	return slices.Compact(es)
}

// source is the text of a file, to show lines of it.
type source struct {
	file    string
	raw     []byte
	lines   []string
	shown   []string // lines, with asterisks for the secrets in them
	secrets []string // what the asterisks stand for: a message may quote a piece of one
}

func newSource(file string, raw []byte) *source {
	raw = bytes.TrimPrefix(raw, []byte("\ufeff")) // some editors begin a file with a byte order mark
	text := strings.ReplaceAll(string(raw), "\r\n", "\n")
	s := &source{file: file, raw: raw, lines: strings.Split(strings.TrimSuffix(text, "\n"), "\n")}
	s.shown, s.secrets = maskSigningSecrets(s.lines)
	return s
}

// errorAt makes an error at a place, which is moved into the file if it is outside.
func (s *source) errorAt(line, column int, message, hint string) Error {
	line = min(max(line, 1), len(s.lines))
	text := s.lines[line-1]
	column = min(max(column, 1), len([]rune(text))+1)
	return Error{
		File: s.file, Line: line, Column: column, Message: s.withoutSecrets(oneLine(message)), Hint: s.withoutSecrets(oneLine(hint)),
		Source: maskSecrets(s.shown[line-1]),
	}
}

// convert turns the error of a type that decoded itself into ours: one error for each that was joined.
func (s *source) convert(err error, node ast.Node) Errors {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var all Errors
		for _, e := range joined.Unwrap() {
			all = append(all, s.convert(e, node)...)
		}
		return all
	}
	var own Error
	if errors.As(err, &own) {
		return Errors{own}
	}
	at, message := position(node), err.Error()
	var positioned yaml.Error
	if errors.As(err, &positioned) {
		message = positioned.GetMessage()
		if tk := positioned.GetToken(); tk != nil && tk.Position != nil {
			at = tokenPosition(tk)
		}
	}
	return Errors{s.errorAt(at.Line, at.Column, message, "")}
}

// position is where a reader looks for a node: at the first key of a mapping, not at its colon.
func position(node ast.Node) *token.Position {
	switch n := node.(type) {
	case nil:
		return &token.Position{Line: 1, Column: 1}
	case *ast.MappingNode:
		if !n.IsFlowStyle && len(n.Values) > 0 {
			return position(n.Values[0].Key)
		}
	case *ast.MappingValueNode:
		return position(n.Key)
	}
	if tk := node.GetToken(); tk != nil && tk.Position != nil {
		return tokenPosition(tk)
	}
	return &token.Position{Line: 1, Column: 1}
}

func tokenPosition(tk *token.Token) *token.Position {
	if tk.Type == token.MappingValueType && tk.Prev != nil && tk.Prev.Position != nil {
		return tk.Prev.Position // the token of a block mapping is its first colon
	}
	return tk.Position
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

var secretsInText = []*regexp.Regexp{
	regexp.MustCompile(`://[^/?#\s"'@]*:([^\s"'@]*)@`),
	regexp.MustCompile(`(?i)\bpassword["']?\s*[=:]\s*([^\s&"',}]+)`),
	regexp.MustCompile(`\bwebhook_url["']?\s*:\s*["']?(?:[a-zA-Z]+:)?/*[^/\s"',}]+/([^\s"',}]+)`), // its path is one
}

// maskSecrets replaces passwords that stand in a line of the file by as many asterisks, so that columns stay.
func maskSecrets(line string) string {
	for _, re := range secretsInText {
		line = maskGroup(re, line)
	}
	return line
}

func maskGroup(re *regexp.Regexp, line string) string {
	var b strings.Builder
	end := 0
	for _, m := range re.FindAllStringSubmatchIndex(line, -1) {
		b.WriteString(line[end:m[2]])
		b.WriteString(strings.Repeat("*", len([]rune(line[m[2]:m[3]]))))
		end = m[3]
	}
	return b.String() + line[end:]
}
