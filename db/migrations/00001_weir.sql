-- Schema weir: checkpoint, events, outcomes, leases, endpoints. River's tables follow in a file of their own.
--
-- Each migration replaces weir.schema_version(), which returns the number of the newest one: the worker compares it with
-- the number that it was built with, without needing access to goose's table.

-- +goose Up
CREATE SCHEMA weir;

CREATE FUNCTION weir.schema_version() RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT 1::bigint';

COMMENT ON FUNCTION weir.schema_version() IS 'number of the newest migration that has been applied';

-- The place in the stream up to which everything is durable: one row, moved in the transaction that stores the events
-- and their jobs. It is updated by every batch and never by an indexed column, so with free space on its page each
-- update is heap-only, and vacuum has next to nothing to do.
CREATE TABLE weir.checkpoint (
    singleton         boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    system_identifier text NOT NULL,
    timeline          integer NOT NULL,
    installation      text NOT NULL,
    slot              text NOT NULL,
    lsn               pg_lsn NOT NULL,
    tx_index          bigint NOT NULL DEFAULT 0,
    epoch             bigint NOT NULL DEFAULT 0,
    owner             text NOT NULL DEFAULT '',
    state             text NOT NULL DEFAULT 'streaming' CHECK (state IN ('streaming', 'recovering', 'gap')),
    events            bigint NOT NULL DEFAULT 0,
    commit_time       timestamptz,
    created_at        timestamptz NOT NULL DEFAULT now(),
    updated_at        timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

COMMENT ON TABLE weir.checkpoint IS 'one row: the position in the stream up to which everything has been ingested';
COMMENT ON COLUMN weir.checkpoint.system_identifier IS 'of the source server (an unsigned 64-bit number, hence text)';
COMMENT ON COLUMN weir.checkpoint.lsn IS 'with tx_index the position of the last ingested change, in commit order';
COMMENT ON COLUMN weir.checkpoint.epoch IS 'raised by each new owner: fences the ones before';
COMMENT ON COLUMN weir.checkpoint.events IS 'events ingested since the first start';
COMMENT ON COLUMN weir.checkpoint.commit_time IS 'of the last ingested change';

-- Every event once. The primary key is (day, id, pk), written with id in front: within a partition day is a constant,
-- so this one index serves the lookup by the whole key, the search for an id, and the refusal of a second ingest.
-- payload is json and not jsonb: it keeps the text as it came, with every digit, and is cheaper to store.
CREATE TABLE weir.event (
    day         date NOT NULL,
    id          uuid NOT NULL,
    pk          bigint NOT NULL,
    lsn         pg_lsn NOT NULL,
    tx_index    bigint NOT NULL,
    event_type  text NOT NULL,
    entity_type text NOT NULL,
    entity_id   text NOT NULL,
    tenant_id   text,
    commit_time timestamptz NOT NULL,
    created_at  timestamptz NOT NULL,
    ingested_at timestamptz NOT NULL DEFAULT now(),
    payload     json NOT NULL,
    PRIMARY KEY (id, pk, day)
) PARTITION BY RANGE (day);

COMMENT ON TABLE weir.event IS 'every event once, partitioned by the UTC day of its timestamp';
COMMENT ON COLUMN weir.event.pk IS 'pk_entity_change_log, 0 for an event without a row in the change log';
COMMENT ON COLUMN weir.event.created_at IS 'the timestamp of the event: created_at of its row in the change log';

-- The newest events, and events in commit order. Ingest appends at the right edge of it, which costs little.
CREATE INDEX event_position ON weir.event (lsn, tx_index);

-- What became of each delivery.
CREATE TABLE weir.outcome (
    day             date NOT NULL,
    delivery_id     uuid NOT NULL,
    event_id        uuid NOT NULL,
    event_pk        bigint NOT NULL,
    observer        text NOT NULL,
    action          text NOT NULL,
    action_type     text NOT NULL,
    endpoint        text NOT NULL DEFAULT '',
    entity_type     text NOT NULL,
    entity_id       text NOT NULL,
    state           text NOT NULL,
    attempts        integer NOT NULL DEFAULT 0,
    started_at      timestamptz,
    finished_at     timestamptz,
    duration_ms     bigint,
    response_status integer,
    error           text,
    cached          boolean NOT NULL DEFAULT false,
    duplicate_of    uuid,
    payload         jsonb NOT NULL DEFAULT '{}',
    recorded_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (delivery_id, day)
) PARTITION BY RANGE (day);

COMMENT ON TABLE weir.outcome IS 'the outcome of each delivery, in the partition of its event''s day';
COMMENT ON COLUMN weir.outcome.cached IS 'the result came from the cache, nothing was sent';
COMMENT ON COLUMN weir.outcome.duplicate_of IS 'the delivery that this one repeated: dropped by dedup, nothing was sent';

CREATE INDEX outcome_event ON weir.outcome (event_id);

-- Leases: who is alive, on the database's clock. Renewed every few seconds without touching an indexed column.
CREATE TABLE weir.worker (
    client_id  text PRIMARY KEY,
    hostname   text NOT NULL,
    pid        integer NOT NULL,
    version    text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    seen_at    timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);

COMMENT ON TABLE weir.worker IS 'leases of the running workers';

-- Endpoints as all workers see them.
CREATE TABLE weir.endpoint (
    name       text PRIMARY KEY,
    state      text NOT NULL DEFAULT 'closed' CHECK (state IN ('closed', 'open', 'half-open')),
    open_until timestamptz,
    updated_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);

COMMENT ON TABLE weir.endpoint IS 'state of each endpoint''s circuit breaker, shared by all workers';

-- ensure_partitions makes the daily partitions of weir.event and weir.outcome from first to last, both included, and
-- returns how many were missing. It may be called at any time by any number of sessions while events are ingested. Rows
-- of the days that the default partition holds are moved.
--
-- The new table is attached, not created as a partition, so that readers of its siblings go on. Writers wait for the
-- moment: one that has chosen the default partition before the new one is attached would violate the default's
-- constraint after it. Both wait behind a backup that is reading the default partition, hence the short lock_timeout:
-- partitions are made days ahead, so the caller just tries again later.

-- +goose StatementBegin
CREATE FUNCTION weir.ensure_partitions(first date, last date) RETURNS integer LANGUAGE plpgsql
    SET lock_timeout = '2s' AS $function$
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

-- Days that nobody expects, such as those of a producer with a broken clock.
CREATE TABLE weir.event_default PARTITION OF weir.event DEFAULT;
CREATE TABLE weir.outcome_default PARTITION OF weir.outcome DEFAULT;

SELECT weir.ensure_partitions((now() AT TIME ZONE 'UTC')::date - 1, (now() AT TIME ZONE 'UTC')::date + 7);

-- +goose Down
-- What is ours, by name and without CASCADE: something of others in the schema makes it fail, and nothing is lost.
DROP TABLE weir.event;
DROP TABLE weir.outcome;
DROP FUNCTION weir.ensure_partitions(date, date);
DROP TABLE weir.endpoint;
DROP TABLE weir.worker;
DROP TABLE weir.checkpoint;
DROP FUNCTION weir.schema_version();
DROP SCHEMA weir;
