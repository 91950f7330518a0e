package worker_test

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/db/migrations"
	"github.com/fraiseql/weir/internal/sandbox"
)

// ownServer starts a server for a test that restarts, copies or sets one.
func ownServer(t *testing.T, settings map[string]string) (*sandbox.Postgres, *rig) {
	t.Helper()
	server := startServer(t, sandbox.PostgresOptions{Settings: settings})
	databaseURL, _, err := server.Database(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return server, rigOn(t, databaseURL)
}

func startServer(t *testing.T, options sandbox.PostgresOptions) *sandbox.Postgres {
	t.Helper()
	server, err := sandbox.StartPostgres(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Stop(context.WithoutCancel(t.Context())) })
	return server
}

// A server that stops, in order or not, costs nothing but time: the worker comes back by itself and delivers.
func TestDatabaseRestartsUnderTheWorker(t *testing.T) {
	t.Parallel()
	server, r := ownServer(t, nil)
	rc := newReceiver(t, nil)
	run := r.started(hook(rc.URL, ""))
	for i, mode := range []sandbox.StopMode{sandbox.Fast, sandbox.Immediate} {
		r.order(`{}`)
		r.await("a delivery", func() bool { return len(rc.seen()) == 2*i+1 })
		if err := server.Restart(t.Context(), mode); err != nil {
			t.Fatal(err)
		}
		r.reconnect()
		r.order(`{}`)
		r.await("a delivery after the restart", func() bool { return len(rc.seen()) == 2*i+2 })
		r.await("ready", func() bool { return run.get(t, "/readyz").code == http.StatusOK })
	}
	r.await("completed", func() bool { return r.jobs("state = 'completed'") == "4" })
}

// The worker waits for a database that is not there, and says so.
func TestDatabaseComesLater(t *testing.T) {
	t.Parallel()
	server, r := ownServer(t, nil)
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	run := r.start("observers: {}\n")
	r.await("the reason", func() bool {
		a := run.get(t, "/readyz")
		return a.code == http.StatusServiceUnavailable && strings.Contains(a.body, `"error":"`)
	})
	if err := server.Restart(t.Context(), sandbox.Fast); err != nil {
		t.Fatal(err)
	}
	r.await("ready", func() bool { return run.get(t, "/readyz").code == http.StatusOK })
}

// A URL may hold the parameters of pgx's pools, which are no settings of the server.
func TestPoolParametersInTheURL(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	u, err := url.Parse(r.url)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set("pool_max_conns", "7")
	q.Set("default_query_exec_mode", "cache_describe")
	u.RawQuery = q.Encode()
	r.url = u.String()
	rc := newReceiver(t, nil)
	r.started(hook(rc.URL, ""))
	r.order(`{}`)
	r.await("the delivery", func() bool { return r.jobs("state = 'completed'") == "1" })
}

// asRole makes a role with these grants and has the worker log in as it. The name is in {role}, the database in {db}.
func (r *rig) asRole(t *testing.T, attributes, grants string) {
	t.Helper()
	role := "role_" + r.slot
	fill := strings.NewReplacer("{role}", role, "{db}", r.slot)
	r.exec(fill.Replace("CREATE ROLE {role} LOGIN " + attributes))
	r.exec(fill.Replace(grants))
	t.Cleanup(func() {
		_, err := r.conn.Exec(context.WithoutCancel(t.Context()), fill.Replace("DROP OWNED BY {role}; DROP ROLE {role}"))
		if err != nil {
			t.Error(err)
		}
	})
	u, err := url.Parse(r.url)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User(role)
	r.url = u.String()
}

func TestRoleThatOwnsNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.exec("CREATE PUBLICATION weir FOR TABLE core.tb_entity_change_log WITH (publish = 'insert')")
	r.exec("ALTER TABLE core.tb_entity_change_log ENABLE ROW LEVEL SECURITY")
	r.asRole(t, "REPLICATION BYPASSRLS", `GRANT USAGE ON SCHEMA weir, core TO {role};
		GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA weir TO {role};
		GRANT USAGE ON ALL SEQUENCES IN SCHEMA weir TO {role};
		GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA weir TO {role};
		GRANT SELECT ON core.tb_entity_change_log TO {role}`)
	ahead := "event_" + time.Now().UTC().AddDate(0, 0, 7).Format("20060102")
	r.exec("DROP TABLE weir." + ahead)
	r.exec("CREATE TABLE weir.event_20200101 PARTITION OF weir.event FOR VALUES FROM ('2020-01-01') TO ('2020-01-02')")
	rc := newReceiver(t, nil)
	r.started(hook(rc.URL, ""))
	r.order(`{}`)
	r.await("the delivery", func() bool {
		return len(rc.seen()) == 1 && r.jobs("kind = 'weir_webhook' AND state = 'completed'") == "1"
	})
	r.await("a partition made, another dropped", func() bool {
		return r.one("SELECT (to_regclass('weir.'||$1) IS NOT NULL AND to_regclass('weir.event_20200101') IS NULL)::text", ahead) == "true"
	})
}

// Housekeeping that may not call its functions says what mends it, and everything else goes on.
func TestHousekeepingNamesTheGrant(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.exec("CREATE PUBLICATION weir FOR TABLE core.tb_entity_change_log WITH (publish = 'insert')")
	r.asRole(t, "REPLICATION BYPASSRLS", `GRANT USAGE ON SCHEMA weir, core TO {role};
		GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA weir TO {role};
		GRANT USAGE ON ALL SEQUENCES IN SCHEMA weir TO {role};
		GRANT SELECT ON core.tb_entity_change_log TO {role}`)
	w := r.spawn(t, r.write(everyOrder))
	r.await("the grant", func() bool {
		return strings.Contains(w.log.String(), "housekeeping is not done") && strings.Contains(w.log.String(), "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA weir TO")
	})
	r.order(`{}`)
	r.await("the delivery", func() bool { return r.jobs("state = 'completed'") == "1" })
}

func TestMissingGrantsAreNamed(t *testing.T) {
	t.Parallel()
	for name, grants := range map[string]string{
		"none": "SELECT 1",
		"events": `GRANT USAGE ON SCHEMA weir TO {role}; GRANT SELECT ON ALL TABLES IN SCHEMA weir TO {role};
			GRANT INSERT, UPDATE ON weir.checkpoint TO {role}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.exec("CREATE PUBLICATION weir FOR TABLE core.tb_entity_change_log WITH (publish = 'insert')")
			r.asRole(t, "REPLICATION", grants)
			run := r.start("observers: {}\n")
			r.await("streaming or the end", func() bool {
				select {
				case <-run.done:
					return true
				default:
					return r.one("SELECT count(*)::text FROM pg_replication_slots WHERE active AND slot_name = $1", r.slot) == "1"
				}
			})
			r.order(`{}`)
			<-run.done
			if run.err == nil || !strings.Contains(run.err.Error(), "GRANT SELECT, INSERT, UPDATE, DELETE") {
				t.Errorf("got %v, want the statements that mend it", run.err)
			}
			run.err = nil
		})
	}
}

// A backup that reads the default partition keeps new partitions from being attached, but not the worker from starting.
func TestStartsDuringABackup(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.exec(fmt.Sprintf("DROP TABLE weir.event_%s", time.Now().UTC().AddDate(0, 0, 7).Format("20060102")))
	backup, err := pgx.Connect(t.Context(), r.url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = backup.Close(context.WithoutCancel(t.Context())) })
	if _, err := backup.Exec(t.Context(), "BEGIN; LOCK TABLE weir.event_default IN ACCESS SHARE MODE"); err != nil {
		t.Fatal(err)
	}
	rc := newReceiver(t, nil)
	r.started(hook(rc.URL, ""))
	r.order(`{}`)
	r.await("the delivery", func() bool { return len(rc.seen()) == 1 })
}

// Figures count what was stored, not how often it was tried.
func TestCountsOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rc := newReceiver(t, nil)
	run := r.started(hook(rc.URL, "", "condition: total > 1") + `
  nobody: {entity: Order, condition: totl > 1, actions: [{type: log}]}
`)
	r.exec("ALTER TABLE weir.event ADD CHECK (entity_id <> '00000000-0000-0000-0000-000000000000')")
	r.exec(`INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data)
		SELECT 'Order', 'INSERT', CASE WHEN n = 6 THEN '00000000-0000-0000-0000-000000000000' ELSE gen_random_uuid() END, '{"total": 2}'
		FROM generate_series(1, 10) n`)
	r.await("the deliveries", func() bool { return len(rc.seen()) == 9 })
	r.await("the dead letters", func() bool { return r.jobs(deadLetter) == "10" })
	metrics := run.get(t, "/metrics").body
	for _, want := range []string{
		`weir_matches_total{observer="hook"} 9`, `weir_condition_errors_total{observer="nobody"} 9`,
		`weir_capture_changes_total{result="event"} 9`, `weir_capture_changes_total{result="rejected"} 1`,
	} {
		if !strings.Contains(metrics, want+"\n") {
			name, _, _ := strings.Cut(want, " ")
			_, rest, _ := strings.Cut(metrics, "\n"+name)
			got, _, _ := strings.Cut(rest, "\n")
			t.Errorf("want %s, got%s", want, got)
		}
	}
}

// The database of jobs is another cluster, and away: not ready, though the stream's own connection has nothing to say.
func TestDatabaseOfJobsGoesAway(t *testing.T) {
	t.Parallel()
	server, r := ownServer(t, nil)
	source := newRig(t)
	source.exec("DROP SCHEMA weir CASCADE")
	rc := newReceiver(t, nil)
	run := r.started(fmt.Sprintf("source: {url: %q, slot: %s, heartbeat: 1h}\n", source.url, source.slot) + hook(rc.URL, ""))
	source.order(`{}`)
	r.await("the delivery", func() bool { return len(rc.seen()) == 1 })
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	r.await("not ready", func() bool { return run.get(t, "/readyz").code == http.StatusServiceUnavailable })
	source.order(`{}`)
	if err := server.Restart(t.Context(), sandbox.Fast); err != nil {
		t.Fatal(err)
	}
	r.await("the second delivery", func() bool { return len(rc.seen()) == 2 })
	r.await("ready", func() bool { return run.get(t, "/readyz").code == http.StatusOK })
}

// databaseOf makes a migrated database of another encoding.
func (r *rig) databaseOf(t *testing.T, encoding string) (databaseURL string) {
	t.Helper()
	name := r.slot + "_" + strings.ToLower(encoding)
	r.exec("CREATE DATABASE " + name + " TEMPLATE template0 ENCODING '" + encoding + "' LC_COLLATE 'C' LC_CTYPE 'C'")
	t.Cleanup(func() {
		if _, err := r.conn.Exec(context.WithoutCancel(t.Context()), "DROP DATABASE "+name+" WITH (FORCE)"); err != nil {
			t.Error(err)
		}
	})
	databaseURL = postgres.Postgres(t).URL(name)
	if err := migrations.Up(t.Context(), databaseURL, func(string) {}); err != nil {
		t.Fatal(err)
	}
	return databaseURL
}

// A source may have any encoding; a database that cannot hold every text is refused.
func TestOtherEncodings(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	source := rigOn(t, r.databaseOf(t, "LATIN1"))
	latin1 := source.start("observers: {}\n")
	<-latin1.done
	if latin1.err == nil || !strings.Contains(latin1.err.Error(), "CREATE DATABASE") {
		t.Errorf("got %v, want how to mend it", latin1.err)
	}
	latin1.err = nil

	rc := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("100 €")) })
	run := r.start(fmt.Sprintf("source: {url: %q, slot: %s}\n", source.url, r.slot) + hook(rc.URL, ""))
	r.await("ready", func() bool { return run.get(t, "/readyz").code == http.StatusOK })
	source.exec("SET client_encoding = 'UTF8'")
	source.order(`{"name": "Grüße"}`)
	r.await("the delivery", func() bool { return len(rc.seen()) == 1 && r.jobs("state = 'completed'") == "1" })
	if data := field(t, rc.seen()[0].body, "data"); data != `{"name":"Grüße"}` {
		t.Errorf("data %s", data)
	}
	run.stop(t)
	r.await("the walsender to end", func() bool {
		return r.one("SELECT active::text FROM pg_replication_slots WHERE slot_name = $1", r.slot) == "false"
	})
	r.exec("SELECT pg_drop_replication_slot($1)", r.slot)
}

// A row that is no event is a dead letter also when the database takes no job with all that the row says.
func TestBadRowThatIsRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.exec("ALTER TABLE weir.river_job ADD CHECK (length(args::text) < 5000)")
	rc := newReceiver(t, nil)
	r.started(hook(rc.URL, ""))
	r.exec(`INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id)
		VALUES (repeat('x', 10000), 'UPSERT', gen_random_uuid())`)
	r.order(`{}`)
	r.awaitFor(15*time.Second, "the delivery", func() bool { return len(rc.seen()) == 1 })
	r.await("the dead letter", func() bool { return r.jobs(deadLetter) == "1" })
	if got := r.one("SELECT args->>'reason' FROM job WHERE kind = 'weir_change'"); !strings.Contains(got, "UPSERT") {
		t.Errorf("reason %s", got)
	}
}
