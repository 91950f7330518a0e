package index

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"unicode/utf8"
)

// Syntax tells people how to write a query.
const Syntax = `A query is words that an event, or one of its deliveries, must all have; upper and lower case are the same.

  shipped                  the word anywhere: in the data, the envelope (entity, entity_id, event_type, id, tenant_id,
                           user_id, actor_type, cdc_source, updated) or a delivery's outcome (observer, action, type,
                           endpoint, outcome, response_status, delivery, error)
  status:shipped           the word in a field; items.sku:4711 in a field of a field, items:4711 in any below items.
                           Characters of a field's name other than letters, digits, "." and "-" are written "_".
                           data.status:shipped is the field of the data even if the envelope has one of the same name
  "acme corp"              the words one after the other; customer:"acme corp" in a field.
                           anna@acme.com is the same as "anna acme com"
  ship*                    words that begin so, with at least 2 characters before the star; status:ship* in a field
  -cancelled               without the word; only together with something that is looked for.
                           A number below zero is written with a field or in quotes: total:-5.50
  a OR b                   either; binds tighter than a blank: status:shipped OR status:paid customer:acme
  (a b) OR c               parentheses group

Words are letters and digits; UUIDs and decimal numbers such as 19.90 are one word, other characters separate. Of a
word, the first 200 bytes count. Ranges, wildcards inside words and fuzzy words are not supported.`

// Query is a parsed question in words (see Syntax). The zero Query is for everything. What a Query means is said by its
// method matches; PostgreSQL and Elasticsearch are given queries that mean the same.
type Query struct {
	text string
	root clause
}

// clause is a node of a query: a phrase of words (often one), all of some clauses without others, or one of several.
type clause struct {
	field  string // of the words; "": any
	words  []string
	prefix bool // the last word is the beginning of one

	all, without []clause

	oneOf []clause
}

// IsZero says whether the query is for everything.
func (q Query) IsZero() bool { return q.root.isZero() }

// String is the query as it was written.
func (q Query) String() string { return q.text }

func (c *clause) isZero() bool { return len(c.words)+len(c.all)+len(c.oneOf) == 0 }

// term is the i-th token of the phrase as documents have it.
func (c *clause) term(i int) string { return fielded(c.field, c.words[i]) }

// matches says whether a document with the runs is found.
func (q Query) matches(runs [][]string) bool { return q.IsZero() || q.root.matches(runs) }

func (c *clause) matches(runs [][]string) bool {
	matches := func(c clause) bool { return c.matches(runs) }
	switch {
	case len(c.words) > 0:
		return slices.ContainsFunc(runs, c.within)
	case len(c.oneOf) > 0:
		return slices.ContainsFunc(c.oneOf, matches)
	}
	misses := func(c clause) bool { return !c.matches(runs) }
	return !slices.ContainsFunc(c.all, misses) && !slices.ContainsFunc(c.without, matches)
}

// within says whether the phrase is somewhere in the run.
func (c *clause) within(run []string) bool {
	for at := 0; at+len(c.words) <= len(run); at++ {
		if c.begins(run[at:]) {
			return true
		}
	}
	return false
}

func (c *clause) begins(run []string) bool {
	last := len(c.words) - 1
	for i := range c.words {
		want := c.term(i)
		if run[i] != want && (i != last || !c.prefix || !strings.HasPrefix(run[i], want)) {
			return false
		}
	}
	return true
}

// Words are the bare tokens of what is looked for, each once: not those that are excluded. Of a prefix it is the
// prefix.
func (q Query) Words() (words []string) {
	q.root.phrases(func(c *clause) {
		for _, word := range c.words {
			if !slices.Contains(words, word) {
				words = append(words, word)
			}
		}
	})
	return words
}

// phrases calls a function for each phrase that is looked for.
func (c *clause) phrases(do func(*clause)) {
	if len(c.words) > 0 {
		do(c)
	}
	for _, inner := range [][]clause{c.all, c.oneOf} {
		for i := range inner {
			inner[i].phrases(do)
		}
	}
}

// Highlight puts on and off around the words of a text that the query looks for, in whatever field it does.
func (q Query) Highlight(text, on, off string) string {
	whole, prefixes := map[string]bool{}, []string(nil)
	q.root.phrases(func(c *clause) {
		for i, word := range c.words {
			if c.prefix && i == len(c.words)-1 {
				prefixes = append(prefixes, word)
			} else {
				whole[word] = true
			}
		}
	})
	var b strings.Builder
	from := 0
	for start, end := nextToken(text, 0); start < end; start, end = nextToken(text, end) {
		word := token(text[start:end])
		begins := func(prefix string) bool { return strings.HasPrefix(word, prefix) }
		if whole[word] || slices.ContainsFunc(prefixes, begins) {
			b.WriteString(text[from:start] + on + text[start:end] + off)
			from = end
		}
	}
	return b.String() + text[from:]
}

// Excerpt is a part of an event's data on one line, of so many characters, with the first word that the query looks for and up
// to so many characters before it where it lies far behind. "" for no data.
func (q Query) Excerpt(data json.RawMessage, length, before int) string {
	var line bytes.Buffer
	if len(data) == 0 || json.Compact(&line, data) != nil || line.String() == "null" {
		return ""
	}
	text := line.String()
	const mark = "\x00" // JSON has none
	at := 0
	if first, _, found := strings.Cut(q.Highlight(text, mark, ""), mark); found {
		at = utf8.RuneCountInString(first)
	}
	runes, from := []rune(text), 0
	if at+before > length {
		from = at - before
	}
	end := min(len(runes), from+length)
	shown := string(runes[from:end])
	if from > 0 {
		shown = "…" + shown
	}
	if end < len(runes) {
		shown += "…"
	}
	return shown
}

// elastic is the query for Elasticsearch: over the text field "words" with one element for each run, the built-in
// analyzer "whitespace" (its tokenizer splits what is longer than maxFielded), and a position_increment_gap of more than
// 1, as the default is.
func (q Query) elastic() map[string]any {
	if q.IsZero() {
		return map[string]any{"match_all": map[string]any{}}
	}
	return q.root.elastic()
}

// maxExpansions is how many words a prefix at the end of a phrase may stand for in Elasticsearch, in each shard. It is
// the one place where Elasticsearch may find less than matches says.
const maxExpansions = 1000

func (c *clause) elastic() map[string]any {
	switch {
	case len(c.words) > 0:
		return c.elasticPhrase()
	case len(c.oneOf) > 0:
		return map[string]any{"bool": map[string]any{"should": elastics(c.oneOf), "minimum_should_match": 1}}
	case len(c.without) == 0:
		return map[string]any{"bool": map[string]any{"must": elastics(c.all)}}
	}
	return map[string]any{"bool": map[string]any{"must": elastics(c.all), "must_not": elastics(c.without)}}
}

func (c *clause) elasticPhrase() map[string]any {
	terms := make([]string, len(c.words))
	for i := range c.words {
		terms[i] = c.term(i)
	}
	text := strings.Join(terms, " ")
	kind, value := "match_phrase", map[string]any{"query": text}
	switch {
	case c.prefix && len(terms) == 1:
		kind, value = "prefix", map[string]any{"value": text}
	case c.prefix:
		kind, value["max_expansions"] = "match_phrase_prefix", maxExpansions
	}
	return map[string]any{kind: map[string]any{"words": value}}
}

func elastics(clauses []clause) []any {
	queries := make([]any, len(clauses))
	for i := range clauses {
		queries[i] = clauses[i].elastic()
	}
	return queries
}
