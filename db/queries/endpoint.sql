-- name: FollowEndpoints :many
-- FollowEndpoints is what every worker asks each second: the circuit breakers of all endpoints (action is empty), and the
-- actions that are gone (endpoint names the observer, reason the target), and what people have paused (state is 'paused', action
-- the scope, endpoint the name: of an endpoint that of its queue). due: probes may be let through. orphan: who probes has
-- no lease. open_until is 1970 for none and for infinity.
SELECT name AS endpoint, ''::text AS action, state, reason, changed_by, manual,
       (CASE WHEN isfinite(open_until) THEN open_until ELSE to_timestamp(0) END)::timestamptz AS open_until,
       changed_at, coalesce(state = 'open' AND open_until <= clock_timestamp(), false)::boolean AS due,
       (state = 'half-open' AND NOT EXISTS (SELECT FROM weir.worker w WHERE w.client_id = e.changed_by))::boolean AS orphan,
       clock_timestamp()::timestamptz AS now
FROM weir.endpoint e
UNION ALL
SELECT observer, action, 'gone', target, '', false, to_timestamp(0), since, false, false, clock_timestamp()
FROM weir.gone
UNION ALL
SELECT name, scope, 'paused', reason, paused_by, true, to_timestamp(0), since, false, false, clock_timestamp()
FROM weir.paused
ORDER BY 1, 2;

-- name: AddEndpoints :exec
-- AddEndpoints makes rows for endpoints that have none yet.
INSERT INTO weir.endpoint (name) SELECT unnest(@names::text[])
ON CONFLICT (name) DO NOTHING;

-- name: ForgetEndpoints :many
-- ForgetEndpoints removes the rows of endpoints that are not configured any more and that no worker has touched for an hour: one
-- that does know such an endpoint makes a new row. What a person keeps open stays.
DELETE FROM weir.endpoint
WHERE NOT name = ANY(@configured::text[]) AND updated_at < now() - interval '1 h' AND NOT (state = 'open' AND manual)
RETURNING name;

-- name: TripBreaker :execrows
-- TripBreaker opens a closed breaker. One that is not closed any more is left as it is.
UPDATE weir.endpoint
SET state = 'open', open_until = clock_timestamp() + make_interval(secs => @open_for::float8), reason = @reason,
    changed_by = @me, manual = false, changed_at = clock_timestamp(), updated_at = clock_timestamp()
WHERE name = @name AND state = 'closed';

-- name: ProbeEndpoint :execrows
-- ProbeEndpoint makes the caller the one who probes: of an open breaker whose time has come, or of a half-open one whose prober
-- (was) has no lease any more.
UPDATE weir.endpoint e
SET state = 'half-open', open_until = NULL, changed_by = @me, manual = false, changed_at = clock_timestamp(),
    updated_at = clock_timestamp()
WHERE name = @name AND changed_by = @was
  AND (state = 'open' AND open_until <= clock_timestamp()
       OR state = 'half-open' AND NOT EXISTS (SELECT FROM weir.worker w WHERE w.client_id = e.changed_by));

-- name: ConcludeProbes :execrows
-- ConcludeProbes closes a half-open breaker, or opens it for a while, if the caller is still the one who probes.
UPDATE weir.endpoint
SET state = @state, reason = @reason, manual = false, changed_at = clock_timestamp(), updated_at = clock_timestamp(),
    open_until = clock_timestamp() + make_interval(secs => sqlc.narg('open_for')::float8)
WHERE name = @name AND state = 'half-open' AND changed_by = @me;

-- name: SwitchOff :execrows
-- SwitchOff closes a breaker that the configuration does not have any more, unless a person keeps it open.
UPDATE weir.endpoint
SET state = 'closed', open_until = NULL, reason = @reason, changed_by = @me, manual = false, changed_at = clock_timestamp(),
    updated_at = clock_timestamp()
WHERE name = @name AND (state = 'half-open' OR state = 'open' AND (NOT manual OR open_until <= clock_timestamp()));

-- name: OpenBreaker :execrows
-- OpenBreaker opens a breaker on a person's word, for a while or, when open_for is NULL, until a person closes it.
UPDATE weir.endpoint
SET state = 'open', reason = @reason,
    open_until = coalesce(clock_timestamp() + make_interval(secs => sqlc.narg('open_for')::float8), 'infinity'),
    changed_by = @me, manual = true, changed_at = clock_timestamp(), updated_at = clock_timestamp()
WHERE name = @name;

-- name: CloseBreaker :execrows
-- CloseBreaker closes a breaker on a person's word.
UPDATE weir.endpoint
SET state = 'closed', open_until = NULL, reason = @reason, changed_by = @me, manual = true, changed_at = clock_timestamp(),
    updated_at = clock_timestamp()
WHERE name = @name;

-- name: AddGone :exec
-- AddGone says that an action's target answered 410 Gone.
INSERT INTO weir.gone (observer, action, target) VALUES (@observer, @action, @target)
ON CONFLICT (observer, action) DO UPDATE SET target = excluded.target, since = now()
WHERE gone.target <> excluded.target;

-- name: RemoveGone :execrows
-- RemoveGone lets an action deliver again; with a target only if that is the one that is gone.
DELETE FROM weir.gone
WHERE observer = @observer AND action = @action AND target = coalesce(sqlc.narg('target')::text, target);

-- name: ReserveCalls :one
-- ReserveCalls reserves the next moments for calls under a rate limit: so many, gap seconds apart. It returns the first of
-- them, and the clock that it is on. One that lies further ahead than so many seconds is not reserved: whoever waits for it asks
-- again when it is nearer. A limit that was changed holds for what lies ahead, too: the calls that are reserved keep their number
-- and get the new distance. What lies further ahead than workers can have reserved comes from a clock that jumped.
UPDATE weir.endpoint e
SET rate_gap = turn.gap, updated_at = turn.now,
    rate_next = turn.now + make_interval(secs => turn.wait + turn.gap * turn.calls * (turn.wait <= turn.ahead)::integer)
FROM (
    SELECT l.name, ask.*, coalesce(ask.gap / l.rate_gap * least(ask.ahead + 1 + l.rate_gap, greatest(0,
           extract(epoch FROM l.rate_next - ask.now)::float8)), 0)::float8 AS wait
    FROM weir.endpoint l CROSS JOIN (
        SELECT @gap::float8 AS gap, @calls::integer AS calls, @ahead::float8 AS ahead, clock_timestamp() AS now
    ) ask
    WHERE l.name = @name::text
    FOR UPDATE OF l
) turn
WHERE e.name = turn.name
RETURNING (turn.now + make_interval(secs => turn.wait))::timestamptz AS first, turn.now::timestamptz AS now,
    (turn.wait <= turn.ahead)::boolean AS reserved;
