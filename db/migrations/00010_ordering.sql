-- ordering: entity. Deliveries of one observer and entity are a sequence, in the order of their positions.

-- +goose Up

-- The deliveries that keep an order, and the changes that are to become such deliveries. A sequence goes by the arguments and
-- never by id: ids change, and are not in commit order. A delivery whose turn came too late does not hold up the later ones
-- that have been delivered meanwhile.
CREATE VIEW weir.ordered_job AS
SELECT id, queue, state, created_at,
       (args ->> 'observer')::text AS observer,
       (args ->> 'entity')::text AS entity,
       (args ->> 'entity_id')::text AS entity_id,
       ((args ->> 'lsn')::pg_lsn) AS lsn,
       ((args ->> 'tx_index')::bigint) AS tx_index,
       (state IN ('available', 'pending', 'retryable', 'running', 'scheduled'))::boolean AS unfinished,
       (state = 'discarded'
        OR (state = 'cancelled' AND coalesce(metadata ->> 'weir_dead_letter', 'overtaken') <> 'overtaken'))::boolean AS dead
FROM weir.river_job
WHERE metadata ? 'weir_ordered';

COMMENT ON VIEW weir.ordered_job IS 'jobs of observers with ordering: entity, by the sequence that they belong to';

-- What is first in a sequence is found whatever has been delivered before, and what has been delivered without the rest.
CREATE INDEX weir_ordered ON weir.river_job (
    (args ->> 'observer'), (args ->> 'entity'), (args ->> 'entity_id'), ((args ->> 'lsn')::pg_lsn), ((args ->> 'tx_index')::bigint))
    WHERE metadata ? 'weir_ordered' AND state <> 'completed';
CREATE INDEX weir_ordered_completed ON weir.river_job (
    (args ->> 'observer'), (args ->> 'entity'), (args ->> 'entity_id'), ((args ->> 'lsn')::pg_lsn), ((args ->> 'tx_index')::bigint))
    WHERE metadata ? 'weir_ordered' AND state = 'completed';

CREATE OR REPLACE FUNCTION weir.schema_version() RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT 10::bigint';

-- +goose Down
DROP INDEX weir.weir_ordered_completed;
DROP INDEX weir.weir_ordered;
DROP VIEW weir.ordered_job;
CREATE OR REPLACE FUNCTION weir.schema_version() RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT 9::bigint';
