package index_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/internal/index"
)

// asked is a document and the questions to it.
type asked struct {
	name    string
	runs    [][]string
	queries []index.Query
}

// agree asks PostgreSQL what matches says.
func agree(t *testing.T, h *history, all []asked) (found int) {
	t.Helper()
	var vectors, queries, names []string
	var of []int // the query's document
	var want []bool
	for i, a := range all {
		vectors = append(vectors, index.TSVector(a.runs))
		for _, q := range a.queries {
			of, queries, names = append(of, i+1), append(queries, q.TSQuery()), append(names, a.name+": "+q.String())
			want = append(want, q.Matches(a.runs))
		}
	}
	rows, err := h.Pool.Query(t.Context(), `
		WITH document AS MATERIALIZED (
		     SELECT n, text::tsvector AS vector FROM unnest($1::text[]) WITH ORDINALITY AS d(text, n))
		SELECT vector @@ query::tsquery
		  FROM unnest($2::bigint[], $3::text[]) WITH ORDINALITY AS q(document, query, n) JOIN document ON document.n = document
		 ORDER BY q.n`, vectors, of, queries)
	check(t, err)
	got, err := pgx.CollectRows(rows, pgx.RowTo[bool])
	check(t, err)
	for i, text := range queries {
		if got[i] != want[i] {
			t.Errorf("%s: PostgreSQL says %v, want %v\n%s\n%.2000s", names[i], got[i], want[i], text, vectors[of[i]-1])
		}
		if want[i] {
			found++
		}
	}
	return found
}

func TestPostgresAgrees(t *testing.T) {
	t.Parallel()
	h := newHistory(t)
	dead := document(t, parcel)
	dead.Outcome = outcome()
	documents := map[string][][]string{
		"parcel": document(t, parcel).Runs(), "dead": dead.Runs(), "empty": document(t, `{}`).Runs(), "nothing": nil,
		"turkish": document(t, `{"a":"İSTANBUL ISPARTA ığdır","b":"ǅ ŉ ẞ"}`).Runs(),
	}
	texts := []string{"istanbul", "ısparta", "isparta", `"istanbul isparta"`, "ığ*", "ß", "outcome:dead OR paid -customer:acme"}
	for text := range questions {
		if !parse(t, text).IsZero() { // of which PostgreSQL is not asked
			texts = append(texts, text)
		}
	}
	queries := make([]index.Query, len(texts))
	for i, text := range texts {
		queries[i] = parse(t, text)
	}
	var all []asked
	for name, runs := range documents {
		all = append(all, asked{name, runs, queries})
	}
	if n, found := len(all)*len(queries), agree(t, h, all); found < n/10 || found > n-n/10 {
		t.Errorf("%d of %d are found: the test says little", found, n)
	}
}

// What a token cannot be is quoted rightly all the same.
func TestPostgresAgreesAboutNastyTokens(t *testing.T) {
	t.Parallel()
	nasty := []string{
		`'`, `''`, `\`, `\\`, `\'`, `'\`, `a'b`, `a\`, `:`, `a:b`, `a:*`, `:1A`, `&`, `|`, `!`, `<->`, `(`, `)`, `a & b`, ` `, `  a  `, "\t\n",
		`"`, `,`, `*`, `=`, `%`, `_`, `$1`, `😀`, `İ`, `ı`, `é`, `日本`, `-1.5`, `1:2,3`, strings.Repeat("x", 1600), strings.Repeat(`'`, 400),
	}
	var all []asked
	for i, a := range nasty {
		b := nasty[(i+1)%len(nasty)]
		documents := [][][]string{{{a}}, {{a, b}}, {{b, a}}, {{a}, {b}}, {{"x", a, b, "y"}, {a + "z"}}, {{a + b, b}}}
		queries := []index.Query{
			index.Literal(false, a), index.Literal(true, a), index.Literal(false, a, b), index.Literal(true, b, a),
		}
		for _, runs := range documents {
			all = append(all, asked{fmt.Sprint(i), runs, queries})
		}
	}
	agree(t, newHistory(t), all)
}

// Of documents at their limits, phrases are found or not found alike: positions and occurrences are all used up.
func TestPostgresAgreesAboutLargeDocuments(t *testing.T) {
	t.Parallel()
	var all []asked
	for name, data := range big() {
		a := asked{name: name, runs: document(t, data).Runs()}
		random := rand.New(rand.NewPCG(7, 1))
		for range 60 {
			a.queries = append(a.queries, ofRun(random, a.runs[random.IntN(len(a.runs))]))
		}
		if name == "a common word" {
			for i := range 600 {
				a.queries = append(a.queries, parse(t, fmt.Sprintf(`"en r%d"`, i)))
			}
		}
		all = append(all, a)
	}
	agree(t, newHistory(t), all)
}

// ofRun is a query for a piece of a run, often as it stands there.
func ofRun(random *rand.Rand, run []string) index.Query {
	from := random.IntN(len(run))
	words := slices.Clone(run[from:min(len(run), from+1+random.IntN(3))])
	if random.IntN(4) == 0 {
		random.Shuffle(len(words), func(i, j int) { words[i], words[j] = words[j], words[i] })
	}
	last := len(words) - 1
	prefix := random.IntN(3) == 0
	if prefix {
		words[last] = words[last][:1+random.IntN(len(words[last]))]
	}
	return index.Literal(prefix, words...)
}

// Random documents of few words are asked random questions.
func TestPostgresAgreesAboutRandomQueries(t *testing.T) {
	t.Parallel()
	const seed = 20260301
	random := rand.New(rand.NewPCG(seed, 1))
	var all []asked
	for range 1500 {
		data, err := json.Marshal(randomData(random, 3))
		check(t, err)
		queries := []index.Query{parse(t, randomQuery(random, 3)), parse(t, randomQuery(random, 3)), parse(t, randomQuery(random, 3))}
		all = append(all, asked{string(data), document(t, string(data)).Runs(), queries})
	}
	if found := agree(t, newHistory(t), all); found < 450 || found > 4050 {
		t.Errorf("%d of 4500 are found: the test says little", found)
	}
}

var vocabulary = []string{"ab", "abc", "abcd", "b", "cd", "19.90", "İa", "😀", "5f0c8a52-7c1e-4b7e-9a39-0d6f3c1b2a41"}

func pick(random *rand.Rand, from ...string) string { return from[random.IntN(len(from))] }

func randomData(random *rand.Rand, depth int) any {
	switch n := random.IntN(4); {
	case n == 0 && depth > 0:
		return []any{randomData(random, depth-1), randomData(random, depth-1)}
	case n == 1 || depth == 3:
		data := map[string]any{}
		for range 1 + random.IntN(3) {
			if depth > 0 {
				data[pick(random, "a", "b", "ab", "C d")] = randomData(random, depth-1)
			}
		}
		return data
	}
	var text []string
	for range 1 + random.IntN(4) {
		text = append(text, pick(random, vocabulary...))
	}
	return strings.Join(text, pick(random, " ", ", ", " - "))
}

func randomQuery(random *rand.Rand, depth int) string {
	field := pick(random, "", "", "", "a:", "b:", "ab:", "a.b:", "data.a:", "c_d:", "entity:")
	word := func() string { return pick(random, "ab", "abc", "abcd", "b", "cd", "19.90", "ia", "order") }
	switch n := random.IntN(9); {
	case n == 0:
		return field + pick(random, "ab*", "cd*", "ab.cd*", "abc/ab*", "5f0c8a52*", "5f0c8a52-7c*", "19.9*")
	case n <= 2:
		return field + `"` + word() + " " + word() + `"`
	case n <= 4 || depth == 0:
		return field + word()
	case n <= 6:
		return randomQuery(random, depth-1) + " -(" + randomQuery(random, depth-1) + ")"
	case n == 7:
		return "(" + randomQuery(random, depth-1) + ") OR (" + randomQuery(random, depth-1) + ")"
	}
	return randomQuery(random, depth-1) + " " + randomQuery(random, depth-1)
}

func FuzzParseQuery(f *testing.F) {
	for text := range questions {
		f.Add(text, text)
	}
	f.Add(`total:>1 OR -(a"b"*`, "İ\x00\xff -1.5 10.0.0.1 5f0c8a52-7c1e-4b7e-9a39-0d6f3c1b2a41")
	f.Fuzz(func(t *testing.T, text, value string) {
		if len(value) > 1000 { // each word is asked for
			return
		}
		data, err := json.Marshal(map[string]any{"a": value, "x" + value: "x"})
		check(t, err)
		runs := document(t, string(data)).Runs()
		findsItself(t, runs, value)
		q, err := index.ParseQuery(text)
		if err != nil {
			return
		}
		if blank := strings.TrimSpace(text) == ""; q.IsZero() != blank || (q.TSQuery() == "") != blank || !blank && len(q.Words()) == 0 {
			t.Errorf("%q is for %q", text, q.TSQuery())
		}
		q.Matches(runs)
		if marked := q.Highlight(value, "", ""); marked != value {
			t.Errorf("%q is highlighted as %q", value, marked)
		}
		for _, word := range q.Words() {
			if strings.ContainsAny(word, " \x00='") {
				t.Errorf("%q has the word %q", text, word)
			}
		}
	})
}

// findsItself asks a document for the words of its field "a" in all ways.
func findsItself(t *testing.T, runs [][]string, value string) {
	t.Helper()
	words := index.Tokens(value)
	for i, word := range words {
		if again := index.Tokens(word); !slices.Equal(again, []string{word}) {
			t.Fatalf("%q is read again as %q", word, again)
		}
		queries := []string{`"` + word + `"`, `a:` + word, `data.a:"` + word + `"`, "xy OR " + strings.TrimLeft(word, "-") + " OR a:" + word}
		if utf8.RuneCountInString(word) > 1 {
			queries = append(queries, "a:"+word+"*")
		}
		if next := i + 1; next < len(words) {
			queries = append(queries, `a:"`+word+" "+words[next]+`"`)
		}
		for _, text := range queries {
			if !parse(t, text).Matches(runs) {
				t.Errorf("%s does not find %q", text, words)
			}
		}
	}
}
