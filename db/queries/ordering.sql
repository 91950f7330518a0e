-- Each question names the state that it asks for, as the indexes do: there is one for pending, called, dead and completed.

-- name: FirstInLine :one
-- FirstInLine says of a delivery that keeps an order whether an earlier one of its sequence has to be waited for, whether a later
-- one is being worked (it had been given up, or cancelled, when that began), and whether a later one has been delivered already.
-- With skip_dead, dead letters are not waited for.
SELECT (EXISTS (
           SELECT FROM weir.ordered_job o
           WHERE o.observer = me.observer AND o.entity = me.entity AND o.entity_id = me.entity_id
             AND (o.lsn, o.tx_index) < (me.lsn, me.tx_index) AND o.called
       ) OR EXISTS (
           SELECT FROM weir.ordered_job o
           WHERE o.observer = me.observer AND o.entity = me.entity AND o.entity_id = me.entity_id
             AND (o.lsn, o.tx_index) < (me.lsn, me.tx_index) AND o.state = 'pending'
       ) OR NOT me.skip_dead AND EXISTS (
           SELECT FROM weir.ordered_job o
           WHERE o.observer = me.observer AND o.entity = me.entity AND o.entity_id = me.entity_id
             AND (o.lsn, o.tx_index) < (me.lsn, me.tx_index) AND o.dead
       ))::boolean AS waits,
       (EXISTS (
           SELECT FROM weir.ordered_job o
           WHERE o.observer = me.observer AND o.entity = me.entity AND o.entity_id = me.entity_id
             AND (o.lsn, o.tx_index) > (me.lsn, me.tx_index) AND o.called AND o.state = 'running'
       ))::boolean AS later_runs,
       (EXISTS (
           SELECT FROM weir.ordered_job o
           WHERE o.observer = me.observer AND o.entity = me.entity AND o.entity_id = me.entity_id
             AND (o.lsn, o.tx_index) > (me.lsn, me.tx_index) AND o.state = 'completed'
       ))::boolean AS overtaken
FROM (
    SELECT @observer::text AS observer, @entity::text AS entity, @entity_id::text AS entity_id, '0/0'::pg_lsn + @lsn::bigint AS lsn,
           @tx_index::bigint AS tx_index, @skip_dead::boolean AS skip_dead
) me;

-- name: HeldSequences :many
-- HeldSequences are, of those named (the arrays are parallel), the sequences that hold something which later deliveries have to
-- wait for. LATERAL, since EXISTS may be answered by reading all there is, once.
SELECT k.observer::text AS observer, k.entity::text AS entity, k.entity_id::text AS entity_id
FROM (
    SELECT unnest(@observers::text[]) AS observer, unnest(@entities::text[]) AS entity, unnest(@entity_ids::text[]) AS entity_id,
           unnest(@skip_dead::boolean[]) AS skip_dead
) k
CROSS JOIN LATERAL (
    (SELECT 1 FROM weir.ordered_job o
     WHERE o.observer = k.observer AND o.entity = k.entity AND o.entity_id = k.entity_id AND o.called LIMIT 1)
    UNION ALL
    (SELECT 1 FROM weir.ordered_job o
     WHERE o.observer = k.observer AND o.entity = k.entity AND o.entity_id = k.entity_id AND o.state = 'pending' LIMIT 1)
    UNION ALL
    (SELECT 1 FROM weir.ordered_job o
     WHERE o.observer = k.observer AND o.entity = k.entity AND o.entity_id = k.entity_id AND o.dead AND NOT k.skip_dead LIMIT 1)
    LIMIT 1
) AS something;

-- name: CallNext :many
-- CallNext makes available what is first in line in each of the sequences named (the arrays are parallel) and waits for its
-- turn, and returns the queues. A sequence whose first is under way, or a dead letter that is not skipped, stays as it is. What
-- another caller has locked is passed over: that one makes it available.
UPDATE weir.river_job
SET state = 'available', scheduled_at = now()
WHERE id IN (
    SELECT j.id
    FROM (
        SELECT unnest(@observers::text[]) AS observer, unnest(@entities::text[]) AS entity, unnest(@entity_ids::text[]) AS entity_id,
               unnest(@skip_dead::boolean[]) AS skip_dead
    ) k
    CROSS JOIN LATERAL (
        SELECT f.id, f.state
        FROM (
            (SELECT o.id, o.state, o.lsn, o.tx_index FROM weir.ordered_job o
             WHERE o.observer = k.observer AND o.entity = k.entity AND o.entity_id = k.entity_id AND o.state = 'pending'
             ORDER BY o.observer, o.entity, o.entity_id, o.lsn, o.tx_index
             FETCH FIRST 1 ROW WITH TIES) -- the actions of an event have one position
            UNION ALL
            (SELECT o.id, o.state, o.lsn, o.tx_index FROM weir.ordered_job o
             WHERE o.observer = k.observer AND o.entity = k.entity AND o.entity_id = k.entity_id AND o.called
             ORDER BY o.observer, o.entity, o.entity_id, o.lsn, o.tx_index
             LIMIT 1)
            UNION ALL
            (SELECT o.id, o.state, o.lsn, o.tx_index FROM weir.ordered_job o
             WHERE o.observer = k.observer AND o.entity = k.entity AND o.entity_id = k.entity_id AND o.dead AND NOT k.skip_dead
             ORDER BY o.observer, o.entity, o.entity_id, o.lsn, o.tx_index
             LIMIT 1)
        ) f
        ORDER BY f.lsn, f.tx_index
        FETCH FIRST 1 ROW WITH TIES
    ) first
    JOIN weir.river_job j ON j.id = first.id AND j.state = 'pending'
    WHERE first.state = 'pending'
    FOR UPDATE OF j SKIP LOCKED)
RETURNING queue;

-- name: WaitInLine :one
-- WaitInLine puts a running job back to wait for its turn and gives the attempt back. It gets a new id, so that whatever River
-- still concludes about this attempt finds no such job: by then it may run again elsewhere. One that a person has cancelled
-- meanwhile is cancelled, as River would have concluded.
UPDATE weir.river_job
SET id = nextval('weir.river_job_id_seq'), attempt = greatest(attempt - 1, 0),
    state = (CASE WHEN metadata ? 'cancel_attempted_at' THEN 'cancelled' ELSE 'pending' END)::weir.river_job_state,
    finalized_at = CASE WHEN metadata ? 'cancel_attempted_at' THEN now() END
WHERE id = @id AND state = 'running'
RETURNING id;

-- name: SequencesAfter :many
-- SequencesAfter is a page of the sequences in which something waits for its turn, from the one after that named on. It leaps
-- from one to the next in the index.
WITH RECURSIVE found AS (
    (SELECT o.observer, o.entity, o.entity_id
     FROM weir.ordered_job o
     WHERE (o.observer, o.entity, o.entity_id) > (@observer::text, @entity::text, @entity_id::text) AND o.state = 'pending'
     ORDER BY o.observer, o.entity, o.entity_id
     LIMIT 1)
    UNION ALL
    SELECT n.observer, n.entity, n.entity_id
    FROM found f
    CROSS JOIN LATERAL (
        SELECT o.observer, o.entity, o.entity_id
        FROM weir.ordered_job o
        WHERE (o.observer, o.entity, o.entity_id) > (f.observer, f.entity, f.entity_id) AND o.state = 'pending'
        ORDER BY o.observer, o.entity, o.entity_id
        LIMIT 1
    ) n
)
SELECT observer::text AS observer, entity::text AS entity, entity_id::text AS entity_id FROM found LIMIT @max_rows::integer;

-- name: LetGo :many
-- LetGo makes everything available that waits for its turn in the sequences named (the arrays are parallel) and is older than
-- an age, and returns the queues: nobody keeps their order any more.
UPDATE weir.river_job
SET state = 'available', scheduled_at = now()
WHERE id IN (
    SELECT j.id
    FROM (
        SELECT unnest(@observers::text[]) AS observer, unnest(@entities::text[]) AS entity, unnest(@entity_ids::text[]) AS entity_id
    ) k
    CROSS JOIN LATERAL (
        SELECT o.id, o.created_at FROM weir.ordered_job o
        WHERE o.observer = k.observer AND o.entity = k.entity AND o.entity_id = k.entity_id AND o.state = 'pending'
        LIMIT @max_rows::integer
    ) waiting
    JOIN weir.river_job j ON j.id = waiting.id AND j.state = 'pending'
    WHERE waiting.created_at <= now() - @age::interval
    LIMIT @max_rows::integer
    FOR UPDATE OF j SKIP LOCKED)
RETURNING queue;

-- name: FirstOfSequence :one
-- FirstOfSequence is what a delivery waits for that keeps an order: the first of its sequence that is not finished, or a dead
-- letter if those are not skipped. pgx.ErrNoRows: nothing.
SELECT f.id, f.state::text AS state, f.dead
FROM (
    (SELECT o.* FROM weir.ordered_job o
     WHERE o.observer = @observer::text AND o.entity = @entity::text AND o.entity_id = @entity_id::text AND o.called
     ORDER BY o.observer, o.entity, o.entity_id, o.lsn, o.tx_index LIMIT 1)
    UNION ALL
    (SELECT o.* FROM weir.ordered_job o
     WHERE o.observer = @observer::text AND o.entity = @entity::text AND o.entity_id = @entity_id::text AND o.state = 'pending'
     ORDER BY o.observer, o.entity, o.entity_id, o.lsn, o.tx_index LIMIT 1)
    UNION ALL
    (SELECT o.* FROM weir.ordered_job o
     WHERE o.observer = @observer::text AND o.entity = @entity::text AND o.entity_id = @entity_id::text AND o.dead
       AND NOT @skip_dead::boolean
     ORDER BY o.observer, o.entity, o.entity_id, o.lsn, o.tx_index LIMIT 1)
) f
ORDER BY f.lsn, f.tx_index, f.id
LIMIT 1;

-- name: CountInLine :one
-- CountInLine counts the deliveries that wait for their turn in a sequence.
SELECT count(*)
FROM weir.ordered_job o
WHERE o.observer = @observer::text AND o.entity = @entity::text AND o.entity_id = @entity_id::text AND o.state = 'pending';

-- name: MarkOvertaken :exec
-- MarkOvertaken marks the dead letters that come before these positions of sequences (the arrays are parallel), of deliveries
-- that leave the table.
UPDATE weir.river_job
SET metadata = metadata || '{"weir_overtaken": true}'
WHERE id IN (
    SELECT j.id
    FROM (
        SELECT unnest(@observers::text[]) AS observer, unnest(@entities::text[]) AS entity, unnest(@entity_ids::text[]) AS entity_id,
               '0/0'::pg_lsn + unnest(@lsns::bigint[]) AS lsn, unnest(@tx_indexes::bigint[]) AS tx_index
    ) k
    CROSS JOIN LATERAL (
        SELECT o.id FROM weir.ordered_job o
        WHERE o.observer = k.observer AND o.entity = k.entity AND o.entity_id = k.entity_id AND o.dead
          AND (o.lsn, o.tx_index) < (k.lsn, k.tx_index)
        OFFSET 0
    ) earlier
    JOIN weir.river_job j ON j.id = earlier.id AND NOT j.metadata ? 'weir_overtaken'
    FOR UPDATE OF j);

-- name: AgeOrdered :execrows
-- AgeOrdered gives all that keeps an order positions before those that any source gives, in the same order: what comes next is
-- from another source, whose positions may be lower.
UPDATE weir.river_job j
SET args = jsonb_set(j.args, '{lsn}', to_jsonb(('0/0'::pg_lsn + aged.place)::text))
FROM (SELECT id, dense_rank() OVER (ORDER BY lsn) AS place FROM weir.ordered_job) aged
WHERE j.id = aged.id;
