-- name: CapturedTables :many
-- CapturedTables returns what is known of snapshots, of tables that are captured no more, too.
SELECT name, snapshot, coalesce(joined - '0/0', 0)::bigint AS joined, rows, asked_at, finished_at
FROM weir.captured_table
ORDER BY name;

-- name: AskForSnapshot :exec
-- AskForSnapshot does nothing for a table that has been asked for.
INSERT INTO weir.captured_table (name) VALUES (@name) ON CONFLICT DO NOTHING;

-- name: JoinSnapshot :exec
-- JoinSnapshot says where the stream takes over from the snapshot. That stays, also when the snapshot has to be taken again:
-- what it has made known by then was so at this place.
UPDATE weir.captured_table SET joined = '0/0'::pg_lsn + @joined::bigint WHERE name = @name AND joined IS NULL;

-- name: LowerJoined :execrows
-- LowerJoined is for a timeline whose positions begin anew at an LSN: what is committed behind it is in no snapshot of before.
UPDATE weir.captured_table SET joined = '0/0'::pg_lsn + @lsn::bigint WHERE joined > '0/0'::pg_lsn + @lsn::bigint;

-- name: CountSnapshot :exec
UPDATE weir.captured_table SET rows = rows + @rows WHERE name = @name;

-- name: FinishSnapshot :exec
UPDATE weir.captured_table SET finished_at = now() WHERE name = @name;

-- name: ForgetSnapshots :execrows
-- ForgetSnapshots is for tables that are captured no more: named again, they are to be read again. What they then give are
-- other events than those of the snapshot before.
UPDATE weir.captured_table
SET snapshot = snapshot + 1, joined = NULL, rows = 0, asked_at = now(), finished_at = NULL
WHERE name <> ALL (@names::text[]) AND joined IS NOT NULL;

-- name: KnownRows :many
-- KnownRows returns those of the ids that events without a row in the change log have, of a day and later.
SELECT id FROM weir.event WHERE id = ANY (@ids::uuid[]) AND pk = 0 AND day >= @since::date;
