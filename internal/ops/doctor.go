package ops

import (
	"context"
	"errors"
	"fmt"
	"slices"

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
	Check   string `json:"check"`
	Level   Level  `json:"level"`
	Problem string `json:"problem"` // what was found; for an ok what is worth knowing, often ""
	Mend    string `json:"mend"`    // the statement or command that mends it, "" when nothing has to be
}

// Diagnosis is what the doctor found, the database first.
type Diagnosis struct {
	Healthy  bool      `json:"healthy"` // no finding is an error
	Findings []Finding `json:"findings"`
}

// checkup is what the checks look at.
type checkup struct {
	db       *pgx.Conn
	source   *pgx.Conn
	cfg      capture.Config
	findings []Finding

	installation string
}

// Doctor looks at both databases as the roles that are connected, and changes nothing. It opens further sessions of them.
// The error is that of a connection; what is wrong with the databases is in the findings.
func Doctor(ctx context.Context, db, source *pgx.Conn, cfg capture.Config, installation string) (*Diagnosis, error) {
	c := checkup{db: db, source: source, cfg: cfg.WithDefaults(), installation: installation}
	for _, check := range []func(context.Context) error{
		c.database,
		c.migrated,
		c.privileges,
		c.notifications,
		c.clock,
		c.versions,
		c.preflight,
		c.columns,
		c.readable,
		c.replicaIdentity,
		c.checkpoint,
		c.freeSlots,
		c.keepSize,
		c.timeouts,
	} {
		if err := check(ctx); err != nil {
			return nil, err
		}
	}
	d := &Diagnosis{Healthy: true, Findings: c.findings}
	for _, f := range d.Findings {
		d.Healthy = d.Healthy && f.Level != LevelError
	}
	return d, nil
}

func (c *checkup) add(check string, level Level, problem, mend string) {
	c.findings = append(c.findings, Finding{Check: check, Level: level, Problem: problem, Mend: mend})
}

func (c *checkup) ok(check string) { c.add(check, LevelOK, "", "") }

func (c *checkup) migrated(ctx context.Context) error {
	const check = "schema weir"
	have, err := CheckMigrated(ctx, c.db)
	var old *NotMigratedError
	switch {
	case errors.As(err, &old) && have == 0:
		c.add(check, LevelError, "the database has not been migrated", "weir migrate up")
	case errors.As(err, &old):
		c.add(check, LevelError, fmt.Sprintf("version %d, this program needs %d", have, old.Need), "weir migrate up")
	case capture.IsDenied(err): // privileges says which
		return nil
	case err != nil:
		return err
	case have > migrations.Version:
		c.add(check, LevelWarning, fmt.Sprintf("version %d is newer than this program's %d", have, migrations.Version),
			"use the weir that belongs to the workers")
	default:
		c.ok(check)
	}
	return nil
}

// preflight is what the worker checks itself. A publication that is missing is no error where the worker may make it.
func (c *checkup) preflight(ctx context.Context) error {
	found, err := capture.Preflight(ctx, c.source, c.cfg)
	if err != nil {
		return err
	}
	for _, f := range found {
		level := LevelOK
		if !f.OK {
			level = LevelError
		}
		if f.Check == "publication" && !f.OK {
			makes, err := c.workerMakesPublication(ctx)
			if err != nil {
				return err
			}
			if makes {
				level, f.Problem, f.Mend = LevelOK, "not there yet: the worker makes it", ""
			}
		}
		c.add(f.Check, level, f.Problem, f.Mend)
	}
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
	if err != nil {
		return false, fmt.Errorf("check publication: %w", err)
	}
	return makes, nil
}

// checkpoint: whether a worker would go on from it is the worker's own judgement.
func (c *checkup) checkpoint(ctx context.Context) error {
	const check = "checkpoint"
	err := capture.CheckStart(ctx, c.source, c.db, c.cfg, c.installation)
	var refused *capture.SetupError
	var connect *pgconn.ConnectError
	switch {
	case err == nil:
		c.ok(check)
	case errors.As(err, &refused) && c.said(refused.Problem): // not migrated, or the slot
	case errors.As(err, &refused):
		c.add(check, LevelError, refused.Problem, refused.Hint)
	case capture.IsDenied(err): // as said
	case errors.As(err, &connect): // for want of a privilege or a sender, as said
		c.add(check, LevelWarning, "not compared with the source: "+connect.Error(), "mend the rest, then look again")
	default:
		return fmt.Errorf("check %s: %w", check, err)
	}
	return nil
}

func (c *checkup) said(problem string) bool {
	return slices.ContainsFunc(c.findings, func(f Finding) bool { return f.Problem == problem })
}

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
		return fmt.Errorf("check %s: %w", check, err)
	case !exists && slots >= maxSlots:
		c.add(check, LevelError, fmt.Sprintf("all %d replication slots are taken", maxSlots), fmt.Sprintf(
			"ALTER SYSTEM SET max_replication_slots = %d; then restart PostgreSQL, or drop a slot that nobody uses", maxSlots+10))
	case !active && senders >= maxSenders:
		c.add(check, LevelError, fmt.Sprintf("all %d WAL senders are busy", maxSenders), fmt.Sprintf(
			"ALTER SYSTEM SET max_wal_senders = %d; then restart PostgreSQL", maxSenders+10))
	default:
		c.ok(check)
	}
	return nil
}

// keepSize: without a limit a stopped worker fills the server's disk.
func (c *checkup) keepSize(ctx context.Context) error {
	const check = "max_slot_wal_keep_size"
	var limit, status string
	err := c.source.QueryRow(ctx, `
		SELECT current_setting('max_slot_wal_keep_size'),
		       coalesce((SELECT wal_status FROM pg_replication_slots WHERE slot_name = $1), '')`, string(c.cfg.Slot)).
		Scan(&limit, &status)
	switch {
	case err != nil:
		return fmt.Errorf("check %s: %w", check, err)
	case limit == "-1":
		c.add(check, LevelWarning, "there is no limit to the WAL that a slot holds back: a worker that stays away fills the disk",
			"ALTER SYSTEM SET max_slot_wal_keep_size = '50GB'; SELECT pg_reload_conf(); with what the disk can spare")
	case status == "unreserved":
		c.add(check, LevelWarning, fmt.Sprintf("slot %s is about to be lost: it holds more WAL than %s", c.cfg.Slot, limit),
			"start a worker, or raise the limit: ALTER SYSTEM SET max_slot_wal_keep_size = …; SELECT pg_reload_conf();")
	default:
		c.ok(check)
	}
	return nil
}

func quoted(name string) string { return pgx.Identifier{name}.Sanitize() }
