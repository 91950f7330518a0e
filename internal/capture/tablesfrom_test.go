package capture_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/internal/capture"
	"github.com/fraiseql/weir/internal/event"
)

// another is a further session.
func (r *rig) another() *pgx.Conn {
	r.t.Helper()
	conn, err := pgx.Connect(r.t.Context(), r.url)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(r.t.Context())) })
	return conn
}

func (r *rig) on(conn *pgx.Conn, statements ...string) {
	r.t.Helper()
	for _, sql := range statements {
		if _, err := conn.Exec(r.t.Context(), sql); err != nil {
			r.t.Fatalf("%s: %v", sql, err)
		}
	}
}

func (r *rig) tablesFrom() string {
	return r.one("SELECT coalesce(tables_from::text, '') FROM weir.checkpoint")
}

// sleep gives the machine to others.
func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

const logAndTable = `INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data)
	VALUES ('Log', 'INSERT', gen_random_uuid(), jsonb_build_object('n', %[1]d)); INSERT INTO orders VALUES (%[1]d)`

// A publication that is younger than changes in the slot cannot be used for them. The change log goes on meanwhile.
func TestTablesAddedLater(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.exec(`CREATE TABLE orders (n int PRIMARY KEY)`)
	run := r.start("one")
	r.streaming(run)
	if got := r.tablesFrom(); got != "" {
		t.Fatalf("tables are read from %s without any", got)
	}
	open := r.another()
	r.on(open, "BEGIN", fmt.Sprintf(logAndTable, 1))
	run.stop(t)
	r.letGo()
	r.exec(fmt.Sprintf(logAndTable, 2)) // before the publication

	orders := table("orders")
	orders.ID = "n"
	r.cfg.Tables = []capture.CapturedTable{orders}
	run = r.start("two")
	r.streaming(run)
	r.exec(fmt.Sprintf(logAndTable, 3)) // after it, while an older transaction is open
	r.await("the change log to go on", func() bool { return r.ingested() == "2 3" })
	r.on(open, fmt.Sprintf(logAndTable, 4))
	time.Sleep(1500 * time.Millisecond) // three polls
	if got := r.tablesFrom(); got != "" {
		t.Fatalf("tables are read from %s, with an older transaction open", got)
	}
	r.on(open, "COMMIT")
	r.await("the tables to be read", func() bool {
		return r.one("SELECT (tables_from <= lsn)::text FROM weir.checkpoint WHERE tables_from IS NOT NULL UNION ALL SELECT '' LIMIT 1") == "true"
	})
	r.exec(fmt.Sprintf(logAndTable, 5))
	want := "2 3 1 4 5 5"
	r.await("all", func() bool { return len(strings.Fields(r.ingested())) >= 6 })
	if got := r.ingested(); got != want {
		t.Errorf("ingested %s, want %s", got, want)
	}
	if r.metric("weir_capture_reconnects_total") > 0 {
		t.Error("that counts as a failure")
	}
	run.stop(t)
	r.letGo()

	// Without tables the publication is emptied, and with them again it is filled, at once.
	r.cfg.Tables = nil
	run = r.start("three")
	r.streaming(run)
	r.exec(fmt.Sprintf(logAndTable, 6))
	r.await("the change log alone", func() bool { return r.ingested() == want+" 6" })
	if got := r.one(`SELECT count(*)::text FROM pg_publication_tables WHERE pubname = 'weir_tables'`); got != "0" {
		t.Errorf("%s tables are published", got)
	}
	run.stop(t)
	r.letGo()
	r.cfg.Tables = []capture.CapturedTable{orders}
	r.streaming(r.start("four"))
	r.exec(fmt.Sprintf(logAndTable, 7))
	r.await("both", func() bool { return r.ingested() == want+" 6 7 7" })
}

// Wherever the stream is broken off while it turns to the tables, the change log's rows are ingested once, and the table's
// from some transaction on, whole.
func TestBrokenOffWhereTheStreamTurns(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.exec(`CREATE TABLE orders (n int PRIMARY KEY)`)
	var failing atomic.Bool
	r.sink.before = func(context.Context, []event.Change) error {
		if failing.Load() && rand.N(3) == 0 {
			return errors.New("the database went away")
		}
		return nil
	}
	run := r.start("first")
	r.streaming(run)
	run.stop(t)
	r.letGo()
	orders := table("orders")
	orders.ID = "n"
	r.cfg.Tables = []capture.CapturedTable{orders}
	ctx, stop := context.WithCancel(t.Context())
	written := make(chan int)
	writer := r.another()
	go func() {
		n := 0
		for ctx.Err() == nil { // transactions that are larger than a batch among them
			size := []int{1, 1, 1, 1, 10, 10, 10, 100, 100, 6000}[rand.N(10)]
			sleep(ctx, 100*time.Millisecond)
			_, err := writer.Exec(context.WithoutCancel(ctx), fmt.Sprintf(`BEGIN; INSERT INTO core.tb_entity_change_log
				(object_type, modification_type, object_id, object_data) SELECT 'Log', 'INSERT', gen_random_uuid(), jsonb_build_object('n', n)
				FROM generate_series(%[1]d, %[2]d) n; INSERT INTO orders SELECT generate_series(%[1]d, %[2]d); COMMIT`, n+1, n+size))
			if err != nil {
				break
			}
			n += size
		}
		written <- n
	}()
	failing.Store(true)
	for i := range 8 {
		run := r.start(fmt.Sprint("run", i))
		time.Sleep(rand.N(700 * time.Millisecond)) // the moments of the stop are what is tried
		run.stop(t)
	}
	failing.Store(false)
	r.start("last")
	// On a busy server the older transactions may end only now: the writer goes on until something of the table was read.
	r.await("the table to be read", func() bool { return r.one(`SELECT EXISTS (SELECT FROM ingested WHERE pk = 0)::text`) == "true" })
	stop()
	last := <-written
	r.await("the last", func() bool {
		sleep(t.Context(), 200*time.Millisecond)
		return r.one(`SELECT count(*)::text FROM ingested WHERE data::json ->> 'n' = $1`, fmt.Sprint(last)) == "2"
	})
	got := r.one(`SELECT concat_ws(' ', count(*) FILTER (WHERE log), count(DISTINCT n) FILTER (WHERE log), count(*) FILTER (WHERE NOT log) -
			(max(n) FILTER (WHERE NOT log) - min(n) FILTER (WHERE NOT log) + 1))
		FROM (SELECT pk > 0 AS log, (data::json ->> 'n')::int AS n FROM ingested) i`)
	if want := fmt.Sprintf("%d %[1]d 0", last); got != want {
		t.Errorf("rows of the log, distinct ones, rows of the table that are too many: %s, want %s", got, want)
	}
}

// What is no longer named, or filtered, does not leave the server any more.
func TestNarrowing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.needsLists()
	r.exec(`CREATE TABLE orders (id int PRIMARY KEY, total int, card text); CREATE TABLE people (id int PRIMARY KEY)`)
	orders := table("orders")
	r.capture(orders, table("people"))
	steps := []struct {
		change func()
		want   []string
	}{
		{func() {}, []string{
			`INSERT orders 1 {"id":1,"total":5,"card":"secret"}`, `INSERT orders -1 {"id":-1,"total":5,"card":"secret"}`, `INSERT people 1 {"id":1}`,
		}},
		{func() { orders.Columns = []string{"total", "id"} }, []string{
			`INSERT orders 1 {"id":1,"total":5}`, `INSERT orders -1 {"id":-1,"total":5}`, `INSERT people 1 {"id":1}`,
		}},
		{func() { orders.Where = "id > 0" }, []string{`INSERT orders 1 {"id":1,"total":5}`, `INSERT people 1 {"id":1}`}},
		{func() { orders.Where = "id < 0" }, []string{`INSERT orders -1 {"id":-1,"total":5}`, `INSERT people 1 {"id":1}`}},
		{func() { orders.Where, orders.Columns = "", nil; r.cfg.Tables = r.cfg.Tables[:1] }, []string{
			`INSERT orders 1 {"id":1,"total":5,"card":"secret"}`, `INSERT orders -1 {"id":-1,"total":5,"card":"secret"}`,
		}},
	}
	for i, step := range steps {
		step.change()
		r.cfg.Tables[0] = orders
		run := r.start(fmt.Sprint("run", i))
		r.streaming(run)
		r.exec(`INSERT INTO orders VALUES (1, 5, 'secret'), (-1, 5, 'secret'); INSERT INTO people VALUES (1)`)
		r.became(fmt.Sprint("step ", i), step.want...)
		if strings.Contains(strings.Join(step.want, ""), "card") == (len(orders.Columns) > 0) {
			t.Fatal("the test is wrong")
		}
		r.exec(`DELETE FROM orders; DELETE FROM people`)
		r.mark()
		run.stop(t)
		r.letGo()
	}
}

// Without its publication nothing of the tables can be read, and what was not read is lost: that is said.
func TestTablesPublicationGone(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.exec(`CREATE TABLE orders (id int PRIMARY KEY)`)
	r.capture(table("orders"))
	run := r.start("one")
	r.streaming(run)
	run.stop(t)
	r.letGo()
	r.exec(fmt.Sprintf(`DROP PUBLICATION %s_tables; INSERT INTO orders VALUES (1)`, r.cfg.Publication))
	run = r.start("two")
	r.await("the gap", func() bool { return run.Health().State == capture.Gap })
	if got := run.Health().Err; !strings.Contains(got, "_tables is gone") || !strings.Contains(got, "weir accept-gap") {
		t.Fatalf("it says %s", got)
	}
	r.await("the slot to be dropped, which would hold WAL", func() bool {
		return r.one("SELECT count(*)::text FROM pg_replication_slots WHERE slot_name = $1", r.cfg.Slot) == "0"
	})
	r.exec("UPDATE weir.checkpoint SET state = 'recovering', owner = '', epoch = epoch + 1") // weir accept-gap
	r.streaming(run)
	r.exec(`INSERT INTO orders VALUES (2)`)
	r.became("after the gap was accepted", `INSERT orders 2 {"id":2}`)
}

// Two changes of one message are stored together, also when the database refuses one of them.
func TestRefusedKeyChange(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.exec(`CREATE TABLE orders (id int PRIMARY KEY); ALTER TABLE ingested ADD CHECK (type <> 'INSERT' OR data NOT LIKE '%:7}')`)
	r.capture(table("orders"))
	r.streaming(r.start("one"))
	r.exec(`BEGIN; INSERT INTO orders VALUES (1); UPDATE orders SET id = 7; INSERT INTO orders VALUES (2); COMMIT`)
	got := r.mark()
	if len(got) != 4 || got[0] != `INSERT orders 1 {"id":1}` || got[1] != `DELETE orders 1 {"id":1}` || got[3] != `INSERT orders 2 {"id":2}` ||
		!strings.HasPrefix(got[2], `INSERT orders 7 {} the database refuses`) {
		t.Errorf("got %s", strings.Join(got, "\n"))
	}
}
