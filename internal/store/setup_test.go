package store_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/fraiseql/weir/internal/sandbox"
)

var postgres sandbox.Suite

func TestMain(m *testing.M) { goleak.VerifyTestMain(postgres.Main(m)) }

// setup connects in the mode given, with nothing in the search_path, so that every name in a query must be qualified,
// and in a time zone where it is another day most of the time.
func setup(t *testing.T, mode pgx.QueryExecMode) *pgx.Conn {
	t.Helper()
	config, err := pgx.ParseConfig(postgres.Database(t))
	if err != nil {
		t.Fatal(err)
	}
	config.RuntimeParams["search_path"] = ""
	config.RuntimeParams["timezone"] = "Pacific/Kiritimati"
	config.DefaultQueryExecMode = mode
	conn, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// inEachMode runs the test in pgx's default mode and in one for poolers that keep no prepared statements.
func inEachMode(t *testing.T, test func(t *testing.T, db *pgx.Conn)) {
	t.Helper()
	for name, mode := range map[string]pgx.QueryExecMode{
		"prepared": pgx.QueryExecModeCacheStatement, "described": pgx.QueryExecModeDescribeExec,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, setup(t, mode))
		})
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
