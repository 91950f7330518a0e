package cache

import "strings"

// EscapeGlob makes a text part of a pattern that stands for itself.
func EscapeGlob(s string) string { return globEscapes.Replace(s) }

var globEscapes = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`, `]`, `\]`, `^`, `\^`, `-`, `\-`)

// glob says whether a pattern matches, as Redis would say, byte by byte: workers have to drop from memory what is dropped there.
func glob(pattern, s string) bool {
	var star, rest string // what follows the last star, and where it is tried next
	starred := false
	for s != "" {
		switch {
		case strings.HasPrefix(pattern, "*"):
			pattern = strings.TrimLeft(pattern, "*")
			star, rest, starred = pattern, s, true
			continue
		case pattern != "":
			if after, ok := globByte(pattern, s[0]); ok {
				pattern, s = after, s[1:]
				continue
			}
		}
		if !starred {
			return false
		}
		rest = rest[1:]
		pattern, s = star, rest
	}
	return strings.Trim(pattern, "*") == ""
}

// globByte holds a byte against the first thing in a pattern that is no star, and returns what follows it.
func globByte(pattern string, c byte) (after string, ok bool) {
	switch {
	case pattern[0] == '?':
		return pattern[1:], true
	case pattern[0] == '[':
		return globClass(pattern[1:], c)
	case pattern[0] == '\\' && len(pattern) > 1:
		pattern = pattern[1:]
	}
	return pattern[1:], pattern[0] == c
}

// globClass is [abc], [a-z] or [^abc], after its bracket. One that is not closed ends with the pattern.
func globClass(class string, c byte) (after string, ok bool) {
	class, negated := strings.CutPrefix(class, "^")
	for class != "" {
		switch {
		case class[0] == '\\' && len(class) > 1:
			ok = ok || class[1] == c
			class = class[2:]
		case class[0] == ']':
			return class[1:], ok != negated
		case len(class) > 2 && class[1] == '-':
			ok = ok || min(class[0], class[2]) <= c && c <= max(class[0], class[2])
			class = class[3:]
		default:
			ok = ok || class[0] == c
			class = class[1:]
		}
	}
	return "", ok != negated
}
