package ops_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"github.com/fraiseql/weir/internal/ops"
)

// letters makes four jobs of which three are dead letters, and returns the ids, the oldest first.
func letters(t *testing.T, db *pgx.Conn) (ids []int64) {
	t.Helper()
	old, other, alive, final := failedJob, failedJob, failedJob, failedJob
	old.failed = time.Now().Add(-48 * time.Hour)
	other.observer, other.action, other.lastError = "mailer", "mail", `Mailbox "full"`
	alive.state = "retryable"
	final.state, final.mark, final.lastError = "cancelled", "final_status", "JobCancelError: 410 Gone"
	for _, j := range []job{old, other, final, alive} {
		ids = append(ids, j.insert(t, db))
	}
	return ids
}

func idsOf(page ops.DeadLetterPage) []int64 {
	ids := []int64{}
	for _, d := range page.DeadLetters {
		ids = append(ids, d.JobID)
	}
	return ids
}

func TestListFilters(t *testing.T) {
	t.Parallel()
	db := setup(t)
	ids := letters(t, db)
	for name, tt := range map[string]struct {
		filter ops.Filter
		want   []int64
	}{
		"all, newest first":       {ops.Filter{}, []int64{ids[2], ids[1], ids[0]}},
		"observer":                {ops.Filter{Observer: "mailer"}, []int64{ids[1]}},
		"action":                  {ops.Filter{Action: "notify-erp"}, []int64{ids[2], ids[0]}},
		"since":                   {ops.Filter{Since: time.Now().Add(-24 * time.Hour)}, []int64{ids[2], ids[1]}},
		"error, whatever case":    {ops.Filter{Error: "MAILBOX"}, []int64{ids[1]}},
		"error is no pattern":     {ops.Filter{Error: "%"}, []int64{}},
		"several":                 {ops.Filter{Observer: "order-shipped", Error: "gone"}, []int64{ids[2]}},
		"unknown observer":        {ops.Filter{Observer: "nobody"}, []int64{}},
		"an empty list, not null": {ops.Filter{Action: "nothing"}, []int64{}},
	} {
		t.Run(name, func(t *testing.T) {
			page, err := ops.NewDeadLetters(db).List(t.Context(), tt.filter, 0, 50)
			check(t, err)
			if got := idsOf(page); !slices.Equal(got, tt.want) || page.DeadLetters == nil {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestListPages(t *testing.T) {
	t.Parallel()
	db := setup(t)
	var want []int64
	for range 5 {
		want = append(want, failedJob.insert(t, db))
	}
	slices.Reverse(want)
	var got []int64
	for after, pages := int64(0), 0; pages == 0 || after != 0; pages++ {
		page, err := ops.NewDeadLetters(db).List(t.Context(), ops.Filter{}, after, 2)
		check(t, err)
		got, after = append(got, idsOf(page)...), page.After
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestShow(t *testing.T) {
	t.Parallel()
	db := setup(t)
	ids := letters(t, db)
	record(t, db, newEvent(1))
	got, err := ops.NewDeadLetters(db).Show(t.Context(), ids[2])
	check(t, err)
	equal(t, "reason", got.Reason, "final_status")
	equal(t, "last error", got.LastError, "410 Gone")
	equal(t, "errors", len(got.Errors), 3)
	equal(t, "status", got.Outcome.ResponseStatus, 503)
	equal(t, "delivery id", *got.DeliveryID, deliveryID(newEvent(1)))
	if !strings.Contains(string(got.Event), "9007199254740993123") {
		t.Errorf("event %s", got.Event)
	}
	for _, id := range []int64{ids[3], 999_999} { // one that is still tried, and none at all
		if _, err := ops.NewDeadLetters(db).Show(t.Context(), id); !errors.Is(err, ops.ErrNoDeadLetter) {
			t.Errorf("job %d: got %v", id, err)
		}
	}
}

// TestShowWithoutEvent: a row that could not become an event is not in weir.event.
func TestShowWithoutEvent(t *testing.T) {
	t.Parallel()
	db := setup(t)
	j := failedJob
	j.kind, j.observer, j.action, j.queue, j.state, j.mark = "weir_change", "", "", "weir_change", "cancelled", "bad_row"
	got, err := ops.NewDeadLetters(db).Show(t.Context(), j.insert(t, db))
	check(t, err)
	if got.Event != nil || got.DeliveryID != nil {
		t.Errorf("event %s, delivery id %v: want null", got.Event, got.DeliveryID)
	}
}

type jobState struct {
	State      string
	Attempt    int
	Finalized  *time.Time
	Due        bool
	Meta       string
	ErrorCount int
}

func stateOf(t *testing.T, db *pgx.Conn, id int64) jobState {
	t.Helper()
	var s jobState
	err := db.QueryRow(t.Context(), `
		SELECT state::text, attempt, finalized_at, scheduled_at <= now(), metadata::text, cardinality(errors)
		  FROM weir.river_job WHERE id = $1`, id).Scan(&s.State, &s.Attempt, &s.Finalized, &s.Due, &s.Meta, &s.ErrorCount)
	check(t, err)
	return s
}

func TestRetryGivesAFreshBudget(t *testing.T) {
	t.Parallel()
	db := setup(t)
	ids := letters(t, db)
	act, err := ops.NewDeadLetters(db).Retry(t.Context(), []int64{ids[2], ids[3], ids[2], 999_999}, false)
	check(t, err)
	equal(t, "matched", act.Matched, 1)
	equal(t, "changed", act.Changed, 1)
	if want := []int64{ids[3], 999_999}; !slices.Equal(act.Missing, want) {
		t.Errorf("missing %v, want %v", act.Missing, want)
	}
	got := stateOf(t, db, ids[2])
	if got.State != "available" || got.Attempt != 0 || got.Finalized != nil || !got.Due || got.ErrorCount != 3 ||
		strings.Contains(got.Meta, "weir_") || strings.Contains(got.Meta, "snoozes") {
		t.Errorf("after retry: %+v", got)
	}
	equal(t, "the one that is still tried", stateOf(t, db, ids[3]).State, "retryable")
}

// riverJob lets River insert a job.
type riverJob struct{}

// Kind is what the test's other jobs have.
func (riverJob) Kind() string { return "weir_webhook" }

// TestRetryNotifiesRiver compares what a retry sends with what River sends for an insert, since its clients listen to
// nothing else.
func TestRetryNotifiesRiver(t *testing.T) {
	t.Parallel()
	databaseURL := postgres.Database(t)
	db, listener := connect(t, databaseURL), connect(t, databaseURL)
	id := failedJob.insert(t, db)

	channel := notifiedByRiver(t, databaseURL, listener)
	act, err := ops.NewDeadLetters(db).Retry(t.Context(), []int64{id}, false)
	check(t, err)
	equal(t, "changed", act.Changed, 1)
	got, err := listener.WaitForNotification(t.Context())
	check(t, err)
	equal(t, "channel", got.Channel, channel)
	equal(t, "queue", queueIn(t, got.Payload), failedJob.queue)
}

// notifiedByRiver listens, lets River insert a job, and returns the channel of its notification.
func notifiedByRiver(t *testing.T, databaseURL string, listener *pgx.Conn) (channel string) {
	t.Helper()
	exec(t, listener, `LISTEN "weir.river_insert"`)
	pool, err := pgxpool.New(t.Context(), databaseURL)
	check(t, err)
	defer pool.Close()
	client, err := river.NewClient(riverpgxv5.New(pool), &river.Config{Schema: "weir"})
	check(t, err)
	_, err = client.Insert(t.Context(), riverJob{}, &river.InsertOpts{Queue: failedJob.queue})
	check(t, err)
	n, err := listener.WaitForNotification(t.Context())
	check(t, err)
	equal(t, "River's payload names the queue", queueIn(t, n.Payload), failedJob.queue)
	return n.Channel
}

func queueIn(t *testing.T, payload string) string {
	t.Helper()
	var p struct {
		Queue string `json:"queue"`
	}
	check(t, json.Unmarshal([]byte(payload), &p))
	return p.Queue
}

// TestAllInBatches has more dead letters than one transaction takes.
func TestAllInBatches(t *testing.T) {
	t.Parallel()
	db := setup(t)
	first := failedJob.insert(t, db)
	const copies = 1200
	exec(t, db, `INSERT INTO weir.river_job (kind, queue, state, attempt, max_attempts, args, metadata, errors, finalized_at)
		SELECT kind, queue, state, attempt, max_attempts, args, metadata, errors, finalized_at
		  FROM weir.river_job, generate_series(1, $2) WHERE id = $1`, first, copies)
	other := failedJob
	other.observer = "mailer"
	spared := other.insert(t, db)

	dead := ops.NewDeadLetters(db)
	filter := ops.Filter{Observer: "order-shipped"}
	would, err := dead.RetryAll(t.Context(), filter, ops.Bulk{DryRun: true})
	check(t, err)
	equal(t, "dry run: matched", would.Matched, copies+1)
	equal(t, "dry run: changed", would.Changed, 0)
	equal(t, "dry run: state", stateOf(t, db, first).State, "discarded")

	var progress []int
	act, err := dead.RetryAll(t.Context(), filter, ops.Bulk{Progress: func(done int) { progress = append(progress, done) }})
	check(t, err)
	equal(t, "changed", act.Changed, copies+1)
	if want := []int{500, 1000, 1201}; !slices.Equal(progress, want) {
		t.Errorf("progress %v, want %v", progress, want)
	}
	equal(t, "retried", stateOf(t, db, first).State, "available")
	equal(t, "not chosen", stateOf(t, db, spared).State, "discarded")
}

func TestRemove(t *testing.T) {
	t.Parallel()
	db := setup(t)
	ids := letters(t, db)
	dead := ops.NewDeadLetters(db)

	act, err := dead.Remove(t.Context(), ids[:1], true)
	check(t, err)
	equal(t, "dry run: matched", act.Matched, 1)
	equal(t, "dry run: left", jobCount(t, db), 4)

	act, err = dead.Remove(t.Context(), []int64{ids[0], ids[3]}, false)
	check(t, err)
	equal(t, "changed", act.Changed, 1)
	equal(t, "left", jobCount(t, db), 3)

	act, err = dead.RemoveAll(t.Context(), ops.Filter{}, ops.Bulk{})
	check(t, err)
	equal(t, "changed by all", act.Changed, 2)
	equal(t, "the one that is still tried", stateOf(t, db, ids[3]).State, "retryable")
}

func jobCount(t *testing.T, db *pgx.Conn) (n int) {
	t.Helper()
	check(t, db.QueryRow(t.Context(), `SELECT count(*) FROM weir.river_job`).Scan(&n))
	return n
}

func TestStats(t *testing.T) {
	t.Parallel()
	db := setup(t)
	stats, err := ops.NewDeadLetters(db).Stats(t.Context())
	check(t, err)
	if stats.Total != 0 || stats.Groups == nil {
		t.Errorf("of none: %+v", stats)
	}
	letters(t, db)
	stats, err = ops.NewDeadLetters(db).Stats(t.Context())
	check(t, err)
	equal(t, "total", stats.Total, 3)
	var got []string
	for _, g := range stats.Groups {
		got = append(got, g.Observer+"/"+g.Action+" "+g.Reason)
	}
	want := []string{"mailer/mail attempts_exhausted", "order-shipped/notify-erp attempts_exhausted", "order-shipped/notify-erp final_status"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
