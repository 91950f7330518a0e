package jobs

import (
	"context"
	"testing"

	"github.com/fraiseql/weir/internal/store"
)

// Whoever lifts a pause may rely on it that nothing is set aside afterwards: it would wait for ever.
func TestNothingIsSetAsideAfterTheResume(t *testing.T) {
	t.Parallel()
	r := newRig(t, `o: {entity: Order, actions: [{type: log}]}`)
	_, err := r.pool.Exec(t.Context(), "INSERT INTO weir.pause (scope, name) VALUES ('observer', 'o')")
	check(t, err)
	running := func() (id int64) {
		check(t, r.pool.QueryRow(t.Context(), `INSERT INTO weir.river_job (kind, queue, state, attempt, max_attempts, args)
			VALUES ('weir_log', 'log', 'running', 3, 9, '{"observer": "o"}') RETURNING id`).Scan(&id))
		return id
	}
	aside := func(id int64) store.SetAsideRow {
		is, err := store.New().SetAside(t.Context(), r.pool, store.SetAsideParams{Observer: "o", ID: id})
		check(t, err)
		return is
	}
	first := running()
	if is := aside(first); is != (store.SetAsideRow{Paused: true, Moved: true}) {
		t.Errorf("got %+v of a paused observer", is)
	}
	if is := aside(first); is != (store.SetAsideRow{Paused: true}) {
		t.Errorf("got %+v of a job that has another id by now", is)
	}

	second := running()
	tx, err := r.pool.Begin(t.Context())
	check(t, err)
	defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }()
	_, err = tx.Exec(t.Context(), "DELETE FROM weir.pause")
	check(t, err)
	late := make(chan store.SetAsideRow, 1)
	go func() { late <- aside(second) }()
	r.await("it to wait", `SELECT EXISTS (SELECT FROM pg_stat_activity
		WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%SetAside%')`)
	check(t, tx.Commit(t.Context()))
	if is := <-late; is != (store.SetAsideRow{}) {
		t.Errorf("got %+v when the pause was lifted meanwhile", is)
	}
	done, err := r.q.releasePaused(t.Context())
	check(t, err)
	got := r.lines("SELECT state || ' ' || attempt || ' ' || metadata FROM weir.river_job ORDER BY id")
	if !done || len(got) != 2 || got[0] != "available 2 {}" || got[1] != "running 3 {}" {
		t.Errorf("jobs: %q, done: %t", got, done)
	}
}
