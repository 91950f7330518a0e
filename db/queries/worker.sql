-- name: TakeLease :one
-- TakeLease announces a worker. The id is fresh: a row of it is that of a call whose answer was lost.
INSERT INTO weir.worker (client_id, hostname, pid, version, config_loaded_at, config_error, started_at, seen_at)
VALUES (@client_id, @hostname, @pid, @version, @config_loaded_at, @config_error, clock_timestamp(), clock_timestamp())
ON CONFLICT (client_id) DO UPDATE SET seen_at = excluded.seen_at
RETURNING seen_at;

-- name: RenewLease :one
-- RenewLease returns pgx.ErrNoRows when the worker has been declared dead.
UPDATE weir.worker
SET seen_at = clock_timestamp(), config_loaded_at = @config_loaded_at, config_error = @config_error,
    stream_at = CASE WHEN @reads_stream::boolean THEN clock_timestamp() - @heard::interval ELSE stream_at END
WHERE client_id = @client_id
RETURNING seen_at;

-- name: ReleaseLease :exec
DELETE FROM weir.worker WHERE client_id = @client_id;

-- name: BuryWorkers :many
-- BuryWorkers declares dead whose lease has run out. A renewal that is under way decides: the row's lock lets one of the
-- two be first, and the other sees what it did. A lease from the future is one from before the clock was set back.
-- Nobody is dead by a clock that has jumped since the last renewal of the caller.
DELETE FROM weir.worker
WHERE client_id <> @me
  AND seen_at NOT BETWEEN clock_timestamp() - @expiry::interval AND clock_timestamp() + @expiry::interval
  AND clock_timestamp() - @last_renewal::timestamptz BETWEEN '0 s' AND @unbroken::interval
RETURNING client_id, hostname, pid, seen_at;

-- name: ListWorkers :many
-- ListWorkers are all that hold a lease, the oldest first.
SELECT client_id, hostname, pid, version, started_at, seen_at, config_loaded_at, config_error, stream_at,
       clock_timestamp()::timestamptz AS now
FROM weir.worker
ORDER BY started_at, client_id;

-- name: GetReader :one
-- GetReader is what is known of a client that has the slot: pgx.ErrNoRows before there is a checkpoint, seen_at NULL for one
-- that holds no lease.
SELECT c.owner, c.owned_since, w.seen_at, w.stream_at, clock_timestamp()::timestamptz AS now
FROM weir.checkpoint c LEFT JOIN weir.worker w ON w.client_id = @client_id;
