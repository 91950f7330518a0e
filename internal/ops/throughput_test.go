package ops_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/internal/ops"
)

// ended makes deliveries that have ended, some of which have left River's table, and things that are no deliveries.
func ended(t *testing.T, db *pgx.Conn) {
	t.Helper()
	done, dead, change, byHand := failedJob, failedJob, failedJob, failedJob
	done.state, done.lastError = "completed", ""
	change.kind, change.state = "weir_change", "completed"
	byHand.state = "cancelled"
	for _, j := range []job{done, done, dead, change, byHand} {
		j.insert(t, db)
	}
	dead.failed = time.Now().Add(-2 * time.Hour)
	dead.insert(t, db)
	exec(t, db, `UPDATE weir.river_job SET metadata = '{"output": {"result": "delivered"}}' WHERE state = 'completed'`)
	for _, o := range []struct {
		ago           time.Duration
		state, cached string
	}{{30 * time.Minute, "delivered", "true"}, {30 * time.Minute, "delivered", "false"}, {3 * time.Hour, "dropped", "false"}} {
		exec(t, db, `
			INSERT INTO weir.outcome (day, delivery_id, event_id, event_pk, observer, action, action_type, entity_type, entity_id, state,
			                          finished_at, cached)
			VALUES (current_date, $1, $1, 0, 'order-shipped', 'notify-erp', 'webhook', 'Order', '1', $2, $3, $4::text::boolean)`,
			uuid.New(), o.state, time.Now().Add(-o.ago), o.cached)
	}
}

func TestThroughput(t *testing.T) {
	t.Parallel()
	db := setup(t)
	ended(t, db)
	for name, tt := range map[string]struct {
		span, bucket time.Duration
		want         []string
	}{
		"an hour":   {time.Hour, time.Minute, []string{"cached 1", "cancelled 1", "dead 1", "delivered 3"}},
		"six hours": {6 * time.Hour, 5 * time.Minute, []string{"cached 1", "cancelled 1", "dead 2", "delivered 3", "dropped 1"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ops.ReadThroughput(t.Context(), db, tt.span, tt.bucket)
			check(t, err)
			from, to := time.Time(got.From), time.Time(got.To)
			if buckets := to.Sub(from) / tt.bucket; buckets != tt.span/tt.bucket-1 || from.Truncate(tt.bucket) != from {
				t.Errorf("from %s to %s", from, to)
			}
			equal(t, "complete from", time.Time(got.CompleteFrom), from)
			sums := map[string]int64{}
			for _, c := range got.Counts {
				equal(t, "observer", c.Observer, "order-shipped")
				if at := time.Time(c.Start); at.Truncate(tt.bucket) != at || at.Before(from) || at.After(to) {
					t.Errorf("%v is in no stretch", c)
				}
				sums[c.Outcome] += c.Deliveries
			}
			var found []string
			for outcome, n := range sums {
				found = append(found, fmt.Sprint(outcome, " ", n))
			}
			slices.Sort(found)
			if !slices.Equal(found, tt.want) {
				t.Errorf("got %v, want %v", found, tt.want)
			}
		})
	}
}

// TestThroughputIsBounded: what is not looked at is said, and what is counted is what is newest.
func TestThroughputIsBounded(t *testing.T) {
	t.Parallel()
	db := setup(t)
	for n := range 5 {
		j := failedJob
		j.failed = time.Now().Add(-time.Duration(n) * 10 * time.Minute)
		j.insert(t, db)
	}
	got, err := ops.ReadThroughputOf(t.Context(), db, time.Hour, time.Minute, 2)
	check(t, err)
	if age := time.Since(time.Time(got.CompleteFrom)); len(got.Counts) != 2 || age < 9*time.Minute || age > 12*time.Minute {
		t.Errorf("%d stretches, complete since %s", len(got.Counts), age)
	}
}

func TestStatusOfALimitedSlot(t *testing.T) {
	t.Parallel()
	db := setup(t)
	cfg := slotOf(t, db)
	createSlot(t, db, cfg)
	if s := status(t, db, cfg); s.Stream.SafeWALBytes != nil {
		t.Errorf("%d bytes are safe without a limit", *s.Stream.SafeWALBytes)
	}
}
