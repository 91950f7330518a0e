package index

import (
	"context"
	"fmt"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/internal/store"
)

// putDocuments stores documents in weir.document.
func putDocuments(ctx context.Context, db store.DBTX, docs []Document) error {
	if len(docs) == 0 {
		return nil
	}
	p := store.PutDocumentsParams{Version: docs[0].Version}
	for i := range docs {
		d := &docs[i]
		delivery, observer, outcome := uuid.Nil, "", ""
		if d.Outcome != nil {
			delivery, observer, outcome = d.Outcome.DeliveryID, d.Outcome.Observer, d.Outcome.State
		}
		p.Days, p.Seqs, p.Ats = append(p.Days, d.Day), append(p.Seqs, d.Seq), append(p.Ats, d.At)
		p.EventIds, p.EventPks = append(p.EventIds, d.ID), append(p.EventPks, d.PK)
		p.EntityTypes, p.EntityIDs = append(p.EntityTypes, d.EntityType), append(p.EntityIDs, d.EntityID)
		p.DeliveryIds, p.Observers = append(p.DeliveryIds, delivery), append(p.Observers, observer)
		p.Outcomes, p.Words = append(p.Outcomes, outcome), append(p.Words, tsvector(d.runs()))
	}
	if err := store.New().PutDocuments(ctx, db, p); err != nil {
		return fmt.Errorf("store %d documents: %w", len(docs), err)
	}
	return nil
}

// Postgres searches the history in PostgreSQL.
type Postgres struct{ db store.DBTX }

// NewPostgres searches in a database.
func NewPostgres(db store.DBTX) *Postgres { return &Postgres{db} }

// newest is how many of the newest documents a search looks through before it asks the index of words.
const newest = 5000

// Search finds events, the last recorded first. It looks through the newest documents, which have enough of what is frequent, and
// only when they have not, asks the index of words for all that there are. So neither depends on statistics, which a day's
// table does not have until autovacuum first comes by: without them PostgreSQL takes every word for rare, and a word of half of a
// million events took a second.
func (p *Postgres) Search(ctx context.Context, s Search) ([]Hit, error) {
	var last []Hit
	for _, statement := range []func(Search) (string, []any){newestSQL, searchSQL} {
		sql, args := statement(s)
		rows, err := p.db.Query(ctx, sql, append([]any{pgx.QueryExecModeExec}, args...)...)
		if err != nil {
			return nil, fmt.Errorf("search: %w", err)
		}
		hits, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (h Hit, err error) {
			err = row.Scan(&h.Seq, &h.Day, &h.ID, &h.PK)
			return h, err
		})
		if err != nil {
			return nil, fmt.Errorf("search: %w", err)
		}
		if len(hits) == s.Limit {
			return hits, p.load(ctx, hits)
		}
		last = hits
	}
	return last, p.load(ctx, last)
}

// load reads the events of hits.
func (p *Postgres) load(ctx context.Context, hits []Hit) error {
	if len(hits) == 0 {
		return nil
	}
	var keys store.EventsByKeyParams
	for _, h := range hits {
		keys.Days, keys.IDs, keys.PKs = append(keys.Days, h.Day), append(keys.IDs, h.ID), append(keys.PKs, h.PK)
	}
	rows, err := store.New().EventsByKey(ctx, p.db, keys)
	if err != nil {
		return fmt.Errorf("read the events that were found: %w", err)
	}
	payloads := map[Key][]byte{}
	for _, row := range rows {
		payloads[Key{Day: row.Day, ID: row.ID, PK: row.PK}] = row.Payload
	}
	for i := range hits {
		hits[i].Payload = payloads[hits[i].Key]
	}
	return nil
}

// conditions are those of a statement, and their arguments.
type conditions struct {
	where []string
	args  []any
}

func (c *conditions) add(condition string, value any) {
	c.args = append(c.args, value)
	c.where = append(c.where, strings.ReplaceAll(condition, "?", fmt.Sprintf("$%d", len(c.args))))
}

// take returns the conditions so far as a WHERE, and begins anew.
func (c *conditions) take() (where string) {
	if len(c.where) > 0 {
		where = " WHERE " + strings.Join(c.where, " AND ")
	}
	c.where = nil
	return where
}

// within adds what the way down from the newest can use: the days, which are tables, and where the last page ended.
func (c *conditions) within(s Search) {
	if !s.Since.IsZero() {
		c.add("d.day >= (?::timestamptz AT TIME ZONE 'UTC')::date", s.Since)
	}
	if !s.Until.IsZero() {
		c.add("d.day <= (?::timestamptz AT TIME ZONE 'UTC')::date", s.Until)
	}
	if s.Before != 0 {
		c.add("d.seq < ?::bigint", s.Before)
	}
}

// exactly adds what else bounds the hits.
func (c *conditions) exactly(s Search) {
	if !s.Since.IsZero() {
		c.add("d.at >= ?::timestamptz", s.Since)
	}
	if !s.Until.IsZero() {
		c.add("d.at < ?::timestamptz", s.Until)
	}
	if kind, id, one := strings.Cut(s.Entity, "/"); s.Entity != "" {
		c.add("d.entity_type = ?::text", kind)
		if one {
			c.add("d.entity_id = ?::text", id)
		}
	}
	if s.Observer != "" {
		c.add("d.observer = ?::text", s.Observer)
	}
	if s.Outcome != "" {
		c.add("d.outcome = ?::text", s.Outcome)
	}
}

const hitColumns = "SELECT DISTINCT ON (d.seq) d.seq, d.day, d.event_id, d.event_pk FROM "

// newestSQL looks through the newest documents. What bounds them are conditions that the way down from the newest can use, so
// that it is short whatever is asked for.
func newestSQL(s Search) (sql string, args []any) {
	var c conditions
	c.within(s)
	from := fmt.Sprintf("(SELECT * FROM weir.document d%s ORDER BY d.seq DESC LIMIT %d) d", c.take(), newest)
	if !s.Query.IsZero() {
		c.add("d.words @@ ?::text::tsquery", s.Query.tsquery())
	}
	c.exactly(s)
	sql = hitColumns + from + c.take()
	c.args = append(c.args, s.Limit)
	return sql + fmt.Sprintf(" ORDER BY d.seq DESC LIMIT $%d::integer", len(c.args)), c.args
}

// searchSQL looks through all documents, by the index of words when there are any. The names that are asked for are among the
// words, so that PostgreSQL meets no documents that have the words and not the names. What is found is sorted afterwards:
// MATERIALIZED keeps PostgreSQL from the way down from the newest, which is long when what is looked for is old.
func searchSQL(s Search) (sql string, args []any) {
	var c conditions
	c.within(s)
	words := s.words()
	if words != "" {
		c.add("d.words @@ ?::text::tsquery", words)
	}
	c.exactly(s)
	with, from := "", "weir.document d"+c.take()
	if words != "" {
		with, from = "WITH found AS MATERIALIZED (SELECT d.seq, d.day, d.event_id, d.event_pk FROM "+from+") ", "found d"
	}
	c.args = append(c.args, s.Limit)
	return with + hitColumns + from + fmt.Sprintf(" ORDER BY d.seq DESC LIMIT $%d::integer", len(c.args)), c.args
}

// words are the query's and those that the names that are asked for have in a document.
func (s *Search) words() string {
	kind, id, _ := strings.Cut(s.Entity, "/")
	var all []clause
	if !s.Query.IsZero() {
		all = append(all, s.Query.root)
	}
	for _, name := range [][2]string{{"observer", s.Observer}, {"outcome", s.Outcome}, {"entity", kind}, {"entity_id", id}} {
		for _, word := range tokens(name[1]) {
			all = append(all, clause{field: name[0], words: []string{word}})
		}
	}
	if len(all) == 0 {
		return ""
	}
	return (&clause{all: all}).tsquery()
}

// Deliveries are the outcomes of events that have left River's table.
func (p *Postgres) Deliveries(ctx context.Context, ids []uuid.UUID) (map[Identity][]Outcome, error) {
	rows, err := store.New().OutcomesOfEvents(ctx, p.db, ids)
	if err != nil {
		return nil, fmt.Errorf("read the outcomes of events: %w", err)
	}
	found := map[Identity][]Outcome{}
	for _, row := range rows {
		of := Identity{row.EventID, row.EventPK}
		found[of] = append(found[of], finishedOf(store.OutcomesAfterRow(row)).Outcome)
	}
	return found, nil
}
