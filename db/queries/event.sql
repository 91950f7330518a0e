-- name: CopyEvents :copyfrom
INSERT INTO weir.event
    (day, id, pk, lsn, tx_index, event_type, entity_type, entity_id, tenant_id, commit_time, created_at, payload, unredacted)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13);

-- name: GetEvent :one
-- GetEvent reads one partition, by its primary key. full_payload is what deliveries get; payload, what the history shows.
SELECT day, id, pk, (lsn - '0/0')::bigint AS lsn, tx_index, ingested_at, payload, coalesce(unredacted, payload)::json AS full_payload
FROM weir.event
WHERE day = @day AND id = @id AND pk = @pk;

-- name: LoadEvents :many
-- LoadEvents returns those of the named events that exist, in no order, with what deliveries get. The arrays are parallel. Each
-- event is looked up in its partition by the primary key: LATERAL with OFFSET leaves the planner no other way.
SELECT e.day, e.id, e.pk, e.tx_index, e.full_payload::json AS full_payload
FROM (SELECT unnest(@days::date[]) AS day, unnest(@ids::uuid[]) AS id, unnest(@pks::bigint[]) AS pk) AS named
CROSS JOIN LATERAL (
    SELECT event.day, event.id, event.pk, event.tx_index, coalesce(event.unredacted, event.payload) AS full_payload
    FROM weir.event
    WHERE event.day = named.day AND event.id = named.id AND event.pk = named.pk
    OFFSET 0
) AS e;

-- name: GetEvents :many
-- GetEvents returns those of the named events that exist, in no order. The arrays are parallel. The first two conditions
-- are implied by the third; they let the planner prune partitions and use the primary key.
SELECT day, id, pk, (lsn - '0/0')::bigint AS lsn, tx_index, ingested_at, payload
FROM weir.event
WHERE day = ANY(@days::date[]) AND id = ANY(@ids::uuid[])
  AND (day, id, pk) IN (SELECT unnest(@days::date[]), unnest(@ids::uuid[]), unnest(@pks::bigint[]));

-- name: FindEventsByID :many
-- FindEventsByID looks into every partition, by index. More than one event can have the id: the change log's id is not
-- unique.
SELECT day, id, pk, (lsn - '0/0')::bigint AS lsn, tx_index, ingested_at, payload
FROM weir.event
WHERE id = @id
ORDER BY event.lsn, tx_index;

-- name: LastEvents :many
-- LastEvents returns the events that were recorded last, the last first.
SELECT day, id, pk, (lsn - '0/0')::bigint AS lsn, tx_index, ingested_at, payload
FROM weir.event
ORDER BY seq DESC
LIMIT @max_rows::integer;

-- name: EnsurePartitions :one
-- EnsurePartitions makes the daily partitions from first to last, both included, and returns how many were missing.
SELECT weir.ensure_partitions(@first::date, @last::date)::integer;
