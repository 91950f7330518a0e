package store_test

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/internal/store"
)

// job is a row of River's table, in the parts that the queries look at.
type job struct {
	state, observer, action, queue string
	metadata                       string
	errors                         []string
	finalized                      time.Time
}

func insertJob(t *testing.T, db *pgx.Conn, j job) (id int64) {
	t.Helper()
	type object map[string]any
	args := object{
		"observer": j.observer, "action": j.action, "entity": "Order", "event_id": "event of " + j.observer, "lsn": "0/1",
	}
	var failures []object
	for i, text := range j.errors {
		failures = append(failures, object{"attempt": i + 1, "error": text})
	}
	var finalized *time.Time
	if j.state == "discarded" || j.state == "cancelled" || j.state == "completed" {
		finalized = &j.finalized
	}
	err := db.QueryRow(t.Context(), `
		INSERT INTO weir.river_job
			(state, kind, queue, args, metadata, errors, attempt, max_attempts, attempted_at, finalized_at)
		VALUES ($1::text::weir.river_job_state, 'weir_webhook', $2, $3, $4::text::jsonb, $5, 3, 3, now(), $6)
		RETURNING id`,
		j.state, j.queue, args, cmp.Or(j.metadata, "{}"), failures, finalized).Scan(&id)
	check(t, err)
	return id
}

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// deadLetters puts three dead letters among jobs that are none, and returns their ids in order.
func deadLetters(t *testing.T, db *pgx.Conn) []int64 {
	t.Helper()
	for _, state := range []string{"available", "completed", "pending", "retryable", "running", "scheduled"} {
		insertJob(t, db, job{state: state, observer: "a", action: "x", queue: "erp", metadata: `{"weir_dead_letter": "final"}`})
	}
	insertJob(t, db, job{state: "cancelled", observer: "a", action: "x", queue: "erp", finalized: noon}) // by a person
	return []int64{
		insertJob(t, db, job{
			state: "discarded", observer: "a", action: "x", queue: "erp", finalized: noon,
			errors: []string{"first", "connection REFUSED by 100% of hosts"},
		}),
		insertJob(t, db, job{
			state: "cancelled", observer: "a", action: "y", queue: "erp", finalized: noon.Add(time.Hour), errors: []string{"gone: 410"},
			metadata: `{"weir_dead_letter": "gone", "weir_first": 1, "snoozes": 2, "cancel_attempted_at": "x", "output": {"k": 1}}`,
		}),
		insertJob(t, db, job{state: "discarded", observer: "b", action: "x", queue: "mail", finalized: noon.Add(2 * time.Hour)}),
	}
}

func TestListDeadLetters(t *testing.T) {
	t.Parallel()
	text := func(s string) *string { return &s }
	inEachMode(t, func(t *testing.T, db *pgx.Conn) {
		ids := deadLetters(t, db)
		later := noon.Add(time.Minute)
		for name, test := range map[string]struct {
			filter store.ListDeadLettersParams
			want   []int // into ids
		}{
			"all":           {store.ListDeadLettersParams{MaxRows: 9}, []int{2, 1, 0}},
			"first page":    {store.ListDeadLettersParams{MaxRows: 2}, []int{2, 1}},
			"next page":     {store.ListDeadLettersParams{MaxRows: 2, BeforeID: &ids[1]}, []int{0}},
			"observer":      {store.ListDeadLettersParams{MaxRows: 9, Observer: text("a")}, []int{1, 0}},
			"action":        {store.ListDeadLettersParams{MaxRows: 9, Action: text("x")}, []int{2, 0}},
			"since":         {store.ListDeadLettersParams{MaxRows: 9, Since: &later}, []int{2, 1}},
			"error":         {store.ListDeadLettersParams{MaxRows: 9, Error: text("refused by 100%")}, []int{0}},
			"no such error": {store.ListDeadLettersParams{MaxRows: 9, Error: text("first")}, nil},
			"all filters": {
				store.ListDeadLettersParams{
					MaxRows: 9, Observer: text("a"), Action: text("y"), Since: &later, Error: text("GONE"), BeforeID: &ids[2],
				},
				[]int{1},
			},
		} {
			list, err := store.New().ListDeadLetters(t.Context(), db, test.filter)
			check(t, err)
			var got, want []int64
			for _, letter := range list {
				got = append(got, letter.ID)
			}
			for _, i := range test.want {
				want = append(want, ids[i])
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s: got %v, want %v", name, got, want)
			}
		}
	})
}

func TestGetDeadLetter(t *testing.T) {
	t.Parallel()
	inEachMode(t, func(t *testing.T, db *pgx.Conn) {
		ids := deadLetters(t, db)
		got, err := store.New().GetDeadLetter(t.Context(), db, ids[0])
		check(t, err)
		if got.Observer != "a" || got.Action != "x" || got.State != "discarded" || got.Queue != "erp" || got.Attempt != 3 ||
			len(got.Errors) != 2 || got.LastError != "connection REFUSED by 100% of hosts" || !got.FinalizedAt.Equal(noon) {
			t.Errorf("got %+v", got)
		}
		var args struct{ LSN string }
		if err := json.Unmarshal(got.Args, &args); err != nil || args.LSN != "0/1" {
			t.Errorf("got arguments %s, %v", got.Args, err)
		}
		for _, other := range []int64{ids[0] - 1, 1000} {
			if _, err := store.New().GetDeadLetter(t.Context(), db, other); !errors.Is(err, pgx.ErrNoRows) {
				t.Errorf("job %d: got error %v, want no rows", other, err)
			}
		}
	})
}

func TestDeadLetterCounts(t *testing.T) {
	t.Parallel()
	inEachMode(t, func(t *testing.T, db *pgx.Conn) {
		deadLetters(t, db)
		counts, err := store.New().CountDeadLetters(t.Context(), db)
		check(t, err)
		if got := fmt.Sprint(counts); got != "[{a 2} {b 1}]" {
			t.Errorf("got counts %v", got)
		}
		stats, err := store.New().DeadLetterStats(t.Context(), db)
		check(t, err)
		var got []string
		for _, s := range stats {
			oldest := s.Oldest.UTC().Format("15:04")
			got = append(got, fmt.Sprintf("%s/%s %s %d since %s", s.Observer, s.Action, s.Reason, s.Jobs, oldest))
		}
		want := []string{"a/x exhausted 1 since 12:00", "a/y gone 1 since 13:00", "b/x exhausted 1 since 14:00"}
		if !slices.Equal(got, want) {
			t.Errorf("got stats %q, want %q", got, want)
		}
	})
}

// A retry gives a fresh budget, keeps the history, and touches nothing but dead letters.
func TestRetryDeadLetters(t *testing.T) {
	t.Parallel()
	inEachMode(t, func(t *testing.T, db *pgx.Conn) {
		ids := deadLetters(t, db)
		var every []int64
		for id := range ids[2] {
			every = append(every, id+1)
		}
		for _, want := range []int{2, 0} { // the second time they are no dead letters any more
			retried, err := store.New().RetryDeadLetters(t.Context(), db, every[:len(every)-1])
			check(t, err)
			if len(retried) != want {
				t.Fatalf("retried %v, want %d", retried, want)
			}
			for _, r := range retried {
				if !slices.Contains(ids[:2], r.ID) || r.Queue != "erp" {
					t.Errorf("retried %+v", r)
				}
			}
		}
		var state, metadata string
		var attempt, maxAttempts, errs int
		var finalized *time.Time
		var runnable bool
		err := db.QueryRow(t.Context(), `
			SELECT state::text, attempt, max_attempts, finalized_at, scheduled_at <= now(), metadata::text, cardinality(errors)
			FROM weir.river_job WHERE id = $1`, ids[1]).
			Scan(&state, &attempt, &maxAttempts, &finalized, &runnable, &metadata, &errs)
		check(t, err)
		if state != "available" || attempt != 0 || maxAttempts != 3 || finalized != nil || !runnable || errs != 1 ||
			metadata != `{"output": {"k": 1}}` {
			t.Errorf("got state %s, attempt %d of %d, finalized %v, runnable %v, %d errors, metadata %s",
				state, attempt, maxAttempts, finalized, runnable, errs, metadata)
		}
	})
}

func TestDeleteDeadLetters(t *testing.T) {
	t.Parallel()
	inEachMode(t, func(t *testing.T, db *pgx.Conn) {
		ids := deadLetters(t, db)
		deleted, err := store.New().DeleteDeadLetters(t.Context(), db, []int64{1, 2, ids[0] - 1, ids[1], 1000})
		check(t, err)
		if len(deleted) != 1 || deleted[0].ID != ids[1] {
			t.Errorf("deleted %v, want only %d", deleted, ids[1])
		}
		var left int
		err = db.QueryRow(t.Context(), "SELECT count(*) FROM weir.river_job").Scan(&left)
		if err != nil || left != 9 {
			t.Errorf("%d jobs are left, want 9", left)
		}
	})
}

func TestJobsOfEvent(t *testing.T) {
	t.Parallel()
	inEachMode(t, func(t *testing.T, db *pgx.Conn) {
		ids := deadLetters(t, db)
		jobs, err := store.New().JobsOfEvent(t.Context(), db, "event of b")
		check(t, err)
		if len(jobs) != 1 || jobs[0].ID != ids[2] || jobs[0].State != "discarded" || jobs[0].Errors != nil {
			t.Errorf("got %+v, want job %d", jobs, ids[2])
		}
	})
}

func TestQueueStats(t *testing.T) {
	t.Parallel()
	inEachMode(t, func(t *testing.T, db *pgx.Conn) {
		deadLetters(t, db)
		insertJob(t, db, job{state: "available", observer: "a", action: "x", queue: "mail"})
		_, err := db.Exec(t.Context(), `UPDATE weir.river_job SET scheduled_at = '2026-11-23 10:00Z' WHERE id = 1`)
		check(t, err)
		insertJob(t, db, job{state: "available", observer: "a", action: "x", queue: "erp"})
		stats, err := store.New().QueueStats(t.Context(), db)
		check(t, err)
		var got []string
		for _, s := range stats {
			got = append(got, fmt.Sprintf("%s %s %d", s.Queue, s.State, s.Jobs))
		}
		want := []string{
			"erp available 2", "erp pending 1", "erp retryable 1", "erp running 1", "erp scheduled 1", "mail available 1",
		}
		if !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		if oldest := stats[0].Oldest; !oldest.Equal(noon.Add(-2 * time.Hour)) {
			t.Errorf("got oldest %s, want 10:00", oldest)
		}
	})
}

func TestWaitingQueues(t *testing.T) {
	t.Parallel()
	inEachMode(t, func(t *testing.T, db *pgx.Conn) {
		for queue, state := range map[string]string{
			"erp": "available", "mail": "retryable", "sms": "scheduled", "a": "running", "b": "pending", "c": "completed",
		} {
			insertJob(t, db, job{state: state, queue: queue})
		}
		for _, state := range []string{"available", "scheduled"} {
			insertJob(t, db, job{state: state, queue: "mail"})
		}
		got, err := store.New().WaitingQueues(t.Context(), db)
		check(t, err)
		if want := []string{"b", "erp", "mail", "sms"}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}
