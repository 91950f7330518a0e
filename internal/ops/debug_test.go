package ops_test

import (
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/internal/action"
	"github.com/fraiseql/weir/internal/config"
	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/observer"
	"github.com/fraiseql/weir/internal/ops"
)

func deliveryID(e *event.Event) uuid.UUID {
	return event.DeliveryID(e.ID, e.PK, failedJob.observer, failedJob.action)
}

const observers = `
database: {url: "postgres://localhost/x"}
observers:
  order-shipped:
    entity: Order
    event_type: UPDATE
    condition: "field_changed_to('status', 'shipped') && total > 100"
    actions: [{name: notify-erp, type: log, message_template: x}]
  large:
    entity: Order
    condition: "total > 1000"
    actions: [{type: log, message_template: x}]
  misspelt:
    entity: Order
    condition: "totla > 1000"
    actions: [{type: log, message_template: x}]
  invoices:
    entity: Invoice
    actions: [{type: log, message_template: x}]
`

func observerSet(t *testing.T) *observer.Set {
	t.Helper()
	path := filepath.Join(t.TempDir(), "weir.yaml")
	check(t, os.WriteFile(path, []byte(observers), 0o600))
	cfg, err := config.Load(t.Context(), config.Options{Path: path})
	check(t, err)
	set, err := observer.New(cfg.Observers, action.Deps{Logger: slog.New(slog.DiscardHandler)})
	check(t, err)
	return set
}

// debugged records two events, of which the first has two deliveries.
func debugged(t *testing.T) (db *pgx.Conn, first *event.Event) {
	t.Helper()
	db = setup(t)
	first = newEvent(1)
	record(t, db, first, newEvent(2))
	failed, waiting := failedJob, failedJob
	failed.event, waiting.event = first, first
	waiting.observer, waiting.action, waiting.state = "large", "log", "retryable"
	failed.insert(t, db)
	waiting.insert(t, db)
	return db, first
}

func TestDebugEvent(t *testing.T) {
	t.Parallel()
	db, e := debugged(t)
	reports, err := ops.DebugEvent(t.Context(), db, e.ID, ops.Question{Observers: observerSet(t)})
	check(t, err)
	equal(t, "reports", len(reports), 1)
	r := reports[0]
	equal(t, "position", r.LSN, e.LSN)
	if !strings.Contains(string(r.Event), `"total":100.10,"big":9007199254740993123`) {
		t.Errorf("digits are lost: %s", r.Event)
	}
	verdicts := map[string]observer.Explanation{}
	for _, x := range r.Observers {
		verdicts[x.Observer] = x
	}
	equal(t, "order-shipped", verdicts["order-shipped"].Verdict, observer.VerdictMatch)
	equal(t, "large", verdicts["large"].Verdict, observer.VerdictFalse)
	equal(t, "misspelt", verdicts["misspelt"].Verdict, observer.VerdictError)
	equal(t, "invoices", verdicts["invoices"].Verdict, observer.VerdictOtherEntity)
	if reason := verdicts["large"].Reason; !strings.Contains(reason, "total > 1000") {
		t.Errorf("why large did not match: %q", reason)
	}

	equal(t, "deliveries", len(r.Deliveries), 2)
	failed, waiting := r.Deliveries[0], r.Deliveries[1]
	equal(t, "dead letter", failed.DeadLetter, true)
	equal(t, "no next attempt", failed.NextAttemptAt, event.Time{})
	equal(t, "delivery id", *failed.DeliveryID, deliveryID(e))
	equal(t, "outcome", failed.Outcome.Result, "dead")
	equal(t, "last error", failed.LastError, failedJob.lastError)
	equal(t, "no dead letter", waiting.DeadLetter, false)
	if waiting.NextAttemptAt == (event.Time{}) {
		t.Error("a delivery that is retried has no next attempt")
	}
}

func TestDebugOneObserver(t *testing.T) {
	t.Parallel()
	db, e := debugged(t)
	reports, err := ops.DebugEvent(t.Context(), db, e.ID, ops.Question{Observers: observerSet(t), Only: "large"})
	check(t, err)
	equal(t, "observers", len(reports[0].Observers), 1)
	equal(t, "deliveries", len(reports[0].Deliveries), 1)
	equal(t, "observer", reports[0].Deliveries[0].Observer, "large")
}

func TestDebugWithoutConfiguration(t *testing.T) {
	t.Parallel()
	db, e := debugged(t)
	reports, err := ops.DebugEvent(t.Context(), db, e.ID, ops.Question{})
	check(t, err)
	raw, err := json.Marshal(reports[0])
	check(t, err)
	if !strings.Contains(string(raw), `"explained":false,"observers":[]`) {
		t.Errorf("got %s", raw)
	}
	equal(t, "deliveries", len(reports[0].Deliveries), 2)
}

func TestDebugLast(t *testing.T) {
	t.Parallel()
	db, e := debugged(t)
	reports, err := ops.DebugLast(t.Context(), db, 5, ops.Question{})
	check(t, err)
	equal(t, "reports", len(reports), 2)
	equal(t, "newest first", reports[0].ID, newEvent(2).ID)
	equal(t, "then the older one", reports[1].ID, e.ID)
	if reports[0].Deliveries == nil {
		t.Error("no deliveries must be an empty list")
	}
}

// TestDebugRowThatIsNoEvent: there is a dead letter with the row's id, and no event.
func TestDebugRowThatIsNoEvent(t *testing.T) {
	t.Parallel()
	db := setup(t)
	j := failedJob
	j.kind, j.observer, j.action, j.state, j.mark = "weir_change", "", "", "cancelled", "bad_row"
	j.insert(t, db)
	reports, err := ops.DebugEvent(t.Context(), db, newEvent(1).ID, ops.Question{Observers: observerSet(t)})
	check(t, err)
	equal(t, "reports", len(reports), 1)
	equal(t, "explained", reports[0].Explained, false)
	equal(t, "reason", reports[0].Deliveries[0].Reason, "bad_row")

	_, err = ops.DebugEvent(t.Context(), db, uuid.New(), ops.Question{})
	if !errors.Is(err, ops.ErrNoEvent) {
		t.Errorf("unknown event: got %v", err)
	}
}

// TestDebugSameIDTwice: the change log's id has no unique index.
func TestDebugSameIDTwice(t *testing.T) {
	t.Parallel()
	db := setup(t)
	one, two := newEvent(1), newEvent(1)
	two.PK, two.LSN = 2, one.LSN+8
	record(t, db, one, two)
	j := failedJob
	j.event = two
	j.insert(t, db)
	reports, err := ops.DebugEvent(t.Context(), db, one.ID, ops.Question{})
	check(t, err)
	equal(t, "reports", len(reports), 2)
	equal(t, "deliveries of the first", len(reports[0].Deliveries), 0)
	equal(t, "deliveries of the second", len(reports[1].Deliveries), 1)
}
