package index

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits of tokens, in documents and queries alike.
const (
	// maxToken is how many bytes of a token, and of a field's name, are kept.
	maxToken = 200
	// maxFielded is how many bytes a token has with its field: longer ones Elasticsearch would split. (PostgreSQL would
	// take 2046.)
	maxFielded = 255
)

// tokens splits a text into its words, as documents and queries both do.
func tokens(text string) (words []string) {
	for at := 0; ; {
		start, end := nextToken(text, at)
		if start == end {
			return words
		}
		words = append(words, token(text[start:end]))
		at = end
	}
}

// token is the form in which a word is kept.
func token(word string) string { return cut(strings.ToLower(word), maxToken) }

// cut shortens to so many bytes, at the border of a character.
func cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	end := limit
	for !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end]
}

// nextToken finds the first token at or after a place that is not within one; start == end says that there is none. A
// token is letters and digits, a UUID, or a decimal number; what else there is, invalid UTF-8 too, separates.
func nextToken(s string, at int) (start, end int) {
	start = at + len(s[at:]) - len(strings.TrimLeftFunc(s[at:], notInToken))
	if start == len(s) {
		return start, start
	}
	if n := uuidPrefix(s[start:]); n == uuidLength && !startsToken(s[start+n:]) {
		return start, start + n
	}
	end = endOfRun(s, start)
	if last := endOfDecimal(s, start, end); last > 0 {
		if negative(s, start) {
			start--
		}
		return start, last
	}
	return start, end
}

func inToken(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) }

func notInToken(r rune) bool { return !inToken(r) }

func startsToken(s string) bool {
	r, _ := utf8.DecodeRuneInString(s)
	return inToken(r)
}

// endOfRun is where the letters and digits that begin at start end.
func endOfRun(s string, start int) int {
	if n := strings.IndexFunc(s[start:], notInToken); n >= 0 {
		return start + n
	}
	return len(s)
}

// endOfDecimal is where the number ends whose integer part is s[start:end]; 0 when it is none. Of more than two parts,
// as in versions and IP addresses, none is a decimal, so that each is found by itself. Nor is what would be cut.
func endOfDecimal(s string, start, end int) int {
	if !isDigits(s[start:end]) || !dotDigit(s[end:]) || start > 1 && s[start-1] == '.' && isDigits(s[start-2:start-1]) {
		return 0
	}
	last := endOfRun(s, end+1)
	if !isDigits(s[end+1:last]) || dotDigit(s[last:]) || last-start >= maxToken {
		return 0
	}
	return last
}

// negative says whether the minus before a number is a sign: in "3-5.5" it is not.
func negative(s string, start int) bool {
	if start == 0 || s[start-1] != '-' {
		return false
	}
	before, _ := utf8.DecodeLastRuneInString(s[:start-1])
	return !inToken(before)
}

func dotDigit(s string) bool { return len(s) > 1 && s[0] == '.' && isDigits(s[1:2]) }

// isDigits is about ASCII: numbers of JSON have no others.
func isDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

const uuidLength = 36

// uuidPrefix is how many bytes of s are the beginning of a UUID in its usual form.
func uuidPrefix(s string) int {
	for i := range min(len(s), uuidLength) {
		switch hyphen := i == 8 || i == 13 || i == 18 || i == 23; {
		case hyphen && s[i] == '-':
		case !hyphen && strings.IndexByte("0123456789abcdefABCDEF", s[i]) >= 0:
		default:
			return i
		}
	}
	return min(len(s), uuidLength)
}

// fieldName is the form in which a field's name is kept: lower case, each character other than letters, digits and
// ".", "_", "-" replaced by "_". So it has no blanks, which would split it in Elasticsearch, and can be written in a query.
func fieldName(name string) string {
	return cut(strings.ToLower(strings.Map(func(r rune) rune {
		if inFieldName(r) {
			return r
		}
		return '_'
	}, name)), maxToken)
}

func inFieldName(r rune) bool {
	return inToken(r) || unicode.IsMark(r) || r == '.' || r == '_' || r == '-'
}

// fielded is a token that was found in a field. Bare tokens never begin with "=": the prefix "sta" does not find what
// has a status, and tokens have no "=", so that the second one ends the name. With a long name, less of the token counts.
func fielded(field, token string) string {
	if field == "" {
		return token
	}
	return cut("="+field+"="+token, maxFielded)
}
