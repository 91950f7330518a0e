-- name: ListPaused :many
-- ListPaused is everything that is paused. The name of an endpoint is that of its queue.
SELECT scope::text AS scope, name::text AS name, since::timestamptz AS since, paused_by::text AS paused_by, reason::text AS reason
FROM weir.paused
ORDER BY array_position(ARRAY['stream', 'deliveries', 'endpoint', 'observer'], scope), name;

-- name: StreamPaused :one
-- StreamPaused says whether nobody is to read the stream.
SELECT EXISTS (SELECT FROM weir.pause WHERE scope = 'stream')::boolean;

-- name: AddPause :execrows
-- AddPause pauses all deliveries, an observer or the stream. 0 rows: it was paused already, and stays as it is.
INSERT INTO weir.pause (scope, name, paused_by, reason) VALUES (@scope, @name, @paused_by, @reason)
ON CONFLICT DO NOTHING;

-- name: RemovePause :execrows
-- RemovePause lifts one. 0 rows: there was none.
DELETE FROM weir.pause WHERE scope = @scope AND name = @name;

-- name: AddQueue :exec
-- AddQueue makes the row of a queue that no worker has served yet.
INSERT INTO weir.river_queue (name, created_at, updated_at) VALUES (@name, now(), now())
ON CONFLICT (name) DO NOTHING;

-- name: SignQueuePause :exec
-- SignQueuePause says who has paused a queue, and why. It holds for the pause of now.
UPDATE weir.river_queue
SET metadata = metadata || jsonb_build_object('weir_pause', jsonb_build_object(
        'at', extract(epoch FROM paused_at)::text, 'by', @paused_by::text, 'reason', @reason::text))
WHERE name = @name AND paused_at IS NOT NULL;

-- name: KeepPausedQueues :exec
-- KeepPausedQueues keeps River from removing the rows of paused queues, and their pauses with them: it does when no worker has
-- served a queue for a day, and none serves one that is paused.
UPDATE weir.river_queue SET updated_at = now() WHERE paused_at IS NOT NULL AND updated_at < now() - interval '1 h';

-- name: KnownQueues :many
SELECT name FROM weir.river_queue ORDER BY name;

-- name: KnownEndpoints :many
SELECT name FROM weir.endpoint ORDER BY name;

-- name: ObserverHasJobs :one
SELECT EXISTS (SELECT FROM weir.river_job WHERE args ->> 'observer' = @observer::text)::boolean;

-- name: ObserversWithJobs :many
-- ObserversWithJobs reads all of River's table: for a person's mistake.
SELECT DISTINCT (args ->> 'observer')::text AS observer FROM weir.river_job WHERE args ->> 'observer' <> '' ORDER BY 1;

-- name: SetAside :one
-- SetAside puts a running delivery back whose observer is paused, to wait until it is not, and gives the attempt back. It gets
-- a new id, so that whatever River still concludes about this attempt finds no such job. What keeps an order waits in its
-- sequence. The lock makes who lifts the pause wait, so that afterwards nothing more is set aside. moved is false for a job
-- that is somebody else's by now.
WITH pause AS MATERIALIZED (
    SELECT name FROM weir.pause WHERE scope = 'observer' AND name = @observer::text FOR KEY SHARE
), aside AS (
    UPDATE weir.river_job
    SET id = nextval('weir.river_job_id_seq'), attempt = greatest(attempt - 1, 0),
        state = (CASE WHEN metadata ? 'cancel_attempted_at' THEN 'cancelled' ELSE 'pending' END)::weir.river_job_state,
        finalized_at = CASE WHEN metadata ? 'cancel_attempted_at' THEN now() END,
        metadata = CASE WHEN metadata ? 'weir_ordered' THEN metadata ELSE metadata || '{"weir_paused": true}' END
    WHERE id = @id AND state = 'running' AND EXISTS (SELECT FROM pause)
    RETURNING id
)
SELECT EXISTS (SELECT FROM pause)::boolean AS paused, EXISTS (SELECT FROM aside)::boolean AS moved;

-- name: ReleasePaused :many
-- ReleasePaused makes deliveries available that were set aside and whose observers are not paused any more, and returns their
-- queues. It leaps from observer to observer in the index, over those that are.
WITH RECURSIVE found AS (
    (SELECT j.args ->> 'observer' AS observer FROM weir.river_job j
     WHERE j.state = 'pending' AND j.metadata ? 'weir_paused' ORDER BY j.args ->> 'observer' LIMIT 1)
    UNION ALL
    SELECT n.observer
    FROM found f
    CROSS JOIN LATERAL (
        SELECT j.args ->> 'observer' AS observer FROM weir.river_job j
        WHERE j.state = 'pending' AND j.metadata ? 'weir_paused' AND j.args ->> 'observer' > f.observer
        ORDER BY j.args ->> 'observer' LIMIT 1
    ) n
)
UPDATE weir.river_job
SET state = 'available', metadata = metadata - 'weir_paused'
WHERE id IN (
    SELECT j.id
    FROM found
    CROSS JOIN LATERAL (
        SELECT w.id FROM weir.river_job w
        WHERE w.state = 'pending' AND w.metadata ? 'weir_paused' AND w.args ->> 'observer' = found.observer
        LIMIT @max_rows::integer
    ) waiting
    JOIN weir.river_job j ON j.id = waiting.id AND j.state = 'pending'
    WHERE NOT EXISTS (SELECT FROM weir.pause p WHERE p.scope = 'observer' AND p.name = found.observer)
    LIMIT @max_rows::integer
    FOR UPDATE OF j SKIP LOCKED)
RETURNING queue;
