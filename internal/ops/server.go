package ops

import (
	"context"
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
		return err
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
		 WHERE c.relkind = 'r' AND (c.relreplident = 'n'
		       OR c.relreplident = 'd' AND NOT EXISTS (SELECT FROM pg_index i
		                                            WHERE i.indrelid = c.oid AND i.indisprimary AND i.indimmediate)
		       OR c.relreplident = 'i' AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisreplident))
		 ORDER BY 1`, string(c.cfg.Publication))
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, table := range tables {
		c.add(check, LevelError, fmt.Sprintf("%s is published with its updates or deletes and has none: the application's own "+
			"UPDATE and DELETE of it fail", table),
			fmt.Sprintf("ALTER TABLE %s REPLICA IDENTITY FULL; -- or give it a primary key", table))
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
		return err
	}
	sound := true
	if settings["wal_sender_timeout"] == "0" {
		sound = false
		c.add(check, LevelWarning, "wal_sender_timeout is off: a reader that was cut off keeps the slot, and others stand by for it",
			reload("wal_sender_timeout", "'60s'"))
	}
	if idle := settings["idle_replication_slot_timeout"]; idle != "" && idle != "0" { // PostgreSQL 18
		sound = false
		c.add(check, LevelWarning, "idle_replication_slot_timeout is set: a worker that stays away for longer loses its slot",
			reload("idle_replication_slot_timeout", "0"))
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
		return err
	case standby:
		c.dbStandby = true
		c.add(check, LevelError, "the server of database.url is a standby: nothing can be written",
			"-- let database.url name the primary")
	case encoding != "UTF8":
		c.add(check, LevelError, fmt.Sprintf("its encoding is %s, which cannot hold every receiver's answer", encoding),
			"CREATE DATABASE weir ENCODING 'UTF8' TEMPLATE template0 LOCALE 'C'; -- let database.url name it and source.url this "+
				"one, then: weir migrate up")
	default:
		c.ok(check)
	}
	return nil
}

// readOnly finds what makes every transaction read-only that does not say otherwise, as none of a worker's does.
func (c *checkup) readOnly(ctx context.Context) error {
	const check = "default_transaction_read_only"
	sound := true
	for _, side := range []struct {
		conn *pgx.Conn
		url  string
	}{{c.db, "database.url"}, {c.source, "source.url"}} {
		var on bool
		var where, role, database string
		err := side.conn.QueryRow(ctx, `
			SELECT setting = 'on', source, current_user::text, current_database()::text
			  FROM pg_settings WHERE name = 'default_transaction_read_only'`).Scan(&on, &where, &role, &database)
		if err != nil {
			return err
		}
		if !on {
			continue
		}
		sound = false
		problem := fmt.Sprintf("is on for role %s in database %s: a worker can write nothing", role, database)
		if !c.said(problem) {
			c.add(check, LevelError, problem, writable(where, role, database, side.url))
		}
	}
	if sound {
		c.ok(check)
	}
	return nil
}

// writable takes default_transaction_read_only back where pg_settings says that it comes from. The statement itself has to
// be let through.
func writable(where, role, database, url string) string {
	const reset = "RESET default_transaction_read_only"
	role, database = quoted(role), quoted(database)
	var statement string
	switch where {
	case "user":
		statement = fmt.Sprintf("ALTER ROLE %s %s", role, reset)
	case "database":
		statement = fmt.Sprintf("ALTER DATABASE %s %s", database, reset)
	case "database user":
		statement = fmt.Sprintf("ALTER ROLE %s IN DATABASE %s %s", role, database, reset)
	case "global":
		statement = "ALTER ROLE ALL " + reset
	case "client", "session":
		return "-- take default_transaction_read_only out of " + url + " (and PGOPTIONS)"
	default: // the configuration file: ALTER SYSTEM asks for no transaction that can write
		return reload("default_transaction_read_only", "off")
	}
	return "BEGIN READ WRITE; " + statement + "; COMMIT;"
}

// heartbeat: without it an idle stream holds back WAL, and its session ends again and again.
func (c *checkup) heartbeat(ctx context.Context) error {
	const check = "heartbeat"
	var role, function string
	var may bool
	err := c.source.QueryRow(ctx, `
		SELECT current_user::text, p.oid::regprocedure::text, has_function_privilege(p.oid, 'EXECUTE')
		  FROM pg_proc p WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.proname = 'pg_logical_emit_message'
		   AND p.proargtypes[2] = 'text'::regtype`).Scan(&role, &function, &may) // PostgreSQL 17 has a fourth parameter
	switch {
	case err != nil:
		return err
	case !may:
		c.add(check, LevelError, fmt.Sprintf("role %s may not send messages into the stream: an idle one would hold back WAL", role),
			fmt.Sprintf("GRANT EXECUTE ON FUNCTION pg_catalog.%s TO %s;", strings.TrimPrefix(function, "pg_catalog."), quoted(role)))
	default:
		c.ok(check)
	}
	return nil
}

// clock compares this machine's with that of the database, which decides about leases and retries.
func (c *checkup) clock(ctx context.Context) error {
	var theirs time.Time
	began := time.Now()
	if err := c.db.QueryRow(ctx, `SELECT clock_timestamp()`).Scan(&theirs); err != nil {
		return err
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
	f.Mend = "-- let both machines follow a time server, as with: timedatectl set-ntp true"
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
		return err
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
			"-- finish the deployment, or stop the old workers")
		return nil
	}
	c.ok(check)
	return nil
}
