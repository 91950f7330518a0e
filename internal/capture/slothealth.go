package capture

import (
	"context"
	"math"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/fraiseql/weir/internal/event"
)

// slotHealth is how the slot is, as the source says. Its owner looks at each heartbeat, and a standby as often: when nobody
// reads the slot, or somebody else does, it is theirs that an alert sees.
type slotHealth struct {
	current  event.LSN // of the source's WAL
	retained int64     // bytes of WAL that the slot holds
	safe     float64   // bytes that may be written before the slot is in danger; +Inf without max_slot_wal_keep_size
	status   string    // wal_status; "" before it is known
	active   bool      // a session has it
}

// walStatuses are those of pg_replication_slots.
var walStatuses = []string{"reserved", "extended", "unreserved", lost}

// measure keeps the slot's health and how far the server's WAL has come, for whoever reads the slot or would read it.
// pgx.ErrNoRows: there is no slot.
func (m *metrics) measure(ctx context.Context, conn *pgx.Conn, slot Name) (*slotHealth, error) {
	var current string
	var safe *int64
	seen := &slotHealth{safe: math.Inf(1)}
	err := conn.QueryRow(ctx, `
		SELECT pg_current_wal_lsn()::text, coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::bigint,
		       safe_wal_size, coalesce(wal_status, ''), active
		  FROM pg_replication_slots WHERE slot_name = $1`, string(slot)).
		Scan(&current, &seen.retained, &safe, &seen.status, &seen.active)
	if err != nil {
		return nil, err
	}
	if safe != nil {
		seen.safe = float64(*safe)
	}
	if seen.current, err = event.ParseLSN(current); err != nil {
		return nil, err
	}
	m.slot.Store(seen)
	m.walEnd.Store(max(m.walEnd.Load(), uint64(seen.current)))
	return seen, nil
}

// slotCollectors are the metrics of the slot's health.
func (m *metrics) slotCollectors() []prometheus.Collector {
	m.slot.Store(&slotHealth{safe: math.Inf(1)})
	all := []prometheus.Collector{
		gauge("weir_slot_retained_bytes", "WAL that the slot holds on the server, as of the last heartbeat interval.",
			func() float64 { return float64(m.slot.Load().retained) }),
		gauge("weir_slot_safe_wal_bytes", "WAL that may still be written before the server removes what the slot needs; "+
			"+Inf without max_slot_wal_keep_size. As of the last heartbeat interval.",
			func() float64 { return m.slot.Load().safe }),
		gauge("weir_slot_active", "1 while any session has the slot, a stranger's included, as of the last heartbeat interval.",
			func() float64 { return oneIf(m.slot.Load().active) }),
	}
	for _, status := range walStatuses {
		all = append(all, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "weir_slot_wal_status",
			Help: "1 for the slot's wal_status (reserved, extended, unreserved or lost), else 0; " +
				"as of the last heartbeat interval.",
			ConstLabels: prometheus.Labels{"status": status},
		}, func() float64 { return oneIf(m.slot.Load().status == status) }))
	}
	return all
}

func oneIf(is bool) float64 {
	if is {
		return 1
	}
	return 0
}
