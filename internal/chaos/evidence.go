package chaos

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/internal/event"
)

// evidence is everything that the checker compares.
type evidence struct {
	rows      []logRow
	events    []eventRow
	jobs      []jobRow
	outcomes  []jobRow // of weir.outcome
	effects   []effect
	documents []paper
	elastic   []paper
	sent      []sent
	calls     []call

	hasElastic bool
	strict     bool // dedup had no reason to let two through: nothing was broken
}

// logRow is a row of the change log: the truth.
type logRow struct {
	PK            int64
	ID            uuid.UUID
	Kind, Verb    string
	Entity        *string
	Data, Before  *string // JSON
	Tx            string
	after, before document
}

// eventRow is a row of weir.event.
type eventRow struct {
	ID           uuid.UUID
	PK           int64
	LSN          string
	Index        int64
	Type, Kind   string
	Entity, Data string
}

// jobRow is a job of River's or its outcome.
type jobRow struct {
	JobID            int64 // 0: an outcome
	Kind, State      string
	Observer, Action string
	EventID          uuid.UUID
	PK               int64
	Delivery         uuid.UUID // as stored; of a job as computed
	Dead             string    // code; "" where there is none
	Result           string
	DuplicateOf      *uuid.UUID
}

// effect is a row that a database action has written.
type effect struct {
	Event  uuid.UUID
	By     string
	Entity *string
	N      *int64
	Tx     *string
}

// paper is a document of the history, of either store.
type paper struct {
	EventID  uuid.UUID
	PK       int64
	Delivery uuid.UUID // nil UUID: of the event itself
	Observer string
	Outcome  string
}

// gather reads the database's part, in one transaction that sees one state: finished jobs become outcomes at any moment.
func (e *evidence) gather(ctx context.Context, tx pgx.Tx) error {
	var err error
	if e.rows, err = rowsOf[logRow](ctx, tx, `
		SELECT pk_entity_change_log, id, object_type, modification_type, object_id::text, object_data::text, object_data_before::text,
		       coalesce(extra_metadata->>'tx', '')
		FROM core.tb_entity_change_log ORDER BY pk_entity_change_log`, func(r *logRow) []any {
		return []any{&r.PK, &r.ID, &r.Kind, &r.Verb, &r.Entity, &r.Data, &r.Before, &r.Tx}
	}); err != nil {
		return fmt.Errorf("change log: %w", err)
	}
	if e.events, err = rowsOf[eventRow](ctx, tx, `
		SELECT id, pk, lsn::text, tx_index, event_type, entity_type, entity_id, (payload->'data')::text
		FROM weir.event ORDER BY seq`, func(r *eventRow) []any {
		return []any{&r.ID, &r.PK, &r.LSN, &r.Index, &r.Type, &r.Kind, &r.Entity, &r.Data}
	}); err != nil {
		return fmt.Errorf("events: %w", err)
	}
	if e.jobs, err = rowsOf[jobRow](ctx, tx, `
		SELECT id, kind, state::text, coalesce(args->>'observer', ''), coalesce(args->>'action', ''), (args->>'event_id')::uuid,
		       (args->>'pk')::bigint, coalesce(metadata->>'weir_dead_letter', ''), coalesce(metadata->'output'->>'result', ''),
		       (metadata->'output'->>'duplicate_of')::uuid
		FROM weir.river_job WHERE args ? 'event_id' ORDER BY id`, func(r *jobRow) []any {
		return []any{&r.JobID, &r.Kind, &r.State, &r.Observer, &r.Action, &r.EventID, &r.PK, &r.Dead, &r.Result, &r.DuplicateOf}
	}); err != nil {
		return fmt.Errorf("jobs: %w", err)
	}
	for i := range e.jobs {
		j := &e.jobs[i]
		j.Delivery = event.DeliveryID(j.EventID, j.PK, j.Observer, j.Action)
	}
	if e.outcomes, err = rowsOf[jobRow](ctx, tx, `
		SELECT 'weir_' || action_type, state, observer, action, event_id, event_pk, delivery_id, state, duplicate_of
		FROM weir.outcome ORDER BY seq`, func(r *jobRow) []any {
		return []any{&r.Kind, &r.State, &r.Observer, &r.Action, &r.EventID, &r.PK, &r.Delivery, &r.Result, &r.DuplicateOf}
	}); err != nil {
		return fmt.Errorf("outcomes: %w", err)
	}
	if e.effects, err = rowsOf[effect](ctx, tx, `SELECT event, by, entity::text, n, tx FROM app.effect ORDER BY id`,
		func(r *effect) []any { return []any{&r.Event, &r.By, &r.Entity, &r.N, &r.Tx} }); err != nil {
		return fmt.Errorf("effects: %w", err)
	}
	if e.documents, err = rowsOf[paper](ctx, tx, `SELECT event_id, event_pk, delivery_id, observer, outcome FROM weir.document`,
		func(r *paper) []any { return []any{&r.EventID, &r.PK, &r.Delivery, &r.Observer, &r.Outcome} }); err != nil {
		return fmt.Errorf("documents: %w", err)
	}
	return nil
}

// rowsOf reads all rows of a query.
func rowsOf[T any](ctx context.Context, tx pgx.Tx, sql string, into func(*T) []any) ([]T, error) {
	rows, err := tx.Query(ctx, sql)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []T
	for rows.Next() {
		var one T
		if err := rows.Scan(into(&one)...); err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, rows.Err()
}
