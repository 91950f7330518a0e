package migrations_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/fraiseql/weir/db/migrations"
)

// fraiseQL is the change log as FraiseQL leaves it, with rows and row-level security.
const fraiseQL = `
CREATE SCHEMA core;
CREATE SEQUENCE core.seq_entity_change_log;
CREATE TABLE core.tb_entity_change_log (
    pk_entity_change_log bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    object_type text NOT NULL, modification_type text NOT NULL, object_id uuid, object_data jsonb, object_data_before jsonb,
    updated_fields text[], "cascade" jsonb, tenant_id uuid, fk_customer_org bigint, fk_contact bigint, actor_type text,
    acting_for uuid, schema_version text, trace_id text, trace_context jsonb, started_at timestamptz, duration_ms integer,
    commit_time timestamptz, seq bigint DEFAULT nextval('core.seq_entity_change_log'), change_status text,
    extra_metadata jsonb, created_at timestamptz NOT NULL DEFAULT now(), nats_published_at timestamptz, nats_event_id uuid,
    house_column text
);
ALTER TABLE core.tb_entity_change_log ADD CONSTRAINT chk_actor_type
    CHECK (actor_type IS NULL OR actor_type IN ('human_user', 'service_account', 'ai_agent', 'system_job')) NOT VALID;
CREATE INDEX idx_entity_log_type ON core.tb_entity_change_log (object_type);
ALTER TABLE core.tb_entity_change_log ENABLE ROW LEVEL SECURITY;
CREATE POLICY p_change_log_tenant_read ON core.tb_entity_change_log FOR SELECT
    USING (tenant_id = NULLIF(current_setting('fraiseql.tenant_id', true), '')::uuid);
CREATE POLICY p_change_log_insert ON core.tb_entity_change_log FOR INSERT WITH CHECK (true);
REVOKE ALL ON core.tb_entity_change_log FROM PUBLIC;
INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_data)
    SELECT 'Order', 'INSERT', jsonb_build_object('n', n) FROM generate_series(1, 100) n;
`

// A database in which nothing is missing is left exactly as it is, also by a role that may not even look into schema core.
func TestFraiseQLsChangeLogIsLeftAlone(t *testing.T) {
	t.Parallel()
	for _, owner := range []bool{true, false} {
		t.Run(map[bool]string{true: "as owner", false: "as another role"}[owner], func(t *testing.T) {
			t.Parallel()
			db := newDatabase(t)
			db.exec(fraiseQL)
			address := db.url
			if !owner {
				_, address = db.newRole()
			}
			before := append(db.dump("core"), db.tableFile())
			if err := migrations.Up(t.Context(), address, ignore); err != nil {
				t.Fatal(err)
			}
			wantSame(t, "core", append(db.dump("core"), db.tableFile()), before)
			if err := migrations.Down(t.Context(), address, ignore); err != nil {
				t.Fatal(err)
			}
			wantSame(t, "core after Down", append(db.dump("core"), db.tableFile()), before)
		})
	}
}

// backbone is a change log of an early version.
const backbone = `
CREATE SCHEMA core;
CREATE TABLE core.tb_entity_change_log (
    pk_entity_change_log bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    object_type varchar(80) NOT NULL, modification_type text NOT NULL, object_id uuid, object_data jsonb
);
INSERT INTO core.tb_entity_change_log (object_type, modification_type) SELECT 'Order', 'INSERT' FROM generate_series(1, 100);
`

func TestOldChangeLogIsCompleted(t *testing.T) {
	t.Parallel()
	db := newDatabase(t)
	db.exec(backbone)
	app, appURL := db.newRole()
	db.exec("GRANT USAGE ON SCHEMA core TO " + app + "; GRANT INSERT ON core.tb_entity_change_log TO " + app)
	file, old := db.tableFile(), db.dump("core")
	if err := migrations.Up(t.Context(), db.url, ignore); err != nil {
		t.Fatal(err)
	}
	if now := db.tableFile(); now != file {
		t.Error("the table was rewritten")
	}
	for _, line := range old {
		if !slices.Contains(db.dump("core"), line) {
			t.Errorf("changed or dropped: %s", line)
		}
	}

	// Old rows have no seq, new ones do, and whoever could insert still can.
	other := connect(t, appURL)
	if _, err := other.Exec(t.Context(),
		"INSERT INTO core.tb_entity_change_log (object_type, modification_type) VALUES ('Order', 'UPDATE')"); err != nil {
		t.Errorf("the application may no longer insert: %v", err)
	}
	var rows, columns, numbered, dated int
	err := db.QueryRow(t.Context(), `
		SELECT count(*), count(seq), count(created_at),
		       (SELECT count(*) FROM pg_attribute WHERE attrelid = 'core.tb_entity_change_log'::regclass AND attnum > 0)
		FROM core.tb_entity_change_log`).Scan(&rows, &numbered, &dated, &columns)
	if err != nil {
		t.Fatal(err)
	}
	if rows != 101 || numbered != 1 || dated != 101 || columns != 26 {
		t.Errorf("got %d rows, %d with seq, %d with created_at, %d columns, want 101, 1, 101 and 26",
			rows, numbered, dated, columns)
	}
	want := newDatabase(t)
	if err := migrations.InstallChangeLog(t.Context(), want.url, ignore); err != nil {
		t.Fatal(err)
	}
	if got, want := db.columnTypes(), want.columnTypes(); strings.Replace(got, "character varying(80)", "text", 1) != want {
		t.Errorf("got columns\n%s\nwant\n%s", got, want)
	}
}

func TestIncompleteChangeLogOfAnotherRole(t *testing.T) {
	t.Parallel()
	db := newDatabase(t)
	db.exec(backbone)
	_, address := db.newRole()
	wantError(t, migrations.Up(t.Context(), address, ignore), "00005_change_log.sql", "migrate as a role that owns")
	// What was done stays, and the owner finishes it.
	if err := migrations.Up(t.Context(), db.url, ignore); err != nil {
		t.Fatal(err)
	}
}

func TestTableThatIsNoChangeLog(t *testing.T) {
	t.Parallel()
	db := newDatabase(t)
	db.exec("CREATE SCHEMA core; CREATE TABLE core.tb_entity_change_log (n integer)")
	before := db.dump("core")
	wantError(t, migrations.Up(t.Context(), db.url, ignore), "it is not a change log", "Rename the table")
	wantSame(t, "core", db.dump("core"), before)
}

// A transaction that holds the table must not make the application's writers queue up behind the migration for ever.
func TestBusyChangeLog(t *testing.T) {
	t.Parallel()
	db := newDatabase(t)
	db.exec(backbone)
	db.exec("BEGIN; LOCK TABLE core.tb_entity_change_log IN ACCESS SHARE MODE")
	wantError(t, migrations.Up(t.Context(), db.url, ignore), "lock timeout", "migrate again")
	db.exec("ROLLBACK")
	if err := migrations.Up(t.Context(), db.url, ignore); err != nil {
		t.Fatal(err)
	}
}

// A source of its own gets the change log and nothing else, whatever migrations its application has.
func TestInstallChangeLog(t *testing.T) {
	t.Parallel()
	source, whole := newDatabase(t), migrated(t)
	source.exec(`CREATE TABLE goose_db_version (version_id bigint, is_applied boolean);
		INSERT INTO goose_db_version VALUES (7, true)`)
	public := source.dump("public")
	var said []string
	install := func() {
		if err := migrations.InstallChangeLog(t.Context(), source.url, func(line string) { said = append(said, line) }); err != nil {
			t.Fatal(err)
		}
	}
	install()
	install()
	source.exec("ALTER TABLE core.tb_entity_change_log ALTER COLUMN seq DROP DEFAULT")
	install()
	source.exec("ALTER TABLE core.tb_entity_change_log DROP COLUMN nats_published_at, DROP COLUMN nats_event_id")
	install()
	wantSame(t, "progress", said, []string{
		"created the change log core.tb_entity_change_log", "gave seq of the change log its default",
		"added to the change log: nats_published_at, nats_event_id",
	})
	wantSame(t, "core", source.dump("core"), whole.dump("core"))
	wantSame(t, "public", source.dump("public"), public)
	wantSame(t, "weir", source.dump("weir"), nil)
}

// tableFile names the file that holds the rows: a new one means that they were rewritten.
func (db database) tableFile() (name string) {
	db.t.Helper()
	err := db.QueryRow(db.t.Context(), "SELECT pg_relation_filepath('core.tb_entity_change_log')").Scan(&name)
	if err != nil {
		db.t.Fatal(err)
	}
	return name
}

func (db database) columnTypes() (list string) {
	db.t.Helper()
	err := db.QueryRow(db.t.Context(), `
		SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod), E'\n' ORDER BY attnum) FROM pg_attribute
		WHERE attrelid = 'core.tb_entity_change_log'::regclass AND attnum > 0`).Scan(&list)
	if err != nil {
		db.t.Fatal(err)
	}
	return list
}
