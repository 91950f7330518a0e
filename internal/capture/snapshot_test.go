package capture_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/internal/capture"
	"github.com/fraiseql/weir/internal/event"
)

func snapshotOf(name string) capture.CapturedTable {
	t := table(name)
	t.Snapshot = true
	return t
}

// fold applies the events in the order in which they were ingested. strange are those that do not fit what was before.
func (r *rig) fold() (rows map[string]string, strange []string) {
	r.t.Helper()
	type one struct{ Type, ID, Data string }
	events, err := pgx.CollectRows(first(r.conn.Query(context.WithoutCancel(r.t.Context()),
		`SELECT type, object_id, data FROM ingested WHERE reason = '' AND object_id <> '' ORDER BY n`)), pgx.RowToStructByPos[one])
	if err != nil {
		r.t.Fatal(err)
	}
	rows = map[string]string{}
	for _, e := range events {
		if _, there := rows[e.ID]; there == (e.Type == "INSERT") {
			strange = append(strange, fmt.Sprintf("%s %s %s after %s", e.Type, e.ID, e.Data, rows[e.ID]))
		}
		if rows[e.ID] = e.Data; e.Type == "DELETE" {
			delete(rows, e.ID)
		}
	}
	return rows, strange
}

// sameRows compares the fold with the table.
func (r *rig) sameRows() (strange []string) {
	r.t.Helper()
	folded, strange := r.fold()
	there, err := pgx.CollectRows(first(r.conn.Query(context.WithoutCancel(r.t.Context()),
		`SELECT array[id::text, format('{"id":%s,"v":%s}', id, v)] FROM orders`)), pgx.RowTo[[]string])
	if err != nil {
		r.t.Fatal(err)
	}
	wrong := 0
	for _, row := range there {
		if folded[row[0]] != row[1] {
			wrong++
			if wrong < 5 {
				r.t.Errorf("row %s: events fold to %q", row[1], folded[row[0]])
			}
		}
		delete(folded, row[0])
	}
	if len(folded) > 0 || wrong > 0 {
		r.t.Errorf("%d rows are wrong, %d are gone and still known, of %d", wrong, len(folded), len(there))
	}
	if twice := r.one(`SELECT count(*)::text FROM (SELECT FROM ingested GROUP BY event::json ->> 'id' HAVING count(*) > 1) t`); twice != "0" {
		r.t.Errorf("%s events are there twice", twice)
	}
	return strange
}

// scribble changes rows at random until the function that it returns is called.
func (r *rig) scribble(rows int) (stop func()) {
	ctx, cancel := context.WithCancel(r.t.Context())
	var writing sync.WaitGroup
	for range 2 {
		conn := r.another()
		writing.Go(func() {
			for ctx.Err() == nil {
				id := rand.N(rows) + 1
				_, _ = conn.Exec(context.WithoutCancel(ctx), []string{ // a key that is taken is refused, and nothing happens
					fmt.Sprintf("UPDATE orders SET v = v + 1 WHERE id = %d", id),
					fmt.Sprintf("DELETE FROM orders WHERE id = %d", id),
					fmt.Sprintf("INSERT INTO orders VALUES (%d, 0)", id),
					"INSERT INTO orders SELECT coalesce(max(id), 0) + 1, 0 FROM orders",
					fmt.Sprintf("UPDATE orders SET id = %d WHERE id = %d", rows+id, id),
					fmt.Sprintf("BEGIN; UPDATE orders SET v = v + 1 WHERE id = %d; DELETE FROM orders WHERE id = %[1]d; ROLLBACK", id),
				}[rand.N(6)])
				sleep(ctx, time.Millisecond)
			}
		})
	}
	return func() { cancel(); writing.Wait() }
}

// What was there comes once, then what was written meanwhile: no gap, no duplicate.
func TestSnapshotJoinsTheStream(t *testing.T) {
	t.Parallel()
	const rows = 12_000 // more than two batches
	r := newRig(t)
	r.sink.ledger = true
	r.exec(fmt.Sprintf(`CREATE TABLE orders (id bigint PRIMARY KEY, v int); INSERT INTO orders SELECT n, 0 FROM generate_series(1, %d) n`, rows))
	r.capture(table("orders"))
	run := r.start("none")
	r.streaming(run)
	run.stop(t)
	r.letGo()
	stop := r.scribble(rows)
	sleep(t.Context(), 500*time.Millisecond) // of changes that the snapshot will have, and the stream, too
	r.capture(snapshotOf("orders"))
	run = r.start("one")
	r.await("the snapshot", func() bool { return r.one(`SELECT count(finished_at)::text FROM weir.captured_table`) == "1" })
	sleep(t.Context(), 300*time.Millisecond)
	stop()
	r.streaming(run)
	r.say(`{"entity_type": "mark"}`)
	r.await("all", func() bool { return r.one(`SELECT count(*)::text FROM ingested WHERE event LIKE '%"mark"%'`) == "1" })
	if strange := r.sameRows(); len(strange) > 0 {
		t.Errorf("%d events do not fit: %q", len(strange), strange[:min(5, len(strange))])
	}
	got := r.one(`SELECT concat_ws(' ', count(*) > 1000, count(*) FILTER (WHERE e ->> 'event_type' <> 'INSERT'), bool_and(lsn < (SELECT joined FROM weir.captured_table)),
		count(*) = (SELECT rows FROM weir.captured_table), count(DISTINCT tx_index) = count(*))
		FROM (SELECT *, event::json AS e FROM ingested) i WHERE e ->> 'cdc_source' = 'snapshot'`)
	if got != "t 0 t t t" {
		t.Errorf("snapshot's events: %s", got)
	}
	if r.one(`SELECT count(*)::text FROM ingested WHERE event::json ->> 'cdc_source' IS NULL AND object_id <> ''`) == "0" {
		t.Error("nothing came from the stream: the test proves little")
	}
}

// Broken off anywhere, and taken again with other rows: the events fold to what is there.
func TestSnapshotBrokenOff(t *testing.T) {
	t.Parallel()
	const rows = 22_000
	r := newRig(t)
	r.sink.ledger = true
	var batches, broken atomic.Int32
	var calm atomic.Bool
	r.sink.before = func(_ context.Context, _ []event.Change) error {
		if n := batches.Add(1); n%3 == 0 && !calm.Load() {
			broken.Add(1)
			return errors.New("the database went away")
		}
		return nil
	}
	r.exec(fmt.Sprintf(`CREATE TABLE orders (id bigint PRIMARY KEY, v int); INSERT INTO orders SELECT n, 0 FROM generate_series(1, %d) n`, rows))
	r.capture(snapshotOf("orders"))
	stop := r.scribble(rows)
	for i := 0; i < 5 || (broken.Load() == 0 && i < 20); i++ { // on a slow machine nothing may have been stored yet
		run := r.start(fmt.Sprint("run", i))
		for before, since := batches.Load(), time.Now(); batches.Load() == before && time.Since(since) < 5*time.Second; {
			sleep(t.Context(), 10*time.Millisecond)
		}
		sleep(t.Context(), rand.N(500*time.Millisecond))
		run.stop(t)
	}
	calm.Store(true)
	run := r.start("last")
	r.await("the snapshot", func() bool { return r.one(`SELECT count(finished_at)::text FROM weir.captured_table`) == "1" })
	stop()
	r.streaming(run)
	r.say(`{"entity_type": "mark"}`)
	r.await("all", func() bool { return r.one(`SELECT count(*)::text FROM ingested WHERE event LIKE '%"mark"%'`) == "1" })
	r.sameRows()
	if broken.Load() == 0 {
		t.Error("nothing was broken off: the test proves nothing")
	}
	if got := r.one(`SELECT (count(*) = (SELECT rows FROM weir.captured_table))::text FROM ingested WHERE event::json ->> 'cdc_source' = 'snapshot'`); got != "true" {
		t.Error("the count of rows is wrong")
	}
}

// A snapshot has what the stream would have: the columns and the rows that are published, of all partitions.
func TestSnapshotIsOfWhatIsPublished(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.needsLists()
	r.exec(`CREATE TABLE part (id int PRIMARY KEY, card text, total numeric) PARTITION BY RANGE (id);
		CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (-10) TO (2); CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM (2) TO (9);
		INSERT INTO part VALUES (-1, 'secret', 1), (1, 'secret', 100.10), (2, 'secret', NULL);
		CREATE TABLE loose (id int, a text); ALTER TABLE loose REPLICA IDENTITY FULL; INSERT INTO loose VALUES (1, 'x'), (1, 'x'), (NULL, 'y')`)
	part := snapshotOf("part")
	part.Columns, part.Where = []string{"id", "total"}, "id > 0"
	r.capture(part, snapshotOf("loose"))
	r.streaming(r.start("one"))
	r.await("the snapshots", func() bool { return r.one(`SELECT count(finished_at)::text FROM weir.captured_table`) == "2" })
	got := r.mark()
	slices.Sort(got)
	if len(got) != 4 || got[2] != `INSERT part 1 {"id":1,"total":100.10}` || got[3] != `INSERT part 2 {"id":2,"total":null}` ||
		got[1] != `INSERT loose 1 {"id":1,"a":"x"}` || !strings.Contains(got[0], "snapshot of table public.loose: id is NULL") {
		t.Errorf("got %s", strings.Join(got, "\n"))
	}
}

// Asked for later, and again after the table was not captured for a while.
func TestSnapshotAskedForLater(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.sink.ledger = true
	r.exec(`CREATE TABLE orders (id int PRIMARY KEY, v int); CREATE TABLE other (id int PRIMARY KEY); INSERT INTO orders VALUES (1, 0)`)
	steps := []struct {
		tables []capture.CapturedTable
		before string
		want   []string
	}{
		{[]capture.CapturedTable{table("other")}, "SELECT", nil},
		{[]capture.CapturedTable{table("other"), table("orders")}, "INSERT INTO orders VALUES (2, 0)", nil},
		{[]capture.CapturedTable{snapshotOf("orders")}, "SELECT", []string{`INSERT orders 1 {"id":1,"v":0}`, `INSERT orders 2 {"id":2,"v":0}`}},
		{[]capture.CapturedTable{snapshotOf("orders")}, "SELECT", nil},
		{[]capture.CapturedTable{table("other")}, "DELETE FROM orders WHERE id = 1", nil}, // not wanted any more, though it was published then
		{[]capture.CapturedTable{table("other")}, "UPDATE orders SET v = 5", nil},
		{[]capture.CapturedTable{snapshotOf("orders")}, "SELECT", []string{`INSERT orders 2 {"id":2,"v":5}`}},
	}
	for i, step := range steps {
		r.exec(step.before)
		r.capture(step.tables...)
		run := r.start(fmt.Sprint("run", i))
		r.streaming(run)
		r.await("the snapshot", func() bool { // it may wait for transactions of other tests
			return r.one(`SELECT count(*)::text FROM ingested WHERE event::json ->> 'cdc_source' = 'snapshot'`) == fmt.Sprint(len(step.want))
		})
		r.became(fmt.Sprint("step ", i), step.want...)
		run.stop(t)
		r.letGo()
	}
}

// The making of its slot waits for open transactions. The stream does not.
func TestSnapshotWaitsForOpenTransactions(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.exec(`CREATE TABLE orders (id int PRIMARY KEY, v int); INSERT INTO orders VALUES (1, 0), (2, 0)`)
	r.capture(table("orders"))
	run := r.start("one")
	r.streaming(run)
	run.stop(t)
	r.letGo()
	open := r.another()
	r.on(open, "BEGIN", "UPDATE orders SET v = 1 WHERE id = 1")
	r.capture(snapshotOf("orders"))
	run = r.start("two")
	r.streaming(run)
	r.exec("UPDATE orders SET v = 2 WHERE id = 2")
	r.say(`{"entity_type": "early"}`)
	r.await("the stream to go on", func() bool { return r.one(`SELECT count(*)::text FROM ingested WHERE event LIKE '%"early"%'`) == "1" })
	if got := r.one("SELECT count(joined)::text FROM weir.captured_table"); got != "0" {
		t.Fatal("the snapshot does not wait")
	}
	r.on(open, "COMMIT")
	r.await("the snapshot", func() bool { return r.one(`SELECT count(finished_at)::text FROM weir.captured_table`) == "1" })
	r.exec("UPDATE orders SET v = 3 WHERE id = 1")
	got := r.mark()
	slices.Sort(got[:len(got)-1])
	want := []string{`CUSTOM early  {}`, `INSERT orders 1 {"id":1,"v":1}`, `INSERT orders 2 {"id":2,"v":2}`, `UPDATE orders 1 {"id":1,"v":3}`}
	if !slices.Equal(got, want) {
		t.Errorf("got %s", strings.Join(got, "\n"))
	}
}

// However long a snapshot takes, standbys take its owner for one that reads: ended, it would begin it again, for ever.
func TestSnapshotKeepsTheStream(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.exec(`CREATE TABLE orders (id int PRIMARY KEY, v int); INSERT INTO orders VALUES (1, 0)`)
	r.capture(snapshotOf("orders"))
	taken, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	r.sink.before = func(context.Context, []event.Change) error {
		once.Do(func() { close(taken); <-goOn })
		return nil
	}
	run := r.start("one")
	<-taken
	if heard, reading := run.Reads(); heard != 0 || !reading {
		t.Errorf("in the middle of a snapshot it says that it reads: %v, and that its source was heard %s ago", reading, heard)
	}
	close(goOn)
	r.became("the snapshot", `INSERT orders 1 {"id":1,"v":0}`)
	r.await("it to read", func() bool { heard, _ := run.Reads(); return heard > 0 })
}
