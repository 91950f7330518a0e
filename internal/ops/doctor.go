package ops

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/fraiseql/weir/db/migrations"
	"github.com/fraiseql/weir/internal/capture"
)

// Level says how bad a finding is.
type Level string

// The levels. A worker works with warnings, and not (or not for long) with an error.
const (
	LevelOK      Level = "ok"
	LevelWarning Level = "warning"
	LevelError   Level = "error"
)

// Finding is one thing that the doctor looked at.
type Finding struct {
	Check   string `json:"check"` // what was looked at
	Level   Level  `json:"level"`
	Problem string `json:"problem"` // what was found; for an ok what is worth knowing, often ""
	// Mend is what mends it, "" when nothing has to be: SQL statements, or a command line that begins with
	// weir. It runs as it stands, each line by itself where there are several: what else there is to say is in a comment,
	// which may be all.
	Mend string `json:"mend"`
}

// Diagnosis is what the doctor found, the database first.
type Diagnosis struct {
	Healthy  bool      `json:"healthy"`  // no finding is an error
	Gap      bool      `json:"gap"`      // changes are missing that cannot be made up for: weir accept-gap
	Findings []Finding `json:"findings"` // in the order of the checks
}

// checkup is what the checks look at.
type checkup struct {
	db       *pgx.Conn
	source   *pgx.Conn
	cfg      capture.Config
	findings []Finding
	gap      bool

	installation string
	dbStandby    bool // what database has found
	sourceStands bool // by for another server, as primary has found
}

// check is one step of a checkup. Its error becomes a finding.
type check struct {
	name string
	run  func(context.Context) error
}

// Doctor looks at both databases as the roles that are connected, and changes nothing. It opens further sessions of them.
// The error is that of a connection that is lost; what is wrong with the databases is in the findings.
func Doctor(ctx context.Context, db, source *pgx.Conn, cfg capture.Config, installation string) (*Diagnosis, error) {
	c := checkup{db: db, source: source, cfg: cfg.WithDefaults(), installation: installation}
	checks := []check{
		{"database", c.database},
		{"schema weir", c.migrated},
		{"privileges on schema weir", c.privileges},
		{"default_transaction_read_only", c.readOnly},
		{"clock", c.clock},
		{"workers' versions", c.versions},
	}
	for _, p := range capture.Preflight() {
		checks = append(checks, check{p.Name, func(ctx context.Context) error { return c.preflight(ctx, p) }})
	}
	checks = append(checks, []check{
		{"change log columns", c.columns},
		{"row-level security", c.readable},
		{"replica identity", c.replicaIdentity},
		{"attached tables", c.attached},
		{"heartbeat", c.heartbeat},
		{"checkpoint", c.checkpoint},
		{"free slots and senders", c.freeSlots},
		{"max_slot_wal_keep_size", c.keepSize},
		{"timeouts of the source", c.timeouts},
	}...)
	for _, one := range checks {
		if err := c.attempt(ctx, one, c.patiently); err != nil {
			return nil, err
		}
	}
	// These look at sessions, not at what is in the database.
	for _, one := range []check{{"notifications", c.notifications}, {"prepared statements", c.statements}} {
		if err := c.attempt(ctx, one, directly); err != nil {
			return nil, err
		}
	}
	d := &Diagnosis{Healthy: true, Gap: c.gap, Findings: c.findings}
	for _, f := range d.Findings {
		d.Healthy = d.Healthy && f.Level != LevelError
	}
	return d, nil
}

// attempt makes what fails in a check a finding, so that it does not hide the others. Only a lost connection ends the
// checkup.
func (c *checkup) attempt(ctx context.Context, one check, how func(context.Context, check) error) error {
	err := how(ctx, one)
	var server *pgconn.PgError
	switch {
	case err == nil:
	case ctx.Err() != nil, c.db.IsClosed(), c.source.IsClosed():
		return fmt.Errorf("check %s: %w", one.name, err)
	case errors.As(err, &server) && server.Code == "25006" && (c.dbStandby || c.sourceStands): // as said
	case errors.As(err, &server) && server.Code == "55P03":
		c.add(one.name, LevelError, "another transaction holds a lock on what has to be looked at: "+server.Message,
			"SELECT a.pid, a.usename, a.application_name, a.state, a.query FROM pg_locks l JOIN pg_stat_activity a USING (pid) "+
				"WHERE l.mode = 'AccessExclusiveLock' AND l.granted; -- one of these: end it, then look again")
	default:
		c.add(one.name, LevelError, "could not be looked at: "+err.Error(), "-- mend what the message says, then look again")
	}
	return nil
}

func directly(ctx context.Context, one check) error { return one.run(ctx) }

// patiently runs a check in a transaction that waits for no lock for long. What the role or the database has set may be
// less, or nothing at all. A session's settings would be the next client's, behind a pooler.
func (c *checkup) patiently(ctx context.Context, one check) error {
	conns := []*pgx.Conn{c.db}
	if c.source != c.db {
		conns = append(conns, c.source)
	}
	for _, conn := range conns {
		_, err := conn.Exec(ctx, `BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = '5s';
			SET LOCAL statement_timeout = '30s'; SET LOCAL idle_in_transaction_session_timeout = 0`)
		if err != nil {
			return err
		}
	}
	err := one.run(ctx)
	for _, conn := range conns {
		_, _ = conn.Exec(context.WithoutCancel(ctx), `ROLLBACK`) // of a session that is lost, the error is in err
	}
	return err
}

func (c *checkup) add(check string, level Level, problem, mend string) {
	c.findings = append(c.findings, Finding{Check: check, Level: level, Problem: problem, Mend: mend})
}

func (c *checkup) ok(check string) { c.add(check, LevelOK, "", "") }

// migrate mends a schema weir that is missing or old.
const migrate = "weir migrate up"

func (c *checkup) migrated(ctx context.Context) error {
	const check = "schema weir"
	have, err := CheckMigrated(ctx, c.db)
	var old *NotMigratedError
	switch {
	case errors.As(err, &old) && have == 0:
		c.add(check, LevelError, "the database has not been migrated", migrate)
	case errors.As(err, &old):
		c.add(check, LevelError, fmt.Sprintf("version %d, this program needs %d", have, old.Need), migrate)
	case capture.IsDenied(err): // privileges says which
		return nil
	case err != nil:
		return err
	case have > migrations.Version:
		c.add(check, LevelWarning, fmt.Sprintf("version %d is newer than this program's %d", have, migrations.Version),
			"-- use the weir that belongs to the workers")
	default:
		return c.whole(ctx)
	}
	return nil
}

// whole finds tables that somebody has dropped.
func (c *checkup) whole(ctx context.Context) error {
	const check = "schema weir"
	rows, _ := c.db.Query(ctx, `
		SELECT name FROM unnest($1::text[]) AS name
		 WHERE NOT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		                    WHERE n.nspname = 'weir' AND c.relname = name) ORDER BY name`, weirTables())
	missing, err := pgx.CollectRows(rows, pgx.RowTo[string])
	switch {
	case err != nil:
		return err
	case len(missing) == 0:
		c.ok(check)
		return nil
	}
	var mend []string
	rest := ""
	for _, table := range missing {
		parent, isDefault := strings.CutSuffix(table, "_default")
		if isDefault && !slices.Contains(missing, parent) {
			mend = append(mend, fmt.Sprintf("CREATE TABLE weir.%s PARTITION OF weir.%s DEFAULT;", table, parent))
		} else {
			rest = "-- restore them from a backup; without one, begin anew, which loses events and jobs: " +
				"DROP SCHEMA weir CASCADE, DROP TABLE goose_db_version, then weir migrate up"
		}
	}
	if rest != "" {
		mend = append(mend, rest)
	}
	c.add(check, LevelError, "tables are missing: "+strings.Join(missing, ", "), strings.Join(mend, "\n"))
	return nil
}

// weirTables are the tables and views of schema weir; a test compares them with what the migrations make.
func weirTables() []string {
	return []string{
		"captured_table", "checkpoint", "dead_letter", "dedup", "discarded_change", "document",
		"document_default", "endpoint", "event", "event_default", "forgotten", "gone",
		"history", "ordered_job", "outcome", "outcome_default", "pause", "paused",
		"river_job", "river_leader", "river_migration", "river_notification", "river_queue", "worker",
	}
}

// preflight is what the worker checks itself. A publication that is missing is no error where the worker may make it.
func (c *checkup) preflight(ctx context.Context, p capture.Check) error {
	err := p.Run(ctx, c.source, c.cfg)
	var found *capture.SetupError
	switch {
	case err == nil:
		c.ok(p.Name)
		return nil
	case !errors.As(err, &found):
		return err
	}
	switch p.Name {
	case "primary":
		c.sourceStands = true
	case "publication":
		makes, err := c.workerMakesPublication(ctx)
		if err != nil {
			return err
		}
		if makes {
			c.add(p.Name, LevelOK, "not there yet: the worker makes it", "")
			return nil
		}
	case "publication of the tables":
		makes, err := capture.MayPublishTables(ctx, c.source, c.cfg)
		if err != nil {
			return err
		}
		if makes {
			c.add(p.Name, LevelOK, found.Problem+" yet: the worker that takes the stream makes it so", "")
			return nil
		}
		found.Problem += ", and the role may not change it"
	}
	c.add(p.Name, LevelError, found.Problem, found.Hint)
	return nil
}

func (c *checkup) workerMakesPublication(ctx context.Context) (bool, error) {
	var makes bool
	err := c.source.QueryRow(ctx, `
		SELECT NOT EXISTS (SELECT FROM pg_publication WHERE pubname = $1)
		   AND has_database_privilege(current_database(), 'CREATE')
		   AND NOT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		                    WHERE n.nspname = $2 AND c.relname = $3 AND NOT pg_has_role(c.relowner, 'USAGE'))`,
		string(c.cfg.Publication), c.cfg.ChangeLog.Schema, c.cfg.ChangeLog.Name).Scan(&makes)
	return makes, err
}

// checkpoint: whether a worker would go on from it is the worker's own judgement.
func (c *checkup) checkpoint(ctx context.Context) error {
	const check = "checkpoint"
	if c.sourceStands { // its slots and its WAL are not those of the primary
		return nil
	}
	outlook, err := capture.CheckStart(ctx, c.source, c.db, c.cfg, c.installation)
	var refused *capture.SetupError
	switch {
	case err == nil && outlook.Gap != "":
		c.gap = true
		c.add(check, LevelError, "changes are missing that cannot be made up for: "+outlook.Gap, capture.GapMend)
	case err == nil && outlook.Recovers != "":
		c.add(check, LevelWarning, outlook.Recovers, "-- start a worker: it recovers by itself, from the change log")
	case err == nil:
		c.ok(check)
	case errors.As(err, &refused) && c.said(refused.Problem): // the slot
	case errors.As(err, &refused) && refused.Hint == migrate && c.failed("schema weir"): // which has said what is missing
	case errors.As(err, &refused):
		c.add(check, LevelError, refused.Problem, refused.Hint)
	case capture.NoWalsender(err):
		return c.notCompared(ctx, err)
	case capture.IsDenied(err): // as said
	default:
		return err
	}
	return nil
}

// notCompared says why the source does not answer over the replication protocol, which the worker needs as well.
func (c *checkup) notCompared(ctx context.Context, cause error) error {
	const check, tooMany = "checkpoint", "53300"
	var server *pgconn.PgError
	known := errors.As(cause, &server)
	switch {
	case known && server.Code == tooMany:
		var own bool
		err := c.source.QueryRow(ctx, `
			SELECT EXISTS (SELECT FROM pg_stat_replication r JOIN pg_replication_slots s ON s.active_pid = r.pid
			                WHERE s.slot_name = $1 AND r.application_name LIKE 'weir:%')`, string(c.cfg.Slot)).Scan(&own)
		if err != nil {
			return err
		}
		problem := "not compared with the source, which has no WAL sender left: " + server.Message
		if own {
			problem = "not compared with the source: a worker reads the stream, and no WAL sender is left for another look"
		}
		c.add(check, LevelWarning, problem, moreSenders)
	case known && capture.IsDenied(cause) && c.failed("replication privilege"):
		c.add(check, LevelWarning, "not compared with the source: "+server.Message, "-- mend the rest, then look again")
	default:
		c.add(check, LevelError, "source.url is refused the replication protocol, which the stream needs (poolers refuse it): "+
			cause.Error(), "-- let source.url name the server itself; database.url may name a pooler")
	}
	return nil
}

func (c *checkup) said(problem string) bool {
	return slices.ContainsFunc(c.findings, func(f Finding) bool { return f.Problem == problem })
}

// failed says that a check has found an error.
func (c *checkup) failed(check string) bool {
	return slices.ContainsFunc(c.findings, func(f Finding) bool { return f.Check == check && f.Level == LevelError })
}

// moreSenders makes room for others.
const moreSenders = "ALTER SYSTEM SET max_wal_senders = 20; -- or more; then restart PostgreSQL"

// freeSlots matters until the slot exists and somebody reads it.
func (c *checkup) freeSlots(ctx context.Context) error {
	const check = "free slots and senders"
	var slots, senders, maxSlots, maxSenders int
	var exists, active bool
	err := c.source.QueryRow(ctx, `
		SELECT count(*), coalesce(bool_or(slot_name = $1), false), coalesce(bool_or(slot_name = $1 AND active), false),
		       (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender'),
		       current_setting('max_replication_slots')::int, current_setting('max_wal_senders')::int
		  FROM pg_replication_slots`, string(c.cfg.Slot)).Scan(&slots, &exists, &active, &senders, &maxSlots, &maxSenders)
	switch {
	case err != nil:
		return err
	case !exists && slots >= maxSlots:
		c.add(check, LevelError, fmt.Sprintf("all %d replication slots are taken", maxSlots), fmt.Sprintf(
			"ALTER SYSTEM SET max_replication_slots = %d; -- then restart PostgreSQL, or drop a slot that nobody uses", maxSlots+10))
	case !active && senders >= maxSenders:
		c.add(check, LevelError, fmt.Sprintf("all %d WAL senders are busy", maxSenders), fmt.Sprintf(
			"ALTER SYSTEM SET max_wal_senders = %d; -- then restart PostgreSQL", maxSenders+10))
	default:
		c.ok(check)
	}
	return nil
}

// keepSize: without a limit a stopped worker fills the server's disk.
func (c *checkup) keepSize(ctx context.Context) error {
	const check = "max_slot_wal_keep_size"
	var limit int64 // in MB
	var status string
	err := c.source.QueryRow(ctx, `
		SELECT setting::bigint, coalesce((SELECT wal_status FROM pg_replication_slots WHERE slot_name = $1), '')
		  FROM pg_settings WHERE name = 'max_slot_wal_keep_size'`, string(c.cfg.Slot)).Scan(&limit, &status)
	switch {
	case err != nil:
		return err
	case limit < 0:
		c.add(check, LevelWarning, "there is no limit to the WAL that a slot holds back: a worker that stays away fills the disk",
			reload("max_slot_wal_keep_size", "'50GB'")+" -- with what the disk can spare")
	case status == "unreserved":
		c.add(check, LevelWarning, fmt.Sprintf("slot %s is about to be lost: it holds more WAL than %d MB", c.cfg.Slot, limit),
			reload("max_slot_wal_keep_size", fmt.Sprintf("'%dMB'", 2*max(limit, 512)))+" -- or start a worker")
	default:
		c.ok(check)
	}
	return nil
}

// reload sets what takes effect without a restart. ALTER SYSTEM runs in no transaction, and so in no query of two
// statements: each is on a line of its own.
func reload(setting, value string) string {
	return fmt.Sprintf("ALTER SYSTEM SET %s = %s;\nSELECT pg_reload_conf();", setting, value)
}

func quoted(name string) string { return pgx.Identifier{name}.Sanitize() }
