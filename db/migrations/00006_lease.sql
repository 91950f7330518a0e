-- What a worker says of itself beside that it lives, and which servers the checkpoint belongs to.

-- +goose Up
ALTER TABLE weir.worker
    ADD COLUMN config_loaded_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN config_error text NOT NULL DEFAULT '';

COMMENT ON COLUMN weir.worker.seen_at IS 'by the database''s clock; older than 6 s: dead';
COMMENT ON COLUMN weir.worker.config_loaded_at IS 'when the configuration that is in force was read';
COMMENT ON COLUMN weir.worker.config_error IS 'why a later configuration was refused; empty: the newest is in force';

-- A copy of a data directory has the original's system identifier and timeline: these tell it from the original as far
-- as it shows. Empty: not known yet.
ALTER TABLE weir.checkpoint
    ADD COLUMN server text NOT NULL DEFAULT '',
    ADD COLUMN database_system text NOT NULL DEFAULT '';

COMMENT ON COLUMN weir.checkpoint.server IS 'of the source server: port and, where the role may see it, data directory';
COMMENT ON COLUMN weir.checkpoint.database_system IS 'system identifier of the server that holds this table';

CREATE OR REPLACE FUNCTION weir.schema_version() RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT 6::bigint';

-- +goose Down
ALTER TABLE weir.checkpoint DROP COLUMN server, DROP COLUMN database_system;
ALTER TABLE weir.worker DROP COLUMN config_loaded_at, DROP COLUMN config_error;
CREATE OR REPLACE FUNCTION weir.schema_version() RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT 5::bigint';
