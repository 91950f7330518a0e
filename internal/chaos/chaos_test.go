package chaos

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"
)

// binaries is the folder of worker and weir, built once; a program that was built earlier is no use in a test.
var binaries string

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(built{m})
}

// built runs the tests between the building of the programs and their removal.
type built struct{ m *testing.M }

func (b built) Run() int {
	var err error
	if binaries, err = os.MkdirTemp("", "weir-chaos-bin-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(binaries) }()
	build := exec.CommandContext(context.Background(), "go", "build", "-o", binaries,
		"github.com/fraiseql/weir/cmd/worker", "github.com/fraiseql/weir/cmd/weir")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the programs: %v\n%s", err, out)
		return 1
	}
	return b.m.Run()
}

// testOut is a test's log as a writer.
type testOut struct{ t *testing.T }

func (o testOut) Write(p []byte) (int, error) {
	o.t.Log(string(bytes.TrimSpace(p)))
	return len(p), nil
}

// TestChaos is the harness with all faults, for a minute. WEIR_CHAOS_SEED repeats a run, WEIR_CHAOS_FOR=20m lengthens it.
func TestChaos(t *testing.T) {
	t.Parallel()
	o := Options{Seed: rand.Uint64N(1_000_000), For: time.Minute, Rate: 100, Binaries: binaries, Out: testOut{t}, Settle: 8 * time.Minute}
	if seed := os.Getenv("WEIR_CHAOS_SEED"); seed != "" {
		var err error
		if o.Seed, err = strconv.ParseUint(seed, 10, 64); err != nil {
			t.Fatalf("WEIR_CHAOS_SEED: %v", err)
		}
	}
	if length := os.Getenv("WEIR_CHAOS_FOR"); length != "" {
		var err error
		if o.For, err = time.ParseDuration(length); err != nil {
			t.Fatalf("WEIR_CHAOS_FOR: %v", err)
		}
	}
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatalf("seed %d: %v", o.Seed, err)
	}
	t.Logf("\n%s", r)
	if !r.OK() {
		t.Errorf("repeat it with WEIR_CHAOS_SEED=%d", o.Seed)
	}
	if r.Changes == 0 || r.Deliveries == 0 {
		t.Errorf("%d changes and %d deliveries: this has shown nothing", r.Changes, r.Deliveries)
	}
}

// TestPlan: the plan is a function of the seed and the options, and nothing of it outlasts the load.
func TestPlan(t *testing.T) {
	t.Parallel()
	o := Options{Seed: 7, For: 10 * time.Minute, Elasticsearch: true}.withDefaults()
	plan := NewPlan(o)
	if again := NewPlan(o); !reflect.DeepEqual(plan, again) {
		t.Error("two plans of one seed differ")
	}
	other := o
	other.Seed++
	if reflect.DeepEqual(plan, NewPlan(other)) {
		t.Error("two seeds have the same plan")
	}
	kinds := map[Kind]int{}
	for i, f := range plan {
		kinds[f.Kind]++
		if f.At < calm || f.At+f.For > o.For || i > 0 && f.At < plan[i-1].At {
			t.Errorf("fault %d is at the wrong time: %s", i, f)
		}
		if f.Worker >= o.Workers || f.Path != "" && !slices.Contains(paths, f.Path) {
			t.Errorf("fault %d hits nobody: %s", i, f)
		}
	}
	for _, r := range recipes {
		if n := kinds[r.kind]; (n == 0) != (r.only != nil && !r.only(o)) {
			t.Errorf("%s occurs %d times", r.kind, n)
		}
	}
	if o.Quiet = true; len(NewPlan(o)) > 0 {
		t.Error("a quiet run has faults")
	}
}

// TestPlanOverlap: faults that take the same do not overlap.
func TestPlanOverlap(t *testing.T) {
	t.Parallel()
	for seed := range uint64(50) {
		until := map[string]time.Duration{}
		for _, f := range NewPlan(Options{Seed: seed, For: 5 * time.Minute, Elasticsearch: true}.withDefaults()) {
			i := slices.IndexFunc(recipes, func(r recipe) bool { return r.kind == f.Kind })
			if recipes[i].holds == "" {
				continue
			}
			what := fmt.Sprint(recipes[i].holds, f.Worker, f.Path)
			if until[what] > f.At {
				t.Errorf("seed %d: %s begins before an earlier one that takes %s is over", seed, f, what)
			}
			until[what] = f.At + f.For
		}
	}
}

// TestCheckerFinds makes a quiet run, in which the checker finds nothing, and then takes away, adds and doubles by hand.
func TestCheckerFinds(t *testing.T) {
	t.Parallel()
	h := &harness{options: Options{
		Seed: 3, For: 8 * time.Second, Quiet: true, FinishedJobs: "24h", Binaries: binaries, Out: testOut{t}, Settle: 8 * time.Minute,
	}.withDefaults()}
	defer func() {
		if err := h.close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	}()
	if err := h.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := h.load(t.Context()); err != nil {
		t.Fatal(err)
	}
	found, err := h.settle(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(found) > 0 {
		t.Fatalf("a quiet run differs:\n%s", h.report(found))
	}
	for _, w := range h.ground.workers { // nobody else changes anything now
		if err := w.terminate(); err != nil {
			t.Fatal(err)
		}
	}
	conn, err := pgx.Connect(t.Context(), h.url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	base := h.evidence
	for name, tt := range tampering {
		e := evidence{sent: base.sent, calls: slices.Clone(base.calls), strict: true}
		got := tampered(t, conn, &e, tt)
		if len(got) == 0 || got[0].Name != tt.first {
			t.Errorf("%s: the first of %d differences is %v, want %s", name, len(got), got[:min(1, len(got))], tt.first)
		}
		names := map[string]bool{}
		for _, d := range got {
			names[d.Name] = true
		}
		for _, also := range tt.also {
			if !names[also] {
				t.Errorf("%s: %s is not among %v", name, also, slices.Sorted(maps.Keys(names)))
			}
			delete(names, also)
		}
		delete(names, tt.first)
		if len(names) > 0 {
			t.Errorf("%s: also found %v", name, slices.Sorted(maps.Keys(names)))
		}
	}
}

// tamper is something that must be found. sql has to change one row.
type tamper struct {
	sql   string
	calls func(*evidence)
	first string
	also  []string // and nothing else
}

const anOutcome = `WITH one AS (DELETE FROM weir.river_job WHERE id = (SELECT min(id) FROM weir.river_job WHERE kind = 'weir_webhook'
	AND state = 'completed' AND metadata->'output'->>'duplicate_of' IS NULL AND args->>'observer' = 'plain') RETURNING *)
	INSERT INTO weir.outcome (day, delivery_id, event_id, event_pk, observer, action, action_type, entity_type, entity_id, state)
	SELECT (args->>'day')::date, '%s', (args->>'event_id')::uuid, (args->>'pk')::bigint, args->>'observer', args->>'action', 'webhook',
	       args->>'entity', args->>'entity_id', 'delivered' FROM one`

var tampering = map[string]tamper{
	"a job deleted": {
		sql: `DELETE FROM weir.river_job WHERE id = (SELECT min(id) FROM weir.river_job WHERE kind = 'weir_webhook'
			AND args->>'observer' = 'plain')`,
		first: DeliveryMissing, also: []string{DocumentUnwanted},
	},
	"a job doubled": {
		sql: `INSERT INTO weir.river_job (args, kind, max_attempts, state, metadata, finalized_at, queue)
			SELECT args, kind, max_attempts, state, metadata, finalized_at, queue FROM weir.river_job
			WHERE id = (SELECT min(id) FROM weir.river_job WHERE kind = 'weir_webhook')`,
		first: DeliveryDoubled,
	},
	"an outcome beside its job": {
		sql: `INSERT INTO weir.outcome (day, delivery_id, event_id, event_pk, observer, action, action_type, entity_type, entity_id, state)
			SELECT j.day, j.delivery_id, j.event_id, j.event_pk, j.observer, 'hook', 'webhook', '', '', 'delivered' FROM weir.document j
			WHERE observer = 'ordered' LIMIT 1`,
		first: DeliveryDoubled,
	},
	"an outcome of no delivery": {
		sql: fmt.Sprintf(anOutcome, "00000000-0000-0000-0000-000000000001"), first: DeliveryUnwanted,
		also: []string{DeliveryMissing, DocumentUnwanted},
	},
	"a dead letter of a bad row deleted": {
		sql: `DELETE FROM weir.river_job WHERE id = (SELECT min(id) FROM weir.river_job WHERE kind = 'weir_change')`, first: BadRowLost,
	},
	"a job that waits": {
		sql: `UPDATE weir.river_job SET state = 'available', finalized_at = NULL WHERE id = (SELECT min(id) FROM weir.river_job
			WHERE kind = 'weir_webhook' AND state = 'completed' AND args->>'observer' = 'plain')`,
		first: DeliveryUnfinished, also: []string{DocumentStale},
	},
	"an event removed": {
		sql:   `DELETE FROM weir.event WHERE (id, pk) = (SELECT id, pk FROM weir.event ORDER BY seq LIMIT 1)`,
		first: EventMissing, also: []string{DocumentUnwanted},
	},
	"an event added": {
		sql: `INSERT INTO weir.event (day, id, pk, lsn, tx_index, event_type, entity_type, entity_id, commit_time, created_at, payload)
			SELECT day, gen_random_uuid(), pk, lsn, tx_index, event_type, entity_type, entity_id, commit_time, created_at, payload
			FROM weir.event ORDER BY seq LIMIT 1`,
		first: EventUnwanted, also: []string{DocumentMissing},
	},
	"an event twice": {
		sql: `INSERT INTO weir.event (day, id, pk, lsn, tx_index, event_type, entity_type, entity_id, commit_time, created_at, payload)
			SELECT day - 1, id, pk, lsn, tx_index, event_type, entity_type, 'again', commit_time, created_at, payload
			FROM weir.event ORDER BY seq LIMIT 1`,
		first: EventDoubled,
	},
	"an event with other digits": {
		sql: `UPDATE weir.event SET payload = replace(payload::text, '"total":', '"total":1')::json WHERE (id, pk) =
			(SELECT id, pk FROM weir.event ORDER BY seq LIMIT 1)`,
		first: EventChanged,
	},
	"an event at another place": {
		sql: `UPDATE weir.event SET lsn = '0/1' WHERE (id, pk) = (SELECT e.id, e.pk FROM weir.event e
			WHERE (payload->'data'->>'n')::int > 1 ORDER BY seq DESC LIMIT 1)`,
		first: EventDisorder,
	},
	"an effect removed": {sql: `DELETE FROM app.effect WHERE id = (SELECT min(id) FROM app.effect)`, first: EffectMissing},
	"an effect doubled": {
		sql: `INSERT INTO app.effect (event, by, entity, n, tx) SELECT event, by, entity, n, tx FROM app.effect LIMIT 1`, first: EffectDoubled,
	},
	"an effect of nothing": {
		sql: `INSERT INTO app.effect (event, by) VALUES (gen_random_uuid(), 'booked')`, first: EffectUnwanted,
	},
	"a row of the change log removed": {
		sql: `DELETE FROM core.tb_entity_change_log WHERE pk_entity_change_log =
			(SELECT min(pk_entity_change_log) FROM core.tb_entity_change_log WHERE object_type = 'Customer' AND modification_type = 'INSERT')`,
		first: CommitLost, also: []string{EventUnwanted, DeliveryUnwanted, CallUnwanted, DocumentUnwanted},
	},
	"a document removed": {
		sql:   `DELETE FROM weir.document WHERE (seq, delivery_id) = (SELECT seq, delivery_id FROM weir.document LIMIT 1)`,
		first: DocumentMissing,
	},
	"a document of another outcome": {
		sql: `UPDATE weir.document SET outcome = 'dead' WHERE delivery_id = (SELECT delivery_id FROM weir.document
			WHERE outcome = 'delivered' LIMIT 1)`,
		first: DocumentStale,
	},
	"a call forgotten": {
		calls: func(e *evidence) {
			i := slices.IndexFunc(e.calls, func(c call) bool { return c.Path == "/plain" && c.Status == 204 })
			e.calls = slices.Delete(e.calls, i, i+1)
		},
		first: CallMissing,
	},
	"a call of nothing": {
		calls: func(e *evidence) { e.calls = append(e.calls, call{Path: "/plain"}) }, first: CallUnwanted,
	},
	"a transaction that was thought to be rolled back": {
		calls: func(e *evidence) {
			e.sent = slices.Clone(e.sent)
			i := slices.IndexFunc(e.sent, func(s sent) bool { return s.fate == committed && s.rows > 0 })
			e.sent[i].fate = aborted
		},
		first: RollbackKept,
	},
	"calls of an entity in another order": {
		calls: func(e *evidence) {
			of := map[string]int{}
			for i, c := range e.calls {
				if before, ok := of[c.Entity]; ok && c.Path == "/ordered" {
					e.calls[before], e.calls[i] = e.calls[i], e.calls[before]
					return
				}
				if c.Path == "/ordered" {
					of[c.Entity] = i
				}
			}
		},
		first: OrderBroken,
	},
	"two calls for one key": {
		sql: `UPDATE weir.river_job SET metadata = metadata #- '{output,duplicate_of}' WHERE id = (SELECT min(id) FROM weir.river_job
			WHERE metadata->'output'->>'duplicate_of' IS NOT NULL)`,
		first: CallMissing, also: []string{DedupWrong, DocumentStale},
	},
}

// tampered is what the checker says after the change, which is undone.
func tampered(t *testing.T, conn *pgx.Conn, e *evidence, tt tamper) []Difference {
	t.Helper()
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(t.Context()) }()
	if tt.sql != "" {
		tag, err := tx.Exec(t.Context(), tt.sql)
		if err != nil || tag.RowsAffected() != 1 {
			t.Fatalf("%s: %s, %v", tt.sql, tag, err)
		}
	}
	if err := e.gather(t.Context(), tx); err != nil {
		t.Fatal(err)
	}
	if tt.calls != nil {
		tt.calls(e)
	}
	return e.check()
}

// TestNotSettled: a run that does not come to its end says everything that helps to find out why.
func TestNotSettled(t *testing.T) {
	t.Parallel()
	r, err := Run(t.Context(), Options{
		Seed: 4, For: 2 * time.Second, Quiet: true, Binaries: binaries, Out: testOut{t}, Settle: time.Nanosecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	if r.OK() || r.Differences[0].Name != NotSettled || r.Changes == 0 {
		t.Fatalf("the first difference is not that the run has not settled:\n%s", r)
	}
	for _, want := range []string{"weir status", "slot", "the end of its log", "goroutine 1 "} {
		if !strings.Contains(r.Differences[0].About, want) {
			t.Errorf("%q is not in:\n%s", want, r.Differences[0].About)
		}
	}
}

// TestReport: a failure names its seed and everything about the first difference.
func TestReport(t *testing.T) {
	t.Parallel()
	r := &Report{Seed: 42, For: time.Minute, Differences: []Difference{{EventMissing, "row 7"}, {DeliveryMissing, "row 8"}}}
	for _, want := range []string{"seed 42", EventMissing + " 1", "row 7"} {
		if !strings.Contains(r.String(), want) {
			t.Errorf("%q is not in:\n%s", want, r)
		}
	}
	for _, name := range []string{"r.json", "r.md"} {
		if err := r.Write(filepath.Join(t.TempDir(), name)); err != nil {
			t.Error(err)
		}
	}
}
