package jobs

import (
	"context"
	"fmt"

	"github.com/fraiseql/weir/internal/store"
)

// Identity is what no other database has, whatever its name: the server's system identifier and the database's oid. Keys in
// Redis carry it, so that installations may share one without knowing of each other.
func Identity(ctx context.Context, db store.DBTX) (string, error) {
	var identity string
	err := db.QueryRow(ctx, `
		SELECT s.system_identifier || ':' || d.oid FROM pg_control_system() s, pg_database d WHERE d.datname = current_database()`,
	).Scan(&identity)
	if err != nil {
		return "", fmt.Errorf("identify the database: %w", err)
	}
	return identity, nil
}
