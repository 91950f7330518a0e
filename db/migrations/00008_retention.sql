-- Retention of outcomes goes by when a delivery ended, too, and not by its event's day alone: a dead letter may be delivered
-- after weeks. And to drop a partition holds nobody up.

-- +goose Up

-- What the default partitions hold is found by its day and by its age, however much it is.
CREATE INDEX event_default_day ON weir.event_default (day);
CREATE INDEX event_default_ingested ON weir.event_default (ingested_at);
CREATE INDEX outcome_default_day ON weir.outcome_default (day);
CREATE INDEX outcome_default_finished ON weir.outcome_default ((coalesce(finished_at, recorded_at)));

-- drop_partition drops the oldest daily partition of weir.event or weir.outcome that lies before a day, and returns its
-- name, NULL when there is none. What is to be kept goes to the default partition, where housekeeping prunes it later: events
-- that a job of river_job still names, finished or not, and outcomes of deliveries that ended on that day (UTC) or later. A
-- partition with many of the latter is passed over until they are old, too.
--
-- The lock on the partition waits for those who write into it and keeps others out, so that the look at the jobs, which takes
-- its time, misses none. Ingest of other days goes on meanwhile, until the moment of the parent's lock. Neither waits long: a
-- long reader would otherwise hold up ingest behind it. It is tried again.

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
        WHERE n.nspname = 'weir' AND p.relname IN ('event', 'outcome') AND c.relname ~ ('^' || p.relname || '_[0-9]{8}$')
          AND right(c.relname, 8) < to_char(before, 'YYYYMMDD')
        ORDER BY right(c.relname, 8), 1
    LOOP
        IF parent = 'outcome' THEN
            keep := 'coalesce(finished_at, recorded_at) >= $1';
            EXECUTE format('SELECT count(*) FROM (SELECT FROM weir.%I WHERE %s LIMIT $2) late', target, keep)
                INTO late USING since, most + 1;
            CONTINUE WHEN late > most;
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

CREATE OR REPLACE FUNCTION weir.schema_version() RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT 8::bigint';

-- +goose Down
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION weir.drop_partition(before date) RETURNS text LANGUAGE plpgsql SECURITY DEFINER
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

DROP INDEX weir.event_default_day;
DROP INDEX weir.event_default_ingested;
DROP INDEX weir.outcome_default_day;
DROP INDEX weir.outcome_default_finished;
CREATE OR REPLACE FUNCTION weir.schema_version() RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT 7::bigint';
