-- name: LockEvents :exec
-- LockEvents is for who records events outside of the stream, whose transactions hold this row already: numbers of events become
-- visible in order.
SELECT FROM weir.checkpoint FOR NO KEY UPDATE;

-- name: TryHistory :one
-- TryHistory takes the lock of those who follow a store, until UnlockHistory or the end of the session.
SELECT pg_try_advisory_lock(hashtextextended('weir.history.' || @store::text, 0))::boolean;

-- name: LockHistory :exec
-- LockHistory is TryHistory that waits.
SELECT pg_advisory_lock(hashtextextended('weir.history.' || @store::text, 0));

-- name: UnlockHistory :exec
SELECT pg_advisory_unlock(hashtextextended('weir.history.' || @store::text, 0));

-- name: GetHistory :one
-- GetHistory says how far a store is, since when (seconds) the oldest event waits that it does not have, 0 when it has all, whether
-- there is an event or an outcome that it does not have yet, and whether what matters more is behind: the stream stores what was
-- committed a while ago, or a delivery has waited for a while to be fetched.
SELECT h.*, coalesce((SELECT extract(epoch FROM now() - e.ingested_at) FROM weir.event e WHERE e.seq > h.event_seq
                      ORDER BY e.seq LIMIT 1), 0)::float8 AS lag_seconds,
       (EXISTS (SELECT FROM weir.event e WHERE e.seq > h.event_seq)
        OR EXISTS (SELECT FROM weir.outcome o WHERE o.seq > h.outcome_seq)
        OR EXISTS (SELECT FROM weir.river_job j WHERE j.state = 'completed' AND j.finalized_at > h.finished_at)
        OR EXISTS (SELECT FROM weir.river_job j WHERE j.state = 'cancelled' AND j.finalized_at > h.finished_at)
        OR EXISTS (SELECT FROM weir.river_job j WHERE j.state = 'discarded' AND j.finalized_at > h.finished_at))::boolean AS pending,
       (EXISTS (SELECT FROM weir.checkpoint c WHERE c.updated_at > now() - interval '2 s'
                                                AND c.updated_at - c.commit_time > interval '1 s')
        OR EXISTS (SELECT FROM weir.river_job j WHERE j.state = 'available' AND j.scheduled_at < now() - interval '1 s'))::boolean
           AS others_behind
FROM weir.history h
WHERE h.store = @store;

-- name: BeginRound :one
-- BeginRound gives a round of reading and storing its version. The caller holds the lock of the store.
UPDATE weir.history SET version = version + 1, updated_at = now() WHERE store = @store
RETURNING *;

-- name: EndRound :execrows
-- EndRound says what the store has. 0 rows: another round has begun since.
UPDATE weir.history SET event_seq = @event_seq, outcome_seq = @outcome_seq, finished_at = @finished_at, updated_at = now()
WHERE store = @store AND version = @version;

-- name: EventSizes :many
-- EventSizes are the events after one with their sizes, so that a round can be bounded.
SELECT seq, octet_length(payload::text)::integer AS bytes FROM weir.event
WHERE seq > @after
ORDER BY seq
LIMIT @max_rows::integer;

-- name: EventsBetween :many
SELECT day, id, pk, seq, created_at, ingested_at, event_type, entity_type, entity_id, payload FROM weir.event
WHERE seq > @after AND seq <= @until
ORDER BY seq;

-- name: EventsOfDay :many
-- EventsOfDay are those of a day in their order, page by page.
SELECT day, id, pk, seq, created_at, ingested_at, event_type, entity_type, entity_id, payload FROM weir.event
WHERE day = @day AND seq > @after
ORDER BY seq
LIMIT @max_rows::integer;

-- name: EventsByKey :many
-- EventsByKey returns those of the named events that exist, in no order. The arrays are parallel. Each event is looked up in its
-- partition by the primary key: LATERAL with OFFSET leaves the planner no other way. With
-- a condition on lists it read the partition, and compared each row with the lists.
SELECT e.day, e.id, e.pk, e.seq, e.created_at, e.ingested_at, e.event_type, e.entity_type, e.entity_id, e.payload
FROM (
    SELECT DISTINCT n.day, n.id, n.pk
    FROM (SELECT unnest(@days::date[]) AS day, unnest(@ids::uuid[]) AS id, unnest(@pks::bigint[]) AS pk) AS n
) AS named
CROSS JOIN LATERAL (
    SELECT event.day, event.id, event.pk, event.seq, event.created_at, event.ingested_at,
           event.event_type, event.entity_type, event.entity_id, event.payload
    FROM weir.event
    WHERE event.day = named.day AND event.id = named.id AND event.pk = named.pk
    OFFSET 0
) AS e;

-- name: EventSizesByKey :many
-- EventSizesByKey are the sizes of what EventsByKey returns.
SELECT e.day, e.id, e.pk, e.bytes
FROM (
    SELECT DISTINCT n.day, n.id, n.pk
    FROM (SELECT unnest(@days::date[]) AS day, unnest(@ids::uuid[]) AS id, unnest(@pks::bigint[]) AS pk) AS n
) AS named
CROSS JOIN LATERAL (
    SELECT event.day, event.id, event.pk, octet_length(event.payload::text)::integer AS bytes
    FROM weir.event
    WHERE event.day = named.day AND event.id = named.id AND event.pk = named.pk
    OFFSET 0
) AS e;

-- name: OutcomesAfter :many
SELECT day, delivery_id, event_id, event_pk, observer, action, action_type, endpoint, state, attempts, started_at, finished_at,
       duration_ms, response_status, error, cached, duplicate_of, seq
FROM weir.outcome
WHERE seq > @after
ORDER BY seq
LIMIT @max_rows::integer;

-- name: OutcomesOfEvents :many
SELECT day, delivery_id, event_id, event_pk, observer, action, action_type, endpoint, state, attempts, started_at, finished_at,
       duration_ms, response_status, error, cached, duplicate_of, seq
FROM weir.outcome
WHERE event_id = ANY(@ids::uuid[]);

-- name: EndedJobs :many
-- EndedJobs says when jobs ended, in that order, dead letters among them.
SELECT id, finalized_at FROM (
    (SELECT id, finalized_at FROM weir.river_job
     WHERE river_job.state = 'completed' AND river_job.finalized_at >= @since AND (river_job.finalized_at, river_job.id) > (@since, @after_id::bigint)
     ORDER BY river_job.finalized_at, river_job.id LIMIT @max_rows::integer)
    UNION ALL
    (SELECT id, finalized_at FROM weir.river_job
     WHERE river_job.state = 'cancelled' AND river_job.finalized_at >= @since AND (river_job.finalized_at, river_job.id) > (@since, @after_id::bigint)
     ORDER BY river_job.finalized_at, river_job.id LIMIT @max_rows::integer)
    UNION ALL
    (SELECT id, finalized_at FROM weir.river_job
     WHERE river_job.state = 'discarded' AND river_job.finalized_at >= @since AND (river_job.finalized_at, river_job.id) > (@since, @after_id::bigint)
     ORDER BY river_job.finalized_at, river_job.id LIMIT @max_rows::integer)
) AS ended
ORDER BY ended.finalized_at, ended.id
LIMIT @max_rows::integer;

-- name: FinishedJobs :many
-- FinishedJobs are those of the jobs that have ended, dead letters among them, in no order.
SELECT id, kind, queue, state::text AS state, attempt, attempted_at, finalized_at, args, metadata, errors FROM weir.river_job
WHERE id = ANY(@ids::bigint[]) AND state IN ('completed', 'cancelled', 'discarded');

-- name: PutDocuments :exec
-- PutDocuments stores documents; the arrays are parallel. An older one of the same event or delivery is replaced.
INSERT INTO weir.document AS d
    (day, seq, delivery_id, event_id, event_pk, at, entity_type, entity_id, observer, outcome, version, words)
SELECT unnest(@days::date[]), unnest(@seqs::bigint[]), unnest(@delivery_ids::uuid[]), unnest(@event_ids::uuid[]),
       unnest(@event_pks::bigint[]), unnest(@ats::timestamptz[]), unnest(@entity_types::text[]), unnest(@entity_ids::text[]),
       unnest(@observers::text[]), unnest(@outcomes::text[]), @version::bigint, unnest(@words::text[])::tsvector
ON CONFLICT (seq, delivery_id, day) DO UPDATE SET
    observer = excluded.observer, outcome = excluded.outcome, version = excluded.version, words = excluded.words
WHERE d.version <= excluded.version;

-- name: DeleteDocuments :execrows
DELETE FROM weir.document WHERE entity_type = @entity_type AND entity_id = @entity_id;

-- name: DeleteEvents :execrows
DELETE FROM weir.event WHERE entity_type = @entity_type AND entity_id = @entity_id;

-- name: DeleteOutcomes :execrows
DELETE FROM weir.outcome WHERE entity_type = @entity_type AND entity_id = @entity_id;

-- name: DeleteJobsOfEntity :many
-- DeleteJobsOfEntity removes an entity's jobs, whatever their state, and says which of them were dead letters or unfinished.
DELETE FROM weir.river_job
WHERE args @> jsonb_build_object('entity', @entity_type::text, 'entity_id', @entity_id::text) AND kind LIKE 'weir\_%'
RETURNING (state IN ('discarded') OR (state = 'cancelled' AND metadata ? 'weir_dead_letter'))::boolean AS dead,
          (state IN ('available', 'pending', 'retryable', 'running', 'scheduled'))::boolean AS unfinished;

-- name: CountOfEntity :one
-- CountOfEntity is what DeleteEvents, DeleteOutcomes, DeleteDocuments and DeleteJobsOfEntity would remove.
SELECT (SELECT count(*) FROM weir.event e WHERE e.entity_type = @entity_type::text AND e.entity_id = @entity_id::text)::bigint AS events,
       (SELECT count(*) FROM weir.outcome o WHERE o.entity_type = @entity_type::text AND o.entity_id = @entity_id::text)::bigint AS outcomes,
       (SELECT count(*) FROM weir.document d WHERE d.entity_type = @entity_type::text AND d.entity_id = @entity_id::text)::bigint AS documents,
       (SELECT count(*) FROM weir.river_job j
        WHERE j.args @> jsonb_build_object('entity', @entity_type::text, 'entity_id', @entity_id::text)
          AND j.kind LIKE 'weir\_%')::bigint AS jobs,
       (SELECT count(*) FROM weir.river_job j
        WHERE j.args @> jsonb_build_object('entity', @entity_type::text, 'entity_id', @entity_id::text)
          AND j.kind LIKE 'weir\_%' AND j.state IN ('available', 'pending', 'retryable', 'running', 'scheduled'))::bigint AS unfinished,
       (SELECT count(*) FROM weir.dead_letter l
        WHERE l.args @> jsonb_build_object('entity', @entity_type::text, 'entity_id', @entity_id::text))::bigint AS dead_letters;

-- name: InsertForgotten :one
INSERT INTO weir.forgotten (entity_type, entity_id, forgotten_by, removed)
VALUES (@entity_type, @entity_id, @forgotten_by, @removed)
RETURNING id, forgotten_at;

-- name: HistoryDays :many
-- HistoryDays are the days of which events are recorded, the default partition's among them, with about how many they are.
SELECT day, count(*) AS events FROM weir.event
WHERE day >= @first::date AND day <= @last::date
GROUP BY day
ORDER BY day;

-- name: OldestMissing :one
-- OldestMissing is the day of the oldest event, or outcome, that a store does not have yet; today when it has all.
SELECT coalesce(least((SELECT min(e.day) FROM weir.event e WHERE e.seq > h.event_seq),
                      (SELECT min(o.day) FROM weir.outcome o WHERE o.seq > h.outcome_seq)),
                (now() AT TIME ZONE 'UTC')::date)::date AS day
FROM weir.history h
WHERE h.store = @store;

-- name: CompleteForgotten :exec
UPDATE weir.forgotten SET removed = @removed WHERE id = @id;

-- name: FinishedJobsOf :many
-- FinishedJobsOf are finished deliveries of some events, by the index weir_job_event.
SELECT j.id, j.kind, j.queue, j.state::text AS state, j.attempt, j.attempted_at, j.finalized_at, j.args, j.metadata, j.errors
FROM unnest(@event_ids::text[]) AS wanted(event_id)
JOIN weir.river_job j ON j.args ->> 'event_id' = wanted.event_id
WHERE j.state IN ('completed', 'cancelled', 'discarded');

-- name: CountDeliveries :many
-- CountDeliveries counts the deliveries that ended since a moment by the stretch of time in which they did, observer, and how they
-- ended. What ended before is counted in one stretch, which begins in 1970. It looks at the newest max_rows rows of each
-- source (a state of River's jobs, or weir.outcome) at the most, by index: looked_at says how many there were, oldest when the first
-- of a group ended.
WITH ended AS (
    (SELECT 1 AS source, j.finalized_at AS ended_at, j.args ->> 'observer' AS observer, j.kind AS kind,
            coalesce(nullif(j.metadata -> 'output' ->> 'result', ''), 'delivered') AS result
     FROM weir.river_job j
     WHERE j.state = 'completed' AND j.finalized_at >= @since::timestamptz
     ORDER BY j.finalized_at DESC LIMIT @max_rows::integer)
    UNION ALL
    (SELECT 2, j.finalized_at, j.args ->> 'observer', j.kind,
            CASE WHEN j.metadata ? 'weir_dead_letter' THEN 'dead'
                 WHEN j.metadata -> 'output' ->> 'result' = 'dropped' THEN 'dropped' ELSE 'cancelled' END
     FROM weir.river_job j
     WHERE j.state = 'cancelled' AND j.finalized_at >= @since::timestamptz
     ORDER BY j.finalized_at DESC LIMIT @max_rows::integer)
    UNION ALL
    (SELECT 3, j.finalized_at, j.args ->> 'observer', j.kind, 'dead'
     FROM weir.river_job j
     WHERE j.state = 'discarded' AND j.finalized_at >= @since::timestamptz
     ORDER BY j.finalized_at DESC LIMIT @max_rows::integer)
    UNION ALL
    (SELECT 4, coalesce(o.finished_at, o.recorded_at), o.observer, 'weir_' || o.action_type,
            CASE WHEN o.cached THEN 'cached' WHEN o.duplicate_of IS NOT NULL THEN 'duplicate' ELSE o.state END
     FROM weir.outcome o
     ORDER BY o.seq DESC LIMIT @max_rows::integer)
)
SELECT ended.source::integer AS source,
       (CASE WHEN ended.ended_at < @since::timestamptz THEN to_timestamp(0)
             ELSE date_bin(@bucket::interval, ended.ended_at, @since::timestamptz) END)::timestamptz AS start,
       coalesce(ended.observer, '')::text AS observer, ended.result::text AS result,
       (count(*) FILTER (WHERE ended.kind NOT IN ('weir_change', 'weir_document', 'weir_housekeeping')))::bigint AS deliveries,
       count(*) AS looked_at, min(ended.ended_at)::timestamptz AS oldest
FROM ended
GROUP BY 1, 2, 3, 4
ORDER BY 2, 3, 4;
