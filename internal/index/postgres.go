package index

import (
	"context"
	"fmt"
	"strings"
	"time"

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

// Search finds events, the last recorded first. The statement is planned for the words that are asked for: frequent ones are met
// soon on the way down from the newest, rare ones are looked up in the index of words.
func (p *Postgres) Search(ctx context.Context, s Search) ([]Hit, error) {
	sql, args := searchSQL(s)
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
	return hits, p.load(ctx, hits)
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

// searchSQL is the statement for a search.
func searchSQL(s Search) (sql string, args []any) {
	var where []string
	add := func(condition string, value any) {
		args = append(args, value)
		where = append(where, strings.ReplaceAll(condition, "?", fmt.Sprintf("$%d", len(args))))
	}
	if !s.Query.IsZero() {
		add("d.words @@ ?::text::tsquery", s.Query.tsquery())
	}
	if !s.Since.IsZero() {
		add("d.at >= ?::timestamptz AND d.day >= (?::timestamptz AT TIME ZONE 'UTC')::date", s.Since)
	}
	if !s.Until.IsZero() {
		add("d.at < ?::timestamptz AND d.day <= (?::timestamptz AT TIME ZONE 'UTC')::date", s.Until)
	}
	if kind, id, one := strings.Cut(s.Entity, "/"); s.Entity != "" {
		add("d.entity_type = ?::text", kind)
		if one {
			add("d.entity_id = ?::text", id)
		}
	}
	if s.Observer != "" {
		add("d.observer = ?::text", s.Observer)
	}
	if s.Outcome != "" {
		add("d.outcome = ?::text", s.Outcome)
	}
	if s.Before != 0 {
		add("d.seq < ?::bigint", s.Before)
	}
	sql = "SELECT DISTINCT ON (d.seq) d.seq, d.day, d.event_id, d.event_pk FROM weir.document d"
	if len(where) > 0 {
		sql += " WHERE " + strings.Join(where, " AND ")
	}
	args = append(args, s.Limit)
	return sql + fmt.Sprintf(" ORDER BY d.seq DESC LIMIT $%d::integer", len(args)), args
}

// Deliveries are the outcomes of events that have left River's table.
func (p *Postgres) Deliveries(ctx context.Context, ids []uuid.UUID) (map[uuid.UUID][]Outcome, error) {
	rows, err := store.New().OutcomesOfEvents(ctx, p.db, ids)
	if err != nil {
		return nil, fmt.Errorf("read the outcomes of events: %w", err)
	}
	found := map[uuid.UUID][]Outcome{}
	for _, row := range rows {
		found[row.EventID] = append(found[row.EventID], finishedOf(store.OutcomesAfterRow(row)).Outcome)
	}
	return found, nil
}

// Lag is for how long the oldest event waits that a store does not have.
func Lag(ctx context.Context, db store.DBTX, name string) (time.Duration, error) {
	at, err := store.New().GetHistory(ctx, db, name)
	return time.Duration(at.LagSeconds * float64(time.Second)), err
}
