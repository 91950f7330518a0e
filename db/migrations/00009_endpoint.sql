-- What the circuit breaker and the rate limit of an endpoint need to be shared by all workers, and actions that are gone.

-- +goose Up
ALTER TABLE weir.endpoint
    ADD COLUMN reason text NOT NULL DEFAULT '',
    ADD COLUMN changed_by text NOT NULL DEFAULT '',
    ADD COLUMN changed_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN manual boolean NOT NULL DEFAULT false,
    ADD COLUMN rate_next timestamptz,
    ADD COLUMN rate_gap double precision;

COMMENT ON TABLE weir.endpoint IS 'circuit breaker and rate limit of each endpoint, shared by all workers';
COMMENT ON COLUMN weir.endpoint.open_until IS 'when an open breaker lets probes through; infinity: when a person closes it';
COMMENT ON COLUMN weir.endpoint.reason IS 'why the breaker is in this state';
COMMENT ON COLUMN weir.endpoint.changed_by IS 'who put the breaker into this state: a client id, or a person; of a half-open one: who probes';
COMMENT ON COLUMN weir.endpoint.manual IS 'a person put the breaker into this state: it holds also where the configuration has no breaker';
COMMENT ON COLUMN weir.endpoint.rate_next IS 'the next moment that no worker has reserved for a call under the rate limit';
COMMENT ON COLUMN weir.endpoint.rate_gap IS 'seconds between two calls under the rate limit by which rate_next was last moved';

-- An action whose target answered 410 Gone. Its deliveries become dead letters until its target changes or a person closes it.
CREATE TABLE weir.gone (
    observer text NOT NULL,
    action   text NOT NULL,
    target   text NOT NULL,
    since    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (observer, action)
);

COMMENT ON TABLE weir.gone IS 'actions whose target answered 410 Gone: their deliveries become dead letters';
COMMENT ON COLUMN weir.gone.target IS 'a fingerprint of the target: another one is not gone';

CREATE OR REPLACE FUNCTION weir.schema_version() RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT 9::bigint';

-- +goose Down
DROP TABLE weir.gone;
ALTER TABLE weir.endpoint DROP COLUMN reason, DROP COLUMN changed_by, DROP COLUMN changed_at, DROP COLUMN manual,
    DROP COLUMN rate_next, DROP COLUMN rate_gap;
COMMENT ON TABLE weir.endpoint IS 'state of each endpoint''s circuit breaker, shared by all workers';
CREATE OR REPLACE FUNCTION weir.schema_version() RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT 8::bigint';
