-- What is looked for among jobs, without River's two GIN indexes: those take each key and value of arguments and metadata, again
-- with each state of a job, which was more than all else that is written for it, and grew dearer with every finished job.

-- +goose Up

-- Of an event's jobs. What else is asked of arguments (an entity that is to be forgotten, a day that is to be dropped) is asked
-- seldom, and reads the table.
CREATE INDEX weir_job_event ON weir.river_job ((args ->> 'event_id'));

-- Deliveries that wait until their observer and action are known.
CREATE INDEX weir_unknown ON weir.river_job (id) WHERE metadata ? 'weir_unknown';

ANALYZE weir.river_job; -- the planner knows nothing of an expression before

DROP INDEX weir.river_job_args_index;
DROP INDEX weir.river_job_metadata_index;

-- +goose StatementBegin
CREATE OR REPLACE FUNCTION weir.drop_partition(before date) RETURNS text LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $function$
DECLARE
    most   CONSTANT integer := 10000;
    since  CONSTANT timestamptz := before::timestamp AT TIME ZONE 'UTC';
    parent text;
    target text;
    keep   text;
    late   bigint;
    kept   tid[];
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended('weir.ensure_partitions', 0)) THEN
        RETURN NULL; -- somebody else is at it
    END IF;
    FOR parent, target IN
        SELECT p.relname, c.relname
        FROM pg_inherits i
        JOIN pg_class c ON c.oid = i.inhrelid
        JOIN pg_class p ON p.oid = i.inhparent
        JOIN pg_namespace n ON n.oid = p.relnamespace
        WHERE n.nspname = 'weir' AND p.relname IN ('event', 'outcome', 'document') AND c.relname ~ ('^' || p.relname || '_[0-9]{8}$')
          AND right(c.relname, 8) < to_char(before, 'YYYYMMDD')
        ORDER BY right(c.relname, 8), 1
    LOOP
        IF parent = 'outcome' THEN
            keep := 'coalesce(finished_at, recorded_at) >= $1';
            EXECUTE format('SELECT count(*) FROM (SELECT FROM weir.%I WHERE %s LIMIT $2) late', target, keep)
                INTO late USING since, most + 1;
            CONTINUE WHEN late > most;
        ELSIF parent = 'document' THEN
            keep := 'false';
        ELSE
            keep := format(
                '(id, pk) IN (SELECT (args ->> ''event_id'')::uuid, (args ->> ''pk'')::bigint FROM weir.river_job '
                'WHERE args ->> ''day'' = %L)', to_char(to_date(right(target, 8), 'YYYYMMDD'), 'YYYY-MM-DD'));
        END IF;
        EXECUTE format('LOCK TABLE weir.%I IN SHARE MODE', target);
        EXECUTE format('SELECT array_agg(ctid) FROM weir.%I WHERE %s', target, keep) INTO kept USING since;
        EXECUTE format('LOCK TABLE ONLY weir.%I IN ACCESS EXCLUSIVE MODE', parent);
        EXECUTE format('ALTER TABLE weir.%I DETACH PARTITION weir.%I', parent, target);
        EXECUTE format('INSERT INTO weir.%I SELECT * FROM weir.%I WHERE ctid = ANY ($1)', parent || '_default', target) USING kept;
        EXECUTE format('DROP TABLE weir.%I', target);
        RETURN target;
    END LOOP;
    RETURN NULL;
END
$function$;
-- +goose StatementEnd

CREATE OR REPLACE FUNCTION weir.schema_version() RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT 15::bigint';

-- +goose Down
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION weir.drop_partition(before date) RETURNS text LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $function$
DECLARE
    most   CONSTANT integer := 10000;
    since  CONSTANT timestamptz := before::timestamp AT TIME ZONE 'UTC';
    parent text;
    target text;
    keep   text;
    late   bigint;
    kept   tid[];
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended('weir.ensure_partitions', 0)) THEN
        RETURN NULL; -- somebody else is at it
    END IF;
    FOR parent, target IN
        SELECT p.relname, c.relname
        FROM pg_inherits i
        JOIN pg_class c ON c.oid = i.inhrelid
        JOIN pg_class p ON p.oid = i.inhparent
        JOIN pg_namespace n ON n.oid = p.relnamespace
        WHERE n.nspname = 'weir' AND p.relname IN ('event', 'outcome', 'document') AND c.relname ~ ('^' || p.relname || '_[0-9]{8}$')
          AND right(c.relname, 8) < to_char(before, 'YYYYMMDD')
        ORDER BY right(c.relname, 8), 1
    LOOP
        IF parent = 'outcome' THEN
            keep := 'coalesce(finished_at, recorded_at) >= $1';
            EXECUTE format('SELECT count(*) FROM (SELECT FROM weir.%I WHERE %s LIMIT $2) late', target, keep)
                INTO late USING since, most + 1;
            CONTINUE WHEN late > most;
        ELSIF parent = 'document' THEN
            keep := 'false';
        ELSE
            keep := format(
                '(id, pk) IN (SELECT (args ->> ''event_id'')::uuid, (args ->> ''pk'')::bigint FROM weir.river_job '
                'WHERE args @> jsonb_build_object(''day'', %L))', to_char(to_date(right(target, 8), 'YYYYMMDD'), 'YYYY-MM-DD'));
        END IF;
        EXECUTE format('LOCK TABLE weir.%I IN SHARE MODE', target);
        EXECUTE format('SELECT array_agg(ctid) FROM weir.%I WHERE %s', target, keep) INTO kept USING since;
        EXECUTE format('LOCK TABLE ONLY weir.%I IN ACCESS EXCLUSIVE MODE', parent);
        EXECUTE format('ALTER TABLE weir.%I DETACH PARTITION weir.%I', parent, target);
        EXECUTE format('INSERT INTO weir.%I SELECT * FROM weir.%I WHERE ctid = ANY ($1)', parent || '_default', target) USING kept;
        EXECUTE format('DROP TABLE weir.%I', target);
        RETURN target;
    END LOOP;
    RETURN NULL;
END
$function$;
-- +goose StatementEnd
CREATE INDEX river_job_args_index ON weir.river_job USING GIN(args);
CREATE INDEX river_job_metadata_index ON weir.river_job USING GIN(metadata);
DROP INDEX weir.weir_unknown;
DROP INDEX weir.weir_job_event;
CREATE OR REPLACE FUNCTION weir.schema_version() RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT 14::bigint';
