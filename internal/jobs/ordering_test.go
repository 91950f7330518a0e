package jobs

import "testing"

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
