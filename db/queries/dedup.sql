-- name: ClaimDedup :one
-- ClaimDedup claims a key for a delivery, or renews its claim, unless another delivery holds it or the call has been made; then
-- it returns that delivery and how long its row still lasts. What is held is looked up first: to find a conflict would lock the
-- row, which is a write, and most that ask come late. No row: somebody else was first after the snapshot, ask again.
WITH held AS MATERIALIZED (
    SELECT h.delivery, h.done, h.expires_at
    FROM weir.dedup h
    WHERE h.observer = @observer AND h.action = @action AND h.key_hash = @key_hash
      AND h.expires_at > clock_timestamp() AND (h.done OR h.delivery <> @delivery)
), taken AS (
    INSERT INTO weir.dedup AS d (observer, action, key_hash, delivery, attempt, done, expires_at)
    SELECT @observer, @action, @key_hash, @delivery, @attempt, false, clock_timestamp() + @lease::interval
    WHERE NOT EXISTS (SELECT FROM held)
    ON CONFLICT (observer, action, key_hash) DO UPDATE
    SET delivery = excluded.delivery, attempt = excluded.attempt, done = false, expires_at = clock_timestamp() + @lease::interval
    WHERE d.expires_at <= clock_timestamp() OR (d.delivery = excluded.delivery AND NOT d.done)
    RETURNING d.delivery
)
SELECT true AS claimed, false AS done, t.delivery, '0 s'::interval AS rest FROM taken t
UNION ALL
SELECT false, h.done, h.delivery, greatest(h.expires_at - clock_timestamp(), '0 s')::interval FROM held h;

-- name: FinishDedup :exec
-- FinishDedup begins the window. A claim that was lost meanwhile comes back, unless another delivery has the key.
INSERT INTO weir.dedup AS d (observer, action, key_hash, delivery, attempt, done, expires_at)
VALUES (@observer, @action, @key_hash, @delivery, @attempt, true, clock_timestamp() + @time_window::interval)
ON CONFLICT (observer, action, key_hash) DO UPDATE
SET delivery = excluded.delivery, attempt = excluded.attempt, done = true,
    expires_at = clock_timestamp() + @time_window::interval
WHERE d.expires_at <= clock_timestamp() OR d.delivery = excluded.delivery;

-- name: ReleaseDedup :exec
-- ReleaseDedup gives back the claim of an attempt.
DELETE FROM weir.dedup
WHERE observer = @observer AND action = @action AND key_hash = @key_hash
  AND delivery = @delivery AND attempt = @attempt AND NOT done;

-- name: DeleteExpiredDedup :execrows
-- DeleteExpiredDedup removes rows whose time is over, those that expired first. What is being claimed anew is passed over.
DELETE FROM weir.dedup
WHERE (observer, action, key_hash) IN (
    SELECT d.observer, d.action, d.key_hash FROM weir.dedup d
    WHERE d.expires_at <= now()
    ORDER BY d.expires_at
    LIMIT @max_rows::integer
    FOR UPDATE SKIP LOCKED);
