-- ordering: entity. Deliveries of one observer and entity are a sequence, in the order of their positions.

-- +goose Up

-- The deliveries that keep an order, and the changes that are to become such deliveries. A sequence goes by the arguments and
-- never by id: ids change, and are not in commit order. "called" are those that may run now or later, without being called
-- again. A delivery whose turn came too late does not hold up the later ones that have been delivered meanwhile.
CREATE VIEW weir.ordered_job AS
SELECT id, queue, state, created_at,
       (args ->> 'observer')::text AS observer,
       (args ->> 'entity')::text AS entity,
       (args ->> 'entity_id')::text AS entity_id,
       ((args ->> 'lsn')::pg_lsn) AS lsn,
       ((args ->> 'tx_index')::bigint) AS tx_index,
       (state IN ('available', 'retryable', 'running', 'scheduled'))::boolean AS called,
       (state = 'discarded'
        OR (state = 'cancelled' AND coalesce(metadata ->> 'weir_dead_letter', 'overtaken') <> 'overtaken'))::boolean AS dead
FROM weir.river_job
WHERE metadata ? 'weir_ordered';

COMMENT ON VIEW weir.ordered_job IS 'jobs of observers with ordering: entity, by the sequence that they belong to';

-- One index for each thing that is asked for, so that nothing else has to be stepped over: not what waits behind the first, not
-- what was delivered before it, not a thousand dead letters that are skipped. A job is in one of them at a time.
CREATE INDEX weir_ordered_pending ON weir.river_job (
    (args ->> 'observer'), (args ->> 'entity'), (args ->> 'entity_id'), ((args ->> 'lsn')::pg_lsn), ((args ->> 'tx_index')::bigint))
    WHERE state = 'pending' AND metadata ? 'weir_ordered';
CREATE INDEX weir_ordered_called ON weir.river_job (
    (args ->> 'observer'), (args ->> 'entity'), (args ->> 'entity_id'), ((args ->> 'lsn')::pg_lsn), ((args ->> 'tx_index')::bigint))
    WHERE state IN ('available', 'retryable', 'running', 'scheduled') AND metadata ? 'weir_ordered';
CREATE INDEX weir_ordered_dead ON weir.river_job (
    (args ->> 'observer'), (args ->> 'entity'), (args ->> 'entity_id'), ((args ->> 'lsn')::pg_lsn), ((args ->> 'tx_index')::bigint))
    WHERE (state = 'discarded'
           OR (state = 'cancelled' AND coalesce(metadata ->> 'weir_dead_letter', 'overtaken') <> 'overtaken'))
      AND metadata ? 'weir_ordered';
CREATE INDEX weir_ordered_completed ON weir.river_job (
    (args ->> 'observer'), (args ->> 'entity'), (args ->> 'entity_id'), ((args ->> 'lsn')::pg_lsn), ((args ->> 'tx_index')::bigint))
    WHERE state = 'completed' AND metadata ? 'weir_ordered';

CREATE OR REPLACE FUNCTION weir.schema_version() RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT 10::bigint';

-- +goose Down
DROP INDEX weir.weir_ordered_completed;
DROP INDEX weir.weir_ordered_dead;
DROP INDEX weir.weir_ordered_called;
DROP INDEX weir.weir_ordered_pending;
DROP VIEW weir.ordered_job;
CREATE OR REPLACE FUNCTION weir.schema_version() RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT 9::bigint';
