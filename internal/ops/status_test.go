package ops_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/db/migrations"
	"github.com/fraiseql/weir/internal/capture"
	"github.com/fraiseql/weir/internal/ops"
)

// slotOf names a slot after the test's database: slots belong to the server.
func slotOf(t *testing.T, db *pgx.Conn) capture.Config {
	t.Helper()
	var name string
	check(t, db.QueryRow(t.Context(), `SELECT current_database()`).Scan(&name))
	return capture.Config{Slot: capture.Name(name)}
}

// createSlot does it as a worker does, the publication first.
func createSlot(t *testing.T, db *pgx.Conn, cfg capture.Config) {
	t.Helper()
	exec(t, db, `DO $$ BEGIN
		IF NOT EXISTS (SELECT FROM pg_publication WHERE pubname = 'weir') THEN
			CREATE PUBLICATION weir FOR TABLE core.tb_entity_change_log WITH (publish = 'insert');
		END IF;
	END $$`)
	exec(t, db, `SELECT pg_create_logical_replication_slot($1, 'pgoutput')`, string(cfg.Slot))
}

// createCheckpoint stands where the slot stands.
func createCheckpoint(t *testing.T, db *pgx.Conn, cfg capture.Config, commitAge time.Duration) {
	t.Helper()
	exec(t, db, `
		INSERT INTO weir.checkpoint (system_identifier, timeline, installation, slot, lsn, owner, epoch, events, commit_time)
		SELECT (SELECT system_identifier::text FROM pg_control_system()), 1, 'production', $1::text,
		       coalesce(max(confirmed_flush_lsn), '0/1000'), 'worker-1', 3, 42, $2
		  FROM pg_replication_slots WHERE slot_name = $1`, string(cfg.Slot), time.Now().Add(-commitAge))
}

func status(t *testing.T, db *pgx.Conn, cfg capture.Config) *ops.Status {
	t.Helper()
	s, err := ops.ReadStatus(t.Context(), db, db, cfg)
	check(t, err)
	return s
}

func TestStatusOfNothing(t *testing.T) {
	t.Parallel()
	db := setup(t)
	s := status(t, db, slotOf(t, db))
	equal(t, "state", s.Stream.State, ops.StreamNotStarted)
	equal(t, "schema version", s.SchemaVersion, migrations.Version)
	raw, err := json.Marshal(s)
	check(t, err)
	for _, want := range []string{
		`"checkpoint":null`, `"lag_seconds":null`, `"confirmed_lsn":null`, `"workers":[]`, `"queues":[]`, `"dead_letters":[]`,
	} {
		if !strings.Contains(string(raw), want) {
			t.Errorf("%s lacks %s", raw, want)
		}
	}
}

func TestStatusOfAnUnmigratedDatabase(t *testing.T) {
	t.Parallel()
	db := connect(t, postgres.EmptyDatabase(t))
	_, err := ops.ReadStatus(t.Context(), db, db, capture.Config{})
	var old *ops.NotMigratedError
	if !errors.As(err, &old) || !strings.Contains(err.Error(), "weir migrate up") {
		t.Errorf("got %v", err)
	}
}

// A snapshot that the configuration does not ask for any more is waited for in vain, unless it has begun.
func TestStatusOfSnapshots(t *testing.T) {
	t.Parallel()
	db := setup(t)
	exec(t, db, `INSERT INTO weir.captured_table (name, joined, rows, finished_at) VALUES
		('public.marked', NULL, 0, NULL), ('public.marked_done', '0/1000', 3, now()), ('public.gone', '0/1000', 5, NULL),
		('public.unmarked', NULL, 0, NULL), ('public.unmarked_begun', '0/1000', 7, NULL), ('public.unmarked_done', '0/1000', 7, now())`)
	cfg := slotOf(t, db)
	for _, name := range []string{"marked", "marked_done", "unmarked", "unmarked_begun", "unmarked_done"} {
		cfg.Tables = append(cfg.Tables, capture.CapturedTable{
			Table: capture.Table{Schema: "public", Name: name}, Snapshot: strings.HasPrefix(name, "marked"),
		})
	}
	var found []string
	for _, s := range status(t, db, cfg).Snapshots {
		joins := "waits"
		if s.Joins != nil {
			joins = s.Joins.String()
		}
		found = append(found, fmt.Sprint(s.Table, " ", joins, " ", s.Rows))
	}
	slices.Sort(found)
	equal(t, "snapshots", strings.Join(found, ", "), "public.marked waits 0, public.unmarked_begun 0/1000 7")
}

func TestStatusStates(t *testing.T) {
	t.Parallel()
	t.Run("stopped", func(t *testing.T) {
		t.Parallel()
		db := setup(t)
		cfg := slotOf(t, db)
		createSlot(t, db, cfg)
		createCheckpoint(t, db, cfg, time.Minute)
		s := status(t, db, cfg)
		equal(t, "state", s.Stream.State, ops.StreamStopped)
		equal(t, "installation", s.Installation, "production")
		equal(t, "events", s.Checkpoint.Events, 42)
		equal(t, "WAL status", s.Stream.WALStatus, "reserved")
		if s.Stream.RetainedBytes <= 0 || s.Stream.Confirmed == nil || *s.Stream.Confirmed == 0 {
			t.Errorf("stream %+v", s.Stream)
		}
	})
	t.Run("no slot", func(t *testing.T) {
		t.Parallel()
		db := setup(t)
		cfg := slotOf(t, db)
		createCheckpoint(t, db, cfg, time.Minute)
		equal(t, "state", status(t, db, cfg).Stream.State, ops.StreamNoSlot)
	})
	for _, written := range []ops.StreamState{ops.StreamGap, ops.StreamRecovering} {
		t.Run(string(written), func(t *testing.T) {
			t.Parallel()
			db := setup(t)
			cfg := slotOf(t, db)
			createSlot(t, db, cfg)
			createCheckpoint(t, db, cfg, time.Minute)
			exec(t, db, `UPDATE weir.checkpoint SET state = $1`, string(written))
			equal(t, "state", status(t, db, cfg).Stream.State, written)
		})
	}
}

// TestStatusLag: a stream is behind by the age of what it ingested last, unless a heartbeat has moved it since.
func TestStatusLag(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		lastEventIsLast bool
		low, high       float64
	}{
		"working off a backlog":         {true, 3600, 3700},
		"nothing to ingest for an hour": {false, 0, 100},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := setup(t)
			cfg := slotOf(t, db)
			createSlot(t, db, cfg)
			createCheckpoint(t, db, cfg, time.Hour)
			e := newEvent(1)
			if tt.lastEventIsLast {
				e.LSN = status(t, db, cfg).Checkpoint.LSN - 100
			}
			record(t, db, e)
			exec(t, db, `SELECT pg_logical_emit_message(true, 'test', repeat('x', $1))`, 2*ops.IdleWAL)
			s := status(t, db, cfg)
			if s.Stream.LagBytes <= ops.IdleWAL {
				t.Errorf("lag is %d bytes", s.Stream.LagBytes)
			}
			if got := *s.Stream.LagSeconds; got < tt.low || got > tt.high {
				t.Errorf("lag is %v s, want %v to %v", got, tt.low, tt.high)
			}
		})
	}
}

func TestStatusOfWork(t *testing.T) {
	t.Parallel()
	databaseURL := postgres.Database(t)
	db := connect(t, databaseURL)
	cfg := slotOf(t, db)
	ids := letters(t, db)
	exec(t, db, `INSERT INTO weir.worker (client_id, hostname, pid, version, seen_at, config_error)
		VALUES ('worker-1', 'host', 1, 'v1', now(), 'refused'), ('worker-2', 'host', 2, 'v1', now() - interval '7 s', '')`)
	exec(t, db, `INSERT INTO weir.river_job (kind, queue, state, max_attempts, args)
		VALUES ('weir_housekeeping', 'weir_housekeeping', 'available', 1, '{}')`)
	s := status(t, db, cfg)
	equal(t, "workers", len(s.Workers), 2)
	for _, w := range s.Workers {
		equal(t, "owns the stream", w.OwnsStream, false)
		equal(t, "alive", w.Alive, w.ClientID == "worker-1")
	}
	equal(t, "problem", s.Workers[0].ConfigProblem, "refused")
	equal(t, "queues", len(s.Queues), 1)
	equal(t, "state", s.Queues[0].State, "retryable")
	equal(t, "observers with dead letters", len(s.DeadLetters), 2)
	equal(t, "of order-shipped", s.DeadLetters[1], ops.DeadCount{Observer: "order-shipped", Jobs: 2})
	equal(t, "jobs", len(ids), 4)
}
