package ops

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/db/migrations"
	"github.com/fraiseql/weir/internal/capture"
	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/index"
	"github.com/fraiseql/weir/internal/lease"
	"github.com/fraiseql/weir/internal/store"
)

// Status is how things stand at a moment.
type Status struct {
	Time         event.Time `json:"time"`         // by the clock of database.url, as all ages are
	Installation string     `json:"installation"` // name of the installation
	// ServerVersion is PostgreSQL's, of database.url.
	ServerVersion string `json:"server_version"`
	SchemaVersion int64  `json:"schema_version"` // of schema weir in the database
	// SchemaNeeded is the version that this program was built for.
	SchemaNeeded int64       `json:"schema_needed"`
	Stream       Stream      `json:"stream"`       // the replication slot
	Checkpoint   *Checkpoint `json:"checkpoint"`   // null before the first start of a worker
	Workers      []Worker    `json:"workers"`      // those with a lease
	Queues       []Queue     `json:"queues"`       // unfinished jobs, by queue and state
	DeadLetters  []DeadCount `json:"dead_letters"` // by observer
	// Snapshots are those of directly captured tables that are under way.
	Snapshots []Snapshot `json:"snapshots"`
	// History is how far each store of the history is that is in use.
	History []HistoryStatus `json:"history"`
	// Breakers are the circuit breakers that are not closed, and Gone the actions that are disabled: see Breakers.
	Breakers []Breaker    `json:"breakers"`
	Gone     []GoneAction `json:"gone"` // actions that are disabled
	// Paused is everything that people have paused.
	Paused []Pause `json:"paused"`
}

// HistoryStatus is how far a store of the history is.
type HistoryStatus struct {
	Store string `json:"store"` // postgres or elasticsearch
	// LagSeconds is for how long the oldest event waits that it does not have, 0 when it has all.
	LagSeconds float64 `json:"lag_seconds"`
	// EventSeq is the place of the newest event that it has in the order in which events were recorded.
	EventSeq  int64      `json:"event_seq"`
	UpdatedAt event.Time `json:"updated_at"` // when it was last written to
}

// StreamState says what the stream is doing, as far as the two databases show.
type StreamState string

// The states of a stream.
const (
	StreamNotStarted StreamState = "not_started" // no slot and no checkpoint: no worker has started yet
	StreamStreaming  StreamState = "streaming"   // a worker has the slot
	StreamStopped    StreamState = "stopped"     // nobody reads; the slot holds WAL
	StreamPaused     StreamState = "paused"      // the same, since somebody has paused it
	StreamNoSlot     StreamState = "no_slot"     // there is a checkpoint, but its slot is gone
	StreamLost       StreamState = "lost"        // the server removed WAL that the slot still needed
	StreamRecovering StreamState = "recovering"  // the change log is being reconciled
	StreamGap        StreamState = "gap"         // continuity could not be proven: somebody has to decide
)

// Stream is the replication slot, as the source shows it.
type Stream struct {
	State StreamState `json:"state"`
	Slot  string      `json:"slot"` // its name
	// WALStatus is PostgreSQL's: reserved, extended, unreserved or lost; "" without a slot.
	WALStatus string `json:"wal_status"`
	// Reader is the client id of the worker that has the slot, "" for none.
	Reader string `json:"reader"`
	// ReaderKnown is false for a reader that is neither a worker nor the checkpoint's owner: workers stand by for a stranger.
	ReaderKnown bool `json:"reader_known"`
	// Confirmed is up to where the server was told that everything is durable; null without a slot.
	Confirmed *event.LSN `json:"confirmed_lsn"`
	// LagBytes is the WAL behind Confirmed, of all databases of the server. Up to 16 kB (IdleWAL) of it is nothing to worry about.
	LagBytes int64 `json:"lag_bytes"`
	// LagSeconds is 0 while LagBytes is at most 16 kB (IdleWAL); else the age of the newest ingested change or, when a heartbeat
	// has moved the stream since, the time since then. null before the first start.
	LagSeconds *float64 `json:"lag_seconds"`
	// RetainedBytes is the WAL that the server keeps for the slot.
	RetainedBytes int64 `json:"retained_bytes"`
	// SafeWALBytes is how much more WAL may be written before the server removes some that the slot needs; null where nothing
	// limits it (max_slot_wal_keep_size), and without a slot.
	SafeWALBytes *int64 `json:"safe_wal_bytes"`
	// Problem says why a worker would refuse to start, and Mend what to do about it. "" where somebody reads the stream,
	// where a worker would start, and where it is not known: see CheckStart.
	Problem string `json:"problem"`
	Mend    string `json:"mend"` // what to do about Problem
	// Lost is why the stream is being recovered from the change log, would be by a worker that starts, or has stopped at a gap;
	// "" when its continuity is not lost.
	Lost string `json:"lost"`
	// RecoveryRead is how many rows of the change log a recovery has looked at, of about RecoveryRows; 0 without one.
	RecoveryRead int64 `json:"recovery_read"`
	RecoveryRows int64 `json:"recovery_rows"` // about how many rows it will look at
}

// Gap says that changes are missing which cannot be made up for, so that nothing is captured until somebody has accepted it.
func (s *Status) Gap() bool { return s.Stream.State == StreamGap }

// IdleWAL is how many bytes an idle stream may be behind: capture's heartbeat does not bother with less.
const IdleWAL = 16 << 10

// Checkpoint is up to where everything has been turned into events and jobs.
type Checkpoint struct {
	SystemIdentifier string    `json:"system_identifier"` // of the source's cluster
	Timeline         int32     `json:"timeline"`          // of the source
	LSN              event.LSN `json:"lsn"`               // of the last ingested commit
	TxIndex          int64     `json:"tx_index"`          // place within the transaction
	Epoch            int64     `json:"epoch"`             // raised by each new owner
	Owner            string    `json:"owner"`             // client id of the worker that last took the stream
	// OwnedSince is when it took it; null where nobody has yet.
	OwnedSince event.Time `json:"owned_since"`
	Events     int64      `json:"events"` // ingested since the first start
	// CommitTime is when the newest ingested change was committed; null before the first one.
	CommitTime event.Time `json:"commit_time"`
	UpdatedAt  event.Time `json:"updated_at"`  // when it last moved
	AgeSeconds float64    `json:"age_seconds"` // since UpdatedAt
}

// Worker is a worker that holds a lease.
type Worker struct {
	ClientID string `json:"client_id"` // fresh at each start
	Hostname string `json:"hostname"`  // of its machine
	PID      int32  `json:"pid"`       // of its process
	Version  string `json:"version"`   // of the program
	// StartedAt is when it took its lease; one that was declared dead and began anew has a new one.
	StartedAt event.Time `json:"started_at"`
	SeenAt    event.Time `json:"seen_at"` // newest renewal of the lease
	// Alive is false when the lease has run out: others are about to take over what it was running.
	Alive bool `json:"alive"`
	// OwnsStream is true for the one that reads the stream; the others stand by.
	OwnsStream bool `json:"owns_stream"`
	// Role is what it is for the stream: see the constants.
	Role Role `json:"role"`
	// StreamAt is when it was last known to read the stream; null for one that has not.
	StreamAt       event.Time `json:"stream_at"`
	ConfigLoadedAt event.Time `json:"config_loaded_at"` // of the configuration that is in force
	// ConfigProblem says why a later configuration was refused, or what of it waits for a restart; "" for neither.
	ConfigProblem string `json:"config_problem"`
}

// Queue counts the jobs of a queue that are in one state.
type Queue struct {
	Queue string `json:"queue"` // its name: the endpoint's
	State string `json:"state"` // River's, as in Delivery
	Jobs  int64  `json:"jobs"`  // how many
	// Oldest is from when on the oldest may be worked. It lies in the future for jobs that wait.
	Oldest event.Time `json:"oldest"`
}

// DeadCount counts the dead letters of an observer, "" for rows that are no events.
type DeadCount struct {
	Observer string `json:"observer"` // "" for rows that are no events
	Jobs     int64  `json:"jobs"`     // how many
}

// ReadStatus asks the database of schema weir and the source, which may be the same. The error is a *NotMigratedError
// where there is nothing to report on.
func ReadStatus(ctx context.Context, db DB, source store.DBTX, cfg capture.Config) (*Status, error) {
	version, err := CheckMigrated(ctx, db)
	if err != nil {
		return nil, err
	}
	s := &Status{SchemaVersion: version, SchemaNeeded: migrations.Version}
	var now time.Time
	err = db.QueryRow(ctx, `SELECT now(), current_setting('server_version')`).Scan(&now, &s.ServerVersion)
	if err != nil {
		return nil, fmt.Errorf("read the server's version: %w", err)
	}
	s.Time = event.Time(now)
	state, err := s.readCheckpoint(ctx, db, now)
	if err != nil {
		return nil, err
	}
	if err := s.readSlot(ctx, source, string(cfg.WithDefaults().Slot)); err != nil {
		return nil, err
	}
	if s.Paused, err = ReadPaused(ctx, db); err != nil {
		return nil, err
	}
	s.Stream.State = s.streamState(state)
	if s.Stream.LagSeconds, err = s.lag(ctx, db, now); err != nil {
		return nil, err
	}
	if err := s.readWork(ctx, db); err != nil {
		return nil, err
	}
	if s.Snapshots, err = readSnapshots(ctx, db, cfg); err != nil {
		return nil, err
	}
	return s, nil
}

// CheckStart finds out whether a worker would start on a stream that nobody reads. It opens a replication connection; where
// the role may not do that, it is not known.
func (s *Status) CheckStart(ctx context.Context, db DB, source *pgx.Conn, cfg capture.Config, installation string) {
	if s.Stream.Reader != "" {
		return
	}
	var refused *capture.SetupError
	outlook, err := capture.CheckStart(ctx, source, db, cfg, installation)
	if errors.As(err, &refused) {
		s.Stream.Problem, s.Stream.Mend = refused.Problem, refused.Hint
	}
	s.Stream.Lost = cmp.Or(s.Stream.Lost, outlook.Recovers)
}

// readCheckpoint returns the state that a worker has written down.
func (s *Status) readCheckpoint(ctx context.Context, db DB, now time.Time) (state string, err error) {
	row, err := store.New().GetCheckpoint(ctx, db)
	if notFound(err) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read the checkpoint: %w", err)
	}
	s.Installation = row.Installation
	s.Checkpoint = &Checkpoint{
		SystemIdentifier: row.SystemIdentifier, Timeline: row.Timeline, LSN: lsnOf(row.LSN), TxIndex: row.TxIndex,
		Epoch: row.Epoch, Owner: row.Owner, OwnedSince: timeOf(row.OwnedSince), Events: row.Events, CommitTime: timeOf(row.CommitTime),
		UpdatedAt: event.Time(row.UpdatedAt), AgeSeconds: seconds(now, row.UpdatedAt),
	}
	if row.State != string(StreamGap) && row.State != string(StreamRecovering) {
		return row.State, nil
	}
	progress, err := store.New().RecoveryProgress(ctx, db)
	if err != nil {
		return "", fmt.Errorf("read how far the recovery is: %w", err)
	}
	s.Stream.Lost, s.Stream.RecoveryRead, s.Stream.RecoveryRows = progress.Problem, progress.RecoveryRead, progress.RecoveryRows
	if row.State == string(StreamGap) {
		s.Stream.Mend = capture.GapMend
	}
	return row.State, nil
}

// readSlot leaves everything empty when there is no slot. On a standby the WAL's end is what has been replayed.
func (s *Status) readSlot(ctx context.Context, source store.DBTX, slot string) error {
	s.Stream.Slot = slot
	var confirmed string
	err := source.QueryRow(ctx, `
		WITH wal AS (
			SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END AS lsn)
		SELECT coalesce(s.wal_status, ''), coalesce(s.confirmed_flush_lsn, '0/0')::text,
		       greatest(coalesce(wal.lsn - s.confirmed_flush_lsn, 0), 0)::bigint,
		       greatest(coalesce(wal.lsn - s.restart_lsn, 0), 0)::bigint, s.safe_wal_size,
		       CASE WHEN s.active AND s.confirmed_flush_lsn IS NOT NULL
		            THEN coalesce(nullif(a.application_name, ''), 'pid ' || s.active_pid) ELSE '' END
		  FROM pg_replication_slots s CROSS JOIN wal LEFT JOIN pg_stat_activity a ON a.pid = s.active_pid
		 WHERE s.slot_name = $1`, slot).
		Scan(&s.Stream.WALStatus, &confirmed, &s.Stream.LagBytes, &s.Stream.RetainedBytes, &s.Stream.SafeWALBytes, &s.Stream.Reader)
	if notFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read replication slot %s: %w", slot, err)
	}
	s.Stream.Reader = strings.TrimPrefix(s.Stream.Reader, applicationPrefix)
	lsn, err := event.ParseLSN(confirmed)
	s.Stream.Confirmed = &lsn
	return err
}

func (s *Status) streamState(written string) StreamState {
	switch {
	case written == string(StreamGap) || written == string(StreamRecovering):
		return StreamState(written)
	case s.Stream.WALStatus == string(StreamLost):
		return StreamLost
	case s.Stream.Reader != "":
		return StreamStreaming
	case s.Stream.Confirmed != nil && s.pause(ScopeStream) != nil:
		return StreamPaused
	case s.Stream.Confirmed != nil:
		return StreamStopped
	case s.Checkpoint != nil:
		return StreamNoSlot
	default:
		return StreamNotStarted
	}
}

// lag tells a stream that works off a backlog from one that had nothing to ingest for hours: in the latter a heartbeat
// has moved the checkpoint away from the last event.
func (s *Status) lag(ctx context.Context, db DB, now time.Time) (*float64, error) {
	if s.Checkpoint == nil || s.Stream.Confirmed == nil {
		return nil, nil //nolint:nilnil // null in JSON: not known
	}
	behind := 0.0
	if s.Stream.LagBytes <= IdleWAL {
		return &behind, nil
	}
	last, err := store.New().LastEvents(ctx, db, 1)
	if err != nil {
		return nil, fmt.Errorf("read the newest event: %w", err)
	}
	since := s.Checkpoint.UpdatedAt
	if len(last) == 1 && lsnOf(last[0].LSN)+IdleWAL > s.Checkpoint.LSN {
		since = s.Checkpoint.CommitTime
	}
	behind = seconds(now, time.Time(since))
	return &behind, nil
}

// applicationPrefix begins the application_name of every session of a worker; its client id follows.
const applicationPrefix = "weir:"

func (s *Status) readWork(ctx context.Context, db DB) error {
	workers, err := store.New().ListWorkers(ctx, db)
	if err != nil {
		return fmt.Errorf("list the workers: %w", err)
	}
	s.Workers = make([]Worker, len(workers))
	s.Stream.ReaderKnown = s.Checkpoint != nil && s.Stream.Reader != "" && s.Stream.Reader == s.Checkpoint.Owner
	for i, w := range workers {
		s.Stream.ReaderKnown = s.Stream.ReaderKnown || w.ClientID == s.Stream.Reader
		s.Workers[i] = Worker{
			ClientID: w.ClientID, Hostname: w.Hostname, PID: w.PID, Version: w.Version,
			StartedAt: event.Time(w.StartedAt), SeenAt: event.Time(w.SeenAt),
			Alive: w.Now.Sub(w.SeenAt) < lease.Expiry, OwnsStream: w.ClientID == s.Stream.Reader,
			Role: s.roleOf(w), StreamAt: timeOf(w.StreamAt),
			ConfigLoadedAt: event.Time(w.ConfigLoadedAt), ConfigProblem: w.ConfigError,
		}
	}
	if s.Queues, err = ReadQueues(ctx, db); err != nil {
		return err
	}
	counts, err := store.New().CountDeadLetters(ctx, db)
	if err != nil {
		return fmt.Errorf("count dead letters: %w", err)
	}
	s.DeadLetters = make([]DeadCount, len(counts))
	for i, c := range counts {
		s.DeadLetters[i] = DeadCount{Observer: c.Observer, Jobs: c.Jobs}
	}
	if s.History, err = readHistory(ctx, db); err != nil {
		return err
	}
	breakers, err := ReadBreakers(ctx, db)
	s.Breakers, s.Gone = breakers.NotClosed(), breakers.Gone
	return err
}

// readHistory leaves out stores of which nobody has stored anything yet.
func readHistory(ctx context.Context, db DB) ([]HistoryStatus, error) {
	rows, err := store.New().ListHistory(ctx, db)
	if err != nil {
		return nil, fmt.Errorf("how far the history is: %w", err)
	}
	found := []HistoryStatus{}
	for _, row := range rows {
		if row.Version > 0 {
			found = append(found, HistoryStatus{
				Store: row.Store, LagSeconds: row.LagSeconds, EventSeq: row.EventSeq, UpdatedAt: event.Time(row.UpdatedAt),
			})
		}
	}
	return found, nil
}

// UseHistory leaves out the stores of the history that a configuration does not use.
func (s *Status) UseHistory(c index.Config) {
	s.History = slices.DeleteFunc(s.History, func(h HistoryStatus) bool {
		return (h.Store == StorePostgres && !c.InPostgres()) || (h.Store == StoreElasticsearch && !c.InElasticsearch())
	})
}

// seconds is never negative: the clocks of two servers differ.
func seconds(now, then time.Time) float64 {
	return max(0, now.Sub(then).Round(time.Millisecond).Seconds())
}
