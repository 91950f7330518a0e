package orders_test

import (
	"os"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/examples/orders"
	"github.com/fraiseql/weir/internal/sandbox"
)

var postgres sandbox.Suite

func TestMain(m *testing.M) { os.Exit(postgres.Main(m).Run()) }

// The functions write the change and its row in the change log in one transaction.
func TestSchema(t *testing.T) {
	t.Parallel()
	conn, err := pgx.Connect(t.Context(), postgres.Database(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(t.Context()) })
	for range 2 { // it may be applied again
		if _, err := conn.Exec(t.Context(), orders.Schema); err != nil {
			t.Fatal(err)
		}
	}
	one := func(sql string, args ...any) (s string) {
		t.Helper()
		if err := conn.QueryRow(t.Context(), sql, args...).Scan(&s); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
		return s
	}

	id := one("SELECT (app.create_order('Ada', 100.10)).id::text")
	one("SELECT (app.ship_order($1)).status", id)
	if _, err := conn.Exec(t.Context(), "SELECT app.cancel_order($1)", id); err == nil {
		t.Error("a shipped order was canceled")
	}
	log := func(column, verb string) string {
		t.Helper()
		return one("SELECT coalesce(("+column+")::text, 'NULL') FROM core.tb_entity_change_log "+
			"WHERE object_id = $1 AND object_type = 'Order' AND modification_type = $2", id, verb)
	}
	for _, tt := range []struct{ column, verb, want string }{
		{"object_data -> 'total'", "INSERT", "100.10"},
		{"object_data_before", "INSERT", "NULL"},
		{"updated_fields", "INSERT", "NULL"},
		{"object_data ->> 'status'", "UPDATE", "shipped"},
		{"object_data_before ->> 'status'", "UPDATE", "new"},
		{"updated_fields", "UPDATE", "{status}"},
	} {
		if got := log(tt.column, tt.verb); got != tt.want {
			t.Errorf("%s of the %s: %s, want %s", tt.column, tt.verb, got, tt.want)
		}
	}
	if n := one("SELECT count(*)::text FROM core.tb_entity_change_log"); n != "2" {
		t.Errorf("%s rows in the change log, want 2: the refused change left one", n)
	}
}
