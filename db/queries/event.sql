-- name: CopyEvents :copyfrom
INSERT INTO weir.event
    (day, id, pk, lsn, tx_index, event_type, entity_type, entity_id, tenant_id, commit_time, created_at, payload)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12);

-- name: GetEvent :one
-- GetEvent reads one partition, by its primary key.
SELECT day, id, pk, (lsn - '0/0')::bigint AS lsn, tx_index, ingested_at, payload
FROM weir.event
WHERE day = @day AND id = @id AND pk = @pk;

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
-- LastEvents returns the newest events in commit order, the newest first. Positions after the checkpoint are those of
-- another cluster, before an adoption: they come last. Both halves read the index from its end.
SELECT day, id, pk, (lsn - '0/0')::bigint AS lsn, tx_index, ingested_at, payload
FROM (
    (SELECT e.*, 1 AS half FROM weir.event e
     WHERE e.lsn <= coalesce((SELECT c.lsn FROM weir.checkpoint c), 'FFFFFFFF/FFFFFFFF'::pg_lsn)
     ORDER BY e.lsn DESC, e.tx_index DESC LIMIT @max_rows::integer)
    UNION ALL
    (SELECT e.*, 2 AS half FROM weir.event e
     WHERE e.lsn > (SELECT c.lsn FROM weir.checkpoint c)
     ORDER BY e.lsn DESC, e.tx_index DESC LIMIT @max_rows::integer)
) AS last
ORDER BY last.half, last.lsn DESC, last.tx_index DESC
LIMIT @max_rows::integer;

-- name: EnsurePartitions :one
-- EnsurePartitions makes the daily partitions from first to last, both included, and returns how many were missing.
SELECT weir.ensure_partitions(@first::date, @last::date)::integer;
