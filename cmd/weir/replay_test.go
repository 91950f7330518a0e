package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/ops"
)

// recorder is a receiver that keeps what it is sent, in the order in which it comes.
type recorder struct {
	mu    sync.Mutex // guards calls
	calls []received
}

type received struct{ path, id, replayOf, body string }

func (r *recorder) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	text, _ := io.ReadAll(req.Body)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = append(r.calls, received{req.URL.Path, req.Header.Get("webhook-id"), req.Header.Get("X-Weir-Replay-Of"), string(text)})
	w.WriteHeader(http.StatusOK)
}

func (r *recorder) seen() []received {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.calls)
}

// receiving starts one.
func receiving(t *testing.T) (*recorder, string) {
	t.Helper()
	r := &recorder{}
	server := httptest.NewServer(r)
	t.Cleanup(server.Close)
	return r, server.URL
}

// replayFile is a configuration with these observers; %[1]s in them is the receiver.
func replayFile(t *testing.T, db *pgx.Conn, url, receiver, observers string) string {
	t.Helper()
	_, slot := slotFile(t, db, "")
	return file(t, fmt.Sprintf("database: {url: %q}\nsource: {slot: %s, heartbeat: 1s}\nhttp: {listen: \"\"}\n"+
		"outbound: {allow: [\"127.0.0.1\"]}\nobservers:\n", url, slot)+fmt.Sprintf(observers, receiver))
}

// contents counts the rows of every table of schema weir that a replay could change.
func contents(t *testing.T, db *pgx.Conn) string {
	t.Helper()
	var all string
	check(t, db.QueryRow(t.Context(), `SELECT concat_ws(' ', (SELECT count(*) FROM weir.event), (SELECT count(*) FROM weir.outcome),
		(SELECT count(*) || ':' || coalesce(max(id), 0) FROM weir.river_job WHERE kind <> 'weir_housekeeping'), (SELECT count(*) FROM weir.event WHERE unredacted IS NOT NULL),
		(SELECT last_value FROM weir.event_seq))`).Scan(&all))
	return all
}

func completed(t *testing.T, db *pgx.Conn) int {
	t.Helper()
	return jobsWhere(t, db, "state = 'completed' AND kind = 'weir_webhook'")
}

const twoHooks = `
  orders: {entity: Order, condition: "total > 10", actions: [{type: webhook, url: "%[1]s/orders"}]}
  people: {entity: Person, actions: [{type: webhook, url: "%[1]s/people"}, {type: log, name: note}]}
`

// A replay with a worker beside it: each delivery once more, under an id of its own that says what it repeats.
func TestReplayDeliversAgain(t *testing.T) {
	t.Parallel()
	url, db := database(t)
	got, receiver := receiving(t)
	path := replayFile(t, db, url, receiver, twoHooks)
	live(t, path)
	until(t, "the slot", func() bool { return exists(t, db, "SELECT FROM weir.checkpoint") })
	commitOrders(t, db, 30)
	exec(t, db, `INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data) VALUES ('Person', 'INSERT', gen_random_uuid(), '{}')`)
	until(t, "the first deliveries", func() bool { return completed(t, db) == 21 })

	before := contents(t, db)
	var would ops.Replay
	weir(t, "replay", "--from", "1h", "--config", path, "--dry-run", "--format", "json").exits(0).json(&would)
	if would.Events != 31 || would.Matched != 21 || would.Deliveries != 22 || len(would.Actions) != 3 || !would.DryRun {
		t.Errorf("dry run: %+v", would)
	}
	weir(t, "replay", "--from", "1h", "--config", path, "--dry-run", "--entity", "Person").exits(0).
		says("1 event from", "people/webhook   webhook  1", "people/note      log      1", "2 deliveries would be made", "nothing was changed")
	weir(t, "replay", "--from", "1h", "--config", path).exits(2).complains("--yes")
	call{args: []string{"replay", "--from", "1h", "--config", path}, stdin: "no\n"}.run(t).exits(1).
		complains("deliver 21 events again: 22 deliveries to 3 actions?")
	if now := contents(t, db); now != before {
		t.Fatalf("a dry run, or an answer no, has changed %s to %s", before, now)
	}
	if n := len(got.seen()); n != 21 {
		t.Fatalf("%d calls", n)
	}

	var done ops.Replay
	weir(t, "replay", "--from", "1h", "--config", path, "--observer", "orders", "--yes", "--format", "json").exits(0).json(&done)
	if done.Deliveries != 20 || !done.Done || done.Existing != 0 {
		t.Fatalf("%+v", done)
	}
	until(t, "the repeated deliveries", func() bool { return completed(t, db) == 41 })
	// The same replay again makes nothing.
	weir(t, "replay", "--from", "1h", "--config", path, "--observer", "orders", "--yes", "--id", done.ID.String()).exits(0).
		says("20 deliveries that this replay had made before", "0 deliveries made")
	isRepeated(t, got.seen(), 21, 20, done.ID)

	id := eventOf(t, db, "entity_type = 'Order' AND payload::jsonb -> 'data' ->> 'total' = '20'")
	weir(t, "debug-event", id, "--config", path).exits(0).says("orders/webhook (replay)  completed")
	var reports eventReports
	weir(t, "debug-event", id, "--config", path, "--format", "json").exits(0).json(&reports)
	all := reports.Events[0].Deliveries
	if len(all) != 2 || all[0].ReplayOf != nil || all[1].ReplayOf == nil || *all[1].ReplayOf != *all[0].DeliveryID {
		t.Errorf("deliveries %+v", all)
	}
}

// isRepeated looks at calls of which the first so many are no replay's.
func isRepeated(t *testing.T, calls []received, first, again int, replay uuid.UUID) {
	t.Helper()
	if len(calls) != first+again {
		t.Fatalf("%d calls, want %d and %d again", len(calls), first, again)
	}
	bodies, ids := map[string]string{}, map[string]bool{}
	for _, c := range calls[:first] {
		if c.replayOf != "" {
			t.Errorf("%+v says that it repeats another", c)
		}
		bodies[c.id], ids[c.id] = c.body, true
	}
	for _, c := range calls[first:] {
		if ids[c.id] || bodies[c.replayOf] != c.body || event.ReplayedID(uuid.MustParse(c.replayOf), replay).String() != c.id {
			t.Errorf("%+v repeats none of the first, or not once", c)
		}
		ids[c.id] = true
	}
}

func exists(t *testing.T, db *pgx.Conn, query string) (there bool) {
	t.Helper()
	check(t, db.QueryRow(t.Context(), "SELECT EXISTS ("+query+")").Scan(&there))
	return there
}

func eventOf(t *testing.T, db *pgx.Conn, where string) (id string) {
	t.Helper()
	check(t, db.QueryRow(t.Context(), "SELECT id::text FROM weir.event WHERE "+where).Scan(&id))
	return id
}

// Rows of the change log from before the first start become events when they are replayed, and the stream brings none of them.
func TestReplayOfTheChangeLog(t *testing.T) {
	t.Parallel()
	url, db := database(t)
	got, receiver := receiving(t)
	path := replayFile(t, db, url, receiver, twoHooks)
	commitOrders(t, db, 12)
	exec(t, db, `INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data) VALUES
		('Order', 'BOGUS', gen_random_uuid(), '{}'), ('Order', 'INSERT', 'aaaaaaaa-0000-0000-0000-000000000000', '{"total": 99}'),
		('Order', 'INSERT', gen_random_uuid(), '{}')`)
	exec(t, db, `INSERT INTO weir.forgotten (entity_type, entity_id, removed) VALUES ('Order', 'aaaaaaaa-0000-0000-0000-000000000000', '{}')`)
	weir(t, "replay", "--from", "1h", "--config", path, "--dry-run").exits(0).says("0 events")
	weir(t, "replay", "--from", "1h", "--config", path, "--source", "change-log", "--dry-run").exits(0).says("15 rows from",
		"13 rows that no worker had ingested would be recorded as events", "1 row without an event", "unknown modification_type",
		"2 deliveries would be made", "1 row left out, of entities that were forgotten", "not delivered 1 event: the condition of orders fails")

	var done ops.Replay
	args := []string{"replay", "--from", "1h", "--to", "2099-01-01", "--config", path, "--source", "change-log", "--yes", "--format", "json"}
	weir(t, args...).exits(1).complains("start one first")
	live(t, path)
	until(t, "the slot", func() bool { return exists(t, db, "SELECT FROM weir.checkpoint") })
	weir(t, args...).exits(0).json(&done)
	if done.Recorded != 13 || done.Deliveries != 2 || done.NotEvents != 1 || done.Forgotten != 1 {
		t.Errorf("%+v", done)
	}
	// Beside a worker, while the stream brings others: what it brings it brings once, and no dead letter comes of it.
	until(t, "the first", func() bool { return completed(t, db) == 2 })
	const originals = 600
	writer, written := connectTo(t, url), make(chan error, 1)
	go func() {
		_, err := writer.Exec(t.Context(), `DO $$ BEGIN FOR n IN 1..600 LOOP
			INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data)
			VALUES ('Order', 'INSERT', gen_random_uuid(), '{"total": 11}'); COMMIT; END LOOP; END $$`)
		written <- err
	}()
	again := append(slices.Clone(args), "--id", done.ID.String())
	for ended := false; !ended; {
		select {
		case err := <-written:
			check(t, err)
			ended = true
		default:
		}
		weir(t, again...).exits(0)
	}
	until(t, "the stream's", func() bool {
		return jobsWhere(t, db, "state = 'completed' AND kind = 'weir_webhook' AND NOT args ? 'replay'") == originals
	})
	weir(t, again...).exits(0)
	until(t, "the rest", func() bool { return completed(t, db) == 2+2*originals })
	if n := jobsWhere(t, db, "state IN ('cancelled', 'discarded')"); n != 0 {
		t.Errorf("%d dead letters", n)
	}
	ids := map[string]bool{}
	for _, c := range got.seen() {
		ids[c.id] = true
	}
	if n := len(got.seen()); n != 2+2*originals || len(ids) != n {
		t.Errorf("%d calls, %d deliveries", n, len(ids))
	}
}

// With ordering: entity, a replay runs in the order of the events, and what comes meanwhile waits behind it.
func TestReplayKeepsTheOrder(t *testing.T) {
	t.Parallel()
	url, db := database(t)
	got, receiver := receiving(t)
	path := replayFile(t, db, url, receiver, `
  orders: {entity: Order, ordering: entity, actions: [{type: webhook, url: "%[1]s", body_template: "{{ data.n }}"}]}
`)
	live(t, path)
	until(t, "the slot", func() bool { return exists(t, db, "SELECT FROM weir.checkpoint") })
	one := func(n int) {
		exec(t, db, `INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data)
			VALUES ('Order', 'UPDATE', 'aaaaaaaa-0000-0000-0000-000000000000', jsonb_build_object('n', $1::int))`, n)
	}
	const n = 12
	for i := range n {
		one(i)
	}
	until(t, "the first", func() bool { return completed(t, db) == n })
	weir(t, "replay", "--from", "1h", "--config", path, "--yes").exits(0)
	one(n)
	until(t, "all", func() bool { return completed(t, db) == 2*n+1 })
	var bodies, want []string
	for i := range 2*n + 1 {
		want = append(want, fmt.Sprint(i%n))
	}
	want[2*n] = fmt.Sprint(n)
	for _, c := range got.seen() {
		bodies = append(bodies, c.body)
	}
	if !slices.Equal(bodies, want) {
		t.Errorf("got %v", bodies)
	}
}

func TestReplayRefuses(t *testing.T) {
	t.Parallel()
	url, db := database(t)
	path := replayFile(t, db, url, "http://127.0.0.1:1", twoHooks)
	for _, tt := range []struct {
		args string
		code int
		want string
	}{
		{"--yes", 2, "say since when"},
		{"--from soon --yes", 2, `--from "soon"`},
		{"--from 1h --to 2h --yes", 2, "is not before"},
		{"--from 1h --source wal --yes", 2, "expected events or change-log"},
		{"--from 1h --id 7 --yes", 2, "the id of a replay"},
		{"--from 1h --observer order --yes", 2, "did you mean orders?"},
	} {
		weir(t, append([]string{"replay", "--config", path}, strings.Fields(tt.args)...)...).exits(tt.code).complains(tt.want)
	}
	weir(t, "replay", "--from", "1h", "--yes", "--database-url", url).exits(3).complains("configuration file")
	weir(t, "replay", "--from", "1h", "--yes", "--config", path).exits(0).says("0 deliveries made")
}

func TestGoOn(t *testing.T) {
	t.Parallel()
	o, err := replayed{from: "2026-01-31T12:00:00.25Z", to: "2026-02-01", observer: "it's", source: "change-log", incomplete: true}.
		options(time.Now())
	check(t, err)
	o.ID = uuid.Nil
	want := `weir replay --id 00000000-0000-0000-0000-000000000000 --from 2026-01-31T12:00:00.25Z --to 2026-02-01T00:00:00Z ` +
		`--observer 'it'\''s' --source change-log --incomplete`
	if got := goOn(o); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestBarLine(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		done, total int64
		seconds     float64
		want        string
	}{
		{0, 0, 0, "[########################] 100 %  0 of 0 events"},
		{0, 10, 0, "[------------------------]   0 %  0 of 10 events"},
		{500, 2000, 10, "[######------------------]  25 %  500 of 2000 events  50/s  30 s left"},
		{2000, 2000, 40, "[########################] 100 %  2000 of 2000 events  50/s"},
		{30, 20, 2, "[########################] 100 %  30 of 20 events  15/s"},
	} {
		if got := barLine(tt.done, tt.total, "event", time.Duration(tt.seconds*float64(time.Second))); got != tt.want {
			t.Errorf("got  %s\nwant %s", got, tt.want)
		}
	}
}
