package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"github.com/fraiseql/weir/internal/cache"
	"github.com/fraiseql/weir/internal/dedup"
	"github.com/fraiseql/weir/internal/setting"
)

const oneDeduped = `o: {entity: Order, actions: [{type: log, timeout: 1s, dedup: {key: "{{ n }}", window: 1h}}]}`

// What waits for its moment under a rate limit, for longer than its claim lasts, goes on holding it: others with its key would
// come in, and when the moments of all have come, each would find the claim of another.
func TestClaimIsHeldWhileItsDeliveryWaits(t *testing.T) {
	t.Parallel()
	r := newRig(t, oneDeduped)
	limit := map[string]EndpointConfig{"log": {RateLimit: setting.Rate{Count: 1, Per: time.Hour}}}
	r.q.Swap(r.q.set.Load(), limit)
	r.commit(order(1, `{"n": 1}`))
	r.run()
	r.await("the first one's call", `SELECT count(*) = 1 FROM weir.dedup WHERE done`)
	r.commit(order(2, `{"n": 2}`))
	r.await("the second one's claim", `SELECT count(*) = 1 FROM weir.dedup WHERE NOT done`)
	until := r.lines("SELECT expires_at::text FROM weir.dedup WHERE NOT done")[0]
	r.await("it asks for the claim again", `SELECT expires_at > '`+until+`' FROM weir.dedup WHERE NOT done`)
}

// A delivery that loses its claim while it waits does not wait on: its moment is somebody else's.
func TestLostClaimEndsTheWait(t *testing.T) {
	t.Parallel()
	r := newRig(t, oneDeduped)
	limit := map[string]EndpointConfig{"log": {RateLimit: setting.Rate{Count: 1, Per: time.Hour}}}
	r.q.Swap(r.q.set.Load(), limit)
	r.commit(order(1, `{"n": 1}`))
	r.run()
	r.await("the first one's call", `SELECT count(*) = 1 FROM weir.dedup WHERE done`)
	r.commit(order(2, `{"n": 2}`))
	r.await("the second one's claim", `SELECT count(*) = 1 FROM weir.dedup WHERE NOT done`)
	other := uuid.New()
	r.exec("UPDATE weir.dedup SET delivery = $1, done = true, expires_at = now() + '1 h' WHERE NOT done", other)
	r.await("the end of the wait", `SELECT count(*) = 2 FROM weir.river_job WHERE kind = 'weir_log' AND state = 'completed'`)
	r.linesAre(other.String(), `SELECT metadata->'output'->>'duplicate_of' FROM weir.river_job WHERE metadata->'output' ? 'duplicate_of'`)
}

// testClaim is the claim of a delivery of the rig's only action.
func (r *rig) testClaim() *claim {
	r.t.Helper()
	bound, ok := r.q.set.Load().Lookup("o", "log")
	if !ok {
		r.t.Fatal("no action")
	}
	return &claim{
		runner: r.q.runner, of: &delivery{bound: bound, job: &rivertype.JobRow{}},
		key:    dedup.Key{Observer: "o", Action: "log", Key: "1"},
		holder: dedup.Holder{Delivery: uuid.New(), Attempt: uuid.New()},
	}
}

// A worker that was stopped, and has been declared dead, wakes up: the delivery has another attempt, which has the claim. To take
// it over from that one and then to give it back would let a third one in.
func TestOldAttemptLeavesTheClaimOfTheNew(t *testing.T) {
	t.Parallel()
	r := newRig(t, oneDeduped)
	old := r.testClaim()
	check(t, old.take(t.Context()))
	next := *old
	next.holder.Attempt = uuid.New()
	check(t, next.take(t.Context()))
	r.q.lease.Lose(errors.New("declared dead"))
	if err := old.take(t.Context()); !errors.Is(err, context.Canceled) {
		t.Errorf("the old attempt gets %v, want that it is given up at once", err)
	}
	old.conclude(t.Context(), errors.New("cut off"), time.Hour)
	r.linesAre(next.holder.Attempt.String(), "SELECT attempt::text FROM weir.dedup")

	called := false
	err := r.q.runner.stillHeld(func(context.Context, *delivery) error { called = true; return nil })(t.Context(), old.of)
	if called || err == nil {
		t.Errorf("it makes its call, and says %v", err)
	}
}

// A delivery that is cut off while Redis does not answer has not failed.
func TestCutOffWithoutRedis(t *testing.T) {
	t.Parallel()
	r := newRig(t, oneDeduped)
	r.q.runner.claims = dedup.NewRedis(openRedis(t, "redis://127.0.0.1:1")) // nor is it named: it is away
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.testClaim().take(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want that it is cut off", err)
	}
}

// A database that does not answer does not hold a delivery's place for ever, also where its wait for a rate limit has no end.
func TestClaimIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	r := newRig(t, oneDeduped)
	tx, err := r.pool.Begin(t.Context())
	check(t, err)
	defer func() { check(t, tx.Rollback(context.WithoutCancel(t.Context()))) }()
	_, err = tx.Exec(t.Context(), "LOCK TABLE weir.dedup")
	check(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 2*loadTime)
	defer cancel()
	if err := r.testClaim().take(ctx); ctx.Err() != nil || !errors.As(err, &awayError{}) {
		t.Errorf("got %v, want that the database is away", err)
	}
}

// silent is a store that does what it is told and does not say so.
type silent struct{ dedup.Claims }

func (s silent) Claim(ctx context.Context, k dedup.Key, h dedup.Holder, lease time.Duration) (dedup.Answer, error) {
	if _, err := s.Claims.Claim(ctx, k, h, lease); err != nil {
		return dedup.Answer{}, err
	}
	return dedup.Answer{}, &cache.AwayError{Err: errors.New("no answer within 100ms")}
}

// A claim whose answer was lost is given back when the call has failed: others would wait for nobody.
func TestClaimWithoutAnAnswerIsGivenBack(t *testing.T) {
	t.Parallel()
	r := newRig(t, oneDeduped)
	r.q.runner.claims = silent{r.q.runner.claims}
	c := r.testClaim()
	check(t, c.take(t.Context()))
	c.conclude(t.Context(), errors.New("failed"), time.Hour)
	r.linesAre("", "SELECT attempt::text FROM weir.dedup")
}

func openRedis(t *testing.T, url string) *cache.Redis {
	t.Helper()
	u, err := cache.ParseURL(url)
	check(t, err)
	conn := cache.Open(cache.Config{URL: u, Timeout: setting.Duration(5 * time.Second)}, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	t.Cleanup(func() { check(t, conn.Close()) })
	return conn
}

// The marks of deliveries that were completed as the worker stopped do not stay for a day.
func TestMarksOfTheLastDeliveriesGo(t *testing.T) {
	t.Parallel()
	conn := openRedis(t, postgres.Redis(t).URL())
	conn.Name("shop", uuid.NewString())
	m := &made{marks: dedup.NewMarks(conn), log: slog.New(slog.DiscardHandler)}
	const last = 50
	completed := make(chan *river.Event, last)
	for n := range int64(last) {
		args := Args{Observer: "o", Action: "a", EventID: uuid.New(), PK: n}
		encoded, err := json.Marshal(args)
		check(t, err)
		check(t, m.marks.Set(t.Context(), args.DeliveryID(), 200))
		completed <- &river.Event{Job: &rivertype.JobRow{Kind: "weir_webhook", EncodedArgs: encoded}}
	}
	stopped, stop := context.WithCancel(t.Context())
	stop()
	m.run(stopped, completed)
	check(t, conn.Do(t.Context(), func(ctx context.Context, c redis.UniversalClient) error {
		left, err := c.Keys(ctx, conn.Key("once", "*")).Result()
		if len(left) != 0 {
			t.Errorf("%d of %d marks are left", len(left), last)
		}
		return err
	}))
}

// What became of a delivery without a call of its own stands in the columns of its outcome.
func TestOutcomeOfWhatMadeNoCall(t *testing.T) {
	t.Parallel()
	r := newRig(t, oneLog)
	r.commit(order(1, `{}`), order(2, `{}`), order(3, `{}`))
	const of = "9f0b3a52-6d0c-5b7e-8f1c-0d8f7f6b2a11"
	r.finish(1, "completed", `{"output":{"result":"duplicate","duplicate_of":"`+of+`","duration_ms":3}}`, "25 h")
	r.finish(2, "completed", `{"output":{"result":"cached","cached":true,"status":201,"duration_ms":1}}`, "25 h")
	r.finish(3, "completed", `{"output":{"result":"delivered","status":200,"duration_ms":9}}`, "25 h")
	r.keepHouse(10*365*24*time.Hour, 24*time.Hour)
	got := r.lines(`SELECT concat_ws(' ', event_pk, state, cached, duplicate_of, response_status) FROM weir.outcome ORDER BY event_pk`)
	if want := "1 delivered f " + of + "\n2 delivered t 201\n3 delivered f 200"; strings.Join(got, "\n") != want {
		t.Errorf("outcomes:\n%s\nwant:\n%s", strings.Join(got, "\n"), want)
	}
}

// The same from the deliveries themselves, to the columns.
func TestDuplicateNamesItsOriginal(t *testing.T) {
	t.Parallel()
	r := newRig(t, oneDeduped)
	r.commit(order(1, `{"n": 1}`), order(2, `{"n": 1}`))
	r.run()
	r.await("both", `SELECT count(*) = 2 FROM weir.river_job WHERE kind = 'weir_log' AND state = 'completed'`)
	r.exec("UPDATE weir.river_job SET finalized_at = now() - interval '2 d' WHERE kind = 'weir_log'")
	r.keepHouse(10*365*24*time.Hour, 24*time.Hour)
	got := r.lines(`SELECT (d.event_pk <> o.event_pk AND o.duplicate_of IS NULL AND NOT d.cached)::text
		FROM weir.outcome d JOIN weir.outcome o ON o.delivery_id = d.duplicate_of`)
	if len(got) != 1 || got[0] != "true" {
		t.Errorf("got %v, want one outcome that names the other", got)
	}
	for result, want := range map[string]float64{lookupNew: 1, lookupDuplicate: 1} {
		if n := r.metric("weir_dedup_lookups_total", "result", result); n != want {
			t.Errorf("%v looks are %s, want %v", n, result, want)
		}
	}
}

// Housekeeping removes claims and windows that are over, and no others.
func TestOldClaimsGo(t *testing.T) {
	t.Parallel()
	r := newRig(t, oneDeduped)
	r.exec(`INSERT INTO weir.dedup (observer, action, key_hash, delivery, attempt, done, expires_at)
		SELECT 'o', 'log', sha256(n::text::bytea), gen_random_uuid(), gen_random_uuid(), n % 2 = 0,
			CASE WHEN n <= 25000 THEN now() - interval '1 s' ELSE now() + interval '1 h' END FROM generate_series(1, 25004) n`)
	r.keepHouse(month, 24*time.Hour)
	r.linesAre("4 2", "SELECT count(*) || ' ' || count(*) FILTER (WHERE done) FROM weir.dedup WHERE expires_at > now()")
	r.linesAre("4", "SELECT count(*)::text FROM weir.dedup")
}
