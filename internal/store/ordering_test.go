package store_test

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/internal/store"
)

// sequences fills the table with ordered jobs: entities 1 to 2,000 with 50 that are completed and 3 that are not, of which the first
// is running and the others wait. Their ids run against their order.
func sequences(t *testing.T, db *pgx.Conn) {
	t.Helper()
	_, err := db.Exec(t.Context(), `
		INSERT INTO weir.river_job (state, kind, queue, args, metadata, attempt, max_attempts, finalized_at)
		SELECT (CASE WHEN n <= 50 THEN 'completed' WHEN n = 51 THEN 'running' ELSE 'pending' END)::weir.river_job_state, 'weir_webhook', 'erp',
		       jsonb_build_object('observer', 'o', 'entity', 'Order', 'entity_id', e::text, 'lsn', '9/' || to_hex(n), 'tx_index', n),
		       '{"weir_ordered": true}', 1, 3, CASE WHEN n <= 50 THEN now() END
		FROM generate_series(1, 2000) e, generate_series(53, 1, -1) n ORDER BY n DESC`)
	check(t, err)
}

// crowd adds an entity with 3,000 dead letters, one delivery that runs, and 20,000 that wait behind it.
func crowd(t *testing.T, db *pgx.Conn) {
	t.Helper()
	_, err := db.Exec(t.Context(), `
		INSERT INTO weir.river_job (state, kind, queue, args, metadata, attempt, max_attempts, finalized_at)
		SELECT (CASE WHEN n <= 3000 THEN 'discarded' WHEN n = 3001 THEN 'running' ELSE 'pending' END)::weir.river_job_state, 'weir_webhook', 'erp',
		       jsonb_build_object('observer', 'o', 'entity', 'Order', 'entity_id', 'crowd', 'lsn', '9/' || to_hex(n), 'tx_index', n),
		       '{"weir_ordered": true}', 1, 3, CASE WHEN n <= 3000 THEN now() END
		FROM generate_series(1, 23001) n`)
	check(t, err)
}

// Each question is answered from the index, however much has been delivered, waits or is dead, with statistics and without.
func TestOrderingReadsLittle(t *testing.T) {
	t.Parallel()
	db := setup(t, pgx.QueryExecModeCacheStatement)
	sequences(t, db)
	crowd(t, db)
	q := store.New()
	ask := func(db pgx.Tx) {
		first := store.FirstInLineParams{Observer: "o", Entity: "Order", EntityID: "77", LSN: 9<<32 + 51, TxIndex: 51}
		row, err := q.FirstInLine(t.Context(), db, first)
		check(t, err)
		if row.Waits || row.Overtaken {
			t.Errorf("the first: %+v", row)
		}
		first.LSN, first.TxIndex = 9<<32+52, 52
		if row, err = q.FirstInLine(t.Context(), db, first); err != nil || !row.Waits || row.Overtaken {
			t.Errorf("the second: %+v, %v", row, err)
		}
		first.LSN, first.TxIndex = 9<<32+1, 1
		if row, err = q.FirstInLine(t.Context(), db, first); err != nil || row.Waits || !row.Overtaken {
			t.Errorf("one that was overtaken: %+v, %v", row, err)
		}
		names := store.CallNextParams{
			Observers: []string{"o", "o"}, Entities: []string{"Order", "Order"}, EntityIDs: []string{"77", "none"}, SkipDead: []bool{false, true},
		}
		held, err := q.HeldSequences(t.Context(), db, store.HeldSequencesParams(names))
		if err != nil || len(held) != 1 || held[0].EntityID != "77" {
			t.Errorf("held: %+v, %v", held, err)
		}
		if called, err := q.CallNext(t.Context(), db, names); err != nil || len(called) != 0 {
			t.Errorf("called behind one that runs: %v, %v", called, err)
		}
		first = store.FirstInLineParams{
			Observer: "o", Entity: "Order", EntityID: "crowd", LSN: 9<<32 + 3001, TxIndex: 3001, SkipDead: true,
		}
		if row, err = q.FirstInLine(t.Context(), db, first); err != nil || row.Waits || row.Overtaken {
			t.Errorf("the first of a crowd: %+v, %v", row, err)
		}
		names.EntityIDs, names.SkipDead = []string{"crowd", "77"}, []bool{true, true}
		if called, err := q.CallNext(t.Context(), db, names); err != nil || len(called) != 0 {
			t.Errorf("called in a crowd: %v, %v", called, err)
		}
		if held, err = q.HeldSequences(t.Context(), db, store.HeldSequencesParams(names)); err != nil || len(held) != 2 {
			t.Errorf("held: %+v, %v", held, err)
		}
		page, err := q.SequencesAfter(t.Context(), db, store.SequencesAfterParams{Observer: "o", Entity: "Order", EntityID: "5", MaxRows: 10})
		if err != nil || len(page) != 10 || page[0].EntityID != "50" {
			t.Errorf("page: %+v, %v", page, err)
		}
		free, err := q.LetGo(t.Context(), db, store.LetGoParams{
			Observers: []string{"o"}, Entities: []string{"Order"}, EntityIDs: []string{"none"}, MaxRows: 10, Age: time.Hour,
		})
		if err != nil || len(free) != 0 {
			t.Errorf("let go: %v, %v", free, err)
		}
	}
	for _, prepare := range []string{"SELECT", "ANALYZE weir.river_job"} {
		_, err := db.Exec(t.Context(), prepare)
		check(t, err)
		for _, plan := range []string{"force_custom_plan", "force_generic_plan"} {
			_, err := db.Exec(t.Context(), "SET plan_cache_mode = "+plan)
			check(t, err)
			check(t, pgx.BeginFunc(t.Context(), db, func(tx pgx.Tx) error {
				ask(tx)
				var read int
				err := tx.QueryRow(t.Context(), `SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_all_tables
					WHERE relid = 'weir.river_job'::regclass`).Scan(&read)
				if read > 150 {
					t.Errorf("with %s, after %s: %d rows read of 129,000", plan, prepare, read)
				}
				return err
			}))
		}
	}
}

// What is first in line is called once what was before it has ended; a dead letter is waited for unless it is skipped.
func TestCallNext(t *testing.T) {
	t.Parallel()
	db := setup(t, pgx.QueryExecModeCacheStatement)
	sequences(t, db)
	call := func(skip bool) int {
		queues, err := store.New().CallNext(t.Context(), db, store.CallNextParams{
			Observers: []string{"o"}, Entities: []string{"Order"}, EntityIDs: []string{"77"}, SkipDead: []bool{skip},
		})
		check(t, err)
		return len(queues)
	}
	end := func(state, metadata string) {
		_, err := db.Exec(t.Context(), `
			UPDATE weir.river_job SET state = $1::text::weir.river_job_state, finalized_at = now(), metadata = metadata || $2::text::jsonb
			WHERE args->>'entity_id' = '77' AND state IN ('running', 'available', 'cancelled', 'discarded')`, state, metadata)
		check(t, err)
	}
	end("discarded", "{}")
	if n := call(false); n != 0 {
		t.Errorf("%d called behind a dead letter", n)
	}
	end("cancelled", `{"weir_dead_letter": "status_400"}`)
	if n := call(false); n != 0 {
		t.Errorf("%d called behind a dead letter", n)
	}
	if n := call(true); n != 1 {
		t.Errorf("%d called past a dead letter that is skipped, want 1", n)
	}
	if n := call(true); n != 0 {
		t.Errorf("%d called behind one that is available", n)
	}
	end("completed", "{}")
	if n := call(false); n != 1 {
		t.Errorf("%d called after the one before, want 1", n)
	}
}

// What is put back gets another id, and does not forget that a person has cancelled it.
func TestWaitInLine(t *testing.T) {
	t.Parallel()
	db := setup(t, pgx.QueryExecModeCacheStatement)
	sequences(t, db)
	for cancelled, want := range map[string]string{"{}": "pending", `{"cancel_attempted_at": "2026-01-01T00:00:00Z"}`: "cancelled"} {
		var id int64
		check(t, db.QueryRow(t.Context(), `UPDATE weir.river_job SET metadata = metadata || $1::text::jsonb
			WHERE id = (SELECT id FROM weir.river_job WHERE state = 'running' LIMIT 1) RETURNING id`, cancelled).Scan(&id))
		put, err := store.New().WaitInLine(t.Context(), db, id)
		check(t, err)
		var state string
		var attempt int
		check(t, db.QueryRow(t.Context(), "SELECT state::text, attempt FROM weir.river_job WHERE id = $1", put).Scan(&state, &attempt))
		if put == id || state != want || attempt != 0 {
			t.Errorf("%s: %d is %d now, %s, attempt %d", cancelled, id, put, state, attempt)
		}
	}
}
