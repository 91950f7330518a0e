package worker_test

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
)

// effects makes the function that database actions call: each call that is committed leaves a row.
const effects = `
	CREATE SCHEMA app;
	CREATE TABLE app.effect (event uuid, total numeric, note text, at timestamptz DEFAULT clock_timestamp());
	CREATE FUNCTION app.on_order(message jsonb) RETURNS text LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO app.effect SELECT (message->'event'->>'id')::uuid, (message->'event'->'data'->>'total')::numeric, message->'params'->>'note';
		PERFORM pg_advisory_xact_lock_shared(42); -- a test stops it here
		RETURN 'done: ' || (message->'params'->>'note');
	END $$`

const callFunction = `
observers:
  book:
    entity: Order
    retry: {initial_delay: 100ms, max_delay: 1s}
    actions:
      - {type: database, function_name: app.on_order, params: {note: "it's {{ x }}"}, timeout: 1m}
`

func TestDatabaseAction(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.started(callFunction)
	r.order(`{"total": 100.10}`)
	r.await("the failure", func() bool {
		return r.jobs("errors[1]->>'error' LIKE 'app.on_order: %does not exist%'") == "1"
	})
	r.exec(effects)
	r.await("the effect", func() bool { return r.jobs("state = 'completed'") == "1" })
	if got := r.one("SELECT string_agg(total || ' ' || note, '|') FROM app.effect"); got != "100.10 it's {{ x }}" {
		t.Errorf("effects: %s", got)
	}
	if got := r.one("SELECT metadata->'output'->>'result' || ', ' || (metadata->'output'->>'body') FROM job"); got != "delivered, done: it's {{ x }}" {
		t.Errorf("outcome: %s", got)
	}
}

// TestCrashExactlyOnceUnderKill kills the worker again and again while it runs database actions: each event has exactly one
// effect.
func TestCrashExactlyOnceUnderKill(t *testing.T) {
	t.Parallel()
	kills, events := 4, 400
	if full() {
		kills, events = 20, 4000
	}
	r := newRig(t)
	r.exec(effects)
	config := r.write(callFunction)
	w := r.spawn(t, config)
	perKill := events / (kills + 1)
	for i := range kills + 1 {
		r.exec(`INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data)
			SELECT 'Order', 'INSERT', gen_random_uuid(), '{"total": 1}' FROM generate_series(1, $1)`, perKill)
		r.await("some effects", func() bool {
			return r.one("SELECT (count(*) > $1::text::int)::text FROM app.effect", fmt.Sprint(i*perKill*3/4)) == "true"
		})
		if i == kills {
			break
		}
		if err := w.Kill(); err != nil {
			t.Fatal(err)
		}
		w = r.spawn(t, config)
	}
	want := fmt.Sprint(perKill * (kills + 1))
	r.await("the end", func() bool { return r.jobs("state = 'completed'") == want })
	if got := r.one("SELECT count(*) || ' ' || count(DISTINCT event) FROM app.effect"); got != want+" "+want {
		t.Errorf("effects and events with one: %s, want %s of both", got, want)
	}
	if rescued := r.jobs("(metadata->>'weir_deaths')::int > 0"); rescued == "0" {
		t.Error("no kill hit a running delivery: this has shown nothing")
	}
}

// TestCrashExactlyOnceUnderStop stops a worker with SIGSTOP in each place of the transaction that completes a delivery, and
// continues it when the delivery has been taken over: by another worker, or by itself in its next life.
func TestCrashExactlyOnceUnderStop(t *testing.T) {
	t.Parallel()
	const function = "on_order"
	for name, where := range map[string]place{
		"before the lock": {says: "LockRunningJob"},
		"in the function": {}, // held by a lock, see below
		"before COMMIT":   {after: function, says: "commit\x00"},
		"after COMMIT":    {after: function, says: "commit\x00", answers: true},
	} {
		for _, itself := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, again by itself %t", name, itself), func(t *testing.T) {
				t.Parallel()
				s := newStopped(t, where)
				s.stopIn(t, name == "in the function")
				if itself {
					s.rescuedByAThird(t)
					s.victim.signal(t, syscall.SIGCONT)
					s.gate.release()
					s.r.await("another life", func() bool { return s.victim.clientID() != s.clientID })
					s.resume(t)
				} else {
					s.r.spawn(t, s.direct)
					s.r.await("the takeover", func() bool { return s.r.one(takenOver, s.clientID) == "true" })
					s.victim.signal(t, syscall.SIGCONT)
					s.gate.release()
				}
				s.letFunctionsEnd(t)
				s.check(t)
			})
		}
	}
}

// takenOver: the worker has been declared dead, and the job is run by somebody else, or had been completed before.
const takenOver = `SELECT (NOT EXISTS (SELECT FROM weir.worker WHERE client_id = $1)
	AND (state = 'completed' OR attempted_by[array_upper(attempted_by, 1)] <> $1))::text FROM job`

// givenBack: the worker has been declared dead, and nobody runs the job, or it had been completed before.
const givenBack = `SELECT (NOT EXISTS (SELECT FROM weir.worker WHERE client_id = $1) AND state IN ('available', 'completed'))::text
	FROM job`

// stoppedWorker is a worker that is stopped in the middle of a database action.
type stoppedWorker struct {
	r        *rig
	gate     *gate
	reached  chan struct{}
	victim   *process
	clientID string
	direct   string // configuration past the gate
	lock     *pgx.Conn
	paused   *river.Client[pgx.Tx]
}

func newStopped(t *testing.T, where place) *stoppedWorker {
	t.Helper()
	s := &stoppedWorker{r: newRig(t), reached: make(chan struct{})}
	s.r.exec(effects)
	s.direct = s.r.write(callFunction)
	direct := s.r.url
	stop := func() {
		_ = s.victim.Signal(syscall.SIGSTOP)
		close(s.reached)
	}
	if where == (place{}) {
		where.says = "\x00no such words\x00"
	}
	s.gate, s.r.url = newGate(t, direct, where, stop)
	through := s.r.write(callFunction)
	s.r.url = direct
	s.victim = s.r.spawn(t, through)
	s.clientID = s.victim.clientID()
	return s
}

// stopIn makes one event and waits until the worker stands where it is to stand.
func (s *stoppedWorker) stopIn(t *testing.T, function bool) {
	t.Helper()
	if function {
		var err error
		if s.lock, err = pgx.Connect(t.Context(), s.r.url); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.lock.Close(context.WithoutCancel(t.Context())) })
		if _, err := s.lock.Exec(t.Context(), "SELECT pg_advisory_lock(42)"); err != nil {
			t.Fatal(err)
		}
	}
	s.r.order(`{"total": 1}`)
	if !function {
		<-s.reached
		return
	}
	s.r.await("the function", func() bool {
		return s.r.one(`SELECT count(*)::text FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = $1`,
			"weir:"+s.clientID) == "1"
	})
	s.victim.signal(t, syscall.SIGSTOP)
}

// rescuedByAThird lets another worker take the delivery from the stopped one, and ends it before it runs it.
func (s *stoppedWorker) rescuedByAThird(t *testing.T) {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), s.r.url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	if s.paused, err = river.NewClient(riverpgxv5.New(pool), &river.Config{Schema: "weir"}); err != nil {
		t.Fatal(err)
	}
	if err := s.paused.QueuePause(t.Context(), "database", nil); err != nil {
		t.Fatal(err)
	}
	third := s.r.spawn(t, s.direct)
	s.r.await("the rescue", func() bool { return s.r.one(givenBack, s.clientID) == "true" })
	if err := third.Kill(); err != nil {
		t.Fatal(err)
	}
}

func (s *stoppedWorker) resume(t *testing.T) {
	t.Helper()
	if err := s.paused.QueueResume(t.Context(), "database", nil); err != nil {
		t.Fatal(err)
	}
}

func (s *stoppedWorker) letFunctionsEnd(t *testing.T) {
	t.Helper()
	if s.lock == nil {
		return
	}
	if _, err := s.lock.Exec(t.Context(), "SELECT pg_advisory_unlock(42)"); err != nil {
		t.Fatal(err)
	}
}

func (s *stoppedWorker) check(t *testing.T) {
	t.Helper()
	s.r.await("the end", func() bool { return s.r.jobs("state = 'completed'") == "1" })
	s.r.await("another life", func() bool { return s.victim.clientID() != s.clientID })
	time.Sleep(2 * time.Second) // what the stopped worker still tries comes now
	if got := s.r.one("SELECT count(*)::text FROM app.effect"); got != "1" {
		t.Errorf("%s effects of one event", got)
	}
	if got := s.r.jobs("state = 'completed' AND attempt = 1"); got != "1" {
		t.Errorf("%s jobs are completed in their first attempt:\n%s", got, s.r.one("SELECT json_agg(j)::text FROM job j"))
	}
	if strings.Contains(s.victim.log.String(), "panic") {
		t.Error("the stopped worker panicked")
	}
}
