package index_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/index"
)

const (
	benchEvents   = 1_000_000
	benchDays     = 30
	benchSearches = 100
	benchHits     = 50
)

// benchSearch is a question to the benchmark's history.
type benchSearch struct {
	name, query       string
	since             time.Duration
	observer, outcome string
	none              bool // nothing is found
	plan              bool // wanted in the log
}

// Of a million events, benchData gives each word to the part that its name here says. "old" is what defeats an estimate: as
// frequent as another, but nowhere near the newest.
var benchSearchAll = []benchSearch{
	{name: "0.01%", query: "recalled", plan: true},
	{name: "0.01%/24h", query: "recalled", since: 24 * time.Hour},
	{name: "1%", query: "express", plan: true},
	{name: "1%/24h", query: "express", since: 24 * time.Hour},
	{name: "1%-old", query: "legacy", plan: true},
	{name: "50%", query: "status:shipped", plan: true},
	{name: "50%/24h", query: "status:shipped", since: 24 * time.Hour},
	{name: "two", query: "status:shipped express"},
	{name: "two-rare", query: "status:shipped recalled"},
	{name: "never-together", query: "status:open recalled", none: true},
	{name: "nobody", query: "unheard", none: true, plan: true},
	{name: "phrase", query: `note:"very fragile glass"`},
	{name: "prefix", query: "recal*"},
	{name: "prefix-frequent", query: "ship*"},
	{name: "without", query: "express -status:shipped"},
	{name: "all", query: ""},
	{name: "observer", query: "status:shipped", observer: "mail"},
	{name: "dead", query: "status:shipped", outcome: "dead", plan: true},
	{name: "dead/24h", query: "", outcome: "dead", since: 24 * time.Hour},
}

// BenchmarkSearch asks a history of a million events for its newest hits: p50 and p95 of each question, with statistics of the
// tables and with none, which is what a day's table has until autovacuum first comes by. The plans are in the log.
func BenchmarkSearch(b *testing.B) {
	pool, err := pgxpool.New(b.Context(), postgres.Database(b))
	checkBench(b, err)
	b.Cleanup(pool.Close)
	began := time.Now()
	fillHistory(b, pool)
	b.Logf("%d events recorded in %s", benchEvents, time.Since(began).Round(time.Second))
	run := func(b *testing.B) {
		for _, s := range benchSearchAll {
			b.Run(s.name, func(b *testing.B) { s.run(b, pool) })
		}
	}
	b.Run("unanalyzed", run)
	_, err = pool.Exec(b.Context(), "VACUUM (ANALYZE) weir.document, weir.event")
	checkBench(b, err)
	b.Run("analyzed", run)
}

func (s benchSearch) run(b *testing.B, pool *pgxpool.Pool) {
	q, err := index.ParseQuery(s.query)
	checkBench(b, err)
	search := index.Search{Query: q, Observer: s.observer, Outcome: s.outcome, Limit: benchHits}
	if s.since > 0 {
		search.Since = time.Now().Add(-s.since)
	}
	db := index.NewPostgres(pool)
	var took []time.Duration
	for b.Loop() {
		for range benchSearches {
			began := time.Now()
			hits, err := db.Search(b.Context(), search)
			took = append(took, time.Since(began))
			checkBench(b, err)
			if (len(hits) == 0) != s.none {
				b.Fatalf("%d hits", len(hits))
			}
		}
	}
	slices.Sort(took)
	b.ReportMetric(0, "ns/op")
	for _, percent := range []int{50, 95} {
		at := took[len(took)*percent/100]
		b.ReportMetric(float64(at)/float64(time.Millisecond), fmt.Sprintf("p%d-ms", percent))
	}
	if s.plan {
		b.Log("the newest\n" + explain(b, pool, search, index.NewestSQL))
		b.Log("all\n" + explain(b, pool, search, index.SearchSQL))
	}
}

// explain is the plan of one of a search's statements, without its middle when there are many tables.
func explain(b *testing.B, pool *pgxpool.Pool, s index.Search, statement func(index.Search) (string, []any)) string {
	b.Helper()
	sql, args := statement(s)
	rows, err := pool.Query(b.Context(), "EXPLAIN (ANALYZE, BUFFERS, COSTS off) "+sql, args...)
	checkBench(b, err)
	defer rows.Close()
	var lines []string
	for rows.Next() {
		var line string
		checkBench(b, rows.Scan(&line))
		lines = append(lines, line)
	}
	checkBench(b, rows.Err())
	if len(lines) > 40 {
		lines = slices.Concat(lines[:24], []string{fmt.Sprintf("… %d lines …", len(lines)-32)}, lines[len(lines)-8:])
	}
	return strings.Join(lines, "\n")
}

func checkBench(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// fillHistory records events of the last days and their documents, as ingest and the follower would have, but for the way into
// the tables: COPY, and the index of words afterwards, so that it takes a minute or so.
func fillHistory(b *testing.B, pool *pgxpool.Pool) {
	b.Helper()
	exec := func(sql string, args ...any) {
		_, err := pool.Exec(b.Context(), sql, args...)
		checkBench(b, err)
	}
	now := time.Now().UTC()
	exec("SELECT weir.ensure_partitions($1::date, $2::date)", now.AddDate(0, 0, -benchDays), now)
	exec(`DO $$ DECLARE t regclass; BEGIN
		FOR t IN SELECT inhrelid FROM pg_inherits WHERE inhparent IN ('weir.document'::regclass, 'weir.event'::regclass) LOOP
			EXECUTE format('ALTER TABLE %s SET (autovacuum_enabled = off)', t);
		END LOOP; END $$`)
	var definition string
	checkBench(b, pool.QueryRow(b.Context(), "SELECT pg_get_indexdef('weir.document_words'::regclass)").Scan(&definition))
	exec("DROP INDEX weir.document_words")
	began := time.Now()
	copyTo(b, pool,
		"weir.event (day, id, pk, lsn, tx_index, event_type, entity_type, entity_id, commit_time, created_at, payload, seq)",
		func(w io.Writer, i int) {
			e := benchEvent(now, i)
			payload, _ := e.JSON()
			fmt.Fprintf(w, "%s\t%s\t%d\t0/%X\t0\t%s\t%s\t%s\t%[8]s\t%[8]s\t%[9]s\t%[3]d\n",
				e.Day().Format(time.DateOnly), e.ID, e.PK, e.PK, e.Type, e.EntityType, e.EntityID, time.Time(e.Timestamp).Format(time.RFC3339Nano), payload)
		})
	b.Logf("events: %s", time.Since(began).Round(time.Second))
	words := benchWords{}
	copyTo(b, pool,
		"weir.document (day, seq, delivery_id, event_id, event_pk, at, entity_type, entity_id, observer, outcome, version, words)",
		func(w io.Writer, i int) {
			d := benchDocument(now, i)
			put := func(delivery uuid.UUID, observer, outcome string) {
				fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%d\t%s\t%s\t%s\t%s\t%s\t1\t%s\n", d.Day.Format(time.DateOnly), d.Seq, delivery, d.ID, d.PK,
					d.At.Format(time.RFC3339Nano), d.EntityType, d.EntityID, observer, outcome, words.of(d, i))
			}
			put(uuid.Nil, "", "")
			if i%10 == 0 {
				d.Outcome = benchOutcome(i)
				put(d.Outcome.DeliveryID, d.Outcome.Observer, d.Outcome.State)
			}
		})
	b.Logf("and documents: %s", time.Since(began).Round(time.Second))
	exec(strings.Replace(definition, " ON ONLY ", " ON ", 1)) // of the partitions, too
	exec("SELECT setval('weir.event_seq', $1)", benchEvents)
}

// copyTo writes a line, or some, for each event into a table.
func copyTo(b *testing.B, pool *pgxpool.Pool, table string, line func(w io.Writer, i int)) {
	b.Helper()
	from, to := io.Pipe()
	go func() {
		w := bufio.NewWriterSize(to, 1<<20)
		for i := 1; i <= benchEvents; i++ {
			line(w, i)
		}
		_ = to.CloseWithError(w.Flush())
	}()
	conn, err := pool.Acquire(b.Context())
	checkBench(b, err)
	defer conn.Release()
	_, err = conn.Conn().PgConn().CopyFrom(context.WithoutCancel(b.Context()), from, "COPY "+table+" FROM STDIN")
	_ = from.Close()
	checkBench(b, err)
}

func benchID(kind byte, i int) (id uuid.UUID) {
	return uuid.NewSHA1(uuid.Nil, fmt.Append(nil, kind, i))
}

// benchEvent is the i-th of the events, the last of which is of now.
func benchEvent(now time.Time, i int) *event.Event {
	at := event.Time(now.Add(-benchDays * 24 * time.Hour / benchEvents * time.Duration(benchEvents-i)))
	return &event.Event{
		ID: benchID('e', i), PK: int64(i), Type: event.Insert, EntityType: "Order", EntityID: benchID('o', i%300_000).String(),
		Data: benchData(i), Timestamp: at, CommitTime: at, LSN: event.LSN(i),
	}
}

// benchWords are the vectors of documents that differ in their unique values alone, which are then put in: a million vectors are
// made in seconds.
type benchWords map[string]string

func (w benchWords) of(d *index.Document, i int) string {
	status, note := benchNote(i)
	kind := status + note
	if d.Outcome != nil {
		kind += d.Outcome.Observer + d.Outcome.State
	}
	// The first document of a kind is the pattern of the others.
	pattern, ok := w[kind]
	if !ok {
		first := *d
		first.ID, first.EntityID, first.Payload = benchID('e', 0), benchID('o', 0).String(), nil
		e := benchEvent(time.Now(), i)
		e.ID, e.EntityID = first.ID, first.EntityID
		e.Data = benchJSON("customerX", status, "-1.25", note)
		first.Payload, _ = e.JSON()
		if d.Outcome != nil {
			o := *d.Outcome
			o.DeliveryID = benchID('d', 0)
			first.Outcome = &o
		}
		pattern = index.TSVector(first.Runs())
		w[kind] = pattern
	}
	return strings.NewReplacer(benchID('e', 0).String(), d.ID.String(), benchID('o', 0).String(), d.EntityID,
		benchID('d', 0).String(), benchID('d', i).String(), "customerx", fmt.Sprintf("customer%d", i%20_000),
		"-1.25", fmt.Sprintf("%d.50", i%1000)).Replace(pattern)
}

func benchData(i int) json.RawMessage {
	status, note := benchNote(i)
	return benchJSON(fmt.Sprintf("customer%d", i%20_000), status, fmt.Sprintf("%d.50", i%1000), note)
}

func benchJSON(customer, status, total, note string) json.RawMessage {
	return fmt.Appendf(nil, `{"customer":%q,"status":%q,"total":%s,"note":%q}`, customer, status, total, note)
}

func benchNote(i int) (status, note string) {
	status, note = "open", "handle with care"
	if (i+i/100)%2 == 1 {
		status = "shipped"
	}
	switch {
	case i%10_000 == 4_998:
		note = "recalled"
	case i%100 == 7:
		note = "express"
	case i%500 == 33:
		note = "very fragile glass"
	case i < benchEvents/3 && i%33 == 5:
		note = "legacy"
	}
	return status, note
}

func benchDocument(now time.Time, i int) *index.Document {
	e := benchEvent(now, i)
	at := time.Time(e.Timestamp)
	return &index.Document{
		Key: index.KeyOf(e), Seq: int64(i), At: at, IngestedAt: at, EventType: string(e.Type), EntityType: e.EntityType,
		EntityID: e.EntityID, Version: 1,
	}
}

// benchOutcome is a delivery of the i-th event: most have been delivered.
func benchOutcome(i int) *index.Outcome {
	o := &index.Outcome{
		DeliveryID: benchID('d', i), Observer: "audit", Action: "0", ActionType: "webhook", Endpoint: "receiver:443",
		State: "delivered", Attempts: 1,
	}
	if i%3 == 0 {
		o.Observer = "mail"
	}
	if i%2000 == 100 {
		o.State = "dead"
	}
	return o
}
