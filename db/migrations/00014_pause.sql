-- What people have paused.

-- +goose Up
CREATE TABLE weir.pause (
    scope     text NOT NULL CHECK (scope IN ('deliveries', 'observer', 'stream')),
    name      text NOT NULL DEFAULT '',
    since     timestamptz NOT NULL DEFAULT now(),
    paused_by text NOT NULL DEFAULT '',
    reason    text NOT NULL DEFAULT '',
    PRIMARY KEY (scope, name),
    CHECK ((scope = 'observer') = (name <> ''))
);

COMMENT ON TABLE weir.pause IS 'what is paused: all deliveries, those of an observer, the stream. Endpoints are River''s queues: see weir.paused';
COMMENT ON COLUMN weir.pause.name IS 'of the observer';
COMMENT ON COLUMN weir.pause.paused_by IS 'who: a person';

-- A pause of an endpoint is River's of its queue, which River UI shows and lifts. Who made it, and why, is in the queue's metadata
-- and holds for the pause of that moment only: River UI knows nothing of it.
CREATE VIEW weir.paused AS
SELECT scope, name, since, paused_by, reason
FROM weir.pause
UNION ALL
SELECT 'endpoint', q.name, q.paused_at, coalesce(said.pause ->> 'by', ''), coalesce(said.pause ->> 'reason', '')
FROM weir.river_queue q
LEFT JOIN LATERAL (SELECT q.metadata -> 'weir_pause' AS pause) said
       ON said.pause ->> 'at' = extract(epoch FROM q.paused_at)::text
WHERE q.paused_at IS NOT NULL;

COMMENT ON VIEW weir.paused IS 'everything that is paused; the name of an endpoint is that of its queue';

-- Deliveries that are set aside while their observer is paused, of those that keep no order: those of ordering: entity wait in
-- their sequences.
CREATE INDEX weir_set_aside ON weir.river_job ((args ->> 'observer')) WHERE state = 'pending' AND metadata ? 'weir_paused';

CREATE OR REPLACE FUNCTION weir.schema_version() RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT 14::bigint';

-- +goose Down
UPDATE weir.river_job SET state = 'available', metadata = metadata - 'weir_paused' WHERE state = 'pending' AND metadata ? 'weir_paused';
DROP INDEX weir.weir_set_aside;
DROP VIEW weir.paused;
DROP TABLE weir.pause;
CREATE OR REPLACE FUNCTION weir.schema_version() RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT 13::bigint';
