package rule

import (
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"strings"
)

// render puts the values in their places. write appends a value as the place needs it.
func (t Template) render(env *Env, write func(dst []byte, s *segment, v any) ([]byte, error)) ([]byte, error) {
	var out []byte
	for i := range t.segments {
		s := &t.segments[i]
		out = append(out, s.literal...)
		if s.value == nil {
			continue
		}
		v, err := s.value.run(env)
		if err != nil {
			return nil, fmt.Errorf("{{ %s }}: %w", abbreviate(s.value.source), err)
		}
		if out, err = write(out, s, v); err != nil {
			return nil, fmt.Errorf("{{ %s }}: %w", abbreviate(s.value.source), err)
		}
		if len(out) > maxText {
			return nil, errTooLong
		}
	}
	return out, nil
}

func (t Template) renderText(env *Env, escape func(string) string) (string, error) {
	out, err := t.render(env, func(dst []byte, _ *segment, v any) ([]byte, error) {
		s, err := text(v)
		return append(dst, escape(s)...), err
	})
	return string(out), err
}

// Text renders plain text: null is empty, strings are as they are, numbers have their digits, lists and objects are
// compact JSON.
func (t Template) Text(env *Env) (string, error) {
	return t.renderText(env, func(s string) string { return s })
}

// HTML renders HTML: values are text, in which < > & and quotes are escaped.
func (t Template) HTML(env *Env) (string, error) { return t.renderText(env, html.EscapeString) }

// Slack renders Slack's text: values are text, in which & < > are escaped.
func (t Template) Slack(env *Env) (string, error) {
	return t.renderText(env, strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace)
}

// Escaped renders text in which values, and they alone, are escaped.
func (t Template) Escaped(env *Env, escape func(string) string) (string, error) {
	return t.renderText(env, escape)
}

// Header renders the value of a header, as Text does. A control character, such as a line break, is an error: it could
// begin another header.
func (t Template) Header(env *Env) (string, error) {
	s, err := t.Text(env)
	if err != nil {
		return "", err
	}
	for _, r := range s {
		if r < ' ' && r != '\t' || r == 0x7f {
			return "", fmt.Errorf("a header cannot contain the control character %U: "+
				"remove it, as in replace(x, '\\n', ' ')", r)
		}
	}
	return s, nil
}

// JSON renders a JSON text. Inside quotes a value is escaped text, elsewhere a whole JSON value. The result parses: if
// it does not, that is an error.
func (t Template) JSON(env *Env) ([]byte, error) {
	out, err := t.render(env, func(dst []byte, s *segment, v any) ([]byte, error) {
		switch s.json {
		case jsonAfterBackslash:
			return nil, errAfterBackslash
		case jsonInString:
			plain, err := text(v)
			return appendEscaped(dst, plain), err
		default:
			return appendJSON(dst, v)
		}
	})
	if err != nil {
		return nil, err
	}
	if !json.Valid(out) {
		return nil, fmt.Errorf("the rendered text is not valid JSON: %w: correct the template", jsonError(out))
	}
	return out, nil
}

// CheckJSON finds, without an event, what would not be JSON with any value. It wants a placeholder outside quotes to be
// a whole value.
func (t Template) CheckJSON() error {
	var out []byte
	for _, s := range t.segments {
		out = append(out, s.literal...)
		switch {
		case s.value == nil:
		case s.json == jsonAfterBackslash:
			return errAfterBackslash
		case s.json == jsonOutside:
			out = append(out, `""`...)
		}
	}
	if !json.Valid(out) {
		return fmt.Errorf("the template does not give valid JSON: %w", jsonError(out))
	}
	return nil
}

var errAfterBackslash = errors.New(`a placeholder cannot follow a backslash in JSON: write \\ for the character \`)

func jsonError(raw []byte) error {
	var v json.RawMessage
	err := json.Unmarshal(raw, &v)
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return fmt.Errorf("%w at byte %d", err, syntax.Offset)
	}
	return err
}

// jsonPlace is where in a JSON text a placeholder is.
type jsonPlace int

const (
	jsonOutside jsonPlace = iota
	jsonInString
	jsonAfterBackslash // where the value's first character would become part of an escape
)

// jsonScanner follows literal text to find out where in a JSON text the next placeholder is.
type jsonScanner struct{ inString, escaped bool }

func (s *jsonScanner) scan(literal string) {
	for i := range len(literal) {
		switch c := literal[i]; {
		case s.escaped:
			s.escaped = false
		case s.inString && c == '\\':
			s.escaped = true
		case c == '"':
			s.inString = !s.inString
		}
	}
}

// value passes a placeholder.
func (s *jsonScanner) value() jsonPlace {
	switch {
	case s.escaped:
		s.escaped = false
		return jsonAfterBackslash
	case s.inString:
		return jsonInString
	default:
		return jsonOutside
	}
}
