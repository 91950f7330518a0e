package index

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits of a query.
const (
	maxTerms  = 50 // words, each of a phrase counted
	maxNested = 10 // parentheses; each may be two levels of Elasticsearch's 30
	minPrefix = 2  // characters
)

// ParseQuery reads a query (see Syntax). Its errors are for the person who wrote it.
func ParseQuery(text string) (Query, error) {
	p := parser{text: text}
	p.skipBlanks()
	if p.rest() == "" {
		return Query{}, nil
	}
	root, err := p.group(0)
	if err != nil {
		return Query{}, err
	}
	return Query{text: text, root: root}, nil
}

// parser reads a query from left to right.
type parser struct {
	text  string
	at    int // bytes read
	terms int
}

func (p *parser) rest() string { return p.text[p.at:] }

func (p *parser) skipBlanks() {
	p.at = len(p.text) - len(strings.TrimLeftFunc(p.rest(), unicode.IsSpace))
}

// errorf names the character, counted from 1, at which what is wrong begins.
func (p *parser) errorf(at int, format string, args ...any) error {
	return fmt.Errorf("query, character %d: %s", utf8.RuneCountInString(p.text[:at])+1, fmt.Sprintf(format, args...))
}

// group reads clauses that must all be met, up to the parenthesis that closes it or, when it is in none, to the end.
func (p *parser) group(depth int) (c clause, err error) {
	begin := p.at
	for p.skipBlanks(); p.rest() != "" && p.rest()[0] != ')'; p.skipBlanks() {
		read, excluded, err := p.alternatives(depth)
		if err != nil {
			return c, err
		}
		if excluded {
			c.without = append(c.without, read)
		} else {
			c.all = append(c.all, read)
		}
	}
	switch {
	case p.rest() != "" && depth == 0:
		return c, p.errorf(p.at, `")" closes nothing: expected a word, or "(" before it`)
	case len(c.all) == 0 && len(c.without) == 0:
		return c, p.errorf(p.at, "expected a word between the parentheses")
	case len(c.all) == 0:
		return c, p.errorf(begin, "everything here is excluded: expected a word to look for, too")
	case len(c.all) == 1 && len(c.without) == 0:
		return c.all[0], nil
	}
	return c, nil
}

// alternatives reads what OR joins: often one operand.
func (p *parser) alternatives(depth int) (c clause, excluded bool, err error) {
	begin := p.at
	c, excluded, err = p.operand(depth)
	p.skipBlanks()
	if err != nil || p.keyword() != "OR" {
		return c, excluded, err
	}
	if excluded {
		return c, false, p.errorf(begin, `what is excluded cannot be an alternative: write "-(a OR b)" to exclude both`)
	}
	c = clause{oneOf: []clause{c}}
	for p.keyword() == "OR" {
		or := p.at
		p.at += len("OR")
		p.skipBlanks()
		if p.rest() == "" || p.rest()[0] == ')' {
			return c, false, p.errorf(or, "OR: expected a word after it")
		}
		begin = p.at
		next, excluded, err := p.operand(depth)
		if err != nil {
			return c, false, err
		}
		if excluded {
			return c, false, p.errorf(begin, "what is excluded cannot be an alternative: expected a word to look for after OR")
		}
		c.oneOf = append(c.oneOf, next)
		p.skipBlanks()
	}
	return c, false, nil
}

// operand reads a word, a phrase or a group, and the minus before it.
func (p *parser) operand(depth int) (c clause, excluded bool, err error) {
	begin := p.at
	if p.rest()[0] == '-' {
		p.at++
		if p.rest() == "" || strings.ContainsAny(p.rest()[:1], "-)") || strings.TrimLeftFunc(p.rest(), unicode.IsSpace) != p.rest() {
			return c, false, p.errorf(begin, `"-" excludes what follows it: expected a word right after it`)
		}
		excluded = true
	}
	switch p.rest()[0] {
	case '(':
		c, err = p.parenthesis(depth)
	case '"':
		c, err = p.quoted("")
	default:
		c, err = p.unquoted()
	}
	return c, excluded, err
}

func (p *parser) parenthesis(depth int) (c clause, err error) {
	begin := p.at
	if depth == maxNested {
		return c, p.errorf(begin, "parentheses are nested too deeply: expected at most %d levels", maxNested)
	}
	p.at++
	if c, err = p.group(depth + 1); err != nil {
		return c, err
	}
	if p.rest() == "" {
		return c, p.errorf(begin, `"(" is not closed: expected ")"`)
	}
	p.at++
	return c, nil
}

// quoted reads a phrase in quotes.
func (p *parser) quoted(field string) (c clause, err error) {
	begin := p.at
	phrase, _, closed := strings.Cut(p.rest()[1:], `"`)
	if !closed {
		return c, p.errorf(begin, `the quote is not closed: expected another "`)
	}
	p.at += len(phrase) + 2
	return p.phrase(begin, field, phrase)
}

// phrase makes a clause of a text that has one word or several.
func (p *parser) phrase(at int, field, text string) (clause, error) {
	words := tokens(text)
	if len(words) == 0 {
		return clause{}, p.errorf(at, "%q has only punctuation: expected letters or digits", text)
	}
	return clause{field: field, words: words}, p.count(at, len(words))
}

func (p *parser) count(at, terms int) error {
	if p.terms += terms; p.terms > maxTerms {
		return p.errorf(at, "the query is too long: expected at most %d words", maxTerms)
	}
	return nil
}

// word is what comes up to a blank, a parenthesis or a quote.
func (p *parser) word() string {
	end := strings.IndexFunc(p.rest(), func(r rune) bool { return unicode.IsSpace(r) || strings.ContainsRune(`()"`, r) })
	if end < 0 {
		return p.rest()
	}
	return p.rest()[:end]
}

// keyword is the word that comes if it is one of the language's, or looks so.
func (p *parser) keyword() string {
	switch w := p.word(); w {
	case "OR", "AND", "NOT":
		return w
	}
	return ""
}

// unquoted reads [field:]word[*], or a field with a phrase.
func (p *parser) unquoted() (c clause, err error) {
	switch begin := p.at; p.keyword() {
	case "OR":
		return c, p.errorf(begin, "OR: expected a word before it")
	case "AND":
		return c, p.errorf(begin, `AND: words are all looked for anyway: leave it out, or write "and" for the word`)
	case "NOT":
		return c, p.errorf(begin, `NOT: write -word to exclude a word, or "not" for the word`)
	}
	field, err := p.field()
	if err != nil {
		return c, err
	}
	at := p.at
	if field != "" && strings.HasPrefix(p.rest(), `"`) {
		return p.quoted(field)
	}
	word := p.word()
	p.at += len(word)
	if field != "" && word == "" {
		return c, p.errorf(at, "expected a word or a phrase right after %s:", field)
	}
	if err := p.unsupported(at, word); err != nil {
		return c, err
	}
	if begins, ok := strings.CutSuffix(word, "*"); ok {
		return p.prefixed(at, field, begins)
	}
	return p.phrase(at, field, word)
}

// field reads a field's name and its colon, if the word begins with one. A URL and a time of day do not.
func (p *parser) field() (string, error) {
	name, value, found := strings.Cut(p.word(), ":")
	if !found || isDigits(name) || strings.HasPrefix(value, "//") {
		return "", nil
	}
	odd := func(r rune) bool { return !inFieldName(r) }
	if name == "" || strings.ContainsFunc(name, odd) {
		return "", p.errorf(p.at, `%q before ":": expected the name of a field, of letters, digits, ".", "-" and "_" `+
			`for all else; put it in quotes to look for the text`, name)
	}
	p.at += len(name) + 1
	return fieldName(name), nil
}

// unsupported refuses what other query languages have, and which would silently mean something else here.
func (p *parser) unsupported(at int, word string) error {
	hint := "put it in quotes to look for the text"
	switch body := strings.TrimRight(word, "0123456789."); {
	case strings.ContainsAny(word, "<>") || strings.HasPrefix(word, "[") || strings.HasPrefix(word, "{"):
		return p.errorf(at, "%q: ranges are not supported: expected a word; %s", word, hint)
	case strings.Contains(strings.TrimSuffix(word, "*"), "*"):
		return p.errorf(at, "%q: wildcards inside words are not supported: expected one * at the end; %s", word, hint)
	case strings.HasSuffix(body, "~"):
		return p.errorf(at, "%q: fuzzy words are not supported: expected a word; %s", word, hint)
	}
	return nil
}

// prefixed makes a clause of what was written before a star. The beginning of a UUID looks like several words, and may
// be; it is looked for as both.
func (p *parser) prefixed(at int, field, begins string) (c clause, err error) {
	var either []clause
	if n := uuidPrefix(begins); n == len(begins) && n > len("01234567") {
		either = append(either, clause{field: field, words: []string{strings.ToLower(begins)}, prefix: true})
		if err := p.count(at, 1); err != nil {
			return c, err
		}
	}
	words := tokens(begins)
	last, _ := utf8.DecodeLastRuneInString(begins)
	complete := len(words) > 0 && utf8.RuneCountInString(words[len(words)-1]) >= minPrefix && inToken(last)
	if !complete && len(either) == 0 {
		return c, p.errorf(at, `%q: expected at least %d letters or digits right before "*"`, begins+"*", minPrefix)
	}
	if whole := len(either) == 1 && len(words) == 1; complete && !whole {
		either = append(either, clause{field: field, words: words, prefix: true})
		if err := p.count(at, len(words)); err != nil {
			return c, err
		}
	}
	if len(either) == 1 {
		return either[0], nil
	}
	return clause{oneOf: either}, nil
}
