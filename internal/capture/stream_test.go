package capture_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/fraiseql/weir/internal/capture"
	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/sandbox"
	"github.com/fraiseql/weir/internal/setting"
)

var postgres sandbox.Suite

func TestMain(m *testing.M) { goleak.VerifyTestMain(postgres.Main(m)) }

// tableSink stores what it is given in a table, in the transaction that it is given: what the table holds is what was
// ingested, exactly. before may fail or wait.
type tableSink struct {
	before func(ctx context.Context, batch []event.Change) error
	slow   bool // makes the batch's statement take a second
	ledger bool // also records events, and rows that are none, as jobs and history do
}

const sinkTable = `CREATE TABLE ingested (n bigint GENERATED ALWAYS AS IDENTITY, pk bigint, object_id text, type text,
	data text, lsn pg_lsn, tx_index bigint, reason text, at text, event text)`

func (s *tableSink) Commit(ctx context.Context, tx pgx.Tx, batch []event.Change) error {
	if s.before != nil {
		if err := s.before(ctx, batch); err != nil {
			return err
		}
	}
	if s.slow {
		if _, err := tx.Exec(ctx, "SELECT pg_sleep(1)"); err != nil {
			return err
		}
	}
	if s.ledger {
		if err := record(ctx, tx, batch); err != nil {
			return err
		}
	}
	columns := []string{"pk", "object_id", "type", "data", "lsn", "tx_index", "reason", "at", "event"}
	_, err := tx.CopyFrom(ctx, pgx.Identifier{"public", "ingested"}, columns,
		pgx.CopyFromSlice(len(batch), func(i int) ([]any, error) {
			c := batch[i]
			var whole *string // of what is in no change log: there are rows of 32 MB in it
			if c.PK == 0 {
				document, err := c.JSON()
				if err != nil {
					return nil, err
				}
				text := string(document)
				whole = &text
			}
			return []any{c.PK, c.EntityID, string(c.Type), string(c.Data), int64(c.LSN), c.TxIndex, c.Reason, c.Timestamp.String(), whole}, nil
		}))
	return err
}

// rig is a database with a stream on it.
type rig struct {
	t    *testing.T
	url  string
	conn *pgx.Conn
	sink *tableSink
	cfg  capture.Config
	reg  *prometheus.Registry

	databaseURL string // of the checkpoint, when it is not url
	mayBury     func(time.Time) bool
	prepare     func(context.Context, []event.Change) capture.Prepared
	log         io.Writer // beside the test's own; optional
}

func newRig(t *testing.T) *rig {
	t.Helper()
	return rigOn(t, postgres.Database(t))
}

func rigOn(t *testing.T, databaseURL string) *rig {
	t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, url: databaseURL, sink: &tableSink{}, reg: prometheus.NewRegistry()}
	// Slots are the server's, databases are ours.
	r.cfg = capture.Config{Slot: capture.Name(strings.TrimPrefix(u.Path, "/")), Heartbeat: setting.Duration(200 * time.Millisecond)}
	r.reconnect()
	t.Cleanup(func() { _ = r.conn.Close(context.WithoutCancel(t.Context())) })
	r.exec(sinkTable)
	return r
}

func (r *rig) reconnect() {
	r.t.Helper()
	conn, err := pgx.Connect(r.t.Context(), r.url)
	if err != nil {
		r.t.Fatal(err)
	}
	r.conn = conn
}

func (r *rig) exec(sql string, args ...any) {
	r.t.Helper()
	if _, err := r.conn.Exec(r.t.Context(), sql, args...); err != nil {
		r.t.Fatalf("%s: %v", sql, err)
	}
}

func (r *rig) one(sql string, args ...any) string {
	r.t.Helper()
	var s string
	if err := r.conn.QueryRow(r.t.Context(), sql, args...).Scan(&s); err != nil {
		r.t.Fatalf("%s: %v", sql, err)
	}
	return s
}

// running is a stream that runs until stop.
type running struct {
	*capture.Stream
	cancel context.CancelFunc
	done   chan error
}

func (r *rig) start(id string) *running {
	r.t.Helper()
	ctx, cancel := context.WithCancel(r.t.Context())
	reg := r.reg
	if id != "one" {
		reg = prometheus.NewRegistry()
	}
	out := io.Writer(testWriter{r.t})
	if r.log != nil {
		out = io.MultiWriter(out, r.log)
	}
	s := capture.New(r.cfg, capture.Options{
		SourceURL: r.url, DatabaseURL: cmp.Or(r.databaseURL, r.url), ClientID: id, Sink: r.sink, Registerer: reg,
		Prepare: r.prepare, MayBury: r.mayBury, Logger: slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	run := &running{Stream: s, cancel: cancel, done: make(chan error, 1)}
	go func() { run.done <- s.Run(ctx) }()
	r.t.Cleanup(func() { run.stop(r.t) })
	return run
}

func (run *running) stop(t *testing.T) {
	t.Helper()
	run.cancel()
	if err, ok := <-run.done; ok && err != nil {
		t.Errorf("Run: %v", err)
	}
	run.done = make(chan error)
	close(run.done)
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

func (r *rig) await(what string, is func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(time.Minute); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("never happened: %s", what)
		}
	}
}

func (r *rig) streaming(run *running) {
	r.t.Helper()
	r.await("streaming", func() bool { return run.Health().State == capture.Streaming })
}

// ingested returns the marks (data->>'n') in the order of ingestion.
func (r *rig) ingested() string {
	r.t.Helper()
	return r.one(`SELECT coalesce(string_agg(coalesce(data::json->>'n', reason), ' ' ORDER BY n), '') FROM ingested`)
}

const insertRow = `INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data)
	SELECT 'Order', 'INSERT', gen_random_uuid(), jsonb_build_object('n', n) FROM generate_series($1::int, $2::int) n`

func (r *rig) write(first, last int) { r.t.Helper(); r.exec(insertRow, first, last) }

func TestCommitOrder(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.streaming(r.start("one"))
	late, err := pgx.Connect(t.Context(), r.url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = late.Close(context.WithoutCancel(t.Context())) }()

	// The first to begin and to insert commits last; others roll back, wholly or to a savepoint.
	for _, sql := range []string{"BEGIN", "SAVEPOINT a"} {
		if _, err := late.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := late.Exec(t.Context(), insertRow, 10, 11); err != nil {
		t.Fatal(err)
	}
	r.write(1, 1)
	r.exec("BEGIN")
	r.write(90, 91)
	r.exec("ROLLBACK")
	r.exec("BEGIN")
	r.write(2, 2)
	r.exec("SAVEPOINT s")
	r.write(92, 93)
	r.exec("ROLLBACK TO s")
	r.write(3, 3)
	r.exec("COMMIT")
	if _, err := late.Exec(t.Context(), "COMMIT"); err != nil {
		t.Fatal(err)
	}
	r.await("six changes", func() bool { return len(strings.Fields(r.ingested())) >= 5 })
	if got, want := r.ingested(), "1 2 3 10 11"; got != want {
		t.Errorf("ingested %s, want %s", got, want)
	}
	if disorder := r.one(`SELECT count(*)::text FROM (SELECT (lsn, tx_index) <= lag((lsn, tx_index)) OVER (ORDER BY n) AS back FROM ingested) o WHERE back`); disorder != "0" {
		t.Errorf("%s changes are not after the one before", disorder)
	}
}

func TestResumesInTheMiddleOfATransaction(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var calls atomic.Int32
	var middle atomic.Bool
	r.sink.before = func(_ context.Context, batch []event.Change) error {
		if n := calls.Add(1); n == 2 || n == 4 {
			middle.Store(true)
			return errors.New("the database went away")
		}
		return nil
	}
	run := r.start("one")
	r.streaming(run)
	r.exec("BEGIN")
	r.write(1, 12000)
	r.exec("UPDATE core.tb_entity_change_log SET change_status = 'x' WHERE pk_entity_change_log % 10 = 0") // not published
	r.write(12001, 17000)
	r.exec("COMMIT")
	r.write(17001, 17001)
	r.await("everything", func() bool {
		return r.one("SELECT count(*)::text FROM ingested WHERE data::json->>'n' = '17001'") == "1"
	})
	got := r.one("SELECT count(*) || ' ' || count(DISTINCT pk) || ' ' || min(pk) || ' ' || max(pk) FROM ingested")
	if got != "17001 17001 1 17001" {
		t.Errorf("rows, distinct, first, last: %s", got)
	}
	if !middle.Load() {
		t.Error("nothing was interrupted: the test proves nothing")
	}
}

func TestRestartSkipsWhatIsStored(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for i := range 5 {
		run := r.start(fmt.Sprint("run", i))
		r.streaming(run)
		r.write(2*i+1, 2*i+1)
		r.await("a change", func() bool { return len(strings.Fields(r.ingested())) == 2*i+1 })
		run.stop(t)
		r.write(2*i+2, 2*i+2) // while nobody listens
	}
	r.start("last")
	r.await("the last", func() bool { return len(strings.Fields(r.ingested())) >= 10 })
	if got, want := r.ingested(), "1 2 3 4 5 6 7 8 9 10"; got != want {
		t.Errorf("ingested %s, want %s", got, want)
	}
}

func TestConfirmedNeverPassesTheCheckpoint(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	release := make(chan struct{})
	var held atomic.Bool
	r.sink.before = func(ctx context.Context, batch []event.Change) error {
		if strings.Contains(string(batch[len(batch)-1].Data), `"n": 2`) {
			held.Store(true)
			select {
			case <-release:
			case <-ctx.Done():
			}
		}
		return ctx.Err()
	}
	r.streaming(r.start("one"))
	const behind = `SELECT (confirmed_flush_lsn <= (SELECT lsn FROM weir.checkpoint))::text FROM pg_replication_slots WHERE slot_name = $1`
	r.write(1, 1)
	r.await("the slot to follow", func() bool {
		return r.one(`SELECT (confirmed_flush_lsn = (SELECT lsn FROM weir.checkpoint))::text FROM pg_replication_slots WHERE slot_name = $1`,
			r.cfg.Slot) == "true" && r.ingested() == "1"
	})
	r.write(2, 2)
	r.await("a batch in flight", held.Load)
	for range 150 { // three seconds: statuses and heartbeats go on meanwhile
		if r.one(behind, r.cfg.Slot) != "true" {
			t.Fatal("the slot was confirmed past the checkpoint")
		}
		time.Sleep(20 * time.Millisecond)
	}
	close(release)
	r.await("the second", func() bool { return r.ingested() == "1 2" })
}

func TestAnswersKeepalivesWhileABatchWaits(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	// A server that gives up on a silent client after two seconds.
	u, err := url.Parse(r.url)
	if err != nil {
		t.Fatal(err)
	}
	query := u.Query()
	query.Set("options", "-c wal_sender_timeout=2s")
	u.RawQuery = query.Encode()
	r.url = strings.ReplaceAll(u.String(), "+", "%20")
	release := make(chan struct{})
	r.sink.before = func(ctx context.Context, _ []event.Change) error {
		select {
		case <-release:
		case <-ctx.Done():
		}
		return ctx.Err()
	}
	r.streaming(r.start("one"))
	walsender := func() string {
		return r.one(`SELECT coalesce(active_pid, 0)::text FROM pg_replication_slots WHERE slot_name = $1`, r.cfg.Slot)
	}
	before := walsender()
	r.write(1, 20000) // more than two batches: the reader has to wait, too
	time.Sleep(8 * time.Second)
	if after := walsender(); after != before {
		t.Errorf("the server gave up on its client: walsender %s became %s", before, after)
	}
	close(release)
	r.await("everything", func() bool { return r.one("SELECT count(*)::text FROM ingested") == "20000" })
}

func TestFencedOwnerStores(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.streaming(r.start("one"))
	r.write(1, 1)
	r.await("the first", func() bool { return r.ingested() == "1" })
	// Somebody else takes the epoch: the stream must not store under the old one. It takes the stream again.
	epoch := r.one("UPDATE weir.checkpoint SET epoch = epoch + 1 RETURNING epoch::text")
	r.write(2, 2)
	r.await("the second", func() bool { return r.ingested() == "1 2" })
	if now := r.one("SELECT epoch::text FROM weir.checkpoint"); now == epoch {
		t.Error("the fenced owner stored under an epoch that was not its own")
	}
}

func TestRefusedDataBecomesADeadLetter(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.exec(`ALTER TABLE ingested ADD CHECK (data NOT LIKE '%"n": 7}%')`)
	run := r.start("one")
	r.streaming(run)
	r.write(1, 12)
	r.await("all", func() bool { return r.one("SELECT count(*)::text FROM ingested") == "12" })
	if got := r.one("SELECT pk || reason FROM ingested WHERE reason <> ''"); !strings.Contains(got, "7the database refuses to store the event: new row") {
		t.Errorf("the refused row became %q", got)
	}
	order := r.one("SELECT string_agg(pk::text, ' ' ORDER BY n) FROM ingested")
	if order != "1 2 3 4 5 6 7 8 9 10 11 12" {
		t.Errorf("order %s", order)
	}
}

func TestSchemaChangesMidStream(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.streaming(r.start("one"))
	r.write(1, 1)
	r.exec("ALTER TABLE core.tb_entity_change_log ADD COLUMN first_column_of_ours text DEFAULT 'x'")
	r.write(2, 2)
	r.exec("ALTER TABLE core.tb_entity_change_log DROP COLUMN trace_id")
	r.exec("BEGIN")
	r.write(3, 3)
	r.exec("ALTER TABLE core.tb_entity_change_log ADD COLUMN another jsonb")
	r.write(4, 4)
	r.exec("COMMIT")
	r.await("all", func() bool { return len(strings.Fields(r.ingested())) >= 4 })
	if got := r.ingested(); got != "1 2 3 4" {
		t.Errorf("ingested %s", got)
	}
}

func TestBadRowsDoNotStopTheStream(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.streaming(r.start("one"))
	r.write(1, 1)
	r.exec(`INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id) VALUES ('Order', 'UPSERT', gen_random_uuid())`)
	r.exec(`INSERT INTO core.tb_entity_change_log (object_type, modification_type) VALUES ('Order', 'UPDATE')`)
	r.write(2, 2)
	r.await("all", func() bool { return r.one("SELECT count(*)::text FROM ingested") == "4" })
	got := r.one("SELECT string_agg(reason, '|' ORDER BY n) FROM ingested WHERE reason <> ''")
	if !strings.Contains(got, "UPSERT") || !strings.Contains(got, "object_id is NULL") {
		t.Errorf("reasons: %s", got)
	}
}

func TestHeartbeatMovesAnIdleSlot(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.streaming(r.start("one"))
	r.exec("CREATE TABLE elsewhere (t text)")
	confirmed := func() string {
		return r.one(`SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = $1`, r.cfg.Slot)
	}
	before := confirmed()
	r.exec("INSERT INTO elsewhere SELECT repeat('x', 100) FROM generate_series(1, 5000)")
	wal := r.one("SELECT pg_current_wal_lsn()::text")
	r.await("the slot to move over other WAL", func() bool {
		return r.one(`SELECT (confirmed_flush_lsn >= $2::text::pg_lsn)::text FROM pg_replication_slots WHERE slot_name = $1`, r.cfg.Slot, wal) == "true"
	})
	if before == confirmed() || r.one("SELECT count(*)::text FROM ingested") != "0" {
		t.Error("the slot has not moved, or a heartbeat became a change")
	}
}

func TestStandbyTakesOver(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	one := r.start("one")
	r.streaming(one)
	two := r.start("two")
	r.await("standing by", func() bool { return two.Health().State == capture.Standby })
	r.write(1, 3)
	r.await("three", func() bool { return len(strings.Fields(r.ingested())) == 3 })
	one.stop(t)
	r.write(4, 6)
	r.streaming(two)
	r.await("six", func() bool { return len(strings.Fields(r.ingested())) >= 6 })
	if got := r.ingested(); got != "1 2 3 4 5 6" {
		t.Errorf("ingested %s", got)
	}
	if owner := r.one("SELECT owner FROM weir.checkpoint"); owner != "two" {
		t.Errorf("owner %s", owner)
	}
}

// The creation of a slot waits for open transactions. A second worker that starts meanwhile sees a slot without a
// position, and must not take that for the place to begin at.
func TestTwoWorkersStartAtOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	open, err := pgx.Connect(t.Context(), r.url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = open.Close(context.WithoutCancel(t.Context())) }()
	for _, sql := range []string{"BEGIN", "SELECT pg_current_xact_id()"} {
		if _, err := open.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	one := r.start("one")
	r.await("a slot without a position", func() bool {
		return r.one("SELECT count(*)::text FROM pg_replication_slots WHERE slot_name = $1 AND confirmed_flush_lsn IS NULL", r.cfg.Slot) == "1"
	})
	two := r.start("two")
	time.Sleep(time.Second) // time for the second to do the wrong thing
	if _, err := open.Exec(t.Context(), "COMMIT"); err != nil {
		t.Fatal(err)
	}
	r.await("one reads, the other stands by", func() bool {
		a, b := one.Health().State, two.Health().State
		return a == capture.Streaming && b == capture.Standby || a == capture.Standby && b == capture.Streaming
	})
	r.write(1, 3)
	r.await("three", func() bool { return len(strings.Fields(r.ingested())) >= 3 })
	if got := r.ingested(); got != "1 2 3" {
		t.Errorf("ingested %s", got)
	}
}

func TestRefusesWhatWaitingDoesNotCure(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		prepare string
		role    string
		want    []string
	}{
		"no replication privilege": {role: "NOREPLICATION", want: []string{"may not replicate", `ALTER ROLE`}},
		"no change log":            {prepare: "DROP TABLE core.tb_entity_change_log CASCADE", want: []string{"does not exist", "weir migrate up"}},
		"column missing": {
			prepare: "ALTER TABLE core.tb_entity_change_log DROP COLUMN object_data CASCADE",
			want:    []string{"lacks object_data", "weir migrate up"},
		},
		"not published": {
			prepare: "CREATE PUBLICATION weir FOR TABLE core.tb_entity_change_log WITH (publish = 'delete')",
			want:    []string{"does not publish inserts", "ALTER PUBLICATION"},
		},
		"other table published": {
			prepare: "CREATE TABLE other (a int); CREATE PUBLICATION weir FOR TABLE other",
			want:    []string{"does not contain core.tb_entity_change_log", "ADD TABLE"},
		},
		"partitions published": {
			prepare: `DROP TABLE core.tb_entity_change_log CASCADE;
				CREATE TABLE core.tb_entity_change_log (pk_entity_change_log bigint, id uuid, object_type text, modification_type text,
					object_id uuid, object_data jsonb, created_at timestamptz) PARTITION BY RANGE (created_at);
				CREATE TABLE core.log_now PARTITION OF core.tb_entity_change_log DEFAULT;
				CREATE PUBLICATION weir FOR TABLE core.tb_entity_change_log`,
			want: []string{"publishes the partitions", "publish_via_partition_root = true"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			if tc.prepare != "" {
				r.exec(tc.prepare)
			}
			if tc.role != "" {
				role := "role_" + string(r.cfg.Slot)
				r.exec("CREATE ROLE " + role + " LOGIN " + tc.role)
				r.exec("GRANT ALL ON SCHEMA weir, core TO " + role)
				r.exec("GRANT ALL ON ALL TABLES IN SCHEMA weir, core TO " + role)
				t.Cleanup(func() {
					_, _ = r.conn.Exec(context.WithoutCancel(t.Context()), "DROP OWNED BY "+role+"; DROP ROLE "+role)
				})
				r.url = strings.Replace(r.url, "postgres@", role+"@", 1)
			}
			run := r.start("one")
			select {
			case err := <-run.done:
				close(run.done)
				var setup *capture.SetupError
				if !errors.As(err, &setup) {
					t.Fatalf("got %v, want a SetupError", err)
				}
				for _, want := range tc.want {
					if !strings.Contains(err.Error(), want) {
						t.Errorf("error %q lacks %q", err, want)
					}
				}
			case <-time.After(20 * time.Second):
				t.Fatal("still running")
			}
		})
	}
}

func TestReaderSeesTheCorrectedRow(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	reader, err := capture.NewReader(t.Context(), r.url, "one", r.cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(reader.Close)
	r.exec(`INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data) VALUES ('Order', 'UPSERT', gen_random_uuid(), '{"total": 100.10}')`)
	pos := event.Position{LSN: 5, Index: 6}
	c, err := reader.Read(t.Context(), 1, pos, time.Now())
	if err != nil || !strings.Contains(c.Reason, "UPSERT") {
		t.Fatalf("reason %q, %v", c.Reason, err)
	}
	r.exec("UPDATE core.tb_entity_change_log SET modification_type = 'update'")
	c, err = reader.Read(t.Context(), 1, pos, time.Now())
	if err != nil || c.Reason != "" || string(c.Data) != `{"total": 100.10}` || c.Position() != pos {
		t.Errorf("got %+v, %v", c, err)
	}
	if _, err := reader.Read(t.Context(), 2, pos, time.Now()); !errors.Is(err, capture.ErrRowGone) {
		t.Errorf("a row that is not there: %v", err)
	}
}
