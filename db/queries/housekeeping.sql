-- name: MakePartitions :exec
-- MakePartitions makes the daily partitions from yesterday to some days from now, by the database's clock.
SELECT weir.ensure_partitions((now() AT TIME ZONE 'UTC')::date - 1, (now() AT TIME ZONE 'UTC')::date + @days::integer);

-- name: MissingDays :many
-- MissingDays are the days, from the beginning of the retention to the day before yesterday, of which the default partitions
-- hold rows: nobody made a partition in time, or a change came with a timestamp of long ago.
SELECT day::date AS day
FROM (SELECT d.day FROM weir.event_default d UNION SELECT d.day FROM weir.outcome_default d
      UNION SELECT d.day FROM weir.document_default d) loose
WHERE day >= ((now() - @retention::interval) AT TIME ZONE 'UTC')::date AND day < (now() AT TIME ZONE 'UTC')::date - 1
ORDER BY day
LIMIT @max_rows::integer;

-- name: DropPartition :one
-- DropPartition drops the oldest daily partition that is older than the retention and returns its name, "" when there is
-- none.
SELECT coalesce(weir.drop_partition(((now() - @retention::interval) AT TIME ZONE 'UTC')::date), '')::text AS dropped;

-- name: TakeCompleted :many
-- TakeCompleted removes jobs that were completed long enough ago, the oldest first. What another mover has locked is passed
-- over.
DELETE FROM weir.river_job
WHERE id IN (
    SELECT id FROM weir.river_job
    WHERE state = 'completed' AND finalized_at <= now() - @age::interval AND kind LIKE 'weir\_%' AND kind <> 'weir_housekeeping'
    ORDER BY finalized_at
    LIMIT @max_rows::integer
    FOR UPDATE SKIP LOCKED)
RETURNING id, kind, queue, state::text AS state, attempt, attempted_at, finalized_at, args, metadata, errors;

-- name: TakeCancelled :many
-- TakeCancelled is TakeCompleted for jobs that were cancelled and are no dead letters.
DELETE FROM weir.river_job
WHERE id IN (
    SELECT id FROM weir.river_job
    WHERE state = 'cancelled' AND NOT metadata ? 'weir_dead_letter' AND finalized_at <= now() - @age::interval
      AND kind LIKE 'weir\_%' AND kind <> 'weir_housekeeping'
    ORDER BY finalized_at
    LIMIT @max_rows::integer
    FOR UPDATE SKIP LOCKED)
RETURNING id, kind, queue, state::text AS state, attempt, attempted_at, finalized_at, args, metadata, errors;

-- name: RecordOutcome :batchexec
-- RecordOutcome: a delivery that was retried by hand after it had been moved has one outcome, the last.
INSERT INTO weir.outcome (
    day, delivery_id, event_id, event_pk, observer, action, action_type, endpoint, entity_type, entity_id, state, attempts,
    started_at, finished_at, duration_ms, response_status, error, payload, cached, duplicate_of)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20)
ON CONFLICT (delivery_id, day) DO UPDATE SET
    state = excluded.state, attempts = excluded.attempts, started_at = excluded.started_at, finished_at = excluded.finished_at,
    duration_ms = excluded.duration_ms, response_status = excluded.response_status, error = excluded.error,
    payload = excluded.payload, cached = excluded.cached, duplicate_of = excluded.duplicate_of, recorded_at = now(), seq = excluded.seq;

-- name: OutcomesOfEvent :many
-- OutcomesOfEvent are the deliveries of an event that have left River's table.
SELECT delivery_id, day, event_id, event_pk, observer, action, action_type, endpoint, entity_type, entity_id, state, attempts,
       started_at, finished_at, error, payload
FROM weir.outcome
WHERE event_id = @event_id
ORDER BY finished_at, delivery_id;

-- name: PruneEvents :execrows
-- PruneEvents removes events from the default partition that happened before the retention and that no job names. One that
-- was as old as that when it came stays for a while.
DELETE FROM weir.event_default e
WHERE (e.id, e.pk, e.day) IN (
    SELECT d.id, d.pk, d.day FROM weir.event_default d
    WHERE d.day < ((now() - @retention::interval) AT TIME ZONE 'UTC')::date
      AND d.ingested_at < now() - @stay::interval
      AND NOT EXISTS (
          SELECT FROM weir.river_job j
          WHERE j.args ->> 'event_id' = d.id::text AND (j.args ->> 'pk')::bigint = d.pk)
    LIMIT @max_rows::integer);

-- name: PruneOutcomes :execrows
-- PruneOutcomes removes outcomes from the default partition whose event happened, and which were recorded, before the
-- retention. A dead letter that was retried late is kept from then on.
DELETE FROM weir.outcome_default o
WHERE (o.delivery_id, o.day) IN (
    SELECT d.delivery_id, d.day FROM weir.outcome_default d
    WHERE d.day < ((now() - @retention::interval) AT TIME ZONE 'UTC')::date
      AND coalesce(d.finished_at, d.recorded_at) < date_trunc('day', now() - @retention::interval, 'UTC')
    LIMIT @max_rows::integer);

-- name: DeleteHousekeeping :exec
-- DeleteHousekeeping removes the job of housekeeping itself, and earlier ones that were left.
DELETE FROM weir.river_job
WHERE kind = 'weir_housekeeping' AND (id = @id OR state IN ('cancelled', 'completed', 'discarded'));

-- name: PruneDocuments :execrows
-- PruneDocuments removes documents of events that happened before the retention from the default partition.
DELETE FROM weir.document_default o
WHERE (o.seq, o.delivery_id) IN (
    SELECT d.seq, d.delivery_id FROM weir.document_default d
    WHERE d.day < ((now() - @retention::interval) AT TIME ZONE 'UTC')::date
    LIMIT @max_rows::integer);

-- name: PruneDiscardedChanges :execrows
-- PruneDiscardedChanges removes what no recovery asks for any more: a row was written before it was discarded.
DELETE FROM weir.discarded_change
WHERE (event_id, pk) IN (
    SELECT d.event_id, d.pk FROM weir.discarded_change d
    WHERE d.discarded_at < now() - @retention::interval
    LIMIT @max_rows::integer);

-- name: RedactEvents :execrows
-- RedactEvents removes what history.redact leaves out of events that no job names any more. Those that are younger than finished
-- jobs are old have theirs, and are not looked at.
UPDATE weir.event e SET unredacted = NULL
WHERE (e.id, e.pk, e.day) IN (
    SELECT d.id, d.pk, d.day FROM weir.event d
    WHERE d.unredacted IS NOT NULL AND d.ingested_at < now() - @stay::interval
      AND NOT EXISTS (
          SELECT FROM weir.river_job j
          WHERE j.args ->> 'event_id' = d.id::text AND (j.args ->> 'pk')::bigint = d.pk)
    LIMIT @max_rows::integer);

-- name: LockOutcomes :exec
-- LockOutcomes makes those who record outcomes come one after the other, so that their numbers become visible in order.
SELECT pg_advisory_xact_lock(hashtextextended('weir.outcome', 0));
