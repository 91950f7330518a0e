-- The history can be searched: documents with the words of events and of what became of their deliveries, made behind ingest's
-- back; where each store of them is; what was forgotten.

-- +goose Up

-- The order in which events and outcomes were recorded, for who follows them. Whoever records events holds the row of
-- weir.checkpoint by then, and whoever records outcomes a lock of theirs: so numbers become visible in their order, and one that
-- has been passed over never comes.
CREATE SEQUENCE weir.event_seq;
CREATE SEQUENCE weir.outcome_seq;
ALTER TABLE weir.event
    ADD COLUMN seq bigint NOT NULL DEFAULT nextval('weir.event_seq'),
    ADD COLUMN unredacted json;
ALTER TABLE weir.outcome ADD COLUMN seq bigint NOT NULL DEFAULT nextval('weir.outcome_seq');

COMMENT ON COLUMN weir.event.seq IS 'the order in which events were recorded';
COMMENT ON COLUMN weir.event.payload IS 'the event, without what history.redact leaves out';
COMMENT ON COLUMN weir.event.unredacted IS 'the whole event, as long as a job names it, where history.redact leaves something out';
COMMENT ON COLUMN weir.outcome.seq IS 'the order in which outcomes were recorded; another one each time that it is';

-- In place of the index of positions: ingest pays for one index of that kind, and this one is smaller. The order is the same but
-- for changes that became events late.
DROP INDEX weir.event_position;
CREATE INDEX event_seq_order ON weir.event (seq);
CREATE INDEX event_unredacted ON weir.event (id) WHERE unredacted IS NOT NULL;
CREATE INDEX outcome_seq_order ON weir.outcome (seq);

-- One row for each event, and one for each delivery that has an outcome, which holds the words of its event, too. They are
-- written a moment after the event, by who follows it: ingest's transaction knows nothing of them, and pays for no word. The
-- primary key is what a search walks down from the newest, for words that are frequent; words that are rare are in the GIN
-- index, whose pending list takes the new ones.
CREATE TABLE weir.document (
    day         date NOT NULL,
    seq         bigint NOT NULL,
    delivery_id uuid NOT NULL,
    event_id    uuid NOT NULL,
    event_pk    bigint NOT NULL,
    at          timestamptz NOT NULL,
    entity_type text NOT NULL,
    entity_id   text NOT NULL,
    observer    text NOT NULL,
    outcome     text NOT NULL,
    version     bigint NOT NULL,
    words       tsvector NOT NULL,
    PRIMARY KEY (seq, delivery_id, day)
) PARTITION BY RANGE (day);

COMMENT ON TABLE weir.document IS 'what weir search looks into: one row for each event, and one for each outcome of a delivery';
COMMENT ON COLUMN weir.document.seq IS 'of the event';
COMMENT ON COLUMN weir.document.delivery_id IS 'all zero for the event itself';
COMMENT ON COLUMN weir.document.observer IS 'of the delivery, empty for the event itself';
COMMENT ON COLUMN weir.document.version IS 'of two documents of one delivery the one with the greater is newer';

CREATE INDEX document_words ON weir.document USING gin (words);

CREATE TABLE weir.history (
    store       text PRIMARY KEY CHECK (store IN ('postgres', 'elasticsearch')),
    version     bigint NOT NULL DEFAULT 0,
    event_seq   bigint NOT NULL DEFAULT 0,
    outcome_seq bigint NOT NULL DEFAULT 0,
    finished_at timestamptz NOT NULL DEFAULT 'epoch',
    updated_at  timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

COMMENT ON TABLE weir.history IS 'how far each store of the history is';
COMMENT ON COLUMN weir.history.version IS 'raised before each round of reading and storing: the version of its documents';
COMMENT ON COLUMN weir.history.event_seq IS 'every event up to this one has been stored';
COMMENT ON COLUMN weir.history.outcome_seq IS 'every row of weir.outcome up to this one has been stored';
COMMENT ON COLUMN weir.history.finished_at IS 'finished jobs up to then have been stored, but for what came late';

INSERT INTO weir.history (store) VALUES ('postgres'), ('elasticsearch');

CREATE TABLE weir.forgotten (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    entity_type  text NOT NULL,
    entity_id    text NOT NULL,
    forgotten_at timestamptz NOT NULL DEFAULT now(),
    forgotten_by text NOT NULL DEFAULT '',
    removed      jsonb NOT NULL
);

COMMENT ON TABLE weir.forgotten IS 'receipts of weir history forget: whose data was removed, when, and how much';

-- +goose StatementBegin
CREATE OR REPLACE FUNCTION weir.ensure_partitions(first date, last date) RETURNS integer LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $function$
DECLARE
    parent  text;
    target  text;
    options text;
    wanted  date;
    created integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('weir.ensure_partitions', 0));
    FOREACH parent IN ARRAY ARRAY['event', 'outcome', 'document'] LOOP
        -- Events never change: freeze them when vacuum first comes by, so that it need not come again. Outcomes do.
        options := CASE parent
            WHEN 'outcome' THEN 'fillfactor = 90'
            ELSE 'autovacuum_vacuum_insert_scale_factor = 0.5, autovacuum_freeze_min_age = 0'
        END;
        FOR offset_days IN 0 .. last - first LOOP
            wanted := first + offset_days;
            target := parent || '_' || to_char(wanted, 'YYYYMMDD');
            CONTINUE WHEN EXISTS (
                SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                WHERE n.nspname = 'weir' AND c.relname = target);
            EXECUTE format('LOCK TABLE ONLY weir.%I IN SHARE ROW EXCLUSIVE MODE', parent);
            EXECUTE format('CREATE TABLE weir.%I (LIKE weir.%I INCLUDING DEFAULTS) WITH (%s)', target, parent, options);
            EXECUTE format(
                'WITH moved AS (DELETE FROM weir.%I WHERE day = $1 RETURNING *) INSERT INTO weir.%I SELECT * FROM moved',
                parent || '_default', target) USING wanted;
            EXECUTE format(
                'ALTER TABLE weir.%I ATTACH PARTITION weir.%I FOR VALUES FROM (%L) TO (%L)',
                parent, target, wanted, wanted + 1);
            created := created + 1;
        END LOOP;
    END LOOP;
    RETURN created;
END
$function$;
-- +goose StatementEnd

COMMENT ON FUNCTION weir.ensure_partitions(date, date) IS
    'makes the daily partitions of weir.event, weir.outcome and weir.document, both days included; returns how many were missing';

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

COMMENT ON FUNCTION weir.drop_partition(date) IS
    'drops the oldest daily partition of weir.event, weir.outcome or weir.document before a day and returns its name, or NULL';

CREATE TABLE weir.document_default PARTITION OF weir.document DEFAULT;
CREATE INDEX document_default_day ON weir.document_default (day);

-- The functions work as their owner, who may be another one than who migrates today.
-- +goose StatementBegin
DO $do$
DECLARE
    owner name := (SELECT tableowner FROM pg_tables WHERE schemaname = 'weir' AND tablename = 'event');
BEGIN
    EXECUTE format('ALTER TABLE weir.document OWNER TO %I', owner);
    EXECUTE format('ALTER TABLE weir.document_default OWNER TO %I', owner);
END
$do$;
-- +goose StatementEnd

SELECT weir.ensure_partitions(day, day)
FROM (SELECT to_date(right(c.relname, 8), 'YYYYMMDD') AS day
      FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
      WHERE i.inhparent = 'weir.event'::regclass AND c.relname ~ '^event_[0-9]{8}$') existing;

CREATE OR REPLACE FUNCTION weir.schema_version() RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT 12::bigint';

-- +goose Down
DROP TABLE weir.document;
DROP TABLE weir.forgotten;
DROP TABLE weir.history;
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION weir.ensure_partitions(first date, last date) RETURNS integer LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $function$
DECLARE
    parent  text;
    target  text;
    options text;
    wanted  date;
    created integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('weir.ensure_partitions', 0));
    FOREACH parent IN ARRAY ARRAY['event', 'outcome'] LOOP
        -- Events never change: freeze them when vacuum first comes by, so that it need not come again. Outcomes do.
        options := CASE parent
            WHEN 'event' THEN 'autovacuum_vacuum_insert_scale_factor = 0.5, autovacuum_freeze_min_age = 0'
            ELSE 'fillfactor = 90'
        END;
        FOR offset_days IN 0 .. last - first LOOP
            wanted := first + offset_days;
            target := parent || '_' || to_char(wanted, 'YYYYMMDD');
            CONTINUE WHEN EXISTS (
                SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                WHERE n.nspname = 'weir' AND c.relname = target);
            EXECUTE format('LOCK TABLE ONLY weir.%I IN SHARE ROW EXCLUSIVE MODE', parent);
            EXECUTE format('CREATE TABLE weir.%I (LIKE weir.%I INCLUDING DEFAULTS) WITH (%s)', target, parent, options);
            EXECUTE format(
                'WITH moved AS (DELETE FROM weir.%I WHERE day = $1 RETURNING *) INSERT INTO weir.%I SELECT * FROM moved',
                parent || '_default', target) USING wanted;
            EXECUTE format(
                'ALTER TABLE weir.%I ATTACH PARTITION weir.%I FOR VALUES FROM (%L) TO (%L)',
                parent, target, wanted, wanted + 1);
            created := created + 1;
        END LOOP;
    END LOOP;
    RETURN created;
END
$function$;
-- +goose StatementEnd

COMMENT ON FUNCTION weir.ensure_partitions(date, date) IS
    'makes the daily partitions of weir.event and weir.outcome, both days included; returns how many were missing';

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

COMMENT ON FUNCTION weir.drop_partition(date) IS
    'drops the oldest daily partition of weir.event or weir.outcome before a day and returns its name, NULL when there is none';

-- What was kept apart is put back: deliveries read the payload alone.
UPDATE weir.event SET payload = unredacted WHERE unredacted IS NOT NULL;
ALTER TABLE weir.event DROP COLUMN seq, DROP COLUMN unredacted;
ALTER TABLE weir.outcome DROP COLUMN seq;
DROP SEQUENCE weir.event_seq;
DROP SEQUENCE weir.outcome_seq;
CREATE INDEX event_position ON weir.event (lsn, tx_index);
COMMENT ON COLUMN weir.event.payload IS NULL;
CREATE OR REPLACE FUNCTION weir.schema_version() RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT 11::bigint';
