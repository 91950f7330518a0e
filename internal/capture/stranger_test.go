package capture_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/fraiseql/weir/internal/capture"
	"github.com/fraiseql/weir/internal/sandbox"
	"github.com/fraiseql/weir/internal/setting"
)

// stranger is a walsender on our slot that is not ours. It is a client that hangs: it answers nothing.
func (r *rig) stranger(application string) *pgconn.PgConn {
	r.t.Helper()
	cfg, err := pgconn.ParseConfig(r.url)
	if err != nil {
		r.t.Fatal(err)
	}
	cfg.RuntimeParams["replication"], cfg.RuntimeParams["application_name"] = "database", application
	conn, err := pgconn.ConnectConfig(r.t.Context(), cfg)
	if err == nil {
		err = pglogrepl.StartReplication(r.t.Context(), conn, string(r.cfg.Slot), 0, pglogrepl.StartReplicationOptions{
			Mode: pglogrepl.LogicalReplication, PluginArgs: []string{"proto_version '1'", "publication_names 'weir'"},
		})
	}
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(r.t.Context())) })
	return conn
}

func (r *rig) slotPID() string {
	r.t.Helper()
	return r.one("SELECT coalesce(active_pid, 0)::text FROM pg_replication_slots WHERE slot_name = $1", r.cfg.Slot)
}

// lines keeps what is logged.
type lines struct{ sandbox.Output }

func (l *lines) count(text string) int { return strings.Count(l.String(), text) }

// Somebody else who reads our slot is left alone, whatever the name of the session, and however long that lasts: a person, or a
// worker of another installation. It is said, once.
func TestStrangerIsLeftAlone(t *testing.T) {
	t.Parallel()
	for name, application := range map[string]string{
		"without a name": "", "a person": "pg_recvlogical", "a worker of another installation": "weir:elsewhere-1-abcdef",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			first := r.start("one")
			r.streaming(first)
			first.stop(t)
			r.letGo()
			stranger, log := r.stranger(application), &lines{}
			pid := r.slotPID()
			r.log, r.mayBury, r.cfg.Lease = log, func(time.Time) bool { return true }, setting.Duration(capture.MinLease)
			second := r.start("two")
			r.await("standing by for a stranger", func() bool {
				h := second.Health()
				return h.State == capture.Standby && strings.Contains(h.Err, "no worker of this database")
			})
			time.Sleep(2 * time.Second) // several more looks
			if now := r.slotPID(); now != pid {
				t.Fatalf("the slot is of pid %s, no longer of the stranger's %s", now, pid)
			}
			if n := log.count("SELECT pg_terminate_backend(" + pid + ")"); n != 1 {
				t.Errorf("it is said %d times", n)
			}
			if err := stranger.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			r.streaming(second)
		})
	}
}

// An owner whose row in weir.worker is gone, or never was, is ended as the checkpoint's; so is nobody while we have not seen the
// database up for long enough.
func TestOwnerWithoutALease(t *testing.T) {
	t.Parallel()
	for _, may := range []bool{true, false} {
		t.Run(fmt.Sprintf("may bury: %v", may), func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			client := "of-" + string(r.cfg.Slot) // sessions are the server's: no other test's
			first := r.start(client)
			r.streaming(first)
			first.stop(t)
			r.letGo()
			r.stranger("weir:" + client)
			pid := r.slotPID()
			r.mayBury = func(time.Time) bool { return may }
			second := r.start("two")
			if may {
				r.streaming(second)
				return
			}
			r.await("standing by", func() bool { return second.Health().State == capture.Standby })
			time.Sleep(6 * time.Second)
			if now := r.slotPID(); now != pid {
				t.Errorf("the slot is of pid %s, no longer of the owner's %s", now, pid)
			}
		})
	}
}
