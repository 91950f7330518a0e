package capture_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/fraiseql/weir/db/migrations"
	"github.com/fraiseql/weir/internal/capture"
	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/sandbox"
	"github.com/fraiseql/weir/internal/setting"
)

// ownServer starts a server for a test that stops or sets one, with a migrated database.
func ownServer(t *testing.T, settings map[string]string) (server *sandbox.Postgres, databaseURL string) {
	t.Helper()
	server, err := sandbox.StartPostgres(t.Context(), sandbox.PostgresOptions{Settings: settings})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Stop(context.WithoutCancel(t.Context())) })
	if databaseURL, _, err = server.Database(t.Context()); err != nil {
		t.Fatal(err)
	}
	return server, databaseURL
}

// The COMMIT took place and its answer was lost: the checkpoint tells, and nothing is stored twice.
func TestAmbiguousCommit(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	g, through := newGate(t, r.url)
	r.databaseURL = through
	r.streaming(r.start("one"))
	r.write(1, 1)
	r.await("the first", func() bool { return r.ingested() == "1" })
	var once sync.Once
	lost := make(chan struct{})
	g.before(func(chunk []byte, cut func()) {
		if says(chunk, "commit\x00") {
			once.Do(func() { cut(); close(lost) })
		}
	})
	r.write(2, 3)
	<-lost
	r.write(4, 4)
	r.await("everything", func() bool { return len(strings.Fields(r.ingested())) >= 4 })
	if got := r.ingested(); got != "1 2 3 4" {
		t.Errorf("ingested %s", got)
	}
}

// Two workers start on a new database at once: the slow one must not take the quick one's checkpoint, which was not
// there when it looked for the slot, for a slot that was lost, nor its events for what a lost checkpoint has left.
func TestFirstStartOfTwo(t *testing.T) {
	t.Parallel()
	for _, query := range []string{"SchemaUsed", "GetCheckpoint"} {
		t.Run(query, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			g, through := newGate(t, r.url)
			looking, release := make(chan struct{}), make(chan struct{})
			var once sync.Once
			g.before(func(chunk []byte, _ func()) {
				if says(chunk, query) {
					once.Do(func() { close(looking); <-release })
				}
			})
			r.databaseURL = through
			slow := r.start("two")
			<-looking
			r.databaseURL = ""
			r.streaming(r.start("one"))
			r.exec(anyEvent)
			close(release)
			r.await("standing by", func() bool {
				select {
				case err := <-slow.done:
					close(slow.done)
					t.Fatalf("the second worker ended: %v", err)
					return false
				default:
					return slow.Health().State == capture.Standby
				}
			})
		})
	}
}

const anyEvent = `
	INSERT INTO weir.event (day, id, pk, lsn, tx_index, event_type, entity_type, entity_id, commit_time, created_at, payload)
	VALUES (current_date, gen_random_uuid(), 1, '0/1', 1, 'INSERT', 'Order', '1', now(), now(), '{}')`

// A checkpoint that is gone is no first start: what was not read yet would be lost.
func TestLostCheckpoint(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.exec(`INSERT INTO weir.river_job (kind, queue, max_attempts, state, args) VALUES ('weir_log', 'log', 5, 'available', '{}')`)
	run := r.start("one")
	r.streaming(run)
	run.stop(t)
	r.exec(anyEvent)
	r.exec("DELETE FROM weir.checkpoint")
	r.write(1, 1)
	if got := r.refusal(r.start("two")); !strings.Contains(got, "there is no checkpoint") || !strings.Contains(got, "weir adopt") {
		t.Errorf("got %s", got)
	}
	r.letGo()
	r.adopt()
	r.start("three")
	r.await("what was not read", func() bool { return r.ingested() == "1" })
}

// A change that is older than its publication can never be decoded. Waiting does not help, and skipping it is a loss: it is read
// from the change log.
func TestPublicationYoungerThanTheSlot(t *testing.T) {
	t.Parallel()
	for name, again := range map[string]string{
		"made again": "CREATE PUBLICATION weir FOR TABLE core.tb_entity_change_log WITH (publish = 'insert')", "gone": "SELECT",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			run := r.start("one")
			r.streaming(run)
			run.stop(t)
			r.letGo()
			r.exec("DROP PUBLICATION weir")
			r.write(1, 1)
			r.exec(again)
			if o, err := capture.CheckStart(t.Context(), r.conn, r.conn, r.cfg, ""); err != nil || !strings.Contains(o.Recovers, "is younger") {
				t.Errorf("before a start: %+v, %v", o, err)
			}
			if plan := r.adopt(); plan.Problem != "" || !strings.Contains(plan.Recovers, "is younger") {
				t.Errorf("got %+v", plan)
			}
			r.streaming(r.start("two"))
			r.write(2, 2)
			r.await("both", func() bool { return r.ingested() == "1 2" })
		})
	}
}

// A slot that somebody has made beforehand needs no publication as long as nothing has been written.
func TestSlotBeforeItsPublication(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.exec("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", r.cfg.Slot)
	r.exec("SELECT pg_logical_emit_message(true, 'other', 'x')")
	r.streaming(r.start("one"))
	r.write(1, 1)
	r.await("the first", func() bool { return r.ingested() == "1" })
}

// letGo waits until the server has noticed that the last worker is gone.
func (r *rig) letGo() {
	r.t.Helper()
	r.await("the slot to be free", func() bool {
		return r.one("SELECT active::text FROM pg_replication_slots WHERE slot_name = $1", r.cfg.Slot) == "false"
	})
}

// adopt does what weir adopt does.
func (r *rig) adopt() *capture.Adoption {
	r.t.Helper()
	plan, err := capture.PlanAdoption(r.t.Context(), r.conn, r.conn, r.cfg, capture.AdoptOptions{})
	if err == nil {
		err = plan.Apply(r.t.Context(), r.conn, r.conn, r.cfg, slog.New(slog.NewTextHandler(testWriter{r.t}, nil)))
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return plan
}

// Making a slot takes as long as others leave transactions open, whatever a statement may take in this database.
func TestAdoptWaitsForOpenTransactions(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	run := r.start("one")
	r.streaming(run)
	run.stop(t)
	r.letGo()
	r.exec("SELECT pg_drop_replication_slot($1)", r.cfg.Slot)
	r.exec("UPDATE weir.checkpoint SET installation = 'other'")
	r.exec("SET statement_timeout = '300ms'")
	open, err := pgx.Connect(t.Context(), r.url)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open.Exec(t.Context(), "BEGIN; SELECT pg_current_xact_id()"); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	time.AfterFunc(time.Second, func() {
		_ = open.Close(context.WithoutCancel(t.Context()))
		close(ended)
	})
	defer func() { <-ended }()
	if plan := r.adopt(); plan.Slot != capture.CreateSlot || !plan.Foreign {
		t.Errorf("got %+v", plan)
	}
}

// refusal is the error that ends a stream for good.
func (r *rig) refusal(run *running) string {
	r.t.Helper()
	select {
	case err := <-run.done:
		close(run.done)
		var setup *capture.SetupError
		if !errors.As(err, &setup) {
			r.t.Fatalf("got %v", err)
		}
		return setup.Error()
	case <-time.After(30 * time.Second):
		r.t.Fatalf("it does not end; %+v, ingested %s", run.Health(), r.ingested())
	}
	return ""
}

// Asked for a position before the slot's own, the server starts at the slot's without a word. Until it starts, anybody may
// move the slot.
func TestSlotMovedAtTheLastMoment(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	run := r.start("one")
	r.streaming(run)
	run.stop(t)
	r.letGo()
	r.write(1, 1)
	other, err := pgx.Connect(t.Context(), r.url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close(context.WithoutCancel(t.Context())) }()
	g, through := newGate(t, r.url)
	moved := make(chan error, 1)
	var once sync.Once
	g.before(func(chunk []byte, _ func()) {
		if says(chunk, "START_REPLICATION") {
			once.Do(func() {
				_, err := other.Exec(t.Context(), "SELECT pg_replication_slot_advance($1, pg_current_wal_lsn())", r.cfg.Slot)
				moved <- err
			})
		}
	})
	r.url = through
	r.start("two")
	r.await("what the slot was moved over", func() bool { return r.ingested() == "1" })
	if err := <-moved; err != nil {
		t.Fatal(err)
	}
}

// What was judged is one server, and what is read may be another when the name in source.url leads elsewhere meanwhile.
func TestAnotherServerAtTheLastMoment(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	run := r.start("one")
	r.streaming(run)
	run.stop(t)
	other, err := sandbox.StartPostgres(t.Context(), sandbox.PostgresOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = other.Stop(context.WithoutCancel(t.Context())) })
	name := string(r.cfg.Slot)
	elsewhere := func(database string, statements ...string) {
		conn, err := pgx.Connect(t.Context(), other.URL(database))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
		for _, sql := range statements {
			if _, err := conn.Exec(t.Context(), sql); err != nil {
				t.Fatal(err)
			}
		}
	}
	elsewhere("postgres", "CREATE DATABASE "+name)
	if err := migrations.Up(t.Context(), other.URL(name), func(string) {}); err != nil {
		t.Fatal(err)
	}
	elsewhere(name, "CREATE PUBLICATION weir FOR TABLE core.tb_entity_change_log",
		"SELECT pg_create_logical_replication_slot('"+name+"', 'pgoutput')")
	there, err := url.Parse(other.URL(name))
	if err != nil {
		t.Fatal(err)
	}
	g, through := newGate(t, r.url)
	g.before(func(chunk []byte, _ func()) {
		if says(chunk, "IDENTIFY_SYSTEM") {
			g.lead(there.Host)
		}
	})
	r.databaseURL, r.url = r.url, through
	if got := r.refusal(r.start("two")); !strings.Contains(got, "another cluster") {
		t.Errorf("got %s", got)
	}
}

// A copy of schema weir's database in its own cluster has everything but the oid, and reads the same slot.
func TestCopyOfSchemaWeirInItsCluster(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.databaseURL = postgres.Database(t)
	original, err := pgx.Connect(t.Context(), r.databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = original.Close(context.WithoutCancel(t.Context())) }()
	if _, err := original.Exec(t.Context(), sinkTable); err != nil {
		t.Fatal(err)
	}
	run := r.start("one")
	r.streaming(run)
	run.stop(t)
	// What a checkpoint of an older version does not know, it has learned.
	if _, err := original.Exec(t.Context(), "UPDATE weir.checkpoint SET database_system = split_part(database_system, ',', 1)"); err != nil {
		t.Fatal(err)
	}
	r.streaming(r.start("again"))

	copied := postgres.Database(t)
	other, err := pgx.Connect(t.Context(), copied)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close(context.WithoutCancel(t.Context())) }()
	var row bytes.Buffer
	if _, err := original.PgConn().CopyTo(t.Context(), &row, "COPY weir.checkpoint TO STDOUT"); err != nil {
		t.Fatal(err)
	}
	if _, err := other.PgConn().CopyFrom(t.Context(), &row, "COPY weir.checkpoint FROM STDIN"); err != nil {
		t.Fatal(err)
	}
	r.databaseURL = copied
	if got := r.refusal(r.start("two")); !strings.Contains(got, "another database of the cluster") {
		t.Errorf("got %s", got)
	}
}

// The age of the checkpoint is that of its position, however often the stream is taken up again meanwhile.
func TestCheckpointAgeOutlivesOwners(t *testing.T) {
	t.Parallel()
	// Others' writes, and pages written whole, would be worth a heartbeat, which moves the checkpoint.
	_, databaseURL := ownServer(t, map[string]string{"full_page_writes": "off", "autovacuum": "off"})
	r := rigOn(t, databaseURL)
	run := r.start("one")
	r.streaming(run)
	run.stop(t)
	r.exec("UPDATE weir.checkpoint SET updated_at = now() - interval '1 hour'")
	r.reg = prometheus.NewRegistry()
	r.cfg.Heartbeat = setting.Duration(time.Hour)
	run = r.start("one")
	r.streaming(run)
	families, err := r.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "weir_checkpoint_age_seconds" {
			if age := f.GetMetric()[0].GetGauge().GetValue(); age < 3500 {
				t.Errorf("weir_checkpoint_age_seconds is %g", age)
			}
		}
	}
	if got := r.one("SELECT (updated_at < now() - interval '59 minutes')::text FROM weir.checkpoint"); got != "true" {
		t.Error("taking the checkpoint makes it look new")
	}
}

// An idle stream must not hold up the server's fast shutdown, which waits for its walsender.
func TestServerStopsWhileTheStreamIsIdle(t *testing.T) {
	t.Parallel()
	server, databaseURL := ownServer(t, nil)
	r := rigOn(t, databaseURL)
	r.cfg.Heartbeat = setting.Duration(time.Hour)
	run := r.start("one")
	r.streaming(run)
	r.write(1, 1)
	r.await("the first", func() bool { return r.ingested() == "1" })
	r.exec("CREATE TABLE elsewhere ()") // WAL that the stream never confirms
	began := time.Now()
	if err := server.Restart(t.Context(), sandbox.Fast); err != nil {
		t.Fatal(err)
	}
	t.Logf("restart took %s", time.Since(began))
	r.reconnect()
	r.write(2, 2)
	r.await("the second", func() bool { return r.ingested() == "1 2" })
}

// What an administrator sets for a database or a role changes the text forms of values, or ends statements and sessions.
func TestSettingsOfDatabaseAndRole(t *testing.T) {
	t.Parallel()
	for _, set := range []string{
		"timezone = 'Asia/Kolkata'", "datestyle = 'SQL, DMY'", "datestyle = 'German'", "intervalstyle = 'sql_standard'",
		"bytea_output = 'escape'", "client_encoding = 'LATIN1'", "idle_session_timeout = '300ms'",
		"default_transaction_isolation = 'serializable'", "standard_conforming_strings = off", "search_path = ''",
		"statement_timeout = '300ms'", "row_security = off", "synchronous_commit = off", "transaction_timeout = '300ms'",
		"idle_in_transaction_session_timeout = '300ms'",
	} {
		t.Run(set, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			name, _, _ := strings.Cut(set, " ")
			if r.one("SELECT count(*)::text FROM pg_settings WHERE name = $1", name) == "0" {
				return // transaction_timeout came with PostgreSQL 17
			}
			r.exec(fmt.Sprintf("ALTER DATABASE %s SET %s", r.cfg.Slot, set))
			limited := strings.HasSuffix(name, "_timeout")
			if limited {
				r.cfg.Heartbeat = setting.Duration(time.Hour) // which would be a sign of life
			}
			r.sink.slow = name == "statement_timeout" || name == "transaction_timeout"
			if strings.HasPrefix(name, "idle_in") {
				r.sink.before = func(ctx context.Context, _ []event.Change) error {
					select {
					case <-time.After(time.Second): // in the batch's transaction
					case <-ctx.Done():
					}
					return ctx.Err()
				}
			}
			r.streaming(r.start("one"))
			if limited {
				time.Sleep(time.Second) // several of the limits
			}
			r.exec(`INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data, created_at)
				VALUES ('Order', 'INSERT', gen_random_uuid(), '{"n": 100.10, "name": "Grüße €"}', '2026-11-23 10:11:12.5+00')`)
			r.await("the row", func() bool { return r.one("SELECT count(*)::text FROM ingested") == "1" })
			if got := r.one("SELECT data || reason || at FROM ingested"); got != `{"n": 100.10, "name": "Grüße €"}2026-11-23T10:11:12.5Z` {
				t.Errorf("ingested %s", got)
			}
			if got := r.one("SELECT epoch::text FROM weir.checkpoint"); got != "1" {
				t.Errorf("epoch %s: the stream was interrupted", got)
			}
		})
	}
}

// A standby's slot with our name has no position, ever: it is not one that somebody is making.
func TestPhysicalSlot(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.exec("SELECT pg_create_physical_replication_slot($1)", r.cfg.Slot)
	t.Cleanup(func() {
		if _, err := r.conn.Exec(context.WithoutCancel(t.Context()), "SELECT pg_drop_replication_slot($1)", r.cfg.Slot); err != nil {
			t.Error(err)
		}
	})
	if got := r.refusal(r.start("one")); !strings.Contains(got, "is a physical slot") || !strings.Contains(got, "source.slot") {
		t.Errorf("got %s", got)
	}
}

// databaseWith makes a migrated database of another encoding.
func databaseWith(t *testing.T, encoding string) string {
	t.Helper()
	name := "weir_" + strings.ToLower(encoding) + "_" + fmt.Sprint(time.Now().UnixNano())
	conn, err := pgx.Connect(t.Context(), postgres.Postgres(t).URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		const drop = `SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = $1`
		err := errors.New("not yet")
		for range 100 { // the walsender may take a moment
			if _, err = conn.Exec(ctx, drop, name); err == nil {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
		if err == nil {
			_, err = conn.Exec(ctx, "DROP DATABASE "+name+" WITH (FORCE)")
		}
		if err = errors.Join(err, conn.Close(ctx)); err != nil {
			t.Error(err)
		}
	})
	if _, err := conn.Exec(t.Context(), "CREATE DATABASE "+name+" TEMPLATE template0 ENCODING '"+encoding+"' LC_COLLATE 'C' LC_CTYPE 'C'"); err != nil {
		t.Fatal(err)
	}
	databaseURL := postgres.Postgres(t).URL(name)
	if err := migrations.Up(t.Context(), databaseURL, func(string) {}); err != nil {
		t.Fatal(err)
	}
	return databaseURL
}

func TestEncodings(t *testing.T) {
	t.Parallel()
	for _, encoding := range []string{"LATIN1", "SQL_ASCII", "EUC_JP"} {
		t.Run(encoding, func(t *testing.T) {
			t.Parallel()
			r := rigOn(t, databaseWith(t, encoding))
			r.exec("SET client_encoding = 'UTF8'")
			r.streaming(r.start("one"))
			text := map[string]string{"LATIN1": "Grüße", "SQL_ASCII": "Grüße", "EUC_JP": "注文"}[encoding]
			r.exec(`INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data)
				VALUES ('Order', 'INSERT', gen_random_uuid(), jsonb_build_object('n', $1::text))`, text)
			r.write(1, 1)
			r.await("both rows", func() bool { return r.one("SELECT count(*)::text FROM ingested") == "2" })
			if got := r.ingested(); got != text+" 1" {
				t.Errorf("ingested %s", got)
			}
		})
	}
}

// Change log and slot in one database, checkpoint and jobs in another, of the same cluster or not.
func TestTwoDatabases(t *testing.T) {
	t.Parallel()
	_, otherURL := ownServer(t, map[string]string{"wal_level": "replica"})
	for name, databaseURL := range map[string]string{"one cluster": postgres.Database(t), "two clusters": otherURL} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			source := r.conn
			r.exec("DROP SCHEMA weir CASCADE")
			r.databaseURL = databaseURL
			run := r.start("one")
			target, err := pgx.Connect(t.Context(), databaseURL)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = target.Close(context.WithoutCancel(t.Context())) })
			r.conn = target
			r.exec(sinkTable)
			r.streaming(run)
			for i := range 3 {
				r.conn = source
				r.write(2*i+1, 2*i+1)
				r.conn = target
				r.await("a change", func() bool { return len(strings.Fields(r.ingested())) == 2*i+1 })
				run.stop(t)
				r.conn = source
				r.write(2*i+2, 2*i+2)
				run = r.start(fmt.Sprint("again", i))
				r.conn = target
				r.await("the change that was written meanwhile", func() bool { return len(strings.Fields(r.ingested())) == 2*i+2 })
			}
			if got, want := r.ingested(), "1 2 3 4 5 6"; got != want {
				t.Errorf("ingested %s, want %s", got, want)
			}
		})
	}
}

func TestHugeRow(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.streaming(r.start("one"))
	r.exec("BEGIN")
	r.write(1, 1)
	r.exec(`INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data, object_data_before)
		SELECT 'Order', 'UPDATE', gen_random_uuid(), jsonb_build_object('n', 2, 'blob', b), jsonb_build_object('n', 2, 'blob', b || 'x')
		FROM repeat(md5(random()::text), 1 << 20) b`)
	r.write(3, 3)
	r.exec("COMMIT")
	r.write(4, 4)
	// Counted, for the marks are in 32 MB of JSON.
	r.await("everything", func() bool { return r.one("SELECT (count(*) >= 4)::text FROM ingested") == "true" })
	if got := r.ingested(); got != "1 2 3 4" {
		t.Errorf("ingested %s", got)
	}
	if size := r.one("SELECT max(length(data))::text FROM ingested"); size != fmt.Sprint(32<<20+len(`{"n": 2, "blob": ""}`)) {
		t.Errorf("the longest row has %s bytes", size)
	}
}

// A publication that somebody else made may publish more than Weir asks for, and the change log may be partitioned or
// have a name that wants quotes.
func TestForeignPublications(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		prepare string
		table   capture.Table
	}{
		"all tables, every operation": {prepare: "CREATE PUBLICATION weir FOR ALL TABLES"},
		"mixed case": {
			prepare: `CREATE SCHEMA "Core Log"; ALTER TABLE core.tb_entity_change_log SET SCHEMA "Core Log";
				ALTER TABLE "Core Log".tb_entity_change_log RENAME TO "Änderungs-Log"`,
			table: capture.Table{Schema: "Core Log", Name: "Änderungs-Log"},
		},
		"partitioned": {
			prepare: `CREATE TABLE core.log (LIKE core.tb_entity_change_log INCLUDING DEFAULTS INCLUDING IDENTITY,
					PRIMARY KEY (pk_entity_change_log, created_at)) PARTITION BY RANGE (created_at);
				CREATE TABLE core.log_old PARTITION OF core.log FOR VALUES FROM (MINVALUE) TO ('2020-01-01');
				CREATE TABLE core.log_new PARTITION OF core.log DEFAULT`,
			table: capture.Table{Schema: "core", Name: "log"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.exec(tc.prepare)
			if tc.table != (capture.Table{}) {
				r.cfg.ChangeLog = &tc.table
			}
			r.exec("CREATE TABLE public.other (a int PRIMARY KEY)")
			table := r.cfg.WithDefaults().ChangeLog.SQL()
			write := func(first, last int) {
				r.exec(strings.Replace(insertRow, "core.tb_entity_change_log", table, 1), first, last)
			}
			r.streaming(r.start("one"))
			r.exec("BEGIN")
			write(1, 3)
			r.exec("UPDATE " + table + " SET change_status = 'x'")
			r.exec("INSERT INTO public.other VALUES (1), (2)")
			r.exec("DELETE FROM public.other WHERE a = 1")
			write(4, 4)
			r.exec("TRUNCATE public.other, " + table)
			write(5, 5)
			r.exec("COMMIT")
			write(6, 6)
			r.await("everything", func() bool { return r.one("SELECT count(*)::text FROM ingested WHERE data LIKE '%6%'") == "1" })
			if got := r.ingested(); got != "1 2 3 4 5 6" {
				t.Errorf("ingested %s", got)
			}
		})
	}
}

// Whatever PostgreSQL accepts as a value: the row is an event or a dead letter, and the stream goes on.
func TestStrangeValues(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.streaming(r.start("one"))
	for _, tc := range []struct{ column, value, want string }{
		{"created_at", "'20000-01-01'", "created_at: "},
		{"created_at", "'0044-03-15 BC'", "created_at: "},
		{"created_at", "'infinity'", "created_at: "},
		{"created_at", "'0001-01-01 00:00+00'", ""},
		{"created_at", "'9999-12-31 23:59:59.999999+00'", ""},
		{"object_data", "'null'", ""},
		{"object_data", "'[1, 2]'", ""},
		{"object_data", "'1e131071'", ""},
		{"object_data", `'"\u001f\ud83d\ude00"'`, ""},
		{"updated_fields", "'{}'", ""},
		{"updated_fields", "'{NULL,a,NULL}'", ""},
		{"updated_fields", "'[5:6]={x,y}'", ""},
		{"updated_fields", `'{"a,b","c\"d","NULL"}'`, ""},
		{"object_data_before", "'[]'", "object_data_before"},
		{"object_data_before", "'null'", ""},
		{"extra_metadata", `'["cdc_source"]'`, ""},
		{"extra_metadata", `'{"cdc_source": 1}'`, ""},
		{"trace_context", "'[]'", ""},
		{"schema_version", "repeat('x', 100000)", ""},
	} {
		r.exec(`INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, change_status, ` + tc.column + `)
			VALUES ('Order', 'UPDATE', gen_random_uuid(), 'x', ` + tc.value + `)`)
		var reason string
		r.await(tc.column+" "+tc.value, func() bool {
			err := r.conn.QueryRow(t.Context(), `SELECT reason FROM ingested
				WHERE pk = (SELECT max(pk_entity_change_log) FROM core.tb_entity_change_log)`).Scan(&reason)
			return err == nil
		})
		if reason != tc.want && (tc.want == "" || !strings.Contains(reason, tc.want)) {
			t.Errorf("%s = %s: reason %q, want %q", tc.column, tc.value, reason, tc.want)
		}
	}
}

// Rows that somebody's filter leaves out would be lost without a word.
func TestFilteredPublicationIsRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	if r.one("SELECT (current_setting('server_version_num')::int < 150000)::text") == "true" {
		return // row filters came with PostgreSQL 15
	}
	r.exec("CREATE PUBLICATION weir FOR TABLE core.tb_entity_change_log WHERE (object_type = 'Order')")
	run := r.start("one")
	err := <-run.done
	close(run.done)
	if err == nil || !strings.Contains(err.Error(), "ALTER PUBLICATION") {
		t.Errorf("got %v", err)
	}
}

// What a worker had received when it lost the stream is no longer its lag.
func TestLagEndsWithTheStream(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var waiting atomic.Bool
	r.sink.before = func(ctx context.Context, _ []event.Change) error {
		waiting.Store(true)
		<-ctx.Done()
		return ctx.Err()
	}
	run := r.start("one")
	r.streaming(run)
	lag := func() float64 {
		families, err := r.reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() == "weir_capture_lag_seconds" {
				return f.GetMetric()[0].GetGauge().GetValue()
			}
		}
		t.Fatal("no such metric")
		return 0
	}
	r.write(1, 1)
	r.await("a batch in flight", waiting.Load)
	r.write(2, 2)
	r.await("lag", func() bool { return lag() > 0 })
	time.Sleep(300 * time.Millisecond) // the second row is received and cannot be handed over
	run.stop(t)
	if got := lag(); got != 0 {
		t.Errorf("%g s behind a stream that it does not read", got)
	}
}
