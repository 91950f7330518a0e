package jobs

import (
	"context"
	"errors"
	"testing"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"
)

// Whoever may have been declared dead since it asked whose turn it is does not act on the answer: a worker that was stopped goes
// on when others have delivered this event and later ones.
func TestNobodyIsFirstWithoutALease(t *testing.T) {
	t.Parallel()
	r := newRig(t, `o: {entity: Order, ordering: entity, actions: [{type: log}]}`)
	bound, _ := r.q.set.Load().Lookup("o", "log")
	e := order(1, `{}`).Event
	d := &delivery{
		job: &rivertype.JobRow{Metadata: []byte(`{"weir_ordered":true}`)}, args: argsOf(&e, "o", "log"), bound: bound,
	}
	acted := errors.New("acted")
	act := r.q.runner.inOrder(func(context.Context, *delivery) error { return acted })
	if err := act(t.Context(), d); !errors.Is(err, acted) {
		t.Fatalf("with a lease: %v", err)
	}
	r.q.lease.Lose(errors.New("stopped"))
	var snooze *river.JobSnoozeError
	if err := act(t.Context(), d); !errors.As(err, &snooze) {
		t.Errorf("without one: %v", err)
	}
}

// What keeps no order any more is let go at the sweeps' pace, not at one batch each time that they begin again.
func TestSweepLetsGoOfAll(t *testing.T) {
	t.Parallel()
	r := newRig(t, oneLog)
	r.exec(`INSERT INTO weir.river_job (kind, queue, state, max_attempts, args, metadata)
		SELECT 'weir_log', 'log', 'pending', 3, jsonb_build_object('observer', 'o', 'action', 'log', 'entity', 'Order', 'entity_id', '1',
			'lsn', '0/' || to_hex(n), 'tx_index', 1), '{"weir_ordered": true}'
		FROM generate_series(1, $1) n`, 2*releaseBatch+1)
	for sweeps := 1; ; sweeps++ {
		done, err := r.q.turns.sweep(t.Context())
		check(t, err)
		if done || sweeps > 5 {
			break
		}
	}
	r.linesAre("available 2001", "SELECT state || ' ' || count(*) FROM weir.river_job GROUP BY state")
}
