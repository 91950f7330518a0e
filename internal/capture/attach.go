package capture

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// AttachError is a table, or a column, that cannot be attached as it was named: another name is needed, or another way.
type AttachError struct{ Problem string }

func (e *AttachError) Error() string { return e.Problem }

// Attach is what the capture triggers of a table are to be.
type Attach struct {
	Table  string  // as stored (schema.table), or as SQL writes it
	Entity string  // the type of its events
	ID     string  // the column with the entity's id, a uuid
	Tenant *string // the column with the tenant, a uuid; "": none; nil: tenant_id if there is one
	Before bool    // an UPDATE has its before-image, too
	// LockTimeout is how long to wait for a table that others are writing. Whoever writes it next waits as long.
	LockTimeout time.Duration
}

// Attached is what attach makes, or has made.
type Attached struct {
	Table     string   `json:"table"`      // schema.table
	Entity    string   `json:"entity"`     // type of the entity
	ID        string   `json:"id"`         // column with the entity's id
	Tenant    string   `json:"tenant"`     // "": the session's setting fraiseql.tenant_id
	Before    bool     `json:"before"`     // the row as it was before an UPDATE is kept, too
	ChangeLog string   `json:"change_log"` // the table that the triggers write
	Function  string   `json:"function"`   // what the triggers call
	Triggers  []string `json:"triggers"`   // their names
	Replaced  bool     `json:"replaced"`   // there were some before
	Notes     []string `json:"notes"`      // what is not captured, and what is odd
	SQL       string   `json:"sql"`        // what is run
	Done      bool     `json:"done"`       // false for a plan

	table       Table
	log         Table
	lockTimeout time.Duration
}

// PlanAttach looks whether the table can be attached, and changes nothing. An *AttachError is the caller's mistake, a
// *SetupError something to mend in the database.
func PlanAttach(ctx context.Context, conn *pgx.Conn, cfg Config, how Attach) (*Attached, error) {
	cfg = cfg.WithDefaults()
	log := *cfg.ChangeLog
	if log == (Table{}) {
		return nil, &AttachError{"the configuration has no change log (source.change_log is empty) that triggers could write: " +
			"capture the table itself, with source.tables"}
	}
	if err := checkChangeLog(ctx, conn, cfg); err != nil {
		return nil, err
	}
	if err := checkUsed(ctx, conn, log); err != nil {
		return nil, err
	}
	rel, err := findSubject(ctx, conn, how.Table)
	if err != nil {
		return nil, err
	}
	if err := rel.attachable(log); err != nil {
		return nil, err
	}
	a := &Attached{
		Table: rel.String(), Entity: how.Entity, ID: how.ID, Before: how.Before, ChangeLog: log.String(),
		Function: functionOf(log).String(), Triggers: captureTriggerNames(), Notes: []string{},
		table: rel.Table, log: log, lockTimeout: how.LockTimeout,
	}
	if a.Tenant, err = rel.checkColumns(how); err != nil {
		return nil, err
	}
	if err := rel.checkTriggers(ctx, conn, a); err != nil {
		return nil, err
	}
	if err := mayAttach(ctx, conn, rel, log); err != nil {
		return nil, err
	}
	a.note(rel)
	a.SQL = createFunction(log) + "\n" + createTriggers(a, log)
	return a, nil
}

// checkUsed finds the columns that the triggers would stumble over in every write of the application.
func checkUsed(ctx context.Context, conn *pgx.Conn, log Table) error {
	have, err := columnNames(ctx, conn, log)
	if err != nil {
		return err
	}
	var missing []Column
	var names []string
	for _, c := range ChangeLogColumns() {
		if slices.Contains(usedColumns(), c.Name) && !slices.Contains(have, c.Name) {
			missing, names = append(missing, c), append(names, c.Name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return &SetupError{fmt.Sprintf("table %s lacks %s", log, strings.Join(names, ", ")), CompleteChangeLog(log, missing, true)}
}

// checkTriggers refuses a table whose changes would be logged twice.
func (r *subject) checkTriggers(ctx context.Context, conn *pgx.Conn, a *Attached) error {
	triggers, err := triggersOf(ctx, conn, r.oid)
	if err != nil {
		return err
	}
	var theirs []string
	for _, t := range triggers {
		switch {
		case t.Function == captureFunction:
			a.Replaced = true
		case slices.Contains(captureTriggerNames(), t.Name):
			return &SetupError{
				fmt.Sprintf("%s has a trigger %s that is none of ours", r, t.Name), dropTriggers(r.Table, []string{t.Name}),
			}
		case t.Function == "fn_entity_change_log_capture" || strings.HasPrefix(t.Name, "tr_cdc_capture_"):
			theirs = append(theirs, t.Name)
		}
	}
	if len(theirs) == 0 {
		return nil
	}
	return &SetupError{
		fmt.Sprintf("%s has capture triggers of FraiseQL (%s): each change would be logged twice", r, strings.Join(theirs, ", ")),
		dropTriggers(r.Table, theirs),
	}
}

// mayAttach looks at what the role lacks.
func mayAttach(ctx context.Context, conn *pgx.Conn, r *subject, log Table) error {
	var role string
	var onTable, onSchema, onLog bool
	err := conn.QueryRow(ctx, `
		SELECT current_user::text, has_table_privilege($1::oid, 'TRIGGER'), has_schema_privilege($2::text, 'CREATE'),
		       has_table_privilege($3::text, 'INSERT')`, r.oid, log.Schema, log.SQL()).Scan(&role, &onTable, &onSchema, &onLog)
	if err != nil {
		return err
	}
	to := pgx.Identifier{role}.Sanitize()
	var lacks, grants []string
	for _, one := range []struct {
		has         bool
		what, grant string
	}{
		{onTable, "make triggers on " + r.String(), fmt.Sprintf("GRANT TRIGGER ON %s TO %s;", r.SQL(), to)},
		{onSchema, "make a function in schema " + log.Schema, fmt.Sprintf("GRANT CREATE ON SCHEMA %s TO %s;",
			pgx.Identifier{log.Schema}.Sanitize(), to)},
		{onLog, "write " + log.String(), fmt.Sprintf("GRANT INSERT ON %s TO %s;", log.SQL(), to)},
	} {
		if !one.has {
			lacks, grants = append(lacks, one.what), append(grants, one.grant)
		}
	}
	if len(lacks) > 0 {
		return &SetupError{fmt.Sprintf("role %s may not %s", role, strings.Join(lacks, ", nor ")), strings.Join(grants, " ")}
	}
	return nil
}

// note says what is easily overlooked.
func (a *Attached) note(r *subject) {
	notes := []struct {
		is   bool
		text string
	}{
		{r.kind == "p", "writes that name a partition are not captured: attach the partitions, too (a write through the table is " +
			"then still captured once, a TRUNCATE once for each)"},
		{r.isPartition, "it is a partition: only writes that name it are captured; attach the table that it belongs to for the others"},
		{r.hasChildren, "tables inherit from it: writes that name one of them are not captured"},
		{
			slices.ContainsFunc(r.columns, func(c subjectColumn) bool { return c.Name == a.ID && !c.NotNull }),
			fmt.Sprintf("column %s may be NULL: changes of such rows become dead letters", a.ID),
		},
	}
	for _, n := range notes {
		if n.is {
			a.Notes = append(a.Notes, n.text)
		}
	}
}

// Apply makes the triggers, all or none.
func (a *Attached) Apply(ctx context.Context, conn *pgx.Conn) error {
	err := inOneGo(ctx, conn, a.lockTimeout, a.table, func(tx pgx.Tx) error {
		if err := a.ours(ctx, tx); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, a.SQL); err != nil {
			return err
		}
		return a.rehearse(ctx, tx)
	})
	a.Done = err == nil
	return err
}

// ours refuses to take the function from another change log of the schema.
func (a *Attached) ours(ctx context.Context, tx pgx.Tx) error {
	var comment *string
	err := tx.QueryRow(ctx, `SELECT obj_description(to_regprocedure($1), 'pg_proc')`, functionOf(a.log).SQL()+"()").Scan(&comment)
	if err != nil || comment == nil || *comment == functionComment(a.log) {
		return err
	}
	return &SetupError{
		fmt.Sprintf("function %s is there for another change log (%q)", a.Function, *comment),
		"-- attach its tables to one change log: weir detach them first",
	}
}

// rehearse writes the change log as a trigger will, and takes it back: whatever is in the way (a policy, a column that somebody
// has added, a check) would otherwise fail the application's writes from now on.
func (a *Attached) rehearse(ctx context.Context, tx pgx.Tx) error {
	if _, err := tx.Exec(ctx, "SAVEPOINT weir_rehearsal"); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, fmt.Sprintf(`
		INSERT INTO %s (%s) VALUES ($1, 'CUSTOM', NULL, '{}', NULL, '{}', NULL, NULL, NULL, NULL, 'success',
		                            '{"cdc_source": "fallback_trigger"}')`, a.log.SQL(), strings.Join(usedColumns(), ", ")), a.Entity)
	var refused *pgconn.PgError
	if errors.As(err, &refused) {
		return &SetupError{
			fmt.Sprintf("the triggers could not write %s, and the application's writes would fail: %s", a.log, refused.Message),
			"-- run weir attach as the owner of the change log, or let the change log take rows without the columns that it does not fill",
		}
	}
	if err == nil {
		_, err = tx.Exec(ctx, "ROLLBACK TO SAVEPOINT weir_rehearsal")
	}
	return err
}

// attachKey is the advisory lock of those who change the function: the server cannot replace one twice at once.
const attachKey = 0x77656972_61747401

// inOneGo runs a change of a table's triggers in a transaction that waits for no lock for long.
func inOneGo(ctx context.Context, conn *pgx.Conn, wait time.Duration, table Table, do func(pgx.Tx) error) error {
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `SELECT set_config('lock_timeout', $1, true)`, fmt.Sprintf("%dms", max(1, wait.Milliseconds())))
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, int64(attachKey)); err != nil {
			return err
		}
		return do(tx)
	})
	var server *pgconn.PgError
	switch {
	case hasCode(err, "55P03"):
		return &SetupError{
			fmt.Sprintf("another transaction has used %s for longer than %s: nothing was changed", table, wait),
			fmt.Sprintf("SELECT a.pid, a.usename, a.application_name, a.state, a.xact_start, a.query FROM pg_locks l "+
				"JOIN pg_stat_activity a USING (pid) WHERE l.relation = %s::regclass; -- wait for these, or end them, and run it again "+
				"(--lock-timeout waits longer, and so does whoever writes meanwhile)", literal(table.SQL())),
		}
	case errors.As(err, &server) && server.Code == "42501":
		return &SetupError{server.Message, "-- run it as the owner of " + table.String()}
	}
	return err
}
