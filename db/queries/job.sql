-- name: JobsOfEvent :many
-- JobsOfEvent finds the jobs of an event by the index weir_job_event.
SELECT id, kind, queue, state::text AS state, attempt, max_attempts, created_at, attempted_at, scheduled_at, finalized_at,
       args, metadata, errors
FROM weir.river_job
WHERE args ->> 'event_id' = @event_id::text
ORDER BY id;

-- name: QueueStats :many
-- QueueStats counts the unfinished jobs but for housekeeping's by queue and state, with the time from which the oldest may be
-- worked. It reads the index on which River fetches, for as long as there is a backlog: for a person's question, not for
-- every scrape.
SELECT queue, state::text AS state, count(*) AS jobs, min(scheduled_at)::timestamptz AS oldest
FROM weir.river_job
WHERE state IN ('available', 'pending', 'retryable', 'running', 'scheduled') AND kind <> 'weir_housekeeping'
GROUP BY queue, river_job.state
ORDER BY queue, river_job.state;

-- name: ListDeadLetters :many
-- ListDeadLetters returns a page of dead letters, the newest id first; a filter that is NULL lets everything through.
-- before_id is the last id of the page before, NULL for the first one.
SELECT *
FROM weir.dead_letter
WHERE (sqlc.narg('before_id')::bigint IS NULL OR id < sqlc.narg('before_id'))
  AND (sqlc.narg('observer')::text IS NULL OR observer = sqlc.narg('observer'))
  AND (sqlc.narg('action')::text IS NULL OR action = sqlc.narg('action'))
  AND (sqlc.narg('since')::timestamptz IS NULL OR finalized_at >= sqlc.narg('since'))
  AND (sqlc.narg('error')::text IS NULL OR strpos(lower(last_error), lower(sqlc.narg('error'))) > 0)
ORDER BY id DESC
LIMIT @max_rows::integer;

-- name: GetDeadLetter :one
SELECT *
FROM weir.dead_letter
WHERE id = @id;

-- name: CountDeadLetters :many
SELECT observer, count(*) AS jobs
FROM weir.dead_letter
GROUP BY observer
ORDER BY observer;

-- name: DeadLetterStats :many
-- DeadLetterStats groups dead letters by observer, action and reason: the text of their mark, 'exhausted' for those that
-- ran out of attempts.
SELECT observer, action, coalesce(metadata ->> 'weir_dead_letter', 'exhausted')::text AS reason, count(*) AS jobs,
       min(finalized_at)::timestamptz AS oldest, max(finalized_at)::timestamptz AS newest
FROM weir.dead_letter
GROUP BY observer, action, reason
ORDER BY jobs DESC, observer, action, reason;

-- name: RetryDeadLetters :many
-- RetryDeadLetters makes dead letters available again with a fresh budget: attempt 0, and no metadata of ours (keys
-- weir_*), of snoozes or of a cancellation. The errors stay: they are the history. So does the order that a delivery keeps;
-- that later ones have been delivered meanwhile does not hold it back, or what a change becomes, since a person wants it. An id that is no dead letter, or
-- no longer one, is passed over.
UPDATE weir.river_job
SET state = 'available', attempt = 0, finalized_at = NULL, scheduled_at = now(),
    metadata = metadata - ARRAY['snoozes', 'cancel_attempted_at']
        - ARRAY(SELECT key FROM jsonb_object_keys(metadata) AS key WHERE key LIKE 'weir\_%')
        || CASE WHEN metadata ? 'weir_ordered' THEN '{"weir_ordered": true, "weir_by_hand": true}'::jsonb
                WHEN kind = 'weir_change' THEN '{"weir_by_hand": true}'::jsonb ELSE '{}'::jsonb END
WHERE id = ANY(@ids::bigint[]) AND (state = 'discarded' OR (state = 'cancelled' AND metadata ? 'weir_dead_letter'))
RETURNING id, queue;

-- name: DeleteDeadLetters :many
-- DeleteDeadLetters removes dead letters for good and returns those that were there.
DELETE FROM weir.river_job
WHERE id = ANY(@ids::bigint[]) AND (state = 'discarded' OR (state = 'cancelled' AND metadata ? 'weir_dead_letter'))
RETURNING id, kind, queue, state::text AS state, attempt, attempted_at, finalized_at, args, metadata, errors;

-- name: WaitingQueues :many
-- WaitingQueues names the queues that hold jobs to be worked, also those that wait for their turn. It leaps from name to name in the index on which River
-- fetches, so that it costs the same with a backlog of millions.
WITH RECURSIVE found AS (
    SELECT s.state, (SELECT j.queue FROM weir.river_job j WHERE j.state = s.state ORDER BY j.queue LIMIT 1) AS queue
    FROM unnest(ARRAY['available', 'pending', 'retryable', 'scheduled']::weir.river_job_state[]) AS s(state)
    UNION ALL
    SELECT f.state, (SELECT j.queue FROM weir.river_job j WHERE j.state = f.state AND j.queue > f.queue ORDER BY j.queue LIMIT 1)
    FROM found f WHERE f.queue IS NOT NULL
)
SELECT DISTINCT queue::text AS queue FROM found WHERE queue IS NOT NULL ORDER BY 1;

-- name: DeliveriesOf :one
-- DeliveriesOf counts the deliveries of an observer's actions for an event: by the index weir_job_event, and, of those that may be
-- asked for by their ids, what has left its table. What a replay has made does not count.
SELECT (
    SELECT count(*)
    FROM weir.river_job
    WHERE args ->> 'event_id' = @event_text::text AND args @> jsonb_build_object('pk', @pk::bigint, 'observer', @observer::text)
      AND kind <> 'weir_change' AND NOT args ? 'replay'
) + (
    SELECT count(*)
    FROM weir.outcome o
    WHERE o.delivery_id = ANY(@ids::uuid[])
) AS deliveries;

-- name: RunningJobs :many
-- RunningJobs are those that a client runs, as far as the database knows, and those whose client has no lease (orphans).
SELECT id, attempt, client_id, orphan
FROM (
    SELECT id, attempt, coalesce(attempted_by[array_upper(attempted_by, 1)], '')::text AS client_id,
           NOT EXISTS (SELECT FROM weir.worker w WHERE w.client_id = attempted_by[array_upper(attempted_by, 1)]) AS orphan
    FROM weir.river_job
    WHERE state = 'running'
) running
WHERE orphan OR client_id = @client_id::text;

-- name: RescueJobs :many
-- RescueJobs makes running jobs available whose client has no lease, and those named, which the caller itself has lost; the
-- latter do not count as a death, and neither does that of a worker under which a delivery only waited (weir_waits). The attempt is given back. After max_deaths deaths the job is a dead letter: it
-- may be what kills the workers; housekeeping never is. Each keeps its place in the queue, ahead of a backlog, and gets a
-- new id, so that whatever the earlier attempt still concludes finds no such job: River does not ask who runs it. What an
-- open transaction has locked is passed over.
WITH rescued AS (
    SELECT id AS old_id, attempted_by[array_upper(attempted_by, 1)] AS client_id, NOT id = ANY(@mine::bigint[]) AS died,
           coalesce((metadata ->> 'weir_deaths')::integer, 0)
               + (NOT (id = ANY(@mine::bigint[]) OR metadata ? 'weir_waits'))::integer AS deaths
    FROM weir.river_job j
    WHERE state = 'running'
      AND (id = ANY(@mine::bigint[])
           OR NOT EXISTS (SELECT FROM weir.worker w WHERE w.client_id = attempted_by[array_upper(attempted_by, 1)]))
    ORDER BY id
    LIMIT @max_rows::integer
    FOR UPDATE OF j SKIP LOCKED
), judged AS (
    SELECT r.*, deaths >= @max_deaths::integer AS dead FROM rescued r
)
UPDATE weir.river_job
SET id = nextval('weir.river_job_id_seq'),
    state = (CASE WHEN dead AND kind <> 'weir_housekeeping' THEN 'cancelled' ELSE 'available' END)::weir.river_job_state,
    finalized_at = CASE WHEN dead AND kind <> 'weir_housekeeping' THEN now() END,
    attempt = greatest(attempt - 1, 0),
    metadata = metadata || jsonb_build_object('weir_deaths', deaths)
        || CASE WHEN dead AND kind <> 'weir_housekeeping' THEN '{"weir_dead_letter": "interrupted"}'::jsonb ELSE '{}'::jsonb END,
    errors = array_append(errors, jsonb_build_object('at', now(), 'attempt', attempt, 'trace', '', 'error',
        CASE WHEN died THEN format('interrupted: worker %s died, hung or was cut off (%s of %s times)', judged.client_id, deaths, @max_deaths::integer)
             ELSE format('interrupted: worker %s lost it on the way', judged.client_id) END))
FROM judged
WHERE id = old_id
RETURNING id, kind, queue, river_job.state = 'cancelled' AS dead, args, coalesce(client_id, '')::text AS client_id;

-- name: NotifyQueues :exec
-- NotifyQueues tells River's clients, as an insert would, that there is something to fetch in these queues.
SELECT pg_notify('weir.river_insert', json_build_object('queue', queue)::text)
FROM unnest(@queues::text[]) AS queue;

-- name: LockRunningJob :one
-- LockRunningJob returns pgx.ErrNoRows when the job has been given to somebody else: under another id.
SELECT id
FROM weir.river_job
WHERE id = @id AND state = 'running'
FOR UPDATE;

-- name: ReleaseUnknown :many
-- ReleaseUnknown makes jobs available that wait for an observer and action that are known now, and returns their queues. The
-- arrays are parallel.
UPDATE weir.river_job
SET state = 'available', scheduled_at = now(), metadata = metadata - 'weir_unknown'
WHERE id IN (
    SELECT j.id FROM weir.river_job j
    WHERE j.metadata ? 'weir_unknown' AND j.metadata ->> 'weir_unknown' <> '' AND j.state IN ('available', 'scheduled')
      AND (j.args ->> 'observer', j.args ->> 'action') IN (SELECT unnest(@observers::text[]), unnest(@actions::text[]))
    LIMIT @max_rows::integer
    FOR UPDATE SKIP LOCKED)
RETURNING queue;

-- name: MoveWaiting :many
-- MoveWaiting gives the waiting jobs of a queue to the queues of their actions, of those that it looks at, and returns which.
-- The arrays are parallel. A job never comes back to a queue in which it has been: workers of different configurations would
-- toss it to each other for ever.
UPDATE weir.river_job
SET queue = moved.target,
    metadata = metadata || jsonb_build_object('weir_moved_from',
        coalesce(metadata -> 'weir_moved_from', '[]'::jsonb) || to_jsonb(@queue::text))
FROM (
    SELECT j.id AS job_id, known.target
    FROM weir.river_job j
    JOIN (
        SELECT unnest(@observers::text[]) AS observer, unnest(@actions::text[]) AS action, unnest(@queues::text[]) AS target
    ) known ON known.observer = j.args ->> 'observer' AND known.action = j.args ->> 'action'
    WHERE j.queue = @queue::text AND j.state IN ('available', 'pending', 'retryable', 'scheduled') AND known.target <> @queue::text
      AND NOT coalesce(j.metadata -> 'weir_moved_from', '[]'::jsonb) ? known.target
    LIMIT @max_rows::integer
    FOR UPDATE OF j SKIP LOCKED
) moved
WHERE id = moved.job_id
RETURNING moved.target::text AS queue;

-- name: MarkWaiting :execrows
-- MarkWaiting says of a running delivery that it only waits, or that it does no more.
UPDATE weir.river_job
SET metadata = CASE WHEN @waits::boolean THEN metadata || '{"weir_waits": true}' ELSE metadata - 'weir_waits' END
WHERE id = @id AND state = 'running';

-- name: LeaderAndWorkers :one
-- LeaderAndWorkers says whether a client is River's leader, and how many workers hold a lease.
SELECT EXISTS (SELECT FROM weir.river_leader WHERE leader_id = @client_id AND expires_at >= now()) AS leads,
       (SELECT count(*) FROM weir.worker) AS workers;

-- name: QueueDepths :many
-- QueueDepths counts the unfinished jobs but for housekeeping's by queue and state, up to a number that bounds what it costs, and
-- says for how long the oldest available one of a queue could have been started. It leaps from name to name in the index on
-- which River fetches.
WITH RECURSIVE found AS (
    SELECT s.state, (SELECT j.queue FROM weir.river_job j WHERE j.state = s.state ORDER BY j.queue LIMIT 1) AS queue
    FROM unnest(ARRAY['available', 'pending', 'retryable', 'running', 'scheduled']::weir.river_job_state[]) AS s(state)
    UNION ALL
    SELECT f.state, (SELECT j.queue FROM weir.river_job j WHERE j.state = f.state AND j.queue > f.queue ORDER BY j.queue LIMIT 1)
    FROM found f WHERE f.queue IS NOT NULL
)
SELECT f.queue::text AS queue, f.state::text AS state,
       (SELECT count(*) FROM (
            SELECT FROM weir.river_job j WHERE j.state = f.state AND j.queue = f.queue LIMIT @most::integer) counted) AS jobs,
       (SELECT coalesce(extract(epoch FROM now() - min(first.scheduled_at)), 0)
        FROM generate_series(1, 4) AS p(priority)
        CROSS JOIN LATERAL (
            SELECT j.scheduled_at FROM weir.river_job j
            WHERE f.state = 'available' AND j.state = 'available' AND j.queue = f.queue AND j.priority = p.priority
            ORDER BY j.scheduled_at LIMIT 1) first)::double precision AS oldest_seconds
FROM found f
WHERE f.queue IS NOT NULL AND f.queue <> 'weir_housekeeping'
ORDER BY 1, 2;
