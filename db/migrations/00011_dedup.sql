-- dedup: of an action, where there is no Redis: which delivery makes the call for a key, or has made it.

-- +goose Up

-- A row lives for three writes: the claim, the success, the removal. expires_at changes with each and has an index, so that no
-- update can be a HOT one: space kept free in the pages would be for nothing, hence no fillfactor. Vacuum is to come early
-- instead, as with jobs.
CREATE TABLE weir.dedup (
    observer   text NOT NULL,
    action     text NOT NULL,
    key_hash   bytea NOT NULL,
    delivery   uuid NOT NULL,
    attempt    uuid NOT NULL,
    done       boolean NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (observer, action, key_hash)
) WITH (
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_insert_scale_factor = 0.1,
    autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0.02
);

COMMENT ON TABLE weir.dedup IS 'which delivery makes or has made the call for a key of dedup:, where there is no Redis';
COMMENT ON COLUMN weir.dedup.key_hash IS 'SHA-256 of the rendered key, which may be long and hold any character';
COMMENT ON COLUMN weir.dedup.delivery IS 'the delivery that makes the call or, when done, has made it';
COMMENT ON COLUMN weir.dedup.attempt IS 'which attempt of that delivery: only it gives the claim back';
COMMENT ON COLUMN weir.dedup.done IS 'the call has succeeded: other deliveries with the key are dropped until the row expires';
COMMENT ON COLUMN weir.dedup.expires_at IS 'by the database''s clock: the end of the lease or, when done, of the window';

-- Expired rows are removed from time to time. They mean nothing before that, either.
CREATE INDEX dedup_expires_at ON weir.dedup (expires_at);

CREATE OR REPLACE FUNCTION weir.schema_version() RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT 11::bigint';

-- +goose Down
DROP TABLE weir.dedup;
CREATE OR REPLACE FUNCTION weir.schema_version() RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT 10::bigint';
