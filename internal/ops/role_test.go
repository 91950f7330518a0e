package ops_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/fraiseql/weir/internal/capture"
	"github.com/fraiseql/weir/internal/ops"
)

// read has a session of this name read the slot until the test ends.
func read(t *testing.T, databaseURL, application string, cfg capture.Config) {
	t.Helper()
	config, err := pgconn.ParseConfig(databaseURL)
	check(t, err)
	config.RuntimeParams["replication"], config.RuntimeParams["application_name"] = "database", application
	conn, err := pgconn.ConnectConfig(t.Context(), config)
	check(t, err)
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	conn.Frontend().SendQuery(&pgproto3.Query{String: fmt.Sprintf(
		"START_REPLICATION SLOT %s LOGICAL 0/0 (proto_version '1', publication_names 'weir')", cfg.Slot)})
	check(t, conn.Frontend().Flush())
	for {
		msg, err := conn.ReceiveMessage(t.Context())
		check(t, err)
		if _, reads := msg.(*pgproto3.CopyBothResponse); reads {
			return
		}
	}
}

// TestStatusRoles: who reads the stream, who stands by, and who only seems to read.
func TestStatusRoles(t *testing.T) {
	t.Parallel()
	const ago = "now() - interval "
	for name, tt := range map[string]struct {
		reader                       string
		ownedSince, seenAt, streamAt string // of worker-1
		role                         ops.Role
		known                        bool
	}{
		"reads":                          {"weir:worker-1", ago + "'1 h'", "now()", "now()", ops.RoleReader, true},
		"has just begun":                 {"weir:worker-1", "now()", "now()", ago + "'1 h'", ops.RoleReader, true},
		"begins":                         {"weir:worker-1", "NULL", "now()", "NULL", ops.RoleReader, true},
		"hangs":                          {"weir:worker-1", ago + "'1 h'", ago + "'7 s'", ago + "'7 s'", ops.RoleHanging, true},
		"is cut off from the source":     {"weir:worker-1", ago + "'1 h'", "now()", ago + "'7 s'", ops.RoleHanging, true},
		"stands by":                      {"weir:worker-2", ago + "'1 h'", "now()", ago + "'7 s'", ops.RoleStandby, true},
		"is dead":                        {"weir:worker-2", ago + "'1 h'", ago + "'7 s'", "NULL", ops.RoleDead, true},
		"stands by for a stranger":       {"pg_recvlogical", ago + "'1 h'", "now()", "NULL", ops.RoleStandby, false},
		"stands by for another's worker": {"weir:elsewhere", ago + "'1 h'", "now()", "NULL", ops.RoleStandby, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			databaseURL := postgres.Database(t)
			db := connect(t, databaseURL)
			cfg := slotOf(t, db)
			createSlot(t, db, cfg)
			createCheckpoint(t, db, cfg, 0)
			exec(t, db, "UPDATE weir.checkpoint SET owned_since = "+tt.ownedSince)
			exec(t, db, fmt.Sprintf(`INSERT INTO weir.worker (client_id, hostname, pid, version, started_at, seen_at, stream_at)
				VALUES ('worker-1', 'h', 1, 'v', now() - interval '1 d', %s, %s), ('worker-2', 'h', 2, 'v', now(), now(), now())`,
				tt.seenAt, tt.streamAt))
			read(t, databaseURL, tt.reader, cfg)
			s := status(t, db, cfg)
			equal(t, "role", s.Workers[0].Role, tt.role)
			equal(t, "reader known", s.Stream.ReaderKnown, tt.known)
			equal(t, "state", s.Stream.State, ops.StreamStreaming)
		})
	}
}
