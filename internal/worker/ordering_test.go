package worker_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivertype"

	"github.com/fraiseql/weir/internal/config"
	"github.com/fraiseql/weir/internal/ops"
	"github.com/fraiseql/weir/internal/store"
	"github.com/fraiseql/weir/internal/worker"
)

const inOrder = `
outbound: {allow: ["127.0.0.1"]}
observers:
  in-order:
    entity: Order
    ordering: entity
    retry: {initial_delay: 20ms, backoff: fixed, max_attempts: 100}
    actions: [{type: webhook, url: "%s/{{ entity_id }}/{{ n }}"}]
`

// sequences is what a receiver sees of each entity: the numbers of its events.
type sequences struct {
	mu   sync.Mutex // guards the rest
	last map[string]int
	done map[string]bool // last was answered with success
	bad  []string
	fail func() bool
}

func (s *sequences) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	entity, number, _ := strings.Cut(strings.TrimPrefix(req.URL.Path, "/"), "/")
	n, _ := strconv.Atoi(number)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch last := s.last[entity]; {
	case n == last:
	case n == last+1 && (last == 0 || s.done[entity]):
		s.last[entity], s.done[entity] = n, false
	default:
		s.bad = append(s.bad, fmt.Sprintf("entity %s: event %d after %d (delivered: %t)", entity, n, last, s.done[entity]))
	}
	if s.fail() {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	s.done[entity] = true
}

func (s *sequences) ended(entities, events int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.bad) > 0 {
		return true
	}
	for entity, n := range s.last {
		if n < events || !s.done[entity] {
			return false
		}
	}
	return len(s.last) == entities
}

func newSequences(fail func() bool) *sequences {
	return &sequences{last: map[string]int{}, done: map[string]bool{}, fail: fail}
}

// TestCrashOrder delivers in order while deliveries fail, workers are killed, and a person presses Retry on whatever there is.
func TestCrashOrder(t *testing.T) {
	t.Parallel()
	entities, events, kills := 40, 20, 4
	if full() {
		entities, events, kills = 200, 50, 12
	}
	r := newRig(t)
	seen := newSequences(func() bool { return rand.IntN(10) == 0 })
	rc := newReceiver(t, seen.ServeHTTP)
	path := r.write(fmt.Sprintf(inOrder, rc.URL))
	workers := []*process{r.spawn(t, path), r.spawn(t, path), r.spawn(t, path)}

	ctx, cancel := context.WithCancel(t.Context())
	var others sync.WaitGroup
	failed := make(chan error, 2)
	var pressed int
	others.Go(func() { failed <- writeSequences(t.Context(), r.url, entities, events) })
	others.Go(func() {
		var err error
		pressed, err = pressRetry(ctx, r.url)
		failed <- err
	})
	for i := range kills {
		time.Sleep(time.Duration(500+rand.IntN(1500)) * time.Millisecond) // at random
		at := i % len(workers)
		if err := workers[at].Kill(); err != nil {
			t.Fatal(err)
		}
		workers[at] = r.spawn(t, path)
	}
	r.awaitFor(4*time.Minute, "every event delivered", func() bool { return seen.ended(entities, events) })
	cancel()
	others.Wait()
	if len(seen.bad) > 0 {
		t.Fatalf("%d requests out of order, the first: %s", len(seen.bad), seen.bad[0])
	}
	r.await("nothing unfinished", func() bool { return r.jobs("state <> 'completed'") == "0" })
	for range 2 {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
	want := fmt.Sprint(entities * events)
	if got := r.jobs("true"); got != want {
		t.Errorf("%s jobs, want %s", got, want)
	}
	if r.jobs("(metadata->>'weir_deaths')::int > 0") == "0" {
		t.Error("no kill hit a running delivery: this has shown nothing")
	}
	t.Logf("%d requests, Retry pressed %d times", len(rc.seen()), pressed)
}

// writeSequences commits numbered events of each entity, in transactions of random size over random entities.
func writeSequences(ctx context.Context, url string, entities, events int) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	next := make([]int, entities)
	open := make([]int, entities)
	for e := range open {
		open[e], next[e] = e, 1
	}
	for len(open) > 0 {
		err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			for range 1 + rand.IntN(8) {
				if len(open) == 0 {
					break
				}
				i := rand.IntN(len(open))
				e := open[i]
				_, err := tx.Exec(ctx, `INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data)
					VALUES ('Order', 'UPDATE', ('00000000-0000-4000-8000-' || lpad($1::text, 12, '0'))::uuid, jsonb_build_object('n', $2::int))`,
					strconv.Itoa(e), next[e])
				if err != nil {
					return err
				}
				next[e]++
				if next[e] > events {
					open = append(open[:i], open[i+1:]...)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// client is one that only acts on jobs, as River UI's does.
func client(pool *pgxpool.Pool) (*river.Client[pgx.Tx], error) {
	return river.NewClient(riverpgxv5.New(pool), &river.Config{Schema: "weir"})
}

// pressRetry does what River UI's button does, to waiting and finished jobs, until the context ends.
func pressRetry(ctx context.Context, url string) (pressed int, err error) {
	pool, err := pgxpool.New(context.WithoutCancel(ctx), url)
	if err != nil {
		return 0, err
	}
	defer pool.Close()
	client, err := client(pool)
	if err != nil {
		return 0, err
	}
	for ctx.Err() == nil {
		var id int64
		err := pool.QueryRow(ctx, `SELECT id FROM weir.river_job WHERE kind = 'weir_webhook' AND state IN ('pending', 'completed', 'available')
			ORDER BY random() LIMIT 1`).Scan(&id)
		if err == nil {
			_, err = client.JobRetry(ctx, id)
		}
		if err == nil {
			pressed++
		}
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Millisecond):
		}
	}
	return pressed, nil
}

// entity commits a change of the entity with this number.
func (r *rig) entity(number int, data string) {
	r.t.Helper()
	r.exec(`INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data)
		VALUES ('Order', 'UPDATE', ('00000000-0000-4000-8000-' || lpad($1::text, 12, '0'))::uuid, $2)`, strconv.Itoa(number), data)
}

// paths are those of the requests, in the order in which they came.
func (rc *receiver) paths() string {
	var paths []string
	for _, req := range rc.seen() {
		paths = append(paths, req.path)
	}
	return strings.Join(paths, " ")
}

func orderTo(rc *receiver, more string) string {
	return fmt.Sprintf(`
outbound: {allow: ["127.0.0.1"]}
observers:
  in-order:
    entity: Order
    ordering: entity
%s
    retry: {initial_delay: 50ms, max_attempts: 2}
    actions: [{type: webhook, url: "%s/{{ n }}"}]
`, more, rc.URL)
}

// The later deliveries of an entity wait for a dead letter, those of others do not, until it is retried.
func TestOrderBlocksBehindADeadLetter(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rc := newReceiver(t, nil)
	broken := func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/1" {
			w.WriteHeader(http.StatusBadRequest)
		}
	}
	rc.behave(broken)
	r.started(orderTo(rc, ""))
	for n := range 3 {
		r.entity(1, fmt.Sprintf(`{"n": %d}`, n+1))
	}
	r.entity(2, `{"n": 9}`)
	r.await("the dead letter", func() bool { return r.jobs(deadLetter) == "1" })
	r.await("the other entity's", func() bool { return r.jobs("state = 'completed'") == "1" })
	if got := r.jobs("state = 'pending'"); got != "2" {
		t.Errorf("%s deliveries wait, want 2", got)
	}
	rc.behave(nil)
	r.retryDeadLetters(t)
	r.await("the rest", func() bool { return r.jobs("state = 'completed'") == "4" })
	if got := strings.Join(strings.Fields(strings.ReplaceAll(rc.paths(), "/9", "")), " "); got != "/1 /1 /2 /3" {
		t.Errorf("requests: %s", got)
	}
}

// A dead letter that is removed holds nobody up any more, and one that is skipped never does: retried later, it comes late.
func TestOrderWithoutADeadLetter(t *testing.T) {
	t.Parallel()
	for name, more := range map[string]string{"removed": "", "skipped": "    on_dead_letter: skip"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			rc := newReceiver(t, func(w http.ResponseWriter, req *http.Request) {
				if req.URL.Path == "/1" {
					w.WriteHeader(http.StatusBadRequest)
				}
			})
			r.started(orderTo(rc, more))
			r.entity(1, `{"n": 1}`)
			r.entity(1, `{"n": 2}`)
			r.entity(1, `{"n": 3}`)
			r.await("the dead letter", func() bool { return r.jobs(deadLetter) == "1" })
			if name == "removed" {
				r.exec("DELETE FROM weir.river_job WHERE " + deadLetter)
			}
			r.await("the rest", func() bool { return r.jobs("state = 'completed'") == "2" })
			if got := rc.paths(); got != "/1 /2 /3" {
				t.Errorf("requests: %s", got)
			}
			if name == "removed" {
				return
			}
			// A click on Retry in River UI would send it out of order: it stays a dead letter. weir dlq retry means it.
			r.exec("UPDATE weir.river_job SET state = 'available', finalized_at = NULL, scheduled_at = now() WHERE " + deadLetter)
			r.await("a dead letter again", func() bool { return r.jobs("metadata->>'weir_dead_letter' = 'overtaken'") == "1" })
			rc.behave(nil)
			r.retryDeadLetters(t)
			r.await("the late one", func() bool { return r.jobs("state = 'completed'") == "3" })
			if got := rc.paths(); got != "/1 /2 /3 /1" {
				t.Errorf("requests: %s", got)
			}
		})
	}
}

type button func(*river.Client[pgx.Tx], context.Context, int64) (*rivertype.JobRow, error)

var (
	retryButton  button = (*river.Client[pgx.Tx]).JobRetry
	cancelButton button = (*river.Client[pgx.Tx]).JobCancel
)

// press does what River UI's buttons do with the one delivery that the condition holds for.
func (r *rig) press(t *testing.T, button button, where string) {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), r.url)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	client, err := client(pool)
	if err != nil {
		t.Fatal(err)
	}
	var id int64
	if err := pool.QueryRow(t.Context(), "SELECT id FROM job WHERE "+where).Scan(&id); err != nil {
		t.Fatal(err)
	}
	if _, err := button(client, t.Context(), id); err != nil {
		t.Fatal(err)
	}
}

// What was cancelled while it waited to be tried again, and is retried while the next one is under way, waits for what comes of
// that one: delivered, it has overtaken the other; failed, it comes after it.
func TestOrderRetriedWhileTheNextRuns(t *testing.T) {
	t.Parallel()
	for name, status := range map[string]int{"delivered": http.StatusOK, "failed": http.StatusInternalServerError} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			proceed := make(chan struct{})
			var ones, twos atomic.Int32
			rc := newReceiver(t, func(w http.ResponseWriter, req *http.Request) {
				switch {
				case req.URL.Path == "/1" && ones.Add(1) == 1:
					w.WriteHeader(http.StatusInternalServerError)
				case req.URL.Path == "/2" && twos.Add(1) == 1:
					<-proceed
					w.WriteHeader(status)
				}
			})
			release := sync.OnceFunc(func() { close(proceed) })
			defer release()
			r.started(strings.ReplaceAll(orderTo(rc, ""), "initial_delay: 50ms, max_attempts: 2", "initial_delay: 1h, max_attempts: 9"))
			r.entity(1, `{"n": 1}`)
			r.await("the first has failed", func() bool { return r.jobs("state = 'retryable'") == "1" })
			r.entity(1, `{"n": 2}`)
			r.await("the second waits", func() bool { return r.jobs("state = 'pending'") == "1" })
			r.press(t, cancelButton, "state = 'retryable'")
			r.await("the second is under way", func() bool { return twos.Load() == 1 })
			r.press(t, retryButton, "state = 'cancelled'")
			r.await("the first is put off, or sent", func() bool {
				return r.jobs("(metadata->>'snoozes')::int > 0") == "1" || ones.Load() > 1
			})
			release()
			want := "/1 /2"
			if name == "failed" {
				want = "/1 /2 /1 /2"
				r.await("the first", func() bool { return r.jobs("state = 'completed'") == "1" })
				r.press(t, retryButton, "state = 'retryable'")
				r.await("both", func() bool { return r.jobs("state = 'completed'") == "2" })
			} else {
				r.await("the first is late", func() bool { return r.jobs("metadata->>'weir_dead_letter' = 'overtaken'") == "1" })
			}
			if got := rc.paths(); got != want {
				t.Errorf("requests: %s, want %s", got, want)
			}
		})
	}
}

// retryDeadLetters is weir dlq retry-all.
func (r *rig) retryDeadLetters(t *testing.T) {
	t.Helper()
	rows, err := r.conn.Query(t.Context(), "SELECT id FROM weir.dead_letter")
	if err != nil {
		t.Fatal(err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		t.Fatal(err)
	}
	retried, err := store.New().RetryDeadLetters(t.Context(), r.conn, ids)
	if err != nil || len(retried) != len(ids) {
		t.Fatalf("retry %v: %v, %v", ids, retried, err)
	}
}

// The actions of an event run in parallel, and those of the next one wait for all of them. The order is that of the commits: what
// began first and was committed last comes last.
func TestOrderOfActionsAndCommits(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var open, most atomic.Int32
	both := make(chan struct{})
	rc := newReceiver(t, func(_ http.ResponseWriter, req *http.Request) {
		if n := open.Add(1); n > most.Load() {
			most.Store(n)
		}
		defer open.Add(-1)
		if strings.HasPrefix(req.URL.Path, "/2") { // both are here before one is answered
			select {
			case both <- struct{}{}:
			case <-both:
			case <-time.After(20 * time.Second):
			}
		}
	})
	r.started(fmt.Sprintf(`
outbound: {allow: ["127.0.0.1"]}
observers:
  in-order:
    entity: Order
    ordering: entity
    actions:
      - {type: webhook, name: a, url: "%[1]s/{{ n }}/a"}
      - {type: webhook, name: b, url: "%[1]s/{{ n }}/b"}
`, rc.URL))
	early, err := pgx.Connect(t.Context(), r.url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = early.Close(context.WithoutCancel(t.Context())) }()
	tx, err := early.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data)
		VALUES ('Order', 'UPDATE', '00000000-0000-4000-8000-000000000001', '{"n": 3}')`); err != nil {
		t.Fatal(err)
	}
	r.entity(1, `{"n": 2}`)
	r.entity(1, `{"n": 2}`)
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.await("all", func() bool { return r.jobs("state = 'completed'") == "6" })
	got := strings.NewReplacer("/a", "", "/b", "").Replace(rc.paths())
	if got != "/2 /2 /2 /2 /3 /3" || most.Load() != 2 {
		t.Errorf("requests %s, at most %d at once", rc.paths(), most.Load())
	}
}

// What waits is let go when its observer keeps no order any more.
func TestOrderGivenUpOnReload(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	hold := make(chan struct{})
	rc := newReceiver(t, func(_ http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/1" {
			<-hold
		}
	})
	defer close(hold)
	text := orderTo(rc, "")
	load := func(text string) *config.Config {
		cfg, err := config.Load(t.Context(), config.Options{Path: r.write(text)})
		if err != nil {
			t.Fatal(err)
		}
		return cfg
	}
	reload := make(chan struct{}, 1)
	run := r.work(load(text), worker.Options{Reload: reload, Load: func(context.Context) (*config.Config, error) {
		return load(strings.ReplaceAll(text, "ordering: entity", "ordering: none")), nil
	}})
	r.await("ready", func() bool { return run.get(t, "/readyz").code == http.StatusOK })
	for n := range 3 {
		r.entity(1, fmt.Sprintf(`{"n": %d}`, n+1))
	}
	r.await("deliveries that wait", func() bool { return r.jobs("state = 'pending'") == "2" })
	reload <- struct{}{}
	r.await("the others", func() bool { return r.jobs("state = 'completed'") == "2" })
}

// A condition that fails for an event makes a dead letter, which the entity's later deliveries wait for as for any other: the
// event's own deliveries come in their place when it is retried.
func TestOrderBehindAConditionThatFailed(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rc := newReceiver(t, nil)
	text := orderTo(rc, "    condition: m > 0")
	path := r.write(text)
	load := func(ctx context.Context) (*config.Config, error) { return config.Load(ctx, config.Options{Path: path}) }
	cfg, err := load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	reload := make(chan struct{}, 1)
	run := r.work(cfg, worker.Options{Reload: reload, Load: load})
	r.await("ready", func() bool { return run.get(t, "/readyz").code == http.StatusOK })
	r.entity(1, `{"n": 1, "m": 1}`)
	r.await("the first", func() bool { return r.jobs("state = 'completed'") == "1" })
	r.entity(1, `{"n": 2}`)
	r.entity(1, `{"n": 3, "m": 1}`)
	r.await("the dead letter", func() bool { return r.jobs(deadLetter) == "1" })
	r.await("the third waits", func() bool { return r.jobs("state = 'pending'") == "1" })
	path = r.write(strings.ReplaceAll(text, "condition: m > 0", "condition: n > 0"))
	reload <- struct{}{}
	r.await("the reload", func() bool {
		r.retryDeadLetters(t)
		return r.jobs("kind = 'weir_webhook' AND state = 'completed'") == "3"
	})
	if got := rc.paths(); got != "/1 /2 /3" {
		t.Errorf("requests: %s", got)
	}
}

// A click on Retry for a condition that was mended does not send what has been overtaken meanwhile; weir dlq retry does.
func TestOrderOfAConditionThatWasSkipped(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rc := newReceiver(t, nil)
	text := orderTo(rc, "    on_dead_letter: skip\n    condition: m > 0")
	run := r.started(text)
	r.entity(1, `{"n": 1}`)
	r.await("the dead letter", func() bool { return r.jobs(deadLetter) == "1" })
	r.entity(1, `{"n": 2, "m": 1}`)
	r.await("the second", func() bool { return r.jobs("state = 'completed'") == "1" })
	run.stop(t)
	r.started(strings.ReplaceAll(text, "condition: m > 0", "condition: n > 0"))
	r.press(t, retryButton, deadLetter)
	r.await("a delivery", func() bool {
		return r.jobs("kind = 'weir_webhook' AND state IN ('completed', 'cancelled')") == "2"
	})
	if got := rc.paths(); got != "/2" {
		t.Errorf("requests: %s", got)
	}
	r.retryDeadLetters(t)
	r.await("it", func() bool { return r.jobs("kind = 'weir_webhook' AND state = 'completed'") == "2" })
}

// TestOrderWhileAPersonPresses has somebody press Retry and Cancel on whatever there is, on two workers. Nothing is sent after, or
// beside, a later event that was delivered, and what was not delivered is there for a person to see.
func TestOrderWhileAPersonPresses(t *testing.T) {
	t.Parallel()
	const entities, events = 20, 15
	for _, mode := range []string{"block", "skip"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			var mu sync.Mutex // guards the rest
			var bad []string
			delivered, open := map[string]int{}, map[string]map[int]*http.Request{}
			rc := newReceiver(t, func(w http.ResponseWriter, req *http.Request) {
				entity, number, _ := strings.Cut(strings.TrimPrefix(req.URL.Path, "/"), "/")
				n, _ := strconv.Atoi(number)
				mu.Lock()
				defer mu.Unlock()
				if n < delivered[entity] { // a repeat is none
					bad = append(bad, fmt.Sprintf("entity %s: event %d after %d", entity, n, delivered[entity]))
				}
				for later, other := range open[entity] {
					if later > n && other.Context().Err() == nil {
						bad = append(bad, fmt.Sprintf("entity %s: event %d beside %d", entity, n, later))
					}
				}
				if open[entity] == nil {
					open[entity] = map[int]*http.Request{}
				}
				open[entity][n] = req
				mu.Unlock()
				time.Sleep(time.Duration(rand.IntN(250)) * time.Millisecond) // at random
				mu.Lock()
				delete(open[entity], n)
				switch {
				case req.Context().Err() != nil: // cancelled on the way
				case rand.IntN(8) == 0:
					w.WriteHeader(http.StatusInternalServerError)
				default:
					delivered[entity] = max(delivered[entity], n)
				}
			})
			text := fmt.Sprintf(inOrder, rc.URL)
			text = strings.ReplaceAll(text, "max_attempts: 100", "max_attempts: 3")
			text = strings.ReplaceAll(text, "ordering: entity", "ordering: entity\n    on_dead_letter: "+mode)
			r.started(text)
			r.started(text)
			ctx, cancel := context.WithCancel(t.Context())
			pressing := make(chan error, 1)
			go func() { pressing <- pressAnything(ctx, r.url) }()
			if err := writeSequences(t.Context(), r.url, entities, events); err != nil {
				t.Error(err)
			}
			r.await("all jobs", func() bool { return r.jobs("true") == strconv.Itoa(entities*events) })
			time.Sleep(3 * time.Second) // of pressing, at random
			cancel()
			if err := <-pressing; err != nil {
				t.Error(err)
			}
			r.await("all ended", func() bool {
				if r.jobs(deadLetter+" AND metadata->>'weir_dead_letter' IS DISTINCT FROM 'overtaken'") != "0" && mode == "block" {
					r.exec("UPDATE weir.river_job SET state = 'available', finalized_at = NULL, attempt = 0 WHERE " + deadLetter)
				}
				return r.jobs("finalized_at IS NULL") == "0"
			})
			if got := r.jobs("true"); got != strconv.Itoa(entities*events) {
				t.Errorf("%s jobs", got)
			}
			if len(bad) > 0 {
				t.Errorf("%d requests out of order, the first: %s", len(bad), bad[0])
			}
			t.Logf("%d requests; completed %s, overtaken %s, cancelled %s", len(rc.seen()), r.jobs("state = 'completed'"),
				r.jobs("metadata->>'weir_dead_letter' = 'overtaken'"), r.jobs("state = 'cancelled' AND NOT metadata ? 'weir_dead_letter'"))
		})
	}
}

// pressAnything presses Retry, and now and then Cancel, until the context ends.
func pressAnything(ctx context.Context, url string) error {
	pool, err := pgxpool.New(context.WithoutCancel(ctx), url)
	if err != nil {
		return err
	}
	defer pool.Close()
	client, err := client(pool)
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		var id int64
		var running bool
		err := pool.QueryRow(ctx, `SELECT id, state = 'running' FROM weir.river_job WHERE kind = 'weir_webhook'
			ORDER BY state = 'completed', random() LIMIT 1`).Scan(&id, &running)
		if err == nil {
			if !running && rand.IntN(3) == 0 { // a receiver does not always notice that it was hung up on
				_, err = client.JobCancel(ctx, id)
			} else {
				_, err = client.JobRetry(ctx, id)
			}
		}
		if err != nil && ctx.Err() == nil && !errors.Is(err, pgx.ErrNoRows) && !errors.Is(err, rivertype.ErrNotFound) {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(5 * time.Millisecond):
		}
	}
	return nil
}

// After weir adopt the positions may be lower than those of what was there before: that keeps its order, and comes first.
func TestOrderAcrossAnAdoption(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rc := newReceiver(t, func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path != "/1" {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	text := strings.ReplaceAll(orderTo(rc, ""), "initial_delay: 50ms, max_attempts: 2", "initial_delay: 1h, max_attempts: 9")
	run := r.started(text)
	r.entity(1, `{"n": 1}`)
	r.await("the first", func() bool { return r.jobs("state = 'completed'") == "1" })
	r.entity(1, `{"n": 2}`)
	r.entity(1, `{"n": 3}`)
	r.await("the second has failed, the third waits", func() bool {
		return r.jobs("state = 'retryable'") == "1" && r.jobs("state = 'pending'") == "1"
	})
	run.stop(t)
	r.exec("UPDATE weir.checkpoint SET system_identifier = '1'")
	r.exec(`UPDATE weir.river_job SET args = jsonb_set(args, '{lsn}', to_jsonb(('FFFF/0'::pg_lsn + ((args->>'lsn')::pg_lsn - '0/0'))::text))
		WHERE args ? 'lsn'`)
	r.adopt(t, ops.KeepUnfinished)
	rc.behave(nil)
	r.started(text)
	r.entity(1, `{"n": 4}`)
	r.await("the fourth", func() bool { return r.jobs("true") == "4" })
	r.press(t, retryButton, "state = 'retryable'")
	r.await("all, or a dead letter", func() bool { return r.jobs("state IN ('completed', 'cancelled')") == "4" })
	if got := rc.paths(); got != "/1 /2 /2 /3 /4" {
		t.Errorf("requests: %s", got)
	}
}

// What waits moves with the first to the queue of a new place: called one by one, each would have to be found there first.
func TestOrderMovesToANewPlace(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	down := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	up := newReceiver(t, nil)
	slowly := func(rc *receiver) string {
		return strings.ReplaceAll(orderTo(rc, ""), "initial_delay: 50ms, max_attempts: 2", "initial_delay: 1h, max_attempts: 9")
	}
	run := r.started(slowly(down))
	for n := range 10 {
		r.entity(1, fmt.Sprintf(`{"n": %d}`, n))
	}
	r.await("the others wait", func() bool {
		return r.jobs("state = 'retryable'") == "1" && r.jobs("state = 'pending'") == "9"
	})
	run.stop(t)
	r.started(slowly(up))
	r.awaitFor(15*time.Second, "one queue, another one", func() bool {
		return r.jobs("jsonb_array_length(metadata->'weir_moved_from') = 1") == "10"
	})
	r.press(t, retryButton, "state = 'retryable'")
	r.await("all", func() bool { return r.jobs("state = 'completed'") == "10" })
	if got := up.paths(); got != "/0 /1 /2 /3 /4 /5 /6 /7 /8 /9" {
		t.Errorf("requests: %s", got)
	}
}
