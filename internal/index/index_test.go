package index_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"weak"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"

	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/index"
	"github.com/fraiseql/weir/internal/sandbox"
	"github.com/fraiseql/weir/internal/store"
)

var postgres sandbox.Suite

func TestMain(m *testing.M) { goleak.VerifyTestMain(postgres.Main(m)) }

const plenty = 1 << 20 // bytes of cache

// history is a migrated database that counts how often an event is read from it.
type history struct {
	*pgxpool.Pool
	reads atomic.Int64
	held  chan struct{} // not nil: reads wait until it is closed
}

func (h *history) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	h.reads.Add(1)
	if h.held != nil {
		<-h.held
	}
	return h.Pool.Query(ctx, sql, args...)
}

func newHistory(t *testing.T) *history {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), postgres.Database(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return &history{Pool: pool}
}

// ingested are events that a job names.
func ingested(events ...*event.Event) []index.Ingested {
	all := make([]index.Ingested, len(events))
	for i, e := range events {
		all[i] = index.Ingested{Event: e, Matched: true}
	}
	return all
}

// record stores events in a transaction of their own.
func (h *history) record(ctx context.Context, x *index.Index, events ...*event.Event) error {
	return pgx.BeginFunc(ctx, h.Pool, func(tx pgx.Tx) error { return x.Record(ctx, tx, ingested(events...)) })
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// order is an event of now with the data given.
func order(pk int64, data string) *event.Event {
	tenant := "b6f9f6c8-3c86-4a4e-8ad6-4d2b9a2a9a10"
	return &event.Event{
		ID: uuid.New(), PK: pk, Type: event.Insert, EntityType: "Order", EntityID: "42", TenantID: &tenant,
		Data: json.RawMessage(data), Timestamp: event.Time(time.Now()), CommitTime: event.Time(time.Now()),
		LSN: 0x7FFFFFFF_FFFFFFFF, TxIndex: pk,
	}
}

func payload(t *testing.T, e *event.Event) string {
	t.Helper()
	raw, err := e.JSON()
	check(t, err)
	return string(raw)
}

// What comes from the database is what was recorded, byte by byte, as is what comes from the cache.
func TestRecordThenLoad(t *testing.T) {
	t.Parallel()
	h := newHistory(t)
	const data = `{"total":100.10,"n":9007199254740993123,"html":"<a & b>"}`
	withNothing := &event.Event{ID: uuid.New(), Type: event.Custom, Timestamp: event.Time(time.Now())}
	events := []*event.Event{order(1, data), withNothing}
	x := index.New(plenty, index.Config{})
	check(t, h.record(t.Context(), x, events...))
	for name, from := range map[string]*index.Index{"cache": x, "database": index.New(plenty, index.Config{})} {
		for _, e := range events {
			got, err := from.Load(t.Context(), h, index.KeyOf(e))
			check(t, err)
			if string(got.Payload) != payload(t, e) {
				t.Errorf("%s: payload %s, want %s", name, got.Payload, payload(t, e))
			}
			if payload(t, got.Event) != payload(t, e) || got.Event.PK != e.PK || got.Event.TxIndex != e.TxIndex ||
				got.Event.Position() != e.Position() || index.KeyOf(got.Event) != index.KeyOf(e) {
				t.Errorf("%s: event %+v, want %+v", name, got.Event, e)
			}
		}
	}
	if n := h.reads.Load(); n != 2 {
		t.Errorf("%d reads, want 2: of the index that had not seen the events", n)
	}
}

// The columns are what history and doctor search by.
func TestRecordFillsTheColumns(t *testing.T) {
	t.Parallel()
	h := newHistory(t)
	e := order(7, `{}`)
	e.Timestamp, e.CommitTime = event.Time(instant("2026-03-01T00:30:00+02:00")), event.Time(instant("2026-02-28T22:31:00Z"))
	check(t, h.record(t.Context(), index.New(plenty, index.Config{}), e))
	var got string
	check(t, h.Pool.QueryRow(t.Context(), `
		SELECT concat_ws(' ', day, id, pk, lsn, tx_index, event_type, entity_type, entity_id, tenant_id,
		       to_char(commit_time AT TIME ZONE 'UTC', 'HH24:MI'), to_char(created_at AT TIME ZONE 'UTC', 'HH24:MI'))
		  FROM weir.event`).Scan(&got))
	want := "2026-02-28 " + e.ID.String() + " 7 7FFFFFFF/FFFFFFFF 7 INSERT Order 42 b6f9f6c8-3c86-4a4e-8ad6-4d2b9a2a9a10 22:31 22:30"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func instant(s string) time.Time {
	at, err := time.Parse(time.RFC3339, s)
	if err != nil {
		panic(err)
	}
	return at
}

// The database itself refuses a second ingest of an event, and nothing of that batch stays.
func TestASecondIngestIsRefused(t *testing.T) {
	t.Parallel()
	h := newHistory(t)
	x := index.New(plenty, index.Config{})
	first, other := order(1, `{"n":1}`), order(2, `{}`)
	check(t, h.record(t.Context(), x, first))
	again := *first
	again.LSN, again.Data = 99, json.RawMessage(`{"n":2}`)
	err := h.record(t.Context(), x, other, &again)
	var refused *pgconn.PgError
	if !errors.As(err, &refused) || refused.Code != "23505" {
		t.Fatalf("got %v, want a unique violation", err)
	}
	if _, err := x.Load(t.Context(), h, index.KeyOf(other)); !errors.Is(err, index.ErrNotFound) {
		t.Errorf("the batch's other event: %v, want ErrNotFound", err)
	}
	for name, from := range map[string]*index.Index{"cache": x, "database": index.New(plenty, index.Config{})} {
		got, err := from.Load(t.Context(), h, index.KeyOf(first))
		if err != nil || string(got.Payload) != payload(t, first) {
			t.Errorf("%s: the first ingest was changed: %s, %v", name, got.Payload, err)
		}
	}
	// The same id with another key is another event: the change log's id is not unique.
	twin, tomorrow := *first, *first
	twin.PK = 3
	tomorrow.Timestamp = event.Time(time.Time(first.Timestamp).AddDate(0, 0, 1))
	check(t, h.record(t.Context(), x, &twin, &tomorrow))
}

func TestNotFound(t *testing.T) {
	t.Parallel()
	h := newHistory(t)
	x := index.New(plenty, index.Config{})
	e := order(1, `{}`)
	check(t, h.record(t.Context(), x, e))
	there := index.KeyOf(e)
	for name, key := range map[string]index.Key{
		"id":  {Day: there.Day, ID: uuid.New(), PK: there.PK},
		"pk":  {Day: there.Day, ID: there.ID, PK: 2},
		"day": {Day: there.Day.AddDate(0, 0, 1), ID: there.ID, PK: there.PK},
	} {
		if got, err := x.Load(t.Context(), h, key); !errors.Is(err, index.ErrNotFound) {
			t.Errorf("another %s: got %s, %v; want ErrNotFound", name, got.Payload, err)
		}
	}
	// Not found and not reachable are told apart: one is a dead letter, the other is tried again.
	gone := newHistory(t)
	gone.Close()
	if _, err := index.New(plenty, index.Config{}).Load(t.Context(), gone, there); err == nil || errors.Is(err, index.ErrNotFound) {
		t.Errorf("no database: %v", err)
	}
}

// A job names the day as text. The key that is made of it finds the event in the cache.
func TestKeyFromText(t *testing.T) {
	t.Parallel()
	h := newHistory(t)
	x := index.New(plenty, index.Config{})
	e := order(1, `{}`)
	e.Timestamp = event.Time(time.Now().In(time.FixedZone("east", 14*3600)))
	check(t, h.record(t.Context(), x, e))
	day, err := time.Parse(time.DateOnly, e.Day().Format(time.DateOnly))
	check(t, err)
	if _, err := x.Load(t.Context(), h, index.Key{Day: day, ID: e.ID, PK: e.PK}); err != nil || h.reads.Load() != 0 {
		t.Errorf("%v after %d reads, want none", err, h.reads.Load())
	}
}

// A day without a partition of its own is in the default partition until somebody makes one.
func TestDaysWithoutAPartition(t *testing.T) {
	t.Parallel()
	h := newHistory(t)
	long := order(1, `{"when":"long ago"}`)
	long.Timestamp = event.Time(instant("1999-12-31T23:59:59Z"))
	check(t, h.record(t.Context(), index.New(plenty, index.Config{}), long))
	partition := func() (name string) {
		check(t, h.Pool.QueryRow(t.Context(), `SELECT tableoid::regclass::text FROM weir.event`).Scan(&name))
		return name
	}
	load := func() {
		t.Helper()
		if got, err := index.New(plenty, index.Config{}).Load(t.Context(), h, index.KeyOf(long)); err != nil || string(got.Payload) != payload(t, long) {
			t.Errorf("in %s: %s, %v", partition(), got.Payload, err)
		}
	}
	if name := partition(); name != "weir.event_default" {
		t.Errorf("it is in %s", name)
	}
	load()
	_, err := store.New().EnsurePartitions(t.Context(), h.Pool, store.EnsurePartitionsParams{First: long.Day(), Last: long.Day()})
	check(t, err)
	if name := partition(); name == "weir.event_default" {
		t.Error("it stayed in the default partition")
	}
	load()
	if err := h.record(t.Context(), index.New(plenty, index.Config{}), long); err == nil {
		t.Error("a second ingest is accepted")
	}
}

// cached lists which of the events are in memory, by pk.
func cached(t *testing.T, h *history, x *index.Index, events []*event.Event) (pks []int64) {
	t.Helper()
	for _, e := range events {
		before := h.reads.Load()
		// A copy of the index's database that has nothing: a miss is not found, and does not fill the cache.
		if _, err := x.Load(t.Context(), h, index.KeyOf(e)); err != nil && !errors.Is(err, index.ErrNotFound) {
			t.Fatal(err)
		}
		if h.reads.Load() == before {
			pks = append(pks, e.PK)
		}
	}
	return pks
}

func TestCacheIsBounded(t *testing.T) {
	t.Parallel()
	h, empty := newHistory(t), newHistory(t)
	const size, limit = 10 << 10, 200 << 10 // bytes
	x := index.New(limit, index.Config{})
	var events []*event.Event
	for pk := range int64(100) {
		events = append(events, order(pk, fmt.Sprintf(`{"filler":%q}`, strings.Repeat("x", size))))
	}
	check(t, h.record(t.Context(), x, events...))
	kept := cached(t, empty, x, events)
	if n := len(kept); n < 2 || n*size > limit {
		t.Fatalf("%d events of more than %d bytes are kept in %d", n, size, limit)
	}
	if first, last := kept[0], kept[len(kept)-1]; last != 99 || last-first != int64(len(kept)-1) {
		t.Errorf("kept are %v, want the newest", kept)
	}
	// A batch that is rolled back and ingested again is counted once.
	again := events[98:]
	for range 50 {
		err := pgx.BeginFunc(t.Context(), empty.Pool, func(tx pgx.Tx) error {
			check(t, x.Record(t.Context(), tx, ingested(again...)))
			return errors.New("roll it back")
		})
		if err == nil {
			t.Fatal("not rolled back")
		}
	}
	if now := cached(t, empty, x, events); len(now) != len(kept) {
		t.Errorf("%d events are kept after repeats, before it were %d", len(now), len(kept))
	}
	// What alone is too large is kept alone: its deliveries are about to run.
	huge := order(1000, fmt.Sprintf(`{"filler":%q}`, strings.Repeat("x", 2*limit)))
	check(t, h.record(t.Context(), x, huge))
	if now := cached(t, empty, x, append(events, huge)); len(now) != 1 || now[0] != 1000 {
		t.Errorf("kept are %v, want the huge one alone", now)
	}
	check(t, h.record(t.Context(), x, order(1001, `{}`)))
	if now := cached(t, empty, x, append(events, huge)); len(now) != 0 {
		t.Errorf("kept are %v: the huge one stays", now)
	}
}

// What was loaded is kept, too: the other deliveries of an event, and the attempts to come, need it.
// A batch is megabytes, and few of its events may have a job.
func TestTheCacheDoesNotKeepTheBatch(t *testing.T) {
	h, x := newHistory(t), index.New(plenty, index.Config{})
	batch := make([]event.Change, 1000)
	batch[500].Event = *order(500, `{}`)
	whole, key := weak.Make(&batch[0]), index.KeyOf(&batch[500].Event)
	check(t, h.record(t.Context(), x, &batch[500].Event))
	batch = nil //nolint:wastedassign // the last strong pointer
	runtime.GC()
	if whole.Value() != nil {
		t.Error("the batch of a recent event is still in memory")
	}
	before := h.reads.Load()
	_, err := x.Load(t.Context(), h, key)
	check(t, err)
	if h.reads.Load() != before {
		t.Error("the event was read from the database")
	}
}

func TestLoadFillsTheCache(t *testing.T) {
	t.Parallel()
	h := newHistory(t)
	e := order(1, `{}`)
	check(t, h.record(t.Context(), index.New(plenty, index.Config{}), e))
	x := index.New(plenty, index.Config{})
	for range 3 {
		_, err := x.Load(t.Context(), h, index.KeyOf(e))
		check(t, err)
	}
	if n := h.reads.Load(); n != 1 {
		t.Errorf("%d reads, want 1", n)
	}
}

// Deliveries that begin together do not read one by one: while two queries are under way, all others wait for the next.
func TestLoadsTogether(t *testing.T) {
	t.Parallel()
	h := newHistory(t)
	h.held = make(chan struct{})
	var events []*event.Event
	for pk := range int64(50) {
		events = append(events, order(pk, `{}`))
	}
	check(t, h.record(t.Context(), index.New(plenty, index.Config{}), events[:49]...)) // the last one is missing
	x := index.New(plenty, index.Config{})
	var loads sync.WaitGroup
	var asked atomic.Int64
	for _, e := range events {
		loads.Go(func() {
			asked.Add(1)
			got, err := x.Load(t.Context(), h, index.KeyOf(e))
			switch {
			case e.PK == 49 && !errors.Is(err, index.ErrNotFound):
				t.Errorf("what is not there: %v", err)
			case e.PK != 49 && (err != nil || got.Event.PK != e.PK || string(got.Payload) != payload(t, e)):
				t.Errorf("event %d: got %+v, %v", e.PK, got.Event, err)
			}
		})
	}
	// One whose patience ends does not wait for the others, nor they for it.
	hurried, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := x.Load(hurried, h, index.KeyOf(events[0])); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the context's error", err)
	}
	for asked.Load() < int64(len(events)) {
		runtime.Gosched()
	}
	close(h.held)
	loads.Wait()
	// Some may have asked only after the first queries had been let go.
	if n := h.reads.Load(); n > int64(len(events)/2) {
		t.Errorf("%d reads of %d events", n, len(events))
	}
}

// One index serves the capture, which records, and all deliveries, which load.
func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	h := newHistory(t)
	x := index.New(20<<10, index.Config{}) // small: events come and go
	shared := order(0, `{}`)
	check(t, h.record(t.Context(), x, shared))
	group, ctx := errgroup.WithContext(t.Context())
	for g := range int64(8) {
		group.Go(func() error {
			for i := range int64(20) {
				e := order(1+g*20+i, fmt.Sprintf(`{"g":%d,"i":%d}`, g, i))
				if err := h.record(ctx, x, e); err != nil {
					return err
				}
				for _, want := range []*event.Event{e, shared} {
					got, err := x.Load(ctx, h, index.KeyOf(want))
					if err != nil {
						return err
					}
					if got.Event.ID != want.ID || string(got.Event.Data) != string(want.Data) {
						return fmt.Errorf("asked for %s %s, got %s %s", want.ID, want.Data, got.Event.ID, got.Event.Data)
					}
				}
			}
			return nil
		})
	}
	check(t, group.Wait())
}

func TestRecordRefusesWhatIsNoJSON(t *testing.T) {
	t.Parallel()
	h := newHistory(t)
	broken := order(1, `{"a":`)
	if err := h.record(t.Context(), index.New(plenty, index.Config{}), broken); err == nil || !strings.Contains(err.Error(), broken.ID.String()) {
		t.Errorf("got %v, want an error that names the event", err)
	}
}
