package worker_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// tablesSource is the section source with tables, and without a change log.
func (r *rig) tablesSource(tables string) string {
	return fmt.Sprintf("source: {slot: %s, publication: %[1]s, change_log: \"\", heartbeat: 1s, tables: [%s]}\n", r.slot, tables)
}

const dearOrders = `observers:
  shipped:
    entity: Order
    condition: event_type != 'CUSTOM' && has_field('total') && total > 100
    actions: [{type: webhook, url: "%s"}]
`

// A row's change becomes a delivery with its exact digits, without a change log.
func TestDirectTableIsDelivered(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	hook := newReceiver(t, nil)
	r.exec(`CREATE TABLE orders (id bigint PRIMARY KEY, tenant_id text, total numeric); INSERT INTO orders VALUES (1, 'a', 100.10), (2, 'b', 5)`)
	r.started(r.tablesSource("{table: public.orders, entity: Order, tenant: tenant_id, snapshot: true}") +
		"outbound: {allow: [\"127.0.0.1/32\"]}\n" + fmt.Sprintf(dearOrders, hook.URL))
	r.await("the snapshot", func() bool { return len(hook.seen()) == 1 })
	r.exec(`UPDATE orders SET total = 9007199254740993.50 WHERE id = 2`)
	r.exec(`SELECT pg_logical_emit_message(true, 'weir', '{"entity_type": "Order", "entity_id": "3", "data": {"total": 200}}')`)
	r.await("the update", func() bool { return len(hook.seen()) == 2 })
	first, second := hook.seen()[0].body, hook.seen()[1].body
	if field(t, first, "data") != `{"id":1,"tenant_id":"a","total":100.10}` || field(t, first, "cdc_source") != `"snapshot"` ||
		field(t, first, "tenant_id") != `"a"` {
		t.Errorf("the snapshot's: %s", first)
	}
	if field(t, second, "data") != `{"id":2,"tenant_id":"b","total":9007199254740993.50}` || field(t, second, "event_type") != `"UPDATE"` ||
		field(t, second, "changes") != "null" || strings.Contains(second, "unchanged_fields") {
		t.Errorf("the stream's: %s", second)
	}
	r.await("the message", func() bool { return r.one(`SELECT count(*)::text FROM weir.event WHERE event_type = 'CUSTOM'`) == "1" })
}

// A change without a row in the change log cannot be read again: its dead letter says so.
func TestDeadLetterWithoutARow(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.started(r.tablesSource("") + "observers: {}\n")
	r.exec(`SELECT pg_logical_emit_message(true, 'weir', '{"broken":')`)
	r.await("a dead letter", func() bool { return r.jobs(deadLetter) == "1" })
	got := r.one(`SELECT concat_ws(' | ', metadata ->> 'weir_dead_letter', errors[1] ->> 'error') FROM job`)
	if !strings.HasPrefix(got, "no_row | ") || !strings.Contains(got, "is not JSON") || !strings.Contains(got, "no row in the change log") {
		t.Errorf("got %s", got)
	}
}

// TestCrashSnapshot kills the worker again and again while it takes a snapshot of a table that is being written to. What was
// ingested then folds to what is in the table, no event is there twice, and each has one job.
func TestCrashSnapshot(t *testing.T) {
	t.Parallel()
	kills, rows := 4, 30_000
	if full() {
		kills, rows = 25, 200_000
	}
	r := newRig(t)
	r.exec(fmt.Sprintf(`CREATE TABLE orders (id bigint PRIMARY KEY, v int); INSERT INTO orders SELECT n, 0 FROM generate_series(1, %d) n`, rows))
	config := r.write(r.tablesSource("{table: public.orders, entity: Order, snapshot: true}") +
		"observers: {all: {entity: Order, actions: [{type: log, level: debug}]}}\n")
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	written := make(chan struct{})
	go func() {
		defer close(written)
		changeOrders(ctx, r.url, rows)
	}()
	w := &victim{r: r, binary: workerBinary(t), config: config}
	w.start()
	r.await("the slot", func() bool { return r.one("SELECT count(*)::text FROM weir.checkpoint") == "1" })
	for range kills {
		time.Sleep(time.Duration(200+rand.IntN(1200)) * time.Millisecond) // the moments are what is tried
		w.kill()
		w.start()
	}
	r.awaitFor(3*time.Minute, "the snapshot", func() bool { return r.one(`SELECT count(finished_at)::text FROM weir.captured_table`) == "1" })
	stop()
	<-written
	r.exec(`SELECT pg_logical_emit_message(true, 'weir', '{"entity_type": "mark"}')`)
	r.awaitFor(2*time.Minute, "the mark", func() bool { return r.one(`SELECT count(*)::text FROM weir.event WHERE entity_type = 'mark'`) == "1" })
	w.kill()
	if n := strings.Count(w.log.String(), "taking a snapshot"); n < 2 {
		t.Errorf("the snapshot was begun %d times: it was not killed in the middle", n)
	}
	wrong := r.one(`
		WITH folded AS (SELECT DISTINCT ON (entity_id) entity_id, event_type, payload -> 'data' ->> 'v' AS v FROM weir.event
			WHERE entity_type = 'Order' ORDER BY entity_id, seq DESC)
		SELECT concat_ws(' ', count(*) FILTER (WHERE o.v::text IS DISTINCT FROM f.v), count(*)) FROM orders o
		  FULL JOIN (SELECT * FROM folded WHERE event_type <> 'DELETE') f ON f.entity_id = o.id::text`)
	if !strings.HasPrefix(wrong, "0 ") {
		t.Errorf("rows that are not what the events fold to, and all: %s", wrong)
	}
	twice := r.one(`SELECT concat_ws(' ', (SELECT count(*) - count(DISTINCT id) FROM weir.event),
		(SELECT count(*) FROM (SELECT FROM weir.river_job WHERE kind = 'weir_log' GROUP BY args ->> 'event_id' HAVING count(*) > 1) t),
		(SELECT count(*) FROM weir.event e WHERE entity_type = 'Order' AND NOT EXISTS (
			SELECT FROM weir.river_job j WHERE j.args ->> 'event_id' = e.id::text)))`)
	if twice != "0 0 0" {
		t.Errorf("events and jobs that are there twice, events without a job: %s", twice)
	}
}

// changeOrders updates, deletes and inserts rows until the context ends.
func changeOrders(ctx context.Context, url string, rows int) {
	background := context.WithoutCancel(ctx)
	conn, err := pgx.Connect(background, url)
	if err != nil {
		return // the test sees that nothing was written
	}
	defer func() { _ = conn.Close(background) }()
	for ctx.Err() == nil {
		id := rand.IntN(rows) + 1
		_, _ = conn.Exec(background, []string{ // a key that is taken is refused, and nothing happens
			fmt.Sprintf("UPDATE orders SET v = v + 1 WHERE id BETWEEN %d AND %[1]d + 5", id),
			fmt.Sprintf("DELETE FROM orders WHERE id BETWEEN %d AND %[1]d + 2", id),
			fmt.Sprintf("INSERT INTO orders VALUES (%d, 0)", id),
			fmt.Sprintf("UPDATE orders SET id = %d WHERE id = %d", rows+id, id),
		}[rand.IntN(4)])
		time.Sleep(time.Millisecond)
	}
}
