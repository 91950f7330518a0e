package worker_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/fraiseql/weir/internal/ops"
	"github.com/fraiseql/weir/internal/sandbox"
)

// historyName is an installation of the test's own, so that tests share an Elasticsearch.
func historyName() string { return "t" + strconv.FormatInt(time.Now().UnixNano(), 36) }

// stored are the outcomes that an Elasticsearch holds by the ids of their deliveries, and an empty text by the id of each event.
func (r *rig) stored(server, installation string) map[string]string {
	r.t.Helper()
	all := server + "/weir-history-" + installation + "*"
	r.elastic(http.MethodPost, all+"/_refresh", "")
	found := map[string]string{}
	for after := int64(-1); ; {
		var page struct {
			Hits struct {
				Hits []struct {
					ID     string `json:"_id"`
					Source struct {
						Seq     int64
						Outcome string
					} `json:"_source"`
					Sort []int64 `json:"sort"`
				} `json:"hits"`
			} `json:"hits"`
		}
		// All documents of an event have its seq: a page that ends within an event is read to the end by the next one.
		query := fmt.Sprintf(`{"size":5000,"query":{"range":{"seq":{"gte":%d}}},"sort":["seq"],"_source":["seq","outcome"]}`, after)
		if err := json.Unmarshal(r.elastic(http.MethodPost, all+"/_search", query), &page); err != nil {
			r.t.Fatal(err)
		}
		for _, hit := range page.Hits.Hits {
			found[hit.ID], after = hit.Source.Outcome, hit.Source.Seq
		}
		if len(page.Hits.Hits) < 5000 {
			return found
		}
	}
}

// recorded is what a store is to hold: the events, and the outcomes of deliveries wherever they are.
func (r *rig) recorded() map[string]string {
	r.t.Helper()
	return r.pairs(`SELECT id::text, '' FROM weir.event
		UNION ALL SELECT delivery_id::text, state FROM weir.outcome`)
}

// documented is what PostgreSQL's own store holds.
func (r *rig) documented() map[string]string {
	r.t.Helper()
	return r.pairs(`SELECT CASE WHEN observer = '' THEN event_id ELSE delivery_id END::text, outcome FROM weir.document`)
}

func (r *rig) pairs(sql string) map[string]string {
	r.t.Helper()
	rows, err := r.conn.Query(r.t.Context(), sql)
	if err != nil {
		r.t.Fatal(err)
	}
	defer rows.Close()
	found := map[string]string{}
	for rows.Next() {
		var id, outcome string
		if err := rows.Scan(&id, &outcome); err != nil {
			r.t.Fatal(err)
		}
		if _, ok := found[id]; ok {
			r.t.Fatalf("%s is there twice", id)
		}
		found[id] = outcome
	}
	return found
}

// difference is what is missing, too much or other, in few words.
func difference(got, want map[string]string) string {
	var lines []string
	for id, outcome := range want {
		if have, ok := got[id]; !ok {
			lines = append(lines, "lacks "+id+" "+outcome)
		} else if have != outcome {
			lines = append(lines, id+" is "+have+", not "+outcome)
		}
	}
	for id, outcome := range got {
		if _, ok := want[id]; !ok {
			lines = append(lines, "has "+id+" "+outcome)
		}
	}
	sort.Strings(lines)
	return fmt.Sprintf("%d of %d differ: %s", len(lines), len(want), strings.Join(lines[:min(5, len(lines))], "; "))
}

// TestCrashHistory: Elasticsearch is away under load, and the worker is killed again and again meanwhile. Afterwards both
// stores hold each event and each final outcome once. Deliveries that failed for good are retried by hand: the newest outcome
// counts.
func TestCrashHistory(t *testing.T) {
	t.Parallel()
	away, kills, every := 30*time.Second, 10, 25*time.Millisecond
	if full() {
		away, every = 10*time.Minute, 10*time.Millisecond
	}
	r, server := newRig(t), sandbox.TestElasticsearch(t)
	installation := historyName()
	rc := newReceiver(t, func(w http.ResponseWriter, req *http.Request) {
		if strings.Contains(req.URL.Path, "refused") {
			w.WriteHeader(http.StatusBadRequest)
		}
	})
	w := &victim{r: r, binary: workerBinary(t), config: r.write(fmt.Sprintf(`
installation: %s
log: {level: warn}
outbound: {allow: ["127.0.0.1"]}
elasticsearch: {urls: [%q]}
history: {store: both, finished_jobs: 1s}
observers:
  kept: {entity: Order, condition: kept, actions: [{type: log, level: debug}]}
  sent: {entity: Order, condition: has_field('sent'), actions: [{type: webhook, url: '%s/{{ sent }}'}]}
`, installation, server.URL(), rc.URL))}
	w.start()
	t.Cleanup(func() { _ = w.process.Kill() })
	r.await("the slot", func() bool { return r.one("SELECT count(*)::text FROM weir.checkpoint") == "1" })

	insert := func(n int) {
		r.exec(`INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data)
			SELECT 'Order', 'INSERT', gen_random_uuid(), jsonb_build_object('n', n, 'kept', n % 2 = 0)
				|| CASE n % 10 WHEN 0 THEN '{"sent": "taken"}' WHEN 5 THEN '{"sent": "refused"}' ELSE '{}' END::jsonb
			FROM generate_series(1, $1::int) n`, n)
	}
	insert(50)
	r.await("the first documents", func() bool { return len(r.stored(server.URL(), installation)) >= 50 })
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	for kill := 1; time.Since(begun) < away; time.Sleep(every) {
		insert(1 + rand.IntN(20))
		if time.Since(begun) > time.Duration(kill)*away/time.Duration(kills+1) && kill <= kills {
			w.kill()
			w.start()
			kill++
		}
	}
	// Half of what was refused is taken by now, when a person retries it.
	rc.behave(func(w http.ResponseWriter, req *http.Request) {
		if strings.Contains(req.URL.Path, "refused") && rand.IntN(2) == 0 {
			w.WriteHeader(http.StatusBadRequest)
		}
	})
	r.await("some dead letters", func() bool { return r.jobs(deadLetter) != "0" })
	if _, err := ops.NewDeadLetters(r.conn).RetryAll(t.Context(), ops.Filter{}, ops.Bulk{}); err != nil {
		t.Fatal(err)
	}
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.kill()
	w.start()
	r.await("all events", func() bool {
		return r.one("SELECT (count(*) = (SELECT count(*) FROM weir.event))::text FROM core.tb_entity_change_log") == "true"
	})
	r.awaitFor(3*time.Minute, "the end of all deliveries", func() bool {
		return r.jobs("state IN ('available', 'pending', 'retryable', 'running', 'scheduled', 'completed')") == "0"
	})
	// Dead letters stay River's: they are outcomes all the same.
	want := r.recorded()
	maps.Copy(want, r.dead(t))
	for name, held := range map[string]func() map[string]string{
		"Elasticsearch": func() map[string]string { return r.stored(server.URL(), installation) },
		"PostgreSQL":    r.documented,
	} {
		for have, deadline := 0, time.Now().Add(time.Minute); ; {
			began := time.Now()
			got := held()
			if maps.Equal(got, want) {
				break
			}
			if len(got) != have { // it is on its way
				have, deadline = len(got), time.Now().Add(time.Minute)
			}
			if time.Now().After(deadline) {
				t.Errorf("%s: %s", name, difference(got, want))
				break
			}
			time.Sleep(max(200*time.Millisecond, 2*time.Since(began))) // a look at half a million documents costs the store something
		}
	}
	t.Logf("%d documents, of them %d dead", len(want), len(r.dead(t)))
}

// dead are the dead letters by the ids of their deliveries.
func (r *rig) dead(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	page, err := ops.NewDeadLetters(r.conn).List(t.Context(), ops.Filter{}, 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	for ; ; page, err = ops.NewDeadLetters(r.conn).List(t.Context(), ops.Filter{}, page.After, 1000) {
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range page.DeadLetters {
			found[d.DeliveryID.String()] = "dead"
		}
		if page.After == 0 {
			return found
		}
	}
}

// TestHistoryOfConflicts: documents that do not fit into an index are dead letters with Elasticsearch's reason; the others are
// stored. Once the index is mended they are retried, and stored, too.
func TestHistoryOfConflicts(t *testing.T) {
	t.Parallel()
	const events, conflicts = 200, 10
	r, server := newRig(t), postgres.Elasticsearch(t)
	installation := historyName()
	today := server + "/weir-history-" + installation + "-" + time.Now().UTC().Format("2006.01.02")
	run := r.started(fmt.Sprintf(`
installation: %s
elasticsearch: {urls: [%q]}
history: {store: both}
observers:
  all: {entity: "*", actions: [{type: log, level: debug}]}
`, installation, server))
	r.order(`{}`)
	r.await("the index, as it is to be", func() bool { return len(r.stored(server, installation)) == 2 })
	r.elastic(http.MethodDelete, today, "")
	r.elastic(http.MethodPut, today, `{"mappings":{"properties":{"entity":{"type":"integer"}}}}`)
	r.exec(`INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data)
		SELECT CASE WHEN n % 20 = 0 THEN 'Order' ELSE '7' END, 'INSERT', gen_random_uuid(), jsonb_build_object('n', n)
		FROM generate_series(1, $1::int) n`, events)
	r.await("the deliveries", func() bool { return r.jobs("kind = 'weir_log' AND state = 'completed'") == strconv.Itoa(1+events) })
	r.await("the others", func() bool { return len(r.stored(server, installation)) == 2*(events-conflicts) })
	told := "kind = 'weir_document' AND metadata->>'weir_dead_letter' = 'document_refused' AND errors::text LIKE '%failed to parse field [entity]%'"
	r.await("dead letters that say why", func() bool { return r.jobs(told) == strconv.Itoa(2*conflicts) })
	if n := r.jobs("kind = 'weir_document'"); n != strconv.Itoa(2*conflicts) {
		t.Errorf("%s documents were refused, want %d", n, 2*conflicts)
	}
	if n := run.metric(t, "weir_history_refused_total", `store="elasticsearch"`); n < 2*conflicts {
		t.Errorf("weir_history_refused_total is %v, want %d or more", n, 2*conflicts)
	}
	// PostgreSQL has a follower of its own, which may still be on its way.
	r.await("all documents in PostgreSQL", func() bool { return len(r.documented()) == 2*(1+events) })

	r.elastic(http.MethodDelete, today, "")
	if _, err := ops.NewDeadLetters(r.conn).RetryAll(t.Context(), ops.Filter{}, ops.Bulk{}); err != nil {
		t.Fatal(err)
	}
	r.await("those that were refused", func() bool { return len(r.stored(server, installation)) == 2*conflicts })
	if n := r.jobs(deadLetter); n != "0" {
		t.Errorf("%s dead letters are left", n)
	}
}

// TestHistoryLeavesOut: events that matched nothing, and fields that are redacted. Deliveries get all of it.
func TestHistoryLeavesOut(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rc := newReceiver(t, nil)
	r.started(fmt.Sprintf(`
outbound: {allow: ["127.0.0.1"]}
history: {events: matched, redact: [Order.data.card.number, "*.data.pin"], finished_jobs: 1s}
observers:
  paid: {entity: Order, condition: paid, actions: [{type: webhook, url: %q}]}
`, rc.URL))
	r.order(`{"paid": false, "pin": "pinnew"}`)
	r.exec(`INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data, object_data_before)
		VALUES ('Order', 'UPDATE', gen_random_uuid(), '{"paid": true, "pin": "pinnew", "card": {"number": "numbernew", "name": "Ann"}, "total": 100.10}',
			'{"paid": true, "pin": "pinold", "card": {"number": "numberold", "name": "Ann"}, "total": 100.10}')`)
	r.await("the delivery", func() bool { return len(rc.seen()) == 1 })
	body := rc.seen()[0].body
	for _, part := range []string{"numbernew", "numberold", "pinnew", "pinold", "100.10"} {
		if !strings.Contains(body, part) {
			t.Errorf("the receiver lacks %s: %s", part, body)
		}
	}
	r.await("the document", func() bool { return len(r.documented()) >= 1 })
	if n := r.one("SELECT count(*)::text FROM weir.event"); n != "1" {
		t.Errorf("%s events are recorded, want the one that matched", n)
	}
	shown := r.one("SELECT payload::text || (SELECT string_agg(words::text, ' ') FROM weir.document) FROM weir.event")
	for _, part := range []string{"numbernew", "numberold", "pinnew", "pinold"} { // which no random id holds
		if strings.Contains(shown, part) {
			t.Errorf("the history shows %s: %s", part, shown)
		}
	}
	if !strings.Contains(shown, "100.10") || !strings.Contains(shown, "Ann") {
		t.Errorf("the history lacks what is not redacted: %s", shown)
	}
	r.awaitFor(2*time.Minute, "the end of what was kept for deliveries", func() bool {
		return r.one("SELECT count(*)::text FROM weir.event WHERE unredacted IS NOT NULL") == "0"
	})
}
