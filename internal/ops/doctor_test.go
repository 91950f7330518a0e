package ops_test

import (
	"fmt"
	"slices"
	"strings"
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
	for _, check := range []string{"schema weir", "partitions of schema weir", "publication", "change log columns", "row-level security"} {
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
	exec(t, db, fmt.Sprintf(`GRANT USAGE ON SCHEMA weir TO %s; GRANT SELECT ON weir.checkpoint TO %[1]s`, role))
	d = diagnose(t, source, source, slotOf(t, db))
	one(t, d, "partitions of schema weir", ops.LevelError)
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
