package capture

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// Detached is what detach removes, or has removed.
type Detached struct {
	Table     string   `json:"table"`     // schema.table
	Triggers  []string `json:"triggers"`  // those that are removed
	Functions []string `json:"functions"` // that no trigger uses any more
	SQL       string   `json:"sql"`       // what is run
	Done      bool     `json:"done"`      // false for a plan

	table       Table
	lockTimeout time.Duration
}

// PlanDetach finds what attach has made of a table, and changes nothing. There may be nothing.
func PlanDetach(ctx context.Context, conn *pgx.Conn, name string, wait time.Duration) (*Detached, error) {
	r, err := findSubject(ctx, conn, name)
	if err != nil {
		return nil, err
	}
	triggers, err := triggersOf(ctx, conn, r.oid)
	if err != nil {
		return nil, err
	}
	d := &Detached{Table: r.String(), Triggers: []string{}, Functions: []string{}, table: r.Table, lockTimeout: wait}
	for _, t := range triggers {
		if t.Function == captureFunction {
			d.Triggers = append(d.Triggers, t.Name)
		}
	}
	if len(d.Triggers) == 0 {
		return d, nil
	}
	d.SQL = dropTriggers(r.Table, d.Triggers)
	// Those that other tables do not use.
	rows, _ := conn.Query(ctx, `
		SELECT n.nspname::text FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
		 WHERE p.proname = $1 AND p.prorettype = 'trigger'::regtype AND p.pronargs = 0
		   AND EXISTS (SELECT FROM pg_trigger t WHERE t.tgfoid = p.oid AND t.tgrelid = $2)
		   AND NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgfoid = p.oid AND t.tgrelid <> $2) ORDER BY 1`, captureFunction, r.oid)
	schemas, err := pgx.CollectRows(rows, pgx.RowTo[string])
	for _, schema := range schemas {
		f := Table{schema, captureFunction}
		d.Functions = append(d.Functions, f.String())
		d.SQL += fmt.Sprintf("\nDROP FUNCTION %s();", f.SQL())
	}
	return d, err
}

// Apply removes it, all or nothing.
func (d *Detached) Apply(ctx context.Context, conn *pgx.Conn) error {
	if d.SQL == "" {
		return nil
	}
	err := inOneGo(ctx, conn, d.lockTimeout, d.table, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, d.SQL)
		return err
	})
	d.Done = err == nil
	return err
}

// tableTrigger is a trigger of a table, by the name of its function.
type tableTrigger struct{ Name, Function string }

func triggersOf(ctx context.Context, conn *pgx.Conn, table uint32) ([]tableTrigger, error) {
	rows, _ := conn.Query(ctx, `
		SELECT t.tgname::text, p.proname::text FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
		 WHERE t.tgrelid = $1 AND NOT t.tgisinternal ORDER BY 1`, table)
	return pgx.CollectRows(rows, pgx.RowToStructByPos[tableTrigger])
}

// AttachedTable is a table with capture triggers.
type AttachedTable struct {
	Table
	Entities []string // that its triggers name: one, unless somebody has made some by hand
	IDs      []string // the columns with the entity's id, likewise
	Missing  []string // triggers that attach makes, and that are not there
	Disabled []string
	Theirs   []string // FraiseQL's, beside ours
	LacksID  bool     // the column with the id is gone, or no uuid any more
	Logs     []string // schemas of the functions that they call
}

// AttachedTables are those with capture triggers, by name.
func AttachedTables(ctx context.Context, conn *pgx.Conn) ([]AttachedTable, error) {
	rows, err := conn.Query(ctx, `
		SELECT n.nspname::text, c.relname::text, t.tgname::text, p.proname::text, f.nspname::text, t.tgenabled IN ('D', 'R'), t.tgargs,
		       ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND NOT a.attisdropped
		                AND a.atttypid = 'uuid'::regtype)
		  FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_namespace f ON f.oid = p.pronamespace
		  JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
		 WHERE NOT t.tgisinternal AND p.proname IN ($1, 'fn_entity_change_log_capture')
		 ORDER BY 1, 2, 3`, captureFunction)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var tables []AttachedTable
	for rows.Next() {
		var table Table
		var name, function, schema string
		var disabled bool
		var arguments []byte // each ends with a zero
		var uuids []string
		if err := rows.Scan(&table.Schema, &table.Name, &name, &function, &schema, &disabled, &arguments, &uuids); err != nil {
			return nil, err
		}
		if len(tables) == 0 || tables[len(tables)-1].Table != table {
			tables = append(tables, AttachedTable{Table: table, Missing: captureTriggerNames()})
		}
		last := &tables[len(tables)-1]
		if function != captureFunction {
			last.Theirs = append(last.Theirs, name)
			continue
		}
		last.Missing = slices.DeleteFunc(last.Missing, func(m string) bool { return m == name })
		last.Logs = with(last.Logs, schema)
		if disabled {
			last.Disabled = append(last.Disabled, name)
		}
		if values := strings.Split(string(arguments), "\x00"); len(values) > 1 {
			last.Entities, last.IDs = with(last.Entities, values[0]), with(last.IDs, values[1])
			last.LacksID = last.LacksID || !slices.Contains(uuids, values[1])
		}
	}
	// A table with FraiseQL's triggers alone is none of ours.
	return slices.DeleteFunc(tables, func(t AttachedTable) bool { return len(t.Logs) == 0 }), rows.Err()
}

func with(list []string, one string) []string {
	if slices.Contains(list, one) {
		return list
	}
	return append(list, one)
}

// Enable makes triggers of the table fire again.
func (t AttachedTable) Enable() string {
	statements := make([]string, len(t.Disabled))
	for i, name := range t.Disabled {
		statements[i] = fmt.Sprintf("ALTER TABLE %s ENABLE TRIGGER %s;", t.SQL(), pgx.Identifier{name}.Sanitize())
	}
	return strings.Join(statements, " ")
}

// DropTheirs removes FraiseQL's triggers.
func (t AttachedTable) DropTheirs() string {
	return strings.ReplaceAll(dropTriggers(t.Table, t.Theirs), "\n", " ")
}
