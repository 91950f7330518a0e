package chaos

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/internal/sandbox"
)

// TestTakeSlot: the faults of the slot do what their names say.
func TestTakeSlot(t *testing.T) {
	t.Parallel()
	server, err := sandbox.StartPostgres(t.Context(), sandbox.PostgresOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Stop(context.WithoutCancel(t.Context())) })
	conn, err := pgx.Connect(t.Context(), server.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	w := &watch{url: server.URL("postgres"), slot: "taken"}
	defer w.close(t.Context())
	for _, kind := range []Kind{SlotDropped, SlotInvalidated} {
		if _, err := conn.Exec(t.Context(), `SELECT pg_create_logical_replication_slot('taken', 'pgoutput')`); err != nil {
			t.Fatal(err)
		}
		if err := w.takeSlot(t.Context(), kind); err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		var status string
		err := conn.QueryRow(t.Context(), `SELECT wal_status FROM pg_replication_slots WHERE slot_name = 'taken'`).Scan(&status)
		if kind == SlotDropped && !errors.Is(err, pgx.ErrNoRows) || kind == SlotInvalidated && status != "lost" {
			t.Errorf("%s: the slot is %q, %v", kind, status, err)
		}
	}
	var keep string
	if err := conn.QueryRow(t.Context(), `SHOW max_slot_wal_keep_size`).Scan(&keep); err != nil || keep != "-1" {
		t.Errorf("the server still keeps %s of WAL, %v", keep, err)
	}
}
