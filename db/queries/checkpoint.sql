-- name: GetCheckpoint :one
-- GetCheckpoint returns pgx.ErrNoRows before the first start.
SELECT system_identifier, timeline, server, database_system, installation, slot, (lsn - '0/0')::bigint AS lsn, tx_index, epoch, owner, state,
       events, commit_time, created_at, updated_at, owned_since, began_at, problem, coalesce(tables_from - '0/0', 0)::bigint AS tables_from
FROM weir.checkpoint;

-- name: SchemaUsed :one
-- SchemaUsed says whether anything was ever ingested that is still here. Ask before GetCheckpoint: what is here then came
-- with a checkpoint, so that none afterwards means that it is gone.
SELECT EXISTS (SELECT FROM weir.event)::boolean;

-- name: InsertCheckpoint :execrows
-- InsertCheckpoint is for the first start, and for one that was lost: it changes nothing (0 rows) when there is a checkpoint already.
-- tables_from is 0 where the publication of the tables is not there, or is perhaps younger than the slot.
INSERT INTO weir.checkpoint (system_identifier, timeline, server, database_system, installation, slot, lsn, began_at, tables_from)
VALUES (@system_identifier, @timeline, @server, @database_system, @installation, @slot, '0/0'::pg_lsn + @lsn::bigint, @began_at,
        CASE WHEN @tables_from::bigint > 0 THEN '0/0'::pg_lsn + @tables_from::bigint END)
ON CONFLICT DO NOTHING;

-- name: TakeCheckpoint :one
-- TakeCheckpoint makes the caller the owner of the checkpoint that it has judged: pgx.ErrNoRows when another owner or an
-- adoption has come in between. The new epoch fences the owner before: its next advance changes 0 rows. updated_at stays:
-- it tells how old the position is.
UPDATE weir.checkpoint
SET epoch = epoch + 1, owner = @owner, owned_since = now(), timeline = @timeline, server = @server, database_system = @database_system
WHERE epoch = @epoch AND state = 'streaming'
RETURNING system_identifier, timeline, server, database_system, installation, slot, (lsn - '0/0')::bigint AS lsn, tx_index, epoch, owner, state,
          events, commit_time, created_at, updated_at, owned_since, began_at, problem, coalesce(tables_from - '0/0', 0)::bigint AS tables_from;

-- name: AdoptCheckpoint :execrows
-- AdoptCheckpoint makes the checkpoint that of another source, for a worker that nobody has fenced since: 0 rows mean that
-- one has come in between. What it knew of the publication of the tables holds in the same cluster only; tables_from is 0
-- where nothing new is known. Where positions are other ones, so is the place at which the stream took over from snapshots.
WITH lowered AS (
    UPDATE weir.captured_table t SET joined = '0/0'::pg_lsn + @lsn::bigint
    WHERE EXISTS (SELECT FROM weir.checkpoint c
                  WHERE c.epoch = @epoch AND (c.system_identifier <> @system_identifier OR c.timeline <> @timeline))
      AND t.joined > '0/0'::pg_lsn + @lsn::bigint)
UPDATE weir.checkpoint
SET system_identifier = @system_identifier, timeline = @timeline, server = @server, database_system = @database_system,
    installation = @installation, slot = @slot, lsn = '0/0'::pg_lsn + @lsn::bigint, tx_index = @tx_index, epoch = checkpoint.epoch + 1,
    owner = '', state = 'streaming', problem = '', began_at = coalesce(sqlc.narg('began_at'), began_at), updated_at = now(),
    tables_from = CASE
        WHEN @tables_from::bigint > 0 THEN '0/0'::pg_lsn + @tables_from::bigint
        WHEN system_identifier = @system_identifier AND tables_from <= '0/0'::pg_lsn + @lsn::bigint THEN tables_from END
WHERE checkpoint.epoch = @epoch;

-- name: SetTablesFrom :execrows
-- SetTablesFrom says from where on the publication of the tables can be read; 0: it is not to be.
UPDATE weir.checkpoint
SET tables_from = CASE WHEN @tables_from::bigint > 0 THEN '0/0'::pg_lsn + @tables_from::bigint END
WHERE epoch = @epoch;

-- name: CountUnfinished :one
-- CountUnfinished counts the jobs that are not finished, of deliveries and of changes that are to be matched.
SELECT count(*) FROM weir.river_job
WHERE state IN ('available', 'pending', 'retryable', 'running', 'scheduled') AND kind LIKE 'weir\_%'
  AND kind <> 'weir_housekeeping';

-- name: CancelUnfinished :execrows
-- CancelUnfinished cancels some of them for good, as River does for a job that nobody runs.
UPDATE weir.river_job
SET state = 'cancelled', finalized_at = now(),
    metadata = jsonb_set(metadata, '{cancel_attempted_at}', to_jsonb(now()))
WHERE id IN (
    SELECT id FROM weir.river_job
    WHERE state IN ('available', 'pending', 'retryable', 'running', 'scheduled') AND kind LIKE 'weir\_%'
      AND kind <> 'weir_housekeeping'
    LIMIT @max_rows::integer
    FOR UPDATE SKIP LOCKED);

-- name: AdvanceCheckpoint :execrows
-- AdvanceCheckpoint is a compare-and-swap on position and epoch: 0 rows mean that somebody else owns the stream or has
-- moved it, and that the transaction must be rolled back.
UPDATE weir.checkpoint
SET lsn = '0/0'::pg_lsn + @lsn::bigint, tx_index = @tx_index, commit_time = coalesce(sqlc.narg('commit_time'), commit_time),
    events = events + @events::bigint, updated_at = now()
WHERE lsn = '0/0'::pg_lsn + @from_lsn::bigint AND tx_index = @from_tx_index AND epoch = @epoch;

-- name: CountIngested :execrows
-- CountIngested is AdvanceCheckpoint for what is ingested beside the stream: the position stays where it is.
UPDATE weir.checkpoint
SET events = events + @events::bigint, updated_at = now()
WHERE epoch = @epoch;

-- name: SchemaVersion :one
-- SchemaVersion is to be compared with migrations.Version; migrations.Current also answers without schema weir.
SELECT weir.schema_version()::bigint;
