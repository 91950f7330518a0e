-- What Weir adds to River's tables.

-- +goose Up
-- A job is updated at least twice (running, then its end) and then deleted; its state is in an index, so no update is
-- heap-only. At the default of a fifth of the table, a backlog of millions would collect hundreds of thousands of dead
-- rows, which every fetch has to step over. So: early and often, and without pausing.
ALTER TABLE weir.river_job SET (
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_insert_scale_factor = 0.1,
    autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0.02
);

-- A dead letter is a job that ran out of attempts, or one that we cancelled for a final error. One that a person
-- cancelled is not: it lacks the mark.
CREATE VIEW weir.dead_letter AS
SELECT id, kind, queue, state::text AS state, attempt, max_attempts, created_at, attempted_at, finalized_at,
       args, metadata, errors,
       coalesce(args ->> 'observer', '')::text AS observer,
       coalesce(args ->> 'action', '')::text AS action,
       coalesce(errors[cardinality(errors)] ->> 'error', '')::text AS last_error
FROM weir.river_job
WHERE state = 'discarded' OR (state = 'cancelled' AND metadata ? 'weir_dead_letter');

COMMENT ON VIEW weir.dead_letter IS 'jobs that failed for good and wait for a person';

-- The same condition: counts and pages of dead letters never read other jobs.
CREATE INDEX weir_dead_letter ON weir.river_job (id)
    WHERE state = 'discarded' OR (state = 'cancelled' AND metadata ? 'weir_dead_letter');

CREATE OR REPLACE FUNCTION weir.schema_version() RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT 4::bigint';

-- +goose Down
DROP INDEX weir.weir_dead_letter;
DROP VIEW weir.dead_letter;
ALTER TABLE weir.river_job RESET (
    autovacuum_vacuum_scale_factor,
    autovacuum_vacuum_threshold,
    autovacuum_vacuum_insert_scale_factor,
    autovacuum_vacuum_cost_delay,
    autovacuum_analyze_scale_factor
);
CREATE OR REPLACE FUNCTION weir.schema_version() RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT 3::bigint';
