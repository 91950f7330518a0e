package jobs

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/riverqueue/river"

	"github.com/fraiseql/weir/internal/event"
)

const several = `
broken:
  entity: Order
  condition: totl > 100
  actions: [{type: log}]
everything:
  entity: "*"
  actions: [{type: log, name: audit, endpoint: audit, priority: 4}]
large:
  entity: Order
  event_type: INSERT
  condition: total > 100
  retry: {max_attempts: 3}
  actions:
    - {type: webhook, name: erp, url: "https://erp.example.org:8443/hooks", priority: 2}
    - {type: webhook, name: crm, url: "https://crm.example.org/"}
off:
  enabled: false
  entity: Order
  actions: [{type: log}]
`

// One transaction holds the jobs of a whole batch: one for each event, observer and action, with the queue, the
// priority and the attempts that are configured.
func TestInsert(t *testing.T) {
	t.Parallel()
	r := newRig(t, several)
	bad := order(3, `{}`)
	bad.EntityType, bad.Reason = "", "unknown modification_type\n\"UPSERT\""
	user := order(4, `{}`)
	user.EntityType = "User"
	r.commit(order(1, `{"total": 100.10}`), order(2, `{"total": 50, "totl": 1}`), bad, user)
	got := r.lines(`
		SELECT concat_ws(' ', args->>'pk', kind, args->>'observer', args->>'action', queue, priority, max_attempts, state, attempt)
		  FROM weir.river_job ORDER BY id`)
	want := []string{
		"1 weir_log everything audit audit 4 22 available 0",
		"1 weir_webhook large erp erp_example_org-8443 2 3 available 0",
		"1 weir_webhook large crm crm_example_org 1 3 available 0",
		"1 weir_change broken  weir_change 1 25 available 0",
		"2 weir_log everything audit audit 4 22 available 0",
		"3 weir_change   weir_change 1 25 available 0",
		"4 weir_log everything audit audit 4 22 available 0",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	reasons := r.lines(`SELECT args->>'reason' FROM weir.river_job WHERE kind = 'weir_change' ORDER BY id`)
	if len(reasons) != 2 || !strings.Contains(reasons[0], "totl") || reasons[1] != `unknown modification_type "UPSERT"` {
		t.Errorf("reasons: %q", reasons)
	}
	if leaks := r.lines(`SELECT args::text FROM weir.river_job WHERE args::text LIKE '%100.10%'`); len(leaks) != 0 {
		t.Errorf("the event's data is in the job: %s", leaks)
	}
	for _, m := range []struct {
		name   string
		labels []string
		want   float64
	}{
		{"weir_matches_total", []string{"observer", "everything"}, 3},
		{"weir_matches_total", []string{"observer", "large"}, 1}, // an event with two actions is one match
		{"weir_matches_total", []string{"observer", "broken"}, 0},
		{"weir_matches_total", []string{"observer", "off"}, 0},
		{"weir_condition_errors_total", []string{"observer", "broken"}, 1},
		{"weir_condition_errors_total", []string{"observer", "large"}, 0},
		{"weir_misses_total", []string{"observer", "large"}, 1}, // not those of another entity
		{"weir_misses_total", []string{"observer", "broken"}, 1},
		{"weir_misses_total", []string{"observer", "everything"}, 0},
		{"weir_events_total", nil, 3},
		{"weir_unmatched_total", nil, 0},
	} {
		if got := r.metric(m.name, m.labels...); got != m.want {
			t.Errorf("%s%v = %v, want %v", m.name, m.labels, got, m.want)
		}
	}
}

// Without an observer for it an event makes no job, and is counted.
func TestInsertUnmatched(t *testing.T) {
	t.Parallel()
	r := newRig(t, `large: {entity: Order, condition: total > 100, actions: [{type: log}]}`)
	r.commit()
	r.commit(order(1, `{"total": 5}`), order(2, `{"total": null}`))
	if got := r.lines(`SELECT kind FROM weir.river_job`); len(got) != 0 {
		t.Errorf("jobs %s", got)
	}
	if got := r.metric("weir_unmatched_total"); got != 2 {
		t.Errorf("weir_unmatched_total = %v, want 2", got)
	}
}

// Jobs exist exactly when their transaction commits.
func TestInsertIsInTheTransaction(t *testing.T) {
	t.Parallel()
	r := newRig(t, `all: {entity: Order, actions: [{type: log}]}`)
	errBack := errors.New("roll it back")
	err := pgx.BeginFunc(t.Context(), r.pool, func(tx pgx.Tx) error {
		_, err := r.q.Insert(t.Context(), tx, []event.Change{order(1, `{}`)})
		check(t, err)
		var within int
		check(t, tx.QueryRow(t.Context(), `SELECT count(*) FROM weir.river_job`).Scan(&within))
		if within != 1 {
			t.Errorf("%d jobs within the transaction, want 1", within)
		}
		return errBack
	})
	if !errors.Is(err, errBack) {
		t.Fatal(err)
	}
	if got := r.lines(`SELECT kind FROM weir.river_job`); len(got) != 0 {
		t.Errorf("jobs %s after a rollback", got)
	}
}

// Each batch says that there is something to fetch, also one that comes a few milliseconds after another: River's fetches would
// make one of both, but what nobody announces waits until the next poll.
func TestInsertAnnouncesEachBatch(t *testing.T) {
	t.Parallel()
	r := newRig(t, `all: {entity: Order, actions: [{type: log}]}`)
	conn, err := r.pool.Acquire(t.Context())
	check(t, err)
	defer conn.Release()
	_, err = conn.Exec(t.Context(), `LISTEN "weir.river_insert"`)
	check(t, err)
	const batches = 5
	for pk := range int64(batches) {
		time.Sleep(2 * river.FetchCooldownMin) // as batches of the stream are apart
		r.commit(order(pk+1, `{}`))
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for n := range batches {
		got, err := conn.Conn().WaitForNotification(ctx)
		if err != nil {
			t.Fatalf("after %d notifications: %v", n, err)
		}
		if got.Payload != `{"queue": "log"}` {
			t.Errorf("payload %s", got.Payload)
		}
	}
}

// What is prepared is inserted when its turn comes, whatever is prepared or inserted meanwhile.
func TestPrepare(t *testing.T) {
	t.Parallel()
	r := newRig(t, `large: {entity: Order, condition: total > 100, actions: [{type: log}]}`)
	next := r.q.Prepare(t.Context(), []event.Change{order(1, `{"total": 200}`), order(2, `{"total": 1}`), order(3, `{"total": 300}`)})
	if made := next.Made(); !slices.Equal(made, []bool{true, false, true}) {
		t.Errorf("jobs for %v", made)
	}
	none := r.q.Prepare(t.Context(), []event.Change{order(5, `{"total": 1}`)})
	r.commit(order(4, `{"total": 400}`))
	check(t, pgx.BeginFunc(t.Context(), r.pool, func(tx pgx.Tx) error {
		_, err := next.Insert(t.Context(), tx)
		return err
	}))
	r.q.Committed()
	want := []string{"4", "1", "3"}
	if got := r.lines(`SELECT args->>'pk' FROM weir.river_job ORDER BY id`); !slices.Equal(got, want) {
		t.Errorf("jobs of %v, want %v", got, want)
	}

	none.Passed()
	r.q.Committed() // says nothing twice
	if got := testutil.ToFloat64(r.q.runner.metrics.unmatched); got != 2 {
		t.Errorf("%g events without a match, want 2", got)
	}
}
