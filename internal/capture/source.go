package capture

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fraiseql/weir/internal/event"
)

// SetupError is a source that cannot be captured as it is. Waiting does not help; the hint says what mends it.
type SetupError struct {
	Problem string
	// Hint is what people run: SQL statements with what else there is to say in a comment behind them (alone: "-- …"), or a
	// command for the shell, where a comment begins with #.
	Hint string
}

func (e *SetupError) Error() string {
	return e.Problem + "; to mend it: " + strings.TrimPrefix(e.Hint, "-- ")
}

// Check looks at one thing that a source has to be, without changing anything. A *SetupError says that it is not.
type Check struct {
	Name string
	Run  func(ctx context.Context, conn *pgx.Conn, cfg Config) error
}

// slotRow is what pg_replication_slots says of our slot.
type slotRow struct {
	Active    bool
	Confirmed event.LSN
	Status    string // reserved, extended, unreserved, lost
	Plugin    string
	Database  string
	Physical  bool // a standby's, or a backup's: of no plugin and no database
}

const minServerVersion = 140000

// lost is the wal_status of a slot whose WAL the server has removed.
const lost = "lost"

// appPrefix and the client id are the application_name of each of a worker's sessions.
const appPrefix = "weir:"

// sourceConnect opens an ordinary connection to the source whose text forms are what row expects.
func sourceConnect(ctx context.Context, url, clientID string) (*pgx.Conn, error) {
	pool, err := pgxpool.ParseConfig(url) // the URL may hold parameters of a pool
	if err != nil {
		return nil, fmt.Errorf("source.url: %w", err)
	}
	setSession(&pool.ConnConfig.Config, clientID)
	pool.ConnConfig.DialFunc = Dial
	conn, err := pgx.ConnectConfig(ctx, pool.ConnConfig)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Exec(ctx, endless); err != nil {
		closeConn(ctx, conn)
		return nil, fmt.Errorf("lift the time limits of the session: %w", err)
	}
	return conn, nil
}

// replicationConnect opens a walsender.
func replicationConnect(ctx context.Context, url, clientID string) (*pgconn.PgConn, error) {
	pool, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("source.url: %w", err)
	}
	cfg := &pool.ConnConfig.Config
	setSession(cfg, clientID)
	cfg.DialFunc = Dial
	cfg.RuntimeParams["replication"] = "database"
	conn, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Exec(ctx, endless).ReadAll(); err != nil {
		_ = conn.Close(context.WithoutCancel(ctx))
		return nil, fmt.Errorf("lift the time limits of the session: %w", err)
	}
	return conn, nil
}

// endless lifts the limits that an administrator has set for a role or a database and that would end a session of ours in
// the middle of its work: making a slot takes as long as others leave transactions open, a stream is idle as long as nobody
// writes, and the server decodes a large transaction within one of its own. What the server does not know is left out.
const endless = `SELECT set_config(name, '0', false) FROM pg_settings WHERE name IN
	('statement_timeout', 'idle_session_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout')`

func setSession(cfg *pgconn.Config, clientID string) {
	cfg.RuntimeParams["application_name"] = appPrefix + clientID
	cfg.RuntimeParams["datestyle"] = "ISO"
	cfg.RuntimeParams["timezone"] = "UTC"
	cfg.RuntimeParams["client_encoding"] = "UTF8"
	cfg.RuntimeParams["intervalstyle"] = "postgres" // the values of tables are in the forms that to_jsonb has by default
	cfg.RuntimeParams["bytea_output"] = "hex"
	cfg.RuntimeParams["extra_float_digits"] = "1" // the shortest form that is exact
	cfg.RuntimeParams["statement_timeout"] = "0"  // making a slot takes as long as others leave transactions open
}

// Preflight is what `weir doctor` looks at in the source. The configuration has its defaults filled in.
func Preflight() []Check {
	return []Check{
		{"server version", checkVersion},
		{"primary", checkPrimary},
		{"wal_level", checkWALLevel},
		{"replication privilege", checkPrivilege},
		{"change log", checkChangeLog},
		{"publication", checkPublication},
		{"captured tables", checkTables},
		{"publication of the tables", checkTablesPublication},
		{"replication slot", checkSlot},
	}
}

func checkVersion(ctx context.Context, conn *pgx.Conn, _ Config) error {
	var num int
	var text string
	err := conn.QueryRow(ctx, `SELECT current_setting('server_version_num')::int, current_setting('server_version')`).
		Scan(&num, &text)
	if err == nil && num < minServerVersion {
		return &SetupError{"PostgreSQL " + text + " is older than 14", "-- upgrade the server to PostgreSQL 14 or newer"}
	}
	return err
}

func checkPrimary(ctx context.Context, conn *pgx.Conn, _ Config) error {
	err := isPrimary(ctx, conn)
	if errors.Is(err, errIsStandby) {
		return &SetupError{"the server of source.url is a standby", "-- let source.url name the primary"}
	}
	return err
}

var errIsStandby = errors.New("the source is a standby: waiting until it is promoted, or source.url leads to the primary")

// isPrimary returns errIsStandby where only a primary will do: only that has slots that can be made and messages that can be
// sent.
func isPrimary(ctx context.Context, conn *pgx.Conn) error {
	var standby bool
	if err := conn.QueryRow(ctx, `SELECT pg_is_in_recovery()`).Scan(&standby); err != nil {
		return err
	}
	if standby {
		return errIsStandby
	}
	return nil
}

func checkWALLevel(ctx context.Context, conn *pgx.Conn, _ Config) error {
	var level string
	if err := conn.QueryRow(ctx, `SELECT current_setting('wal_level')`).Scan(&level); err != nil {
		return err
	}
	if level != "logical" {
		return &SetupError{
			fmt.Sprintf("wal_level is %s, logical replication needs logical", level),
			"ALTER SYSTEM SET wal_level = 'logical'; -- then restart PostgreSQL",
		}
	}
	return nil
}

func checkPrivilege(ctx context.Context, conn *pgx.Conn, _ Config) error {
	var user string
	var ok bool
	// Managed services hand the privilege out as membership of a role of theirs.
	err := conn.QueryRow(ctx, `
		SELECT current_user, rolreplication OR rolsuper OR EXISTS (
			SELECT FROM pg_roles g WHERE g.rolname IN ('rds_replication', 'cloudsqlreplica', 'azure_pg_admin')
			   AND pg_has_role(current_user, g.oid, 'member'))
		  FROM pg_roles WHERE rolname = current_user`).Scan(&user, &ok)
	if err == nil && !ok {
		return &SetupError{
			fmt.Sprintf("role %s may not replicate", user),
			fmt.Sprintf("ALTER ROLE %s REPLICATION;", pgx.Identifier{user}.Sanitize()),
		}
	}
	return err
}

func checkChangeLog(ctx context.Context, conn *pgx.Conn, cfg Config) error {
	log := *cfg.ChangeLog
	if log == (Table{}) {
		return nil
	}
	var schema, unlogged, hasKey bool
	var kind string
	var have []string
	err := conn.QueryRow(ctx, `
		SELECT n.oid IS NOT NULL, coalesce(c.relkind::text, ''), coalesce(c.relpersistence = 'u', false),
		       EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary),
		       ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped)
		  FROM (SELECT) one LEFT JOIN pg_namespace n ON n.nspname = $1
		  LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = $2`, log.Schema, log.Name).
		Scan(&schema, &kind, &unlogged, &hasKey, &have)
	if err != nil {
		return err
	}
	missing := missingColumns(have)
	switch {
	case kind == "" && log.IsDefault():
		return &SetupError{fmt.Sprintf("table %s does not exist", log), "weir migrate up"}
	case kind == "":
		return &SetupError{fmt.Sprintf("table %s does not exist", log), createChangeLog(log, schema)}
	case kind != "r" && kind != "p":
		return &SetupError{
			fmt.Sprintf("%s is no table: what changes in a view or a foreign table is not in the WAL", log),
			"-- let source.change_log name the table itself",
		}
	case len(missing) > 0:
		names := make([]string, len(missing))
		for i, c := range missing {
			names[i] = c.Name
		}
		return &SetupError{
			fmt.Sprintf("table %s lacks %s", log, strings.Join(names, ", ")), CompleteChangeLog(log, missing, hasKey),
		}
	case unlogged:
		return &SetupError{
			fmt.Sprintf("table %s is unlogged: its changes are not in the WAL", log),
			fmt.Sprintf("ALTER TABLE %s SET LOGGED;", log.SQL()),
		}
	}
	return nil
}

// missingColumns are those without which no row can be read.
func missingColumns(have []string) []Column {
	return slices.DeleteFunc(ChangeLogColumns(), func(c Column) bool {
		required := slices.ContainsFunc(columns, func(r readColumn) bool { return r.name == c.Name && r.required })
		return !required || slices.Contains(have, c.Name)
	})
}

// publicationSQL creates the change log's publication: inserts only, so that later updates of log rows cost nothing.
func publicationSQL(cfg Config) string {
	name := pgx.Identifier{string(cfg.Publication)}.Sanitize()
	const with = ` WITH (publish = 'insert', publish_via_partition_root = true)`
	if *cfg.ChangeLog == (Table{}) {
		return "CREATE PUBLICATION " + name + with
	}
	return "CREATE PUBLICATION " + name + " FOR TABLE " + cfg.ChangeLog.SQL() + with
}

func checkPublication(ctx context.Context, conn *pgx.Conn, cfg Config) error {
	var exists, inserts, covers, leaves, filtered bool
	// Row filters came with PostgreSQL 15: through jsonb the query does for 14, too.
	// And by name, not by regclass, which needs rights on the schema.
	err := conn.QueryRow(ctx, `
		WITH log AS (SELECT c.oid, c.relkind FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
			WHERE n.nspname = $2 AND c.relname = $3)
		SELECT count(*) > 0, coalesce(bool_and(pubinsert), false),
			EXISTS (SELECT FROM pg_publication_tables WHERE pubname = $1 AND schemaname = $2 AND tablename = $3),
			EXISTS (SELECT FROM log WHERE relkind = 'p') AND NOT coalesce(bool_and(pubviaroot), false),
			EXISTS (SELECT FROM pg_publication_rel r JOIN pg_publication q ON q.oid = r.prpubid JOIN log ON log.oid = r.prrelid
			         WHERE q.pubname = $1 AND to_jsonb(r) ->> 'prqual' IS NOT NULL)
		  FROM pg_publication WHERE pubname = $1`,
		string(cfg.Publication), cfg.ChangeLog.Schema, cfg.ChangeLog.Name).
		Scan(&exists, &inserts, &covers, &leaves, &filtered)
	name := pgx.Identifier{string(cfg.Publication)}.Sanitize()
	switch {
	case err != nil:
		return err
	case !exists:
		return &SetupError{fmt.Sprintf("publication %s does not exist", cfg.Publication), publicationSQL(cfg) + ";"}
	case *cfg.ChangeLog == (Table{}):
		return nil
	case !inserts:
		return &SetupError{
			fmt.Sprintf("publication %s does not publish inserts", cfg.Publication),
			fmt.Sprintf("ALTER PUBLICATION %s SET (publish = 'insert');", name),
		}
	case leaves:
		return &SetupError{
			fmt.Sprintf("publication %s publishes the partitions of %s, not the table itself", cfg.Publication, cfg.ChangeLog),
			fmt.Sprintf("ALTER PUBLICATION %s SET (publish_via_partition_root = true);", name),
		}
	case filtered:
		return &SetupError{
			fmt.Sprintf("publication %s leaves out rows of %s by a filter", cfg.Publication, cfg.ChangeLog),
			publishAnew(cfg),
		}
	case !covers:
		return &SetupError{
			fmt.Sprintf("publication %s does not contain %s", cfg.Publication, cfg.ChangeLog),
			fmt.Sprintf("ALTER PUBLICATION %s ADD TABLE %s;", name, cfg.ChangeLog.SQL()),
		}
	}
	return checkColumnList(ctx, conn, cfg)
}

// checkColumnList finds columns that a publication leaves out (PostgreSQL 15) and that would be taken for NULL.
func checkColumnList(ctx context.Context, conn *pgx.Conn, cfg Config) error {
	wanted := make([]string, len(columns))
	for i, c := range columns {
		wanted[i] = c.name
	}
	rows, _ := conn.Query(ctx, `
		SELECT a.attname::text
		  FROM pg_publication q JOIN pg_publication_rel r ON r.prpubid = q.oid
		  JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace
		  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
		 WHERE q.pubname = $1 AND n.nspname = $2 AND c.relname = $3 AND a.attname = ANY ($4)
		   AND jsonb_typeof(to_jsonb(r) -> 'prattrs') = 'array' AND NOT to_jsonb(r) -> 'prattrs' @> to_jsonb(a.attnum)
		 ORDER BY a.attnum`, string(cfg.Publication), cfg.ChangeLog.Schema, cfg.ChangeLog.Name, wanted)
	missing, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err == nil && len(missing) > 0 {
		return &SetupError{
			fmt.Sprintf("publication %s leaves out columns of %s: %s", cfg.Publication, cfg.ChangeLog, strings.Join(missing, ", ")),
			publishAnew(cfg),
		}
	}
	return err
}

// publishAnew takes the change log out of the publication and in again, whole. SET TABLE would take the other tables out.
func publishAnew(cfg Config) string {
	return fmt.Sprintf("ALTER PUBLICATION %s DROP TABLE %s;\nALTER PUBLICATION %[1]s ADD TABLE %[2]s;",
		pgx.Identifier{string(cfg.Publication)}.Sanitize(), cfg.ChangeLog.SQL())
}

// checkSlot leaves a slot that is lost to the comparison with the checkpoint, which knows how to go on.
func checkSlot(ctx context.Context, conn *pgx.Conn, cfg Config) error {
	slot, err := readSlot(ctx, conn, cfg)
	if err != nil || slot == nil || slot.Status == lost {
		return err // a slot that is not there yet is made by the worker
	}
	var database string
	if err := conn.QueryRow(ctx, `SELECT current_database()`).Scan(&database); err != nil {
		return err
	}
	return slot.usable(cfg, database, true)
}

// beingMade says that somebody is creating the slot: it has no position yet.
func (s *slotRow) beingMade() bool { return s.Confirmed == 0 && !s.Physical }

// usable says why a slot cannot be read, with or without a checkpoint that it shall continue. It is pure.
func (s *slotRow) usable(cfg Config, database string, continues bool) error {
	switch {
	case s.Physical:
		return &SetupError{
			fmt.Sprintf("slot %s is a physical slot: it belongs to a standby or a backup", cfg.Slot),
			"-- give Weir a slot of its own with source.slot",
		}
	case s.beingMade() && s.Database == database:
		return nil // it has no plugin yet
	case s.Plugin != "pgoutput" || s.Database != database:
		return &SetupError{
			fmt.Sprintf("slot %s is of plugin %s in database %s: it belongs to something else", cfg.Slot, s.Plugin, s.Database),
			"-- give Weir a slot of its own with source.slot",
		}
	case s.Status == lost && !continues:
		return &SetupError{
			fmt.Sprintf("slot %s is lost, and nothing has been read from it", cfg.Slot),
			fmt.Sprintf("SELECT pg_drop_replication_slot('%s'); -- the worker makes it again", cfg.Slot),
		}
	}
	return nil
}

func readSlot(ctx context.Context, conn *pgx.Conn, cfg Config) (*slotRow, error) {
	var s slotRow
	var confirmed string
	err := conn.QueryRow(ctx, `
		SELECT active, coalesce(confirmed_flush_lsn, '0/0')::text, coalesce(wal_status, ''), coalesce(plugin, ''),
		       coalesce(database, ''), slot_type = 'physical'
		  FROM pg_replication_slots WHERE slot_name = $1`, string(cfg.Slot)).
		Scan(&s.Active, &confirmed, &s.Status, &s.Plugin, &s.Database, &s.Physical)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	s.Confirmed, err = event.ParseLSN(confirmed)
	return &s, err
}

// prepare makes the publication, if it may, and checks the rest of what streaming needs. The slot comes after the
// publication: a slot cannot decode with a publication that is younger than the position it starts from.
//
// Where it makes one, it says whether the slot, which is there, is too old for it.
func prepare(ctx context.Context, conn *pgx.Conn, cfg Config) (tooOld bool, err error) {
	if err := checkServer(ctx, conn, cfg); err != nil {
		return false, err
	}
	if tooOld, err = createPublication(ctx, conn, cfg); err != nil {
		return false, err
	}
	return tooOld, checkPublication(ctx, conn, cfg)
}

// checkServer checks what streaming needs beside the publication.
func checkServer(ctx context.Context, conn *pgx.Conn, cfg Config) error {
	if err := isPrimary(ctx, conn); err != nil {
		return err
	}
	for _, check := range []func(context.Context, *pgx.Conn, Config) error{
		checkVersion, checkWALLevel, checkPrivilege, checkChangeLog,
	} {
		if err := check(ctx, conn, cfg); err != nil {
			return err
		}
	}
	return nil
}

// createPublication makes the publication where there is none. One that exists is somebody's: it is checked, not changed.
// The slot is looked for first: who makes both makes it last.
func createPublication(ctx context.Context, conn *pgx.Conn, cfg Config) (tooOld bool, err error) {
	slot, err := readSlot(ctx, conn, cfg)
	if err != nil {
		return false, fmt.Errorf("read the slot: %w", err)
	}
	var exists bool
	err = conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_publication WHERE pubname = $1)`, string(cfg.Publication)).Scan(&exists)
	if err != nil || exists {
		return false, err
	}
	if err := checkSlot(ctx, conn, cfg); err != nil {
		return false, err
	}
	if slot != nil && slot.Status != lost {
		switch probeSlot(ctx, conn, cfg, cfg.publications(false), probeAtStart) {
		case slotTooOld:
			tooOld = true
		case slotUnknown: // somebody else is looking, too
			return false, fmt.Errorf("slot %s cannot be looked into, which has to be before its publication is made: %w",
				cfg.Slot, errChanged)
		case slotReadable:
		}
	}
	_, err = conn.Exec(ctx, publicationSQL(cfg))
	switch {
	case hasCode(err, "42710"): // another worker was first
		return tooOld, nil
	case hasCode(err, "42501"):
		return tooOld, nil // we may not: the check says what its owner has to do
	case err != nil:
		return false, fmt.Errorf("create publication %s: %w", cfg.Publication, err)
	}
	return tooOld, nil
}

// connector opens a further connection to the source.
type connector func(context.Context) (*pgx.Conn, error)

// createSlot makes the slot, with failover where the server has it (17). It waits for every transaction that is open
// in the cluster, so it says whom it waits for.
func createSlot(ctx context.Context, conn *pgx.Conn, cfg Config, logger *slog.Logger, watch connector) (made bool, err error) {
	stop := reportWaiting(ctx, logger, watch)
	defer stop()
	sql := `SELECT pg_create_logical_replication_slot($1, 'pgoutput')`
	version, err := serverVersion(ctx, conn)
	if err != nil {
		return false, err
	}
	if version >= 170000 {
		sql = `SELECT pg_create_logical_replication_slot($1, 'pgoutput', failover => true)`
	}
	_, err = conn.Exec(ctx, sql, string(cfg.Slot))
	if err != nil && !hasCode(err, "42710") {
		return false, fmt.Errorf("create replication slot %s: %w", cfg.Slot, slotsInUse(err))
	}
	return err == nil, nil
}

// reportWaiting logs, every few seconds until stopped, which transactions the creation of a slot waits for.
func reportWaiting(ctx context.Context, logger *slog.Logger, connect connector) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(5 * time.Second)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				logWaiting(ctx, logger, connect)
			}
		}
	}()
	return func() { cancel(); <-done }
}

func logWaiting(ctx context.Context, logger *slog.Logger, connect connector) {
	conn, err := connect(ctx)
	if err != nil {
		return // the creation itself will say so
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if open := openTransactions(ctx, conn); len(open) > 0 {
		logger.Info("creating the replication slot waits for open transactions", "transactions", open)
	}
}

// openTransactions are the oldest that have written something, for people; none where they cannot be asked for.
func openTransactions(ctx context.Context, conn *pgx.Conn) []string {
	rows, _ := conn.Query(ctx, `
		SELECT format('pid %s of %s in %s since %s', pid, coalesce(usename, '?'), coalesce(datname, '?'), xact_start::timestamptz(0))
		  FROM pg_stat_activity
		 WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid() ORDER BY xact_start LIMIT 5`)
	open, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil
	}
	return open
}

func hasCode(err error, code string) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == code
}

// NoWalsender says that an error is the source's refusal to talk over the replication protocol.
func NoWalsender(err error) bool {
	var connect *pgconn.ConnectError
	return errors.As(err, &connect) || hasCode(err, "42601") // a pooler that drops the parameter leads to an ordinary session
}
