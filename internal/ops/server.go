package ops

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/internal/capture"
	"github.com/fraiseql/weir/internal/lease"
	"github.com/fraiseql/weir/internal/store"
)

// maxClockSkew is how far two clocks may be apart: receivers of signed webhooks accept five minutes, people who compare
// logs much less.
const maxClockSkew = 5 * time.Second

// notificationTime is how long a notification may take that costs PostgreSQL a millisecond.
const notificationTime = 2 * time.Second

// privileges: the worker's role need not own schema weir, but it has to read and write all of it.
func (c *checkup) privileges(ctx context.Context) error {
	const check = "privileges on schema weir"
	var role string
	var migrated, usage bool
	var missing []string
	err := c.db.QueryRow(ctx, `
		WITH weir AS (SELECT oid FROM pg_namespace WHERE nspname = 'weir'),
		lacking AS (
			SELECT p.privilege || ' on ' || c.relname AS what
			  FROM weir JOIN pg_class c ON c.relnamespace = weir.oid
			 CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS p(privilege)
			 WHERE c.relkind IN ('r', 'p') AND c.relname !~ '_[0-9]{8}$' AND c.relname <> 'goose_db_version'
			   AND NOT has_table_privilege(c.oid, p.privilege)
			UNION ALL
			SELECT 'SELECT on ' || c.relname FROM weir JOIN pg_class c ON c.relnamespace = weir.oid
			 WHERE c.relkind = 'v' AND NOT has_table_privilege(c.oid, 'SELECT')
			UNION ALL
			SELECT 'USAGE on ' || c.relname FROM weir JOIN pg_class c ON c.relnamespace = weir.oid
			 WHERE CASE c.relkind WHEN 'S' THEN NOT has_sequence_privilege(c.oid, 'USAGE') END
			UNION ALL
			SELECT 'EXECUTE on ' || p.proname FROM weir JOIN pg_proc p ON p.pronamespace = weir.oid
			 WHERE NOT has_function_privilege(p.oid, 'EXECUTE'))
		SELECT current_user::text, EXISTS (SELECT FROM weir), coalesce((SELECT has_schema_privilege(oid, 'USAGE') FROM weir), false),
		       ARRAY(SELECT what FROM lacking ORDER BY what)`).Scan(&role, &migrated, &usage, &missing)
	switch {
	case err != nil:
		return fmt.Errorf("check %s: %w", check, err)
	case !migrated: // as said
		return nil
	case !usage:
		missing = append([]string{"USAGE on the schema"}, missing...)
	}
	if len(missing) == 0 {
		c.ok(check)
		return nil
	}
	c.add(check, LevelError, fmt.Sprintf("role %s lacks %s", role, some(missing)), capture.Grants(role))
	return nil
}

// some names the first of many.
func some(names []string) string {
	const few = 5
	if len(names) <= few {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:few], ", "), len(names)-few)
}

// replicaIdentity: a published table without one breaks the application's own UPDATE and DELETE.
func (c *checkup) replicaIdentity(ctx context.Context) error {
	const check = "replica identity"
	rows, _ := c.source.Query(ctx, `
		WITH RECURSIVE published AS (
			SELECT c.oid, c.relkind FROM pg_publication_tables t
			  JOIN pg_publication p ON p.pubname = t.pubname AND (p.pubupdate OR p.pubdelete)
			  JOIN pg_namespace n ON n.nspname = t.schemaname JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename
			 WHERE t.pubname = $1
			UNION
			SELECT c.oid, c.relkind FROM published q JOIN pg_inherits i ON i.inhparent = q.oid JOIN pg_class c ON c.oid = i.inhrelid
			 WHERE q.relkind = 'p')
		SELECT format('%I.%I', n.nspname, c.relname)
		  FROM published q JOIN pg_class c ON c.oid = q.oid JOIN pg_namespace n ON n.oid = c.relnamespace
		 WHERE c.relkind = 'r' AND (c.relreplident = 'n' OR c.relreplident = 'd'
		       AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary))
		 ORDER BY 1`, string(c.cfg.Publication))
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("check %s: %w", check, err)
	}
	for _, table := range tables {
		c.add(check, LevelError, fmt.Sprintf("%s is published with its updates or deletes and has none: the application's own "+
			"UPDATE and DELETE of it fail", table), fmt.Sprintf("ALTER TABLE %s REPLICA IDENTITY FULL; or give it a primary key", table))
	}
	if len(tables) == 0 {
		c.ok(check)
	}
	return nil
}

// timeouts of the source that end a healthy stream, or never end a dead one.
func (c *checkup) timeouts(ctx context.Context) error {
	const check = "timeouts of the source"
	rows, _ := c.source.Query(ctx, `
		SELECT name::text, setting FROM pg_settings WHERE name IN ('wal_sender_timeout', 'idle_replication_slot_timeout')`)
	settings := map[string]string{}
	var name, value string
	if _, err := pgx.ForEachRow(rows, []any{&name, &value}, func() error { settings[name] = value; return nil }); err != nil {
		return fmt.Errorf("check %s: %w", check, err)
	}
	sound := true
	if settings["wal_sender_timeout"] == "0" {
		sound = false
		c.add(check, LevelWarning, "wal_sender_timeout is off: a reader that was cut off keeps the slot, and others stand by for it",
			"ALTER SYSTEM SET wal_sender_timeout = '60s'; SELECT pg_reload_conf();")
	}
	if idle := settings["idle_replication_slot_timeout"]; idle != "" && idle != "0" { // PostgreSQL 18
		sound = false
		c.add(check, LevelWarning, "idle_replication_slot_timeout is set: a worker that stays away for longer loses its slot",
			"ALTER SYSTEM SET idle_replication_slot_timeout = 0; SELECT pg_reload_conf();")
	}
	if sound {
		c.ok(check)
	}
	return nil
}

// database: what the server of schema weir has to be.
func (c *checkup) database(ctx context.Context) error {
	const check = "database"
	var encoding string
	var standby bool
	err := c.db.QueryRow(ctx, `SELECT current_setting('server_encoding'), pg_is_in_recovery()`).Scan(&encoding, &standby)
	switch {
	case err != nil:
		return fmt.Errorf("check %s: %w", check, err)
	case standby:
		c.add(check, LevelError, "the server of database.url is a standby: nothing can be written", "let database.url name the primary")
	case encoding != "UTF8":
		c.add(check, LevelError, fmt.Sprintf("its encoding is %s, which cannot hold every receiver's answer", encoding),
			capture.NewDatabase)
	default:
		c.ok(check)
	}
	return nil
}

// notifications: a pooler in transaction mode loses them, and session settings with them.
func (c *checkup) notifications(ctx context.Context) error {
	const check = "notifications"
	speaker, err := pgx.ConnectConfig(ctx, c.db.Config())
	if err != nil {
		return fmt.Errorf("check %s: open a second session: %w", check, err)
	}
	defer func() { _ = speaker.Close(context.WithoutCancel(ctx)) }()
	if _, err := c.db.Exec(ctx, `LISTEN weir_doctor`); err != nil {
		return fmt.Errorf("check %s: %w", check, err)
	}
	defer func() { _, _ = c.db.Exec(context.WithoutCancel(ctx), `UNLISTEN weir_doctor`) }()
	if _, err := speaker.Exec(ctx, `NOTIFY weir_doctor`); err != nil {
		return fmt.Errorf("check %s: %w", check, err)
	}
	wait, cancel := context.WithTimeout(ctx, notificationTime)
	defer cancel()
	_, err = c.db.WaitForNotification(wait)
	switch {
	case err == nil:
		c.ok(check)
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, context.DeadlineExceeded):
		c.add(check, LevelWarning, "none arrives: a pooler in transaction mode seems to be in between, so deliveries start up to "+
			"a second late", "let database.url name the server itself, or a pool in session mode")
	default:
		return fmt.Errorf("check %s: %w", check, err)
	}
	return nil
}

// clock compares this machine's with that of the database, which decides about leases and retries.
func (c *checkup) clock(ctx context.Context) error {
	var theirs time.Time
	began := time.Now()
	if err := c.db.QueryRow(ctx, `SELECT clock_timestamp()`).Scan(&theirs); err != nil {
		return fmt.Errorf("check clock: %w", err)
	}
	took := time.Since(began)
	c.findings = append(c.findings, clockFinding(theirs.Sub(began.Add(took/2)), took))
	return nil
}

// clockFinding judges how far the database is ahead of this machine, known to within the time that asking took.
func clockFinding(ahead, took time.Duration) Finding {
	f := Finding{Check: "clock", Level: LevelOK}
	if ahead.Abs() <= maxClockSkew+took {
		return f
	}
	which := "behind"
	if ahead < 0 {
		which = "ahead of"
	}
	f.Level = LevelWarning
	f.Problem = fmt.Sprintf("this machine's clock is %s %s the database's: receivers may refuse signatures",
		ahead.Abs().Round(time.Second), which)
	f.Mend = "let both machines follow a time server: timedatectl set-ntp true"
	return f
}

// versions of the workers that are running.
func (c *checkup) versions(ctx context.Context) error {
	const check = "workers' versions"
	rows, err := store.New().ListWorkers(ctx, c.db)
	if err != nil {
		if capture.NotMigrated(err) || capture.IsDenied(err) { // as said
			return nil
		}
		return fmt.Errorf("check %s: %w", check, err)
	}
	var versions []string
	for _, row := range rows {
		if row.Now.Sub(row.SeenAt).Abs() <= lease.Expiry && !slices.Contains(versions, row.Version) {
			versions = append(versions, row.Version)
		}
	}
	slices.Sort(versions)
	if len(versions) > 1 {
		c.add(check, LevelWarning, "different ones are running: "+strings.Join(versions, ", "),
			"finish the deployment, or stop the old workers")
		return nil
	}
	c.ok(check)
	return nil
}
