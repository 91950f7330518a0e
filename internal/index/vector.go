package index

import (
	"strconv"
	"strings"
)

// Positions tell PostgreSQL which words follow one another. A run of one word is in no phrase: all of those share one
// position, which saves the few that there are. (None at all would not do: a phrase with a prefix among its words is
// not found when a word of that prefix has no position.)
const (
	singlePosition = 1
	firstPosition  = singlePosition + 2 // of a run of several
)

// positionAfter is where the run after this one begins, not next to it.
func positionAfter(position int, run []string) int {
	if len(run) == 1 {
		return position
	}
	return position + len(run) + 1
}

// tsvector is the text of runs for PostgreSQL's cast to tsvector. A run that does not fit into PostgreSQL's positions
// is there word by word.
func tsvector(runs [][]string) string {
	size := 0
	for _, run := range runs {
		size += len(run)
	}
	all, known := make([]lexeme, 0, size), make(map[string]int, size)
	put := func(word string, position int) {
		i, ok := known[word]
		if !ok {
			known[word] = len(all)
			all = append(all, lexeme{word: word, first: position})
			return
		}
		all[i].put(position)
	}
	next := firstPosition
	for _, run := range runs {
		fits := len(run) > 1 && next+len(run)-1 <= maxPosition
		for i, word := range run {
			if fits {
				put(word, next+i)
			} else {
				put(word, singlePosition)
			}
		}
		if fits {
			next = positionAfter(next, run)
		}
	}
	return lexemes(all)
}

// lexeme is a word with its positions. The first is apart: most words have one only.
type lexeme struct {
	word  string
	first int
	more  []int
}

// put adds a position that the word does not have, unless that is singlePosition; as many as PostgreSQL keeps.
func (l *lexeme) put(position int) {
	switch {
	case position == singlePosition && l.first == singlePosition:
	case position == singlePosition: // it sorts first
		l.more = append([]int{l.first}, l.more[:min(len(l.more), maxOccurrences-2)]...)
		l.first = position
	case len(l.more) < maxOccurrences-1:
		l.more = append(l.more, position)
	}
}

func lexemes(all []lexeme) string {
	size := 0
	for i := range all {
		size += len(all[i].word) + len(" ''") + len(":12345")*(1+len(all[i].more))
	}
	text := make([]byte, 0, size)
	for i := range all {
		if i > 0 {
			text = append(text, ' ')
		}
		text = append(text, quoteLexeme(all[i].word)...)
		text = strconv.AppendInt(append(text, ':'), int64(all[i].first), 10)
		for _, p := range all[i].more {
			text = strconv.AppendInt(append(text, ','), int64(p), 10)
		}
	}
	return string(text)
}

// quoteLexeme writes a word so that the casts to tsvector and tsquery read it as it is.
func quoteLexeme(word string) string { return "'" + lexemeQuotes.Replace(word) + "'" }

// lexemeQuotes is made once: to make it costs more than all else that is done for a word.
var lexemeQuotes = strings.NewReplacer(`'`, `''`, `\`, `\\`)

// tsquery is the query's text for PostgreSQL's cast to tsquery. A zero query's is empty and, other than the query
// itself, finds nothing there.
func (q Query) tsquery() string { return q.root.tsquery() }

func (c *clause) tsquery() string {
	switch {
	case c.isZero():
		return ""
	case len(c.words) > 0:
		terms := make([]string, len(c.words))
		for i := range c.words {
			terms[i] = quoteLexeme(c.term(i))
		}
		text := strings.Join(terms, " <-> ")
		if c.prefix {
			text += ":*"
		}
		return text
	case len(c.oneOf) > 0:
		return strings.Join(operands(c.oneOf, ""), " | ")
	}
	return strings.Join(append(operands(c.all, ""), operands(c.without, "!")...), " & ")
}

func operands(clauses []clause, operator string) (texts []string) {
	for i := range clauses {
		texts = append(texts, operator+"("+clauses[i].tsquery()+")")
	}
	return texts
}
