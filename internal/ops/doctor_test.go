package ops_test

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/fraiseql/weir/internal/capture"
	"github.com/fraiseql/weir/internal/ops"
)

// session connects as weir doctor does.
func session(t *testing.T, databaseURL string) *pgx.Conn {
	t.Helper()
	cfg, err := pgx.ParseConfig(databaseURL)
	check(t, err)
	cfg.DefaultQueryExecMode = pgx.QueryExecModeExec
	return connectAs(t, cfg)
}

// examined is a session in a migrated database of the test's own.
func examined(t *testing.T) *pgx.Conn {
	t.Helper()
	return session(t, postgres.Database(t))
}

// diagnose also looks whether every mend could be run.
func diagnose(t *testing.T, db, source *pgx.Conn, cfg capture.Config) *ops.Diagnosis {
	t.Helper()
	d, err := ops.Doctor(t.Context(), db, source, cfg, "production")
	check(t, err)
	for _, f := range d.Findings {
		if (f.Mend == "") != (f.Level == ops.LevelOK) {
			t.Errorf("%s: level %s with the mend %q", f.Check, f.Level, f.Mend)
		}
		parses(t, db, f.Mend)
	}
	return d
}

var command = regexp.MustCompile(`^weir (migrate up|adopt|validate-config)( # .*)?$`)

// parses has the server read each line of a mend, and run none: a transaction that has failed runs nothing.
func parses(t *testing.T, db *pgx.Conn, mend string) {
	t.Helper()
	if command.MatchString(mend) {
		return
	}
	if strings.Contains(mend, "…") {
		t.Errorf("%q has to be filled in", mend)
	}
	exec(t, db, "BEGIN")
	defer exec(t, db, "ROLLBACK")
	if _, err := db.Exec(t.Context(), "SELECT 1/0"); err == nil {
		t.Fatal("a division by zero")
	}
	var refused *pgconn.PgError
	_, err := db.Exec(t.Context(), mend)
	if err != nil && (!errors.As(err, &refused) || refused.Code == "42601") {
		t.Errorf("%q: %v", mend, err)
	}
}

// find returns the findings of a check.
func find(d *ops.Diagnosis, check string) []ops.Finding {
	return slices.DeleteFunc(slices.Clone(d.Findings), func(f ops.Finding) bool { return f.Check != check })
}

// one returns the single finding of a check at a level.
func one(t *testing.T, d *ops.Diagnosis, check string, level ops.Level) ops.Finding {
	t.Helper()
	found := find(d, check)
	if len(found) != 1 || found[0].Level != level {
		t.Fatalf("%s: got %+v, want one finding of level %s", check, found, level)
	}
	return found[0]
}

func TestDoctorFindsAHealthyDatabase(t *testing.T) {
	t.Parallel()
	db := examined(t)
	d := diagnose(t, db, db, slotOf(t, db))
	if !d.Healthy {
		t.Errorf("findings %+v", d.Findings)
	}
	for _, check := range []string{
		"database", "schema weir", "privileges on schema weir", "default_transaction_read_only", "clock", "workers' versions", "primary",
		"publication", "change log columns", "row-level security", "replica identity", "heartbeat", "checkpoint", "timeouts of the source",
		"notifications", "prepared statements",
	} {
		one(t, d, check, ops.LevelOK)
	}
	limit := one(t, d, "max_slot_wal_keep_size", ops.LevelWarning)
	if !strings.Contains(limit.Mend, "ALTER SYSTEM SET max_slot_wal_keep_size") {
		t.Errorf("mend %q", limit.Mend)
	}
}

func TestDoctorFindsAnUnmigratedDatabase(t *testing.T) {
	t.Parallel()
	db := session(t, postgres.EmptyDatabase(t))
	d := diagnose(t, db, db, slotOf(t, db))
	equal(t, "healthy", d.Healthy, false)
	equal(t, "mend", one(t, d, "schema weir", ops.LevelError).Mend, "weir migrate up")
	one(t, d, "change log", ops.LevelError)
}

// TestDoctorRowLevelSecurity connects as a role that a policy hides rows from, and as one that may not read at all.
func TestDoctorRowLevelSecurity(t *testing.T) {
	t.Parallel()
	databaseURL := postgres.Database(t)
	db := session(t, databaseURL)
	role := "role_" + string(slotOf(t, db).Slot)
	exec(t, db, fmt.Sprintf(`CREATE ROLE %s REPLICATION`, role))
	t.Cleanup(func() {
		exec(t, session(t, databaseURL), fmt.Sprintf(`RESET ROLE; DROP OWNED BY %s; DROP ROLE %[1]s`, role))
	})
	source := session(t, databaseURL)
	exec(t, source, "SET ROLE "+role)

	d := diagnose(t, db, source, slotOf(t, db))
	refused := one(t, d, "row-level security", ops.LevelError)
	exec(t, db, refused.Mend)
	one(t, diagnose(t, db, source, slotOf(t, db)), "row-level security", ops.LevelOK)

	exec(t, db, `ALTER TABLE core.tb_entity_change_log ENABLE ROW LEVEL SECURITY`)
	hidden := one(t, diagnose(t, db, source, slotOf(t, db)), "row-level security", ops.LevelError)
	exec(t, db, hidden.Mend)
	one(t, diagnose(t, db, source, slotOf(t, db)), "row-level security", ops.LevelOK)

	// Nor may such a role make the publication or the partitions.
	publication := one(t, diagnose(t, db, source, slotOf(t, db)), "publication", ops.LevelError)
	exec(t, db, publication.Mend)
	one(t, diagnose(t, db, source, slotOf(t, db)), "publication", ops.LevelOK)

	// Nor has it any rights on schema weir.
	d = diagnose(t, source, source, slotOf(t, db))
	equal(t, "healthy", d.Healthy, false)
	lacking := one(t, d, "privileges on schema weir", ops.LevelError)
	if !strings.Contains(lacking.Problem, "USAGE on the schema") {
		t.Errorf("problem %q", lacking.Problem)
	}
	exec(t, db, lacking.Mend)
	one(t, diagnose(t, source, source, slotOf(t, db)), "privileges on schema weir", ops.LevelOK)
	exec(t, db, "REVOKE INSERT ON weir.event FROM "+role)
	lacking = one(t, diagnose(t, source, source, slotOf(t, db)), "privileges on schema weir", ops.LevelError)
	equal(t, "problem", lacking.Problem, "role "+role+" lacks INSERT on event")
}

func TestDoctorCheckpoint(t *testing.T) {
	t.Parallel()
	db := examined(t)
	cfg := slotOf(t, db)
	createCheckpoint(t, db, cfg, 0)
	gone := one(t, diagnose(t, db, db, cfg), "checkpoint", ops.LevelWarning)
	if !strings.Contains(gone.Problem, "does not exist, but there is a checkpoint") || !strings.Contains(gone.Mend, "recovers by itself") {
		t.Errorf("got %+v", gone)
	}
	createSlot(t, db, cfg)
	one(t, diagnose(t, db, db, cfg), "checkpoint", ops.LevelWarning)
	exec(t, db, `UPDATE weir.checkpoint SET lsn = confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = slot`)
	one(t, diagnose(t, db, db, cfg), "checkpoint", ops.LevelOK)
	other := one(t, diagnose(t, db, db, capture.Config{Slot: "other"}), "checkpoint", ops.LevelError)
	if !strings.HasPrefix(other.Mend, "-- set source.slot to "+string(cfg.Slot)) {
		t.Errorf("mend %q", other.Mend)
	}
}

func TestDoctorWithoutChangeLog(t *testing.T) {
	t.Parallel()
	db := examined(t)
	cfg := slotOf(t, db)
	cfg.ChangeLog = &capture.Table{}
	if d := diagnose(t, db, db, cfg); !d.Healthy || len(find(d, "change log columns")) != 0 {
		t.Errorf("findings %+v", d.Findings)
	}
}

func TestDoctorPublication(t *testing.T) {
	t.Parallel()
	db := examined(t)
	cfg := slotOf(t, db)
	exec(t, db, `CREATE TABLE public.theirs (id int PRIMARY KEY)`)
	version := 0
	check(t, db.QueryRow(t.Context(), `SELECT current_setting('server_version_num')::int`).Scan(&version))
	if version >= 150000 {
		exec(t, db, `CREATE PUBLICATION weir FOR TABLE core.tb_entity_change_log
			(pk_entity_change_log, id, object_type, modification_type, object_id, object_data, created_at), public.theirs
			WITH (publish = 'insert')`)
		list := one(t, diagnose(t, db, db, cfg), "publication", ops.LevelError)
		if !strings.Contains(list.Problem, "leaves out columns") || !strings.Contains(list.Problem, "updated_fields, ") {
			t.Errorf("problem %q", list.Problem)
		}
		exec(t, db, list.Mend)
		exec(t, db, `ALTER PUBLICATION weir SET TABLE public.theirs, core.tb_entity_change_log WHERE (object_type = 'Order')`)
		filter := one(t, diagnose(t, db, db, cfg), "publication", ops.LevelError)
		if !strings.Contains(filter.Problem, "by a filter") {
			t.Errorf("problem %q", filter.Problem)
		}
		exec(t, db, filter.Mend)
		var tables int
		check(t, db.QueryRow(t.Context(), `SELECT count(*) FROM pg_publication_tables WHERE pubname = 'weir'`).Scan(&tables))
		equal(t, "published tables", tables, 2)
	} else {
		exec(t, db, `CREATE PUBLICATION weir FOR TABLE core.tb_entity_change_log WITH (publish = 'insert')`)
	}
	one(t, diagnose(t, db, db, cfg), "publication", ops.LevelOK)
}

// TestDoctorReplicaIdentity publishes tables as somebody would who does not know what that does to their UPDATE.
func TestDoctorReplicaIdentity(t *testing.T) {
	t.Parallel()
	db := examined(t)
	exec(t, db, `CREATE TABLE public.keyed (id int PRIMARY KEY); CREATE TABLE public."bare One" (id int);
		CREATE TABLE public.parts (id int) PARTITION BY RANGE (id);
		CREATE TABLE public.part PARTITION OF public.parts FOR VALUES FROM (0) TO (10);
		CREATE TABLE public.later (id int PRIMARY KEY DEFERRABLE);
		CREATE TABLE public.indexed (id int NOT NULL, code int NOT NULL UNIQUE);
		ALTER TABLE public.indexed REPLICA IDENTITY USING INDEX indexed_code_key;
		CREATE TABLE public.dropped (id int NOT NULL UNIQUE);
		ALTER TABLE public.dropped REPLICA IDENTITY USING INDEX dropped_id_key;
		ALTER TABLE public.dropped DROP CONSTRAINT dropped_id_key;
		CREATE PUBLICATION weir FOR TABLE core.tb_entity_change_log, public.keyed, public."bare One", public.parts, public.later,
			public.indexed, public.dropped WITH (publish_via_partition_root = true)`)
	found := find(diagnose(t, db, db, slotOf(t, db)), "replica identity")
	equal(t, "findings", len(found), 4)
	for _, table := range []string{`"bare One"`, "later", "dropped"} {
		if _, err := db.Exec(t.Context(), "UPDATE public."+table+" SET id = 2"); err == nil {
			t.Errorf("an update of %s works that the doctor says does not", table)
		}
	}
	for _, f := range found {
		exec(t, db, f.Mend)
	}
	one(t, diagnose(t, db, db, slotOf(t, db)), "replica identity", ops.LevelOK)
	exec(t, db, `UPDATE public."bare One" SET id = 2; INSERT INTO public.parts VALUES (1); UPDATE public.parts SET id = 2`)
}

func TestDoctorTimeouts(t *testing.T) {
	t.Parallel()
	db := examined(t)
	exec(t, db, `SET wal_sender_timeout = 0`)
	off := one(t, diagnose(t, db, db, slotOf(t, db)), "timeouts of the source", ops.LevelWarning)
	if !strings.Contains(off.Mend, "SET wal_sender_timeout = '60s'") {
		t.Errorf("mend %q", off.Mend)
	}
	exec(t, db, `SET wal_sender_timeout = '60s'`)
	one(t, diagnose(t, db, db, slotOf(t, db)), "timeouts of the source", ops.LevelOK)
}

func TestDoctorUnloggedChangeLog(t *testing.T) {
	t.Parallel()
	db := examined(t)
	exec(t, db, `ALTER TABLE core.tb_entity_change_log SET UNLOGGED`)
	unlogged := one(t, diagnose(t, db, db, slotOf(t, db)), "change log", ops.LevelError)
	exec(t, db, unlogged.Mend)
	one(t, diagnose(t, db, db, slotOf(t, db)), "change log", ops.LevelOK)
}

func TestDoctorEncoding(t *testing.T) {
	t.Parallel()
	db := examined(t)
	name := "latin_" + string(slotOf(t, db).Slot)
	exec(t, db, "CREATE DATABASE "+name+" ENCODING 'LATIN1' TEMPLATE template0 LOCALE 'C'")
	t.Cleanup(func() { exec(t, session(t, db.Config().ConnString()), "DROP DATABASE "+name+" WITH (FORCE)") })
	latin, err := url.Parse(db.Config().ConnString())
	check(t, err)
	latin.Path = "/" + name
	other := session(t, latin.String())
	f := one(t, diagnose(t, other, db, slotOf(t, db)), "database", ops.LevelError)
	if !strings.Contains(f.Problem, "LATIN1") || !strings.HasPrefix(f.Mend, "CREATE DATABASE weir ENCODING 'UTF8'") {
		t.Errorf("got %+v", f)
	}
}

func TestDoctorWorkersVersions(t *testing.T) {
	t.Parallel()
	db := examined(t)
	exec(t, db, `INSERT INTO weir.worker (client_id, hostname, pid, version, seen_at) VALUES
		('a', 'h', 1, 'v2', now()), ('b', 'h', 2, 'v1', now()), ('c', 'h', 3, 'v0', now() - interval '1 min')`)
	two := one(t, diagnose(t, db, db, slotOf(t, db)), "workers' versions", ops.LevelWarning)
	equal(t, "problem", two.Problem, "different ones are running: v1, v2")
	exec(t, db, `DELETE FROM weir.worker WHERE client_id = 'b'`)
	one(t, diagnose(t, db, db, slotOf(t, db)), "workers' versions", ops.LevelOK)
}

func TestDoctorMissingTables(t *testing.T) {
	t.Parallel()
	db := examined(t)
	rows, _ := db.Query(t.Context(), `
		SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		 WHERE n.nspname = 'weir' AND c.relkind IN ('r', 'p', 'v') AND c.relname !~ '_[0-9]{8}$' ORDER BY 1`)
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	check(t, err)
	exec(t, db, `DROP TABLE weir.event_default`)
	gone := one(t, diagnose(t, db, db, slotOf(t, db)), "schema weir", ops.LevelError)
	equal(t, "problem", gone.Problem, "tables are missing: event_default")
	exec(t, db, gone.Mend)
	one(t, diagnose(t, db, db, slotOf(t, db)), "schema weir", ops.LevelOK)

	exec(t, db, `ALTER SCHEMA weir RENAME TO away; CREATE SCHEMA weir; ALTER FUNCTION away.schema_version SET SCHEMA weir`)
	d := diagnose(t, db, db, slotOf(t, db))
	gone = one(t, d, "schema weir", ops.LevelError)
	equal(t, "problem", gone.Problem, "tables are missing: "+strings.Join(tables, ", "))
	equal(t, "findings about the checkpoint", len(find(d, "checkpoint")), 0) // migrating again would not bring it back
}

func TestDoctorReadOnly(t *testing.T) {
	t.Parallel()
	const check = "default_transaction_read_only"
	databaseURL := postgres.Database(t)
	admin := session(t, databaseURL)
	name := string(slotOf(t, admin).Slot)
	role := "role_" + name
	exec(t, admin, "CREATE ROLE "+role+" LOGIN SUPERUSER")
	t.Cleanup(func() { exec(t, session(t, databaseURL), "DROP ROLE "+role) })
	as, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	as.User = url.User(role)
	for _, where := range []string{"DATABASE " + name, "ROLE " + role, "ROLE " + role + " IN DATABASE " + name} {
		exec(t, admin, "ALTER "+where+" SET default_transaction_read_only = on")
		db := session(t, as.String())
		on := one(t, diagnose(t, db, db, slotOf(t, db)), check, ops.LevelError)
		exec(t, db, on.Mend) // as the role that is kept from writing
		db = session(t, as.String())
		one(t, diagnose(t, db, db, slotOf(t, db)), check, ops.LevelOK)
	}
}

func TestDoctorHeartbeat(t *testing.T) {
	t.Parallel()
	databaseURL := postgres.Database(t)
	db := session(t, databaseURL)
	role := "role_" + string(slotOf(t, db).Slot)
	exec(t, db, "CREATE ROLE "+role+" REPLICATION")
	var function string
	check(t, db.QueryRow(t.Context(), `
		SELECT oid::regprocedure::text FROM pg_proc WHERE proname = 'pg_logical_emit_message' AND proargtypes[2] = 'text'::regtype`).Scan(&function))
	exec(t, db, "REVOKE EXECUTE ON FUNCTION pg_catalog."+function+" FROM PUBLIC")
	t.Cleanup(func() { exec(t, session(t, databaseURL), fmt.Sprintf(`DROP OWNED BY %s; DROP ROLE %[1]s`, role)) })
	source := session(t, databaseURL)
	exec(t, source, "SET ROLE "+role)
	revoked := one(t, diagnose(t, db, source, slotOf(t, db)), "heartbeat", ops.LevelError)
	exec(t, db, revoked.Mend)
	one(t, diagnose(t, db, source, slotOf(t, db)), "heartbeat", ops.LevelOK)
}

// TestDoctorLockedTable: what holds a lock on a table holds up one check, whatever the role's own limits are.
func TestDoctorLockedTable(t *testing.T) {
	t.Parallel()
	databaseURL := postgres.Database(t)
	db, holder := session(t, databaseURL), session(t, databaseURL)
	exec(t, holder, `BEGIN; LOCK TABLE core.tb_entity_change_log`)
	exec(t, db, `SET statement_timeout = '300ms'`)
	d := diagnose(t, db, db, slotOf(t, db))
	locked := one(t, d, "row-level security", ops.LevelError)
	if !strings.Contains(locked.Problem, "lock timeout") || !strings.Contains(locked.Mend, "pg_locks") {
		t.Errorf("got %+v", locked)
	}
	exec(t, db, locked.Mend)
	one(t, d, "checkpoint", ops.LevelOK)
	one(t, d, "timeouts of the source", ops.LevelOK)
	exec(t, holder, `ROLLBACK`)
	equal(t, "healthy", diagnose(t, db, db, slotOf(t, db)).Healthy, true)
}

func TestDoctorPhysicalSlot(t *testing.T) {
	t.Parallel()
	db := examined(t)
	cfg := slotOf(t, db)
	exec(t, db, `SELECT pg_create_physical_replication_slot($1)`, string(cfg.Slot))
	t.Cleanup(func() {
		exec(t, session(t, db.Config().ConnString()), `SELECT pg_drop_replication_slot($1)`, string(cfg.Slot))
	})
	physical := one(t, diagnose(t, db, db, cfg), "replication slot", ops.LevelError)
	equal(t, "problem", physical.Problem, fmt.Sprintf("slot %s is a physical slot: it belongs to a standby or a backup", cfg.Slot))
}
