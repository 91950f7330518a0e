-- name: CountEventsWithin :one
-- CountEventsWithin counts what EventsWithin finds, and says which was recorded last.
SELECT count(*) AS events, coalesce(max(seq), 0)::bigint AS last
FROM weir.event
WHERE day BETWEEN @first_day::date AND @last_day::date AND created_at >= @since AND created_at < @until
  AND (@entity::text = '' OR entity_type = @entity::text);

-- name: EventsWithin :many
-- EventsWithin are the events of a time in the order in which they were recorded, page by page: at most so many rows and, but for the
-- first of the page, so many bytes.
SELECT day, id, pk, seq, (lsn - '0/0')::bigint AS lsn, tx_index, full_payload, whole
FROM (
    SELECT page.*, sum(octet_length(full_payload::text)) OVER (ORDER BY seq) - octet_length(full_payload::text) AS before
    FROM (
        SELECT e.day, e.id, e.pk, e.seq, e.lsn, e.tx_index, coalesce(e.unredacted, e.payload)::json AS full_payload,
               (e.unredacted IS NOT NULL)::boolean AS whole
        FROM weir.event e
        WHERE e.day BETWEEN @first_day::date AND @last_day::date AND e.created_at >= @since AND e.created_at < @until
          AND (@entity::text = '' OR e.entity_type = @entity::text) AND e.seq > @after AND e.seq <= @last
        ORDER BY e.seq
        LIMIT @max_rows::integer
    ) page
) sized
WHERE before < @max_bytes::bigint
ORDER BY seq;

-- name: EventsNamed :many
-- EventsNamed returns those of the named events that are recorded, in no order. The arrays are parallel. The first two conditions are
-- implied by the third; they let the planner prune partitions and use the primary key.
SELECT day, id, pk, (lsn - '0/0')::bigint AS lsn, tx_index, coalesce(unredacted, payload)::json AS full_payload,
       (unredacted IS NOT NULL)::boolean AS whole
FROM weir.event
WHERE day = ANY(@days::date[]) AND id = ANY(@ids::uuid[])
  AND (day, id, pk) IN (SELECT unnest(@days::date[]), unnest(@ids::uuid[]), unnest(@pks::bigint[]));

-- name: RestoreEvent :execrows
-- RestoreEvent gives an event back what history.redact had it lose, until no job names it any more.
UPDATE weir.event SET unredacted = @payload::json
WHERE day = @day AND id = @id AND pk = @pk AND unredacted IS NULL;

-- name: ReplayedJobs :many
-- ReplayedJobs are the arguments of the jobs that a replay has made of some events, by the index weir_job_event.
SELECT j.args
FROM unnest(@event_ids::text[]) AS wanted(event_id)
JOIN weir.river_job j ON j.args ->> 'event_id' = wanted.event_id AND j.args ->> 'replay' = @replay::text;

-- name: OutcomesNamed :many
-- OutcomesNamed are those of the deliveries that have left River's table.
SELECT delivery_id FROM weir.outcome
WHERE delivery_id = ANY(@ids::uuid[]) AND day = ANY(@days::date[]);

-- name: HoldPartitions :exec
-- HoldPartitions keeps partitions from being made and dropped until the end of the transaction: who drops one has looked before which
-- of its events jobs name.
SELECT pg_advisory_xact_lock_shared(hashtextextended('weir.ensure_partitions', 0));

-- name: HoldReplay :exec
-- HoldReplay has two calls of one replay take turns.
SELECT pg_advisory_xact_lock(hashtextextended('weir.replay.' || @replay::text, 0));

-- name: LockStream :one
-- LockStream says where the stream is, which stays there until the end of the transaction. pgx.ErrNoRows: it was never started.
SELECT (lsn - '0/0')::bigint AS lsn, state, system_identifier FROM weir.checkpoint FOR NO KEY UPDATE;

-- name: ForgottenSince :many
-- ForgottenSince are the entities among those named (the arrays are parallel) that were forgotten, and when last.
SELECT f.entity_type, f.entity_id, max(f.forgotten_at)::timestamptz AS forgotten_at
FROM weir.forgotten f
JOIN (SELECT DISTINCT unnest(@entity_types::text[]) AS entity_type, unnest(@entity_ids::text[]) AS entity_id) k
  ON f.entity_type = k.entity_type AND f.entity_id = k.entity_id
GROUP BY f.entity_type, f.entity_id;
