package config

import (
	"regexp"
	"strings"
)

// variable is one ${…} of a scalar.
var variable = regexp.MustCompile(`^\$\{([A-Za-z_][A-Za-z0-9_]*)(:-([^}]*))?\}`)

// expansion is a scalar's text after its variables were replaced.
type expansion struct {
	text     string
	replaced bool     // something was, so that a plain scalar must be typed anew
	unset    []string // variables without value and default; they stand in the text as they were
	bad      string   // what begins with ${ and is no variable
	nested   string   // a variable whose default holds ${
}

// expand replaces ${NAME} and ${NAME:-default}, the latter also for a variable that is empty, as in a shell. A value is
// not expanded again, so a default that holds a variable is refused: it would be taken as it is written. $${ is a literal ${.
func expand(text string, lookup func(string) (string, bool)) expansion {
	var e expansion
	var b strings.Builder
	for {
		i := strings.Index(text, "${")
		if i < 0 {
			break
		}
		if i > 0 && text[i-1] == '$' {
			b.WriteString(text[:i-1] + "${")
			text, e.replaced = text[i+2:], true
			continue
		}
		b.WriteString(text[:i])
		text = text[i:]
		m := variable.FindStringSubmatch(text)
		if m == nil {
			e.bad, _, _ = strings.Cut(text, "\n")
			return e
		}
		if strings.Contains(m[3], "${") {
			e.nested = m[0]
			return e
		}
		e.replaced = true
		value, ok := lookup(m[1])
		switch hasDefault := m[2] != ""; {
		case hasDefault && value == "":
			value = m[3]
		case !ok:
			e.unset = append(e.unset, m[1])
			value = m[0]
		}
		b.WriteString(value)
		text = text[len(m[0]):]
	}
	b.WriteString(text)
	e.text = b.String()
	return e
}
