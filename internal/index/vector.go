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
	var order []string
	positions := map[string][]int{}
	put := func(word string, position int) {
		have, known := positions[word]
		switch {
		case !known:
			order = append(order, word)
		case position == singlePosition && have[0] == singlePosition:
			return
		case position == singlePosition: // it sorts first
			positions[word] = append([]int{position}, have[:min(len(have), maxOccurrences-1)]...)
			return
		case len(have) == maxOccurrences:
			return
		}
		positions[word] = append(have, position)
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
	return lexemes(order, positions)
}

func lexemes(order []string, positions map[string][]int) string {
	var b strings.Builder
	for i, word := range order {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(quoteLexeme(word))
		separator := byte(':')
		for _, p := range positions[word] {
			b.WriteByte(separator)
			b.WriteString(strconv.Itoa(p))
			separator = ','
		}
	}
	return b.String()
}

// quoteLexeme writes a word so that the casts to tsvector and tsquery read it as it is.
func quoteLexeme(word string) string {
	return "'" + strings.NewReplacer(`'`, `''`, `\`, `\\`).Replace(word) + "'"
}

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
