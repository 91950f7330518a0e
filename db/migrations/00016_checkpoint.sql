-- The checkpoint's row is updated by each batch. The server reads a table's constraints anew for each statement that updates it,
-- which took it as long as all the rest of that statement.

-- +goose Up
CREATE UNIQUE INDEX checkpoint_is_one_row ON weir.checkpoint ((true));
ALTER TABLE weir.checkpoint DROP CONSTRAINT checkpoint_singleton_check, DROP CONSTRAINT checkpoint_state_check;
COMMENT ON COLUMN weir.checkpoint.state IS 'streaming, recovering or gap';

CREATE OR REPLACE FUNCTION weir.schema_version() RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT 16::bigint';

-- +goose Down
ALTER TABLE weir.checkpoint
    ADD CONSTRAINT checkpoint_singleton_check CHECK (singleton),
    ADD CONSTRAINT checkpoint_state_check CHECK (state IN ('streaming', 'recovering', 'gap'));
DROP INDEX weir.checkpoint_is_one_row;
COMMENT ON COLUMN weir.checkpoint.state IS NULL;
CREATE OR REPLACE FUNCTION weir.schema_version() RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT 15::bigint';
