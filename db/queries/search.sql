-- name: JobsOfEvents :many
-- JobsOfEvents is JobsOfEvent for several: the index is asked once for each.
SELECT j.id, j.kind, j.queue, j.state::text AS state, j.attempt, j.max_attempts, j.created_at, j.attempted_at, j.scheduled_at,
       j.finalized_at, j.args, j.metadata, j.errors
FROM unnest(@ids::text[]) AS wanted(event_id)
JOIN weir.river_job j ON j.args ->> 'event_id' = wanted.event_id
ORDER BY j.id;

-- name: LastEventSeq :one
-- LastEventSeq is the number of the event that was recorded last, 0 before the first one.
SELECT coalesce(max(seq), 0)::bigint AS seq FROM weir.event;

-- name: ListHistory :many
-- ListHistory says of each store how far it is, and since when (seconds) the oldest event waits that it does not have.
SELECT h.store, h.version, h.event_seq, h.updated_at,
       coalesce((SELECT extract(epoch FROM now() - e.ingested_at) FROM weir.event e WHERE e.seq > h.event_seq
                 ORDER BY e.seq LIMIT 1), 0)::float8 AS lag_seconds
FROM weir.history h
ORDER BY h.store DESC;
