-- The change log, as FraiseQL has it (core.tb_entity_change_log). Where it exists it is only completed: columns that are
-- missing are added, nothing is dropped, retyped or rewritten, and a database that lacks nothing is not touched at all
-- (so that a role that does not own the table may migrate, and no lock is taken).
--
-- The block between StatementBegin and StatementEnd of Up is also run alone on a source database that is not the
-- database of schema weir: nothing in it may need that schema.

-- +goose Up
-- +goose StatementBegin
DO $block$
DECLARE
    change_log CONSTANT text := 'core.tb_entity_change_log';
    -- The catalog is asked by oid and by name: to_regclass needs USAGE on the schema, and IF NOT EXISTS needs CREATE.
    core_oid oid := (SELECT oid FROM pg_namespace WHERE nspname = 'core');
    log_oid  oid := (SELECT oid FROM pg_class WHERE relnamespace = core_oid AND relname = 'tb_entity_change_log');
    wanted   record;
BEGIN
    -- Readers and writers queue up behind an ALTER TABLE that waits for a long transaction: rather give up.
    PERFORM set_config('lock_timeout', '10s', true);

    IF core_oid IS NULL THEN
        CREATE SCHEMA core;
        core_oid := (SELECT oid FROM pg_namespace WHERE nspname = 'core');
    END IF;

    IF log_oid IS NULL THEN
        CREATE TABLE core.tb_entity_change_log (
            pk_entity_change_log bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            id                   uuid NOT NULL DEFAULT gen_random_uuid(),
            object_type          text NOT NULL,
            modification_type    text NOT NULL,
            object_id            uuid,
            object_data          jsonb,
            object_data_before   jsonb,
            updated_fields       text[],
            "cascade"            jsonb,
            tenant_id            uuid,
            fk_customer_org      bigint,
            fk_contact           bigint,
            actor_type           text,
            acting_for           uuid,
            schema_version       text,
            trace_id             text,
            trace_context        jsonb,
            started_at           timestamptz,
            duration_ms          integer,
            commit_time          timestamptz,
            seq                  bigint,
            change_status        text,
            extra_metadata       jsonb,
            created_at           timestamptz NOT NULL DEFAULT now(),
            nats_published_at    timestamptz,
            nats_event_id        uuid
        );
        CREATE INDEX idx_entity_log_duration ON core.tb_entity_change_log (duration_ms DESC);
        CREATE INDEX idx_entity_log_type ON core.tb_entity_change_log (object_type);
        CREATE INDEX idx_entity_log_created ON core.tb_entity_change_log (created_at);
        CREATE INDEX idx_entity_log_tenant_seq ON core.tb_entity_change_log (tenant_id, seq);
        CREATE INDEX idx_entity_log_type_seq ON core.tb_entity_change_log (object_type, seq);
        log_oid := 'core.tb_entity_change_log'::regclass;
    END IF;

    IF NOT EXISTS (SELECT FROM pg_attribute
                   WHERE attrelid = log_oid AND attname = 'pk_entity_change_log' AND NOT attisdropped) THEN
        RAISE EXCEPTION '% exists, but it is not a change log: it has no column pk_entity_change_log', change_log
            USING HINT = 'Rename the table and migrate again.';
    END IF;

    -- A column that is added to a table with rows is nullable and has its default only afterwards, for new rows: neither
    -- takes longer on a large table. (now() is evaluated once, so created_at may have it at once.)
    FOR wanted IN
        SELECT * FROM (VALUES -- in the order of the table
            ('id', 'uuid', 'gen_random_uuid()'),
            ('object_type', 'text', NULL),
            ('modification_type', 'text', NULL),
            ('object_id', 'uuid', NULL),
            ('object_data', 'jsonb', NULL),
            ('object_data_before', 'jsonb', NULL),
            ('updated_fields', 'text[]', NULL),
            ('cascade', 'jsonb', NULL),
            ('tenant_id', 'uuid', NULL),
            ('fk_customer_org', 'bigint', NULL),
            ('fk_contact', 'bigint', NULL),
            ('actor_type', 'text', NULL),
            ('acting_for', 'uuid', NULL),
            ('schema_version', 'text', NULL),
            ('trace_id', 'text', NULL),
            ('trace_context', 'jsonb', NULL),
            ('started_at', 'timestamptz', NULL),
            ('duration_ms', 'integer', NULL),
            ('commit_time', 'timestamptz', NULL),
            ('seq', 'bigint', NULL),
            ('change_status', 'text', NULL),
            ('extra_metadata', 'jsonb', NULL),
            ('created_at', 'timestamptz NOT NULL DEFAULT now()', NULL),
            ('nats_published_at', 'timestamptz', NULL),
            ('nats_event_id', 'uuid', NULL)
        ) AS c (name, definition, default_value)
    LOOP
        CONTINUE WHEN EXISTS (SELECT FROM pg_attribute
                              WHERE attrelid = log_oid AND attname = wanted.name AND NOT attisdropped);
        EXECUTE format('ALTER TABLE %s ADD COLUMN %I %s', change_log, wanted.name, wanted.definition);
        IF wanted.default_value IS NOT NULL THEN
            EXECUTE format('ALTER TABLE %s ALTER COLUMN %I SET DEFAULT %s', change_log, wanted.name, wanted.default_value);
        END IF;
    END LOOP;

    IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = log_oid AND attname = 'seq' AND NOT atthasdef) THEN
        IF NOT EXISTS (SELECT FROM pg_class WHERE relnamespace = core_oid AND relname = 'seq_entity_change_log') THEN
            CREATE SEQUENCE core.seq_entity_change_log;
            -- Whoever may insert into the table today must still be able to tomorrow.
            GRANT USAGE ON SEQUENCE core.seq_entity_change_log TO PUBLIC;
        END IF;
        ALTER TABLE core.tb_entity_change_log
            ALTER COLUMN seq SET DEFAULT nextval('core.seq_entity_change_log');
    END IF;
END
$block$;
-- +goose StatementEnd

CREATE OR REPLACE FUNCTION weir.schema_version() RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT 5::bigint';

-- +goose Down
-- The change log belongs to the application: schema core stays as it is.
CREATE OR REPLACE FUNCTION weir.schema_version() RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT 4::bigint';
