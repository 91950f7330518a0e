-- name: InterruptStream :one
-- InterruptStream makes the caller the owner of a stream that has lost its continuity: state is recovering or gap. Everybody else
-- is fenced. pgx.ErrNoRows when somebody has come in between. Neither position nor times move: a recovery that is broken off
-- begins again from the same ones.
UPDATE weir.checkpoint
SET epoch = epoch + 1, owner = @owner, owned_since = now(), state = @state, problem = @problem, recovery_read = 0, recovery_rows = 0
WHERE epoch = @epoch
RETURNING system_identifier, timeline, server, database_system, installation, slot, (lsn - '0/0')::bigint AS lsn, tx_index, epoch, owner, state,
          events, commit_time, created_at, updated_at, owned_since, began_at, problem, coalesce(tables_from - '0/0', 0)::bigint AS tables_from;

-- name: FinishRecovery :execrows
-- FinishRecovery lets the stream begin at the new slot's point, for the owner of this epoch (0 rows: it is another's by now).
-- tables_from is 0 where no tables are captured.
UPDATE weir.checkpoint
SET lsn = '0/0'::pg_lsn + @lsn::bigint, tx_index = 0, timeline = @timeline, server = @server, database_system = @database_system,
    state = 'streaming', problem = '', updated_at = now(),
    tables_from = CASE WHEN @tables_from::bigint > 0 THEN '0/0'::pg_lsn + @tables_from::bigint END
WHERE epoch = @epoch AND state = 'recovering';

-- name: TellRecovery :execrows
-- TellRecovery is for people who look at weir status; and 0 rows tell a recovery that it is another's.
UPDATE weir.checkpoint SET recovery_read = @rows_read, recovery_rows = @rows_in_all WHERE epoch = @epoch;

-- name: RecoveryProgress :one
SELECT recovery_read, recovery_rows, problem FROM weir.checkpoint;

-- name: WorkerLives :one
-- WorkerLives is false for a worker that was declared dead, or has given its lease back.
SELECT EXISTS (SELECT FROM weir.worker WHERE client_id = @client_id)::boolean;

-- name: KnownEvents :many
-- KnownEvents are those of the named events that are in the partitions of these days. The arrays of ids and pks are parallel.
SELECT id, pk FROM weir.event
WHERE day = ANY(@days::date[]) AND id = ANY(@ids::uuid[])
  AND (id, pk) IN (SELECT unnest(@ids::uuid[]), unnest(@pks::bigint[]));

-- name: KnownEventsOfAnyDay :many
-- KnownEventsOfAnyDay looks into every partition: the created_at of a row, which is its event's day, may have been changed.
SELECT id, pk FROM weir.event
WHERE id = ANY(@ids::uuid[])
  AND (id, pk) IN (SELECT unnest(@ids::uuid[]), unnest(@pks::bigint[]));

-- name: KnownChanges :many
-- KnownChanges are the rows of the change log, from a pk on, that were no events: their jobs are here, or were removed.
SELECT (args ->> 'event_id')::uuid AS event_id, (args ->> 'pk')::bigint AS pk FROM weir.river_job
WHERE kind = 'weir_change' AND args ->> 'observer' = '' AND (args ->> 'pk')::bigint >= @from_pk::bigint
UNION ALL
SELECT event_id, pk FROM weir.discarded_change WHERE pk >= @from_pk::bigint;

-- name: ForgottenEntities :many
-- ForgottenEntities are those of the named entities that were forgotten, and when. The arrays are parallel.
SELECT entity_type, entity_id, max(forgotten_at)::timestamptz AS forgotten_at FROM weir.forgotten
WHERE (entity_type, entity_id) IN (SELECT unnest(@entity_types::text[]), unnest(@entity_ids::text[]))
GROUP BY entity_type, entity_id;

-- name: NewestChangeAge :one
-- NewestChangeAge is how long ago the newest ingested change was committed, 0 before the first.
SELECT coalesce(now() - (SELECT commit_time FROM weir.checkpoint), '0 s')::interval AS age;

-- name: AcceptGap :execrows
-- AcceptGap lets workers recover what can be recovered, and go on. 0 rows: it is not the gap any more that somebody looked at.
UPDATE weir.checkpoint SET state = 'recovering', owner = '', epoch = epoch + 1 WHERE epoch = @epoch AND state = 'gap';

-- name: SnapshotAgain :execrows
-- SnapshotAgain asks for another snapshot of those of the tables that had one.
UPDATE weir.captured_table SET joined = NULL, snapshot = snapshot + 1, rows = 0, asked_at = now(), finished_at = NULL
WHERE name = ANY (@names::text[]);
