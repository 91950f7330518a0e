package capture

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/fraiseql/weir/internal/event"
)

// slotKind is what a slot is made for.
type slotKind int

const (
	lastingSlot   slotKind = iota // the stream's
	temporarySlot                 // for its snapshot alone: it ends with its connection
)

// exported is a slot's consistent point, and the snapshot of exactly what was committed before it. The snapshot lasts as long
// as nothing else is done on the connection that made the slot.
type exported struct {
	point    event.LSN
	snapshot string
}

// exportSlot makes a slot over a replication connection, which alone exports a snapshot. Protocol:
// https://www.postgresql.org/docs/current/protocol-replication.html (CREATE_REPLICATION_SLOT). Like createSlot it waits for
// every transaction that is open in the cluster: see reportWaiting.
func exportSlot(ctx context.Context, repl *pgconn.PgConn, version int, name string, kind slotKind) (exported, error) {
	sql := "CREATE_REPLICATION_SLOT " + pgx.Identifier{name}.Sanitize()
	if kind == temporarySlot {
		sql += " TEMPORARY"
	}
	sql += " LOGICAL pgoutput"
	switch {
	case version < 150000:
		sql += " EXPORT_SNAPSHOT"
	case version >= 170000 && kind == lastingSlot:
		sql += " (SNAPSHOT 'export', FAILOVER)"
	default:
		sql += " (SNAPSHOT 'export')"
	}
	results, err := repl.Exec(ctx, sql).ReadAll()
	if err != nil {
		return exported{}, fmt.Errorf("create replication slot %s: %w", name, slotsInUse(err))
	}
	if len(results) != 1 || len(results[0].Rows) != 1 || len(results[0].Rows[0]) < 3 {
		return exported{}, errors.New("create replication slot " + name + ": one row was expected")
	}
	row := results[0].Rows[0] // slot_name, consistent_point, snapshot_name, output_plugin
	point, err := event.ParseLSN(string(row[1]))
	return exported{point: point, snapshot: string(row[2])}, err
}

// slotsInUse is a *SetupError for a server that has no slot left, else err.
func slotsInUse(err error) error {
	if hasCode(err, "53400") {
		return &SetupError{
			"all replication slots are in use",
			"ALTER SYSTEM SET max_replication_slots = 20; then restart PostgreSQL, or drop a slot that nobody uses",
		}
	}
	return err
}

// beginAt begins a transaction that sees what the snapshot does. Row-level security makes it fail rather than hide rows.
func beginAt(ctx context.Context, src *pgx.Conn, snapshot string) (pgx.Tx, error) {
	tx, err := src.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return nil, err
	}
	_, err = tx.Exec(ctx, "SET TRANSACTION SNAPSHOT "+literal(snapshot))
	if err == nil {
		_, err = tx.Exec(ctx, "SET LOCAL row_security = off")
	}
	if err != nil {
		_ = tx.Rollback(ctx) // the first error says more
		return nil, fmt.Errorf("read under the slot's snapshot: %w", err)
	}
	return tx, nil
}

// serverVersion is that of the source as a number, 170005 for 17.5.
func serverVersion(ctx context.Context, conn *pgx.Conn) (version int, err error) {
	err = conn.QueryRow(ctx, `SELECT current_setting('server_version_num')::int`).Scan(&version)
	return version, err
}
