package ops_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/internal/capture"
	"github.com/fraiseql/weir/internal/ops"
)

func diagnose(t *testing.T, db, source *pgx.Conn, cfg capture.Config) *ops.Diagnosis {
	t.Helper()
	d, err := ops.Doctor(t.Context(), db, source, cfg, "production")
	check(t, err)
	return d
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
	db := setup(t)
	d := diagnose(t, db, db, slotOf(t, db))
	if !d.Healthy {
		t.Errorf("findings %+v", d.Findings)
	}
	for _, check := range []string{
		"database", "schema weir", "privileges on schema weir", "notifications", "clock", "workers' versions", "primary", "publication",
		"change log columns", "row-level security", "replica identity", "checkpoint", "timeouts of the source",
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
	db := connect(t, postgres.EmptyDatabase(t))
	d := diagnose(t, db, db, slotOf(t, db))
	equal(t, "healthy", d.Healthy, false)
	equal(t, "mend", one(t, d, "schema weir", ops.LevelError).Mend, "weir migrate up")
	one(t, d, "change log", ops.LevelError)
}

// TestDoctorColumns also holds the doctor's list against what the migrations make: a healthy database has no finding.
func TestDoctorColumns(t *testing.T) {
	t.Parallel()
	db := setup(t)
	cfg := slotOf(t, db)
	exec(t, db, `ALTER TABLE core.tb_entity_change_log DROP COLUMN trace_context, DROP COLUMN seq,
		ADD COLUMN ours text, ALTER COLUMN duration_ms TYPE text, ALTER COLUMN actor_type TYPE varchar(20)`)
	d := diagnose(t, db, db, cfg)
	equal(t, "healthy", d.Healthy, true)
	found := find(d, "change log columns")
	equal(t, "findings", len(found), 2)
	equal(t, "mistyped", found[0].Problem, "duration_ms is text, expected integer")
	equal(t, "missing", found[1].Problem, "missing: trace_context, seq")
	equal(t, "mend", found[1].Mend, "weir migrate up")
	exec(t, db, found[0].Mend)
	equal(t, "findings after mending one", len(find(diagnose(t, db, db, cfg), "change log columns")), 1)
}

// TestDoctorRowLevelSecurity connects as a role that a policy hides rows from, and as one that may not read at all.
func TestDoctorRowLevelSecurity(t *testing.T) {
	t.Parallel()
	databaseURL := postgres.Database(t)
	db := connect(t, databaseURL)
	role := "role_" + string(slotOf(t, db).Slot)
	exec(t, db, fmt.Sprintf(`CREATE ROLE %s REPLICATION`, role))
	t.Cleanup(func() {
		exec(t, connect(t, databaseURL), fmt.Sprintf(`RESET ROLE; DROP OWNED BY %s; DROP ROLE %[1]s`, role))
	})
	source := connect(t, databaseURL)
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
	db := setup(t)
	cfg := slotOf(t, db)
	createCheckpoint(t, db, cfg, 0)
	gone := one(t, diagnose(t, db, db, cfg), "checkpoint", ops.LevelError)
	if !strings.Contains(gone.Problem, "does not exist, but there is a checkpoint") || !strings.HasPrefix(gone.Mend, "weir adopt") {
		t.Errorf("got %+v", gone)
	}
	createSlot(t, db, cfg)
	one(t, diagnose(t, db, db, cfg), "checkpoint", ops.LevelError)
	exec(t, db, `UPDATE weir.checkpoint SET lsn = confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = slot`)
	one(t, diagnose(t, db, db, cfg), "checkpoint", ops.LevelOK)
	other := one(t, diagnose(t, db, db, capture.Config{Slot: "other"}), "checkpoint", ops.LevelError)
	if !strings.HasPrefix(other.Mend, "set source.slot to "+string(cfg.Slot)) {
		t.Errorf("mend %q", other.Mend)
	}
}

func TestDoctorWithoutChangeLog(t *testing.T) {
	t.Parallel()
	db := setup(t)
	cfg := slotOf(t, db)
	cfg.ChangeLog = &capture.Table{}
	if d := diagnose(t, db, db, cfg); !d.Healthy || len(find(d, "change log columns")) != 0 {
		t.Errorf("findings %+v", d.Findings)
	}
}

func TestDoctorPublication(t *testing.T) {
	t.Parallel()
	db := setup(t)
	cfg := slotOf(t, db)
	version := 0
	check(t, db.QueryRow(t.Context(), `SELECT current_setting('server_version_num')::int`).Scan(&version))
	if version >= 150000 {
		exec(t, db, `CREATE PUBLICATION weir FOR TABLE core.tb_entity_change_log
			(pk_entity_change_log, id, object_type, modification_type, object_id, object_data, created_at) WITH (publish = 'insert')`)
		list := one(t, diagnose(t, db, db, cfg), "publication", ops.LevelError)
		if !strings.Contains(list.Problem, "leaves out columns") || !strings.Contains(list.Problem, "updated_fields, ") {
			t.Errorf("problem %q", list.Problem)
		}
		exec(t, db, list.Mend)
	} else {
		exec(t, db, `CREATE PUBLICATION weir FOR TABLE core.tb_entity_change_log WITH (publish = 'insert')`)
	}
	one(t, diagnose(t, db, db, cfg), "publication", ops.LevelOK)
}

// TestDoctorReplicaIdentity publishes tables as somebody would who does not know what that does to their UPDATE.
func TestDoctorReplicaIdentity(t *testing.T) {
	t.Parallel()
	db := setup(t)
	exec(t, db, `CREATE TABLE public.keyed (id int PRIMARY KEY); CREATE TABLE public."bare One" (id int);
		CREATE TABLE public.parts (id int) PARTITION BY RANGE (id);
		CREATE TABLE public.part PARTITION OF public.parts FOR VALUES FROM (0) TO (10);
		CREATE PUBLICATION weir FOR TABLE core.tb_entity_change_log, public.keyed, public."bare One", public.parts
			WITH (publish_via_partition_root = true)`)
	found := find(diagnose(t, db, db, slotOf(t, db)), "replica identity")
	equal(t, "findings", len(found), 2)
	if _, err := db.Exec(t.Context(), `UPDATE public."bare One" SET id = 2`); err == nil {
		t.Error("an update works that the doctor says does not")
	}
	for _, f := range found {
		statement, _, _ := strings.Cut(f.Mend, ";")
		exec(t, db, statement)
	}
	one(t, diagnose(t, db, db, slotOf(t, db)), "replica identity", ops.LevelOK)
	exec(t, db, `UPDATE public."bare One" SET id = 2; INSERT INTO public.parts VALUES (1); UPDATE public.parts SET id = 2`)
}

func TestDoctorTimeouts(t *testing.T) {
	t.Parallel()
	db := setup(t)
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
	db := setup(t)
	exec(t, db, `ALTER TABLE core.tb_entity_change_log SET UNLOGGED`)
	unlogged := one(t, diagnose(t, db, db, slotOf(t, db)), "change log", ops.LevelError)
	exec(t, db, unlogged.Mend)
	one(t, diagnose(t, db, db, slotOf(t, db)), "change log", ops.LevelOK)
}

func TestDoctorEncoding(t *testing.T) {
	t.Parallel()
	db := setup(t)
	name := "latin_" + string(slotOf(t, db).Slot)
	exec(t, db, "CREATE DATABASE "+name+" ENCODING 'LATIN1' TEMPLATE template0 LOCALE 'C'")
	t.Cleanup(func() { exec(t, connect(t, db.Config().ConnString()), "DROP DATABASE "+name+" WITH (FORCE)") })
	latin, err := url.Parse(db.Config().ConnString())
	check(t, err)
	latin.Path = "/" + name
	other := connect(t, latin.String())
	f := one(t, diagnose(t, other, db, slotOf(t, db)), "database", ops.LevelError)
	if !strings.Contains(f.Problem, "LATIN1") || !strings.HasPrefix(f.Mend, "CREATE DATABASE weir ENCODING 'UTF8'") {
		t.Errorf("got %+v", f)
	}
}

func TestDoctorWorkersVersions(t *testing.T) {
	t.Parallel()
	db := setup(t)
	exec(t, db, `INSERT INTO weir.worker (client_id, hostname, pid, version, seen_at) VALUES
		('a', 'h', 1, 'v2', now()), ('b', 'h', 2, 'v1', now()), ('c', 'h', 3, 'v0', now() - interval '1 min')`)
	two := one(t, diagnose(t, db, db, slotOf(t, db)), "workers' versions", ops.LevelWarning)
	equal(t, "problem", two.Problem, "different ones are running: v1, v2")
	exec(t, db, `DELETE FROM weir.worker WHERE client_id = 'b'`)
	one(t, diagnose(t, db, db, slotOf(t, db)), "workers' versions", ops.LevelOK)
}

// TestDoctorNotifications has what a pooler in transaction mode has between client and server: notifications do not come
// through.
func TestDoctorNotifications(t *testing.T) {
	t.Parallel()
	databaseURL := postgres.Database(t)
	through, err := url.Parse(databaseURL)
	check(t, err)
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	check(t, err)
	var open sync.WaitGroup
	t.Cleanup(func() { _ = listener.Close(); open.Wait() })
	server := through.Host
	open.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			upstream, err := net.Dial("tcp", server)
			if err != nil {
				_ = client.Close()
				continue
			}
			open.Go(func() { _, _ = io.Copy(upstream, client); _ = upstream.Close() })
			open.Go(func() { withoutNotifications(client, upstream); _ = client.Close() })
		}
	})
	through.Host = listener.Addr().String()
	pooled, direct := connect(t, through.String()), connect(t, databaseURL)
	none := one(t, diagnose(t, pooled, direct, slotOf(t, direct)), "notifications", ops.LevelWarning)
	if !strings.Contains(none.Problem, "pooler") {
		t.Errorf("problem %q", none.Problem)
	}
	t.Cleanup(func() { _ = pooled.Close(context.WithoutCancel(t.Context())) }) // before the listener
}

// withoutNotifications copies the server's messages (type, length, body) but those of type A.
func withoutNotifications(client io.Writer, server io.Reader) {
	for {
		header := make([]byte, 5)
		if _, err := io.ReadFull(server, header); err != nil {
			return
		}
		body := make([]byte, binary.BigEndian.Uint32(header[1:])-4)
		if _, err := io.ReadFull(server, body); err != nil {
			return
		}
		if header[0] == 'A' {
			continue
		}
		if _, err := client.Write(slices.Concat(header, body)); err != nil {
			return
		}
	}
}
