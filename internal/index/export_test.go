package index

import (
	"context"

	"github.com/fraiseql/weir/internal/store"
)

// What the tests look at from outside.

func Tokens(text string) []string { return tokens(text) }

func (d *Document) Runs() [][]string { return d.runs() }

func TSVector(runs [][]string) string { return tsvector(runs) }

func (q Query) TSQuery() string { return q.tsquery() }

func (q Query) Elastic() map[string]any { return q.elastic() }

func (q Query) Matches(runs [][]string) bool { return q.matches(runs) }

// Literal is a query for words that no text has, in a row.
func Literal(prefix bool, words ...string) Query {
	return Query{root: clause{words: words, prefix: prefix}}
}

const MaxWords = maxWords

func NewestSQL(s Search) (sql string, args []any) { return newestSQL(s) }

func SearchSQL(s Search) (sql string, args []any) { return searchSQL(s) }

func PutDocuments(ctx context.Context, db store.DBTX, docs []Document) error {
	return putDocuments(ctx, db, docs)
}
