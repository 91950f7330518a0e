-- Housekeeping: finished jobs go to weir.outcome, partitions are made and dropped.

-- +goose Up

-- Jobs that a person cancelled, and those that on_failure: log gave up: few, among dead letters that may be many.
CREATE INDEX weir_cancelled ON weir.river_job (finalized_at)
    WHERE state = 'cancelled' AND NOT metadata ? 'weir_dead_letter';

-- The worker's role need not own the schema: these functions run as their owner, for those who may call them.
ALTER FUNCTION weir.ensure_partitions(date, date) SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
REVOKE EXECUTE ON FUNCTION weir.ensure_partitions(date, date) FROM PUBLIC;

-- drop_partition drops the oldest daily partition of weir.event or weir.outcome that lies before a day, and returns its
-- name, NULL when there is none. Events that a job of river_job still names, finished or not, go to the default partition.
--
-- The lock on the parent keeps ingest out from before the look at the jobs: what it inserts for such a day afterwards goes
-- to the default partition, where housekeeping leaves it as long as a job names it. A long reader makes it fail after two
-- seconds, and it is tried again.

-- +goose StatementBegin
CREATE FUNCTION weir.drop_partition(before date) RETURNS text LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $function$
DECLARE
    parent text;
    target text;
    dropped date;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('weir.ensure_partitions', 0));
    SELECT p.relname, c.relname, to_date(right(c.relname, 8), 'YYYYMMDD') INTO parent, target, dropped
    FROM pg_inherits i
    JOIN pg_class c ON c.oid = i.inhrelid
    JOIN pg_class p ON p.oid = i.inhparent
    JOIN pg_namespace n ON n.oid = p.relnamespace
    WHERE n.nspname = 'weir' AND p.relname IN ('event', 'outcome') AND c.relname ~ ('^' || p.relname || '_[0-9]{8}$')
      AND right(c.relname, 8) < to_char(before, 'YYYYMMDD')
    ORDER BY 3, 1
    LIMIT 1;
    IF target IS NULL THEN
        RETURN NULL;
    END IF;
    EXECUTE format('LOCK TABLE ONLY weir.%I IN ACCESS EXCLUSIVE MODE', parent);
    EXECUTE format('ALTER TABLE weir.%I DETACH PARTITION weir.%I', parent, target);
    IF parent = 'event' THEN
        EXECUTE format(
            'INSERT INTO weir.event_default SELECT e.* FROM weir.%I e WHERE (e.id, e.pk) IN ('
            'SELECT (args ->> ''event_id'')::uuid, (args ->> ''pk'')::bigint FROM weir.river_job '
            'WHERE args @> jsonb_build_object(''day'', $1))', target) USING to_char(dropped, 'YYYY-MM-DD');
    END IF;
    EXECUTE format('DROP TABLE weir.%I', target);
    RETURN target;
END
$function$;
-- +goose StatementEnd

COMMENT ON FUNCTION weir.drop_partition(date) IS
    'drops the oldest daily partition of weir.event or weir.outcome before a day and returns its name, NULL when there is none';
REVOKE EXECUTE ON FUNCTION weir.drop_partition(date) FROM PUBLIC;

CREATE OR REPLACE FUNCTION weir.schema_version() RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT 7::bigint';

-- +goose Down
DROP FUNCTION weir.drop_partition(date);
GRANT EXECUTE ON FUNCTION weir.ensure_partitions(date, date) TO PUBLIC;
ALTER FUNCTION weir.ensure_partitions(date, date) SECURITY INVOKER RESET search_path;
DROP INDEX weir.weir_cancelled;
CREATE OR REPLACE FUNCTION weir.schema_version() RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT 6::bigint';
