package main

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/index"
	"github.com/fraiseql/weir/internal/jobs"
	"github.com/fraiseql/weir/internal/store"
)

// followed makes the documents of what has been recorded, as a worker does, and then stops.
func followed(t *testing.T, databaseURL string, follow func(index.FollowerOptions) *index.Follower, c index.Config) {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), databaseURL)
	check(t, err)
	defer pool.Close()
	name := "postgres"
	if !c.InPostgres() {
		name = "elasticsearch"
	}
	f := follow(index.FollowerOptions{
		Pool: pool, Index: index.New(0, c), Logger: slog.New(slog.NewTextHandler(testLog{t}, nil)),
		Metrics:  index.NewFollowerMetrics(prometheus.NewRegistry()),
		Finished: finishedJobs,
		Refused: func(_ context.Context, _ pgx.Tx, refused []index.Refusal) error {
			return fmt.Errorf("refused: %v", refused[0].Reason)
		},
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); f.Run(ctx) }()
	until(t, "the history", func() bool {
		at, err := store.New().GetHistory(t.Context(), pool, name)
		check(t, err)
		return !at.Pending
	})
	cancel()
	<-done
}

// finishedJobs is what a worker's queue finds.
func finishedJobs(ctx context.Context, db store.DBTX, ids []int64) ([]index.Finished, error) {
	return jobs.FinishedJobs(ctx, db, nil, ids)
}

// inPostgres makes the documents in PostgreSQL.
func inPostgres(t *testing.T, databaseURL string) {
	t.Helper()
	followed(t, databaseURL, index.FollowPostgres, index.Config{})
}

// at is an order whose event is so old.
func at(n int64, age time.Duration, data string) *event.Event {
	e := shippedOrder(n)
	e.Timestamp, e.Data = event.Time(time.Now().Add(-age)), []byte(data)
	return e
}

// someJob inserts a delivery of an event in any state.
func someJob(t *testing.T, db *pgx.Conn, e *event.Event, observer, state, metadata string) {
	t.Helper()
	exec(t, db, `
		INSERT INTO weir.river_job (kind, queue, state, attempt, max_attempts, args, metadata, errors, attempted_at, finalized_at)
		VALUES ('weir_webhook', 'erp', $1::text::weir.river_job_state, 1, 3,
		        jsonb_build_object('observer', $2::text, 'action', 'notify', 'entity', $3::text, 'entity_id', $4::text,
		                           'event_type', 'UPDATE', 'event_id', $5::text, 'lsn', $6::text, 'tx_index', 1, 'day', $7::text,
		                           'pk', $8::bigint),
		        $9::text::jsonb, CASE WHEN $1 IN ('discarded', 'retryable') THEN ARRAY[jsonb_build_object('at', now(), 'attempt', 1,
		        'error', '503 Service Unavailable')] END, now(),
		        CASE WHEN $1::text IN ('discarded', 'cancelled', 'completed') THEN now() END)`,
		state, observer, e.EntityType, e.EntityID, e.ID.String(), e.LSN.String(), e.Day().Format(time.DateOnly), e.PK, metadata)
}

const delivered = `{"output": {"result": "delivered", "status": 200, "duration_ms": 12}}`

// movedOutcome inserts a delivery that has left River's table.
func movedOutcome(t *testing.T, db *pgx.Conn, e *event.Event, observer, state, message string) uuid.UUID {
	t.Helper()
	id := event.DeliveryID(e.ID, e.PK, observer, "notify")
	exec(t, db, `
		INSERT INTO weir.outcome (day, delivery_id, event_id, event_pk, entity_type, entity_id, observer, action, action_type, endpoint,
		                          state, attempts, started_at, finished_at, duration_ms, response_status, error, payload)
		VALUES ($1, $2, $3, $4, $5, $6, $7, 'notify', 'webhook', 'erp.example.org', $8, 2, now(), now(), 34, 503, nullif($9, ''),
		        '{"job_id": 77, "errors": []}')`,
		e.Day(), id, e.ID, e.PK, e.EntityType, e.EntityID, observer, state, message)
	return id
}
