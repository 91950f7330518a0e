-- Several workers, lost slots, and tables that are captured without a change log.

-- +goose Up
ALTER TABLE weir.checkpoint
    ADD COLUMN owned_since timestamptz,
    ADD COLUMN began_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN problem text NOT NULL DEFAULT '',
    ADD COLUMN tables_from pg_lsn,
    ADD COLUMN recovery_read bigint NOT NULL DEFAULT 0,
    ADD COLUMN recovery_rows bigint NOT NULL DEFAULT 0;
UPDATE weir.checkpoint SET began_at = created_at;

COMMENT ON COLUMN weir.checkpoint.owned_since IS 'when its owner took the stream';
COMMENT ON COLUMN weir.checkpoint.began_at IS
    'rows of the change log that were written before it, by the clock of the source, are none of ours: capture begins there';
COMMENT ON COLUMN weir.checkpoint.problem IS 'why state is recovering or gap';
COMMENT ON COLUMN weir.checkpoint.tables_from IS
    'from here on the publication of the tables can be read; NULL: it is not there, or is too young';

COMMENT ON COLUMN weir.checkpoint.recovery_read IS 'how many rows of the change log the recovery has looked at';
COMMENT ON COLUMN weir.checkpoint.recovery_rows IS 'of about how many';

-- A row of the change log that is no event is known by its job alone. Whoever removes that by hand, in whatever way, does not
-- want it back when a lost slot is made up for.
CREATE TABLE weir.discarded_change (
    event_id     uuid NOT NULL,
    pk           bigint NOT NULL,
    discarded_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (event_id, pk)
);

COMMENT ON TABLE weir.discarded_change IS 'rows of the change log that were no events and whose jobs were removed';

-- +goose StatementBegin
CREATE FUNCTION weir.remember_discarded() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    INSERT INTO weir.discarded_change (event_id, pk) VALUES ((OLD.args ->> 'event_id')::uuid, (OLD.args ->> 'pk')::bigint)
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END
$function$;
-- +goose StatementEnd

CREATE TRIGGER remember_discarded AFTER DELETE ON weir.river_job FOR EACH ROW
    WHEN (OLD.kind = 'weir_change' AND OLD.state <> 'completed' AND OLD.args ->> 'observer' = '' AND OLD.args ? 'event_id')
    EXECUTE FUNCTION weir.remember_discarded();

ALTER TABLE weir.worker ADD COLUMN stream_at timestamptz;

COMMENT ON COLUMN weir.worker.stream_at IS 'the newest renewal at which the worker read the stream, by the database''s clock';

CREATE TABLE weir.captured_table (
    name        text PRIMARY KEY,
    snapshot    integer NOT NULL DEFAULT 0,
    joined      pg_lsn,
    rows        bigint NOT NULL DEFAULT 0,
    asked_at    timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz
);

COMMENT ON TABLE weir.captured_table IS 'how far the snapshots of directly captured tables are';
COMMENT ON COLUMN weir.captured_table.name IS 'schema.table';
COMMENT ON COLUMN weir.captured_table.snapshot IS 'the number of the newest snapshot: raised when another one is asked for';
COMMENT ON COLUMN weir.captured_table.joined IS
    'what was committed before it is in the snapshot, the stream brings the rest; NULL: the snapshot is still to be taken';
COMMENT ON COLUMN weir.captured_table.rows IS 'rows of the snapshot that became events so far';

CREATE OR REPLACE FUNCTION weir.schema_version() RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT 13::bigint';

-- +goose Down
DROP TABLE weir.captured_table;
DROP TRIGGER remember_discarded ON weir.river_job;
DROP FUNCTION weir.remember_discarded();
DROP TABLE weir.discarded_change;
ALTER TABLE weir.worker DROP COLUMN stream_at;
ALTER TABLE weir.checkpoint DROP COLUMN owned_since, DROP COLUMN began_at, DROP COLUMN problem, DROP COLUMN tables_from,
    DROP COLUMN recovery_read, DROP COLUMN recovery_rows;
CREATE OR REPLACE FUNCTION weir.schema_version() RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT 12::bigint';
