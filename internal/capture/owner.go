package capture

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/fraiseql/weir/internal/event"
)

// Sink takes a batch of changes, in commit order, inside the transaction that advances the checkpoint over them. It
// may be called again with the same changes, or with a part of them, when that transaction was rolled back.
type Sink interface {
	Commit(ctx context.Context, tx pgx.Tx, batch []event.Change) error
}

// Prepared is what has been made of a batch before its turn.
type Prepared struct {
	// Passed says that nothing of it is to be stored. It is called instead of Sink and Committed, once the checkpoint has moved
	// over the batch.
	Passed func()
	// Commit does what Sink's Commit does, for this batch. It is called once: should the transaction be rolled back, Sink gets the
	// batch again, or a part of it. nil: Sink gets it.
	Commit func(ctx context.Context, tx pgx.Tx) error
}

// Options is what a Stream needs beside its Config.
type Options struct {
	SourceURL    string // the database with the change log and the slot
	DatabaseURL  string // the database with the checkpoint
	Installation string
	ClientID     string // who owns the stream; part of each session's application_name
	Sink         Sink
	// Prepare is told of each batch before its turn, while others are being committed, and does for it what can be done without
	// the database. Optional.
	Prepare   func(ctx context.Context, batch []event.Change) Prepared
	Committed func() // told after each COMMIT of what went through Sink; optional
	// MayBury says that it is an owner's own fault, and not the database's, that it has given no sign of life since then:
	// lease.Outlives. Without it no owner that hangs is replaced.
	MayBury func(said time.Time) bool
	// BatchChanges is how many changes of the stream one transaction stores at most, to measure what that costs. 0: as many as
	// pay, some thousands.
	BatchChanges int
	Logger       *slog.Logger
	Registerer   prometheus.Registerer
}

// State is what a Stream is doing.
type State string

// A stream connects, then either reads or stands by for the worker that does. One that has lost its continuity is recovered
// first, or waits for somebody to decide (Gap). One that a person has paused is read by nobody.
const (
	Connecting State = "connecting"
	Standby    State = "standby"
	Streaming  State = "streaming"
	Recovering State = "recovering"
	Gap        State = "gap"
	Paused     State = "paused"
)

// Health is a moment's view of a Stream, for readiness and status.
type Health struct {
	State State
	Err   string // why it is not streaming, "" when it is, stands by or is paused
}

// Stream reads the slot and hands every change to the sink, exactly once. One worker at a time owns it.
type Stream struct {
	cfg      Config
	opts     Options
	log      *slog.Logger
	metrics  *metrics
	verified chan struct{} // closed once the checkpoint was found to belong to this source
	once     sync.Once
	pauses   chan struct{} // filled by Pause
	// Run's own:
	silences  int    // of the server, one after the other, that were broken off
	ingestPID uint32 // of the latest session that stores batches
	hung      string // the owner that was found to hang, or to be cut off
	// blind is the epoch at which the slot was found to be too old for its publication, -1: none. The recovery from it makes the
	// slot again, and raises the epoch.
	blind int64
	// tablesAfter is a transaction that is younger than the publication of the tables; 0: not known.
	tablesAfter int64
	// snapshotAfter is a transaction that is younger than those that a snapshot waits for.
	snapshotAfter int64
	strays        sync.Once

	mu     sync.Mutex // guards the rest
	health Health
	heard  time.Time // when the source was last asked for a sign of life, and answered
	keeps  int       // see keepsSlot
}

var (
	errStandby = errors.New("another worker reads the stream")
	errFenced  = errors.New("the checkpoint was taken over by another worker")
	errChanged = errors.New("something has changed since it was looked at, so it is looked at again")
)

const (
	standbyPoll    = 250 * time.Millisecond
	firstBackoff   = 200 * time.Millisecond
	longestBackoff = 10 * time.Second
)

// New makes a stream; Run reads it.
func New(cfg Config, opts Options) *Stream {
	return &Stream{
		cfg: cfg.WithDefaults(), opts: opts, log: opts.Logger.With("component", "capture"),
		metrics: newMetrics(opts.Registerer), verified: make(chan struct{}), health: Health{State: Connecting},
		blind: -1, pauses: make(chan struct{}, 1),
	}
}

// Verified is closed when the source has been found to be the one that the checkpoint belongs to. Until then nothing
// may be delivered: this may be a copy of somebody's production (a restored dump, a cloned disk).
func (s *Stream) Verified() <-chan struct{} { return s.verified }

// Health tells what the stream is doing. Safe for concurrent use.
func (s *Stream) Health() Health {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.health
}

// Reads says whether the stream is being read, and how long ago the source last gave a sign of life. Safe for concurrent use.
func (s *Stream) Reads() (heard time.Duration, reading bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keeps > 0 {
		return 0, true
	}
	return time.Since(s.heard), s.health.State == Streaming
}

// keepsSlot says that this worker has the slot, or makes it, and does not read yet. Until done, standbys take it for alive as
// long as it renews its lease: making a slot takes as long as others leave transactions open, and a snapshot, or a recovery, as
// long as there are rows.
func (s *Stream) keepsSlot() (done func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keeps++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.keeps--
		s.heard = time.Now()
	}
}

func (s *Stream) hear(at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heard = at
}

func (s *Stream) setHealth(state State, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.health = Health{State: state}
	if err != nil {
		s.health.Err = err.Error()
	}
	s.metrics.owned.Store(state == Streaming)
	s.metrics.gap.Store(state == Gap)
}

// Run reads the stream, or stands by for it, until the context ends (nil) or the source turns out to be set up wrongly
// (a *SetupError). It waits for an unreachable database for ever.
func (s *Stream) Run(ctx context.Context) error {
	backoff, logged := firstBackoff, ""
	for {
		began := time.Now()
		err := s.attemptUntilPaused(ctx)
		if errors.Is(err, errPaused) {
			err = cmp.Or(s.rest(ctx), errTurn)
		}
		var setup *SetupError
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // a stop that was asked for; what it broke off is no error
		case errors.As(err, &setup):
			return err
		case errors.Is(err, errTurn):
			backoff, logged = firstBackoff, ""
			continue
		case errors.Is(err, errStandby):
			s.standBy()
			backoff, logged = firstBackoff, ""
			sleep(ctx, standbyPoll)
			continue
		}
		s.setHealth(Connecting, err)
		s.metrics.reconnects.Inc()
		if time.Since(began) > longestBackoff {
			backoff, logged = firstBackoff, ""
		}
		if err.Error() != logged {
			s.log.Warn("stream interrupted, connecting again", "error", err)
			logged = err.Error()
		}
		sleep(ctx, backoff/2+rand.N(backoff))
		backoff = min(2*backoff, longestBackoff)
	}
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// attempt connects, takes the stream and reads it until something fails. It returns only when all of its goroutines
// and connections are gone.
func (s *Stream) attempt(ctx context.Context) error {
	src, err := sourceConnect(ctx, s.opts.SourceURL, s.opts.ClientID)
	if err != nil {
		return fmt.Errorf("connect to the source: %w", err)
	}
	defer closeConn(ctx, src)
	dst, err := ingestConnect(ctx, s.opts.DatabaseURL, s.opts.ClientID)
	if err != nil {
		return fmt.Errorf("connect to the database: %w", err)
	}
	defer closeConn(ctx, dst)
	if err := s.endOwn(ctx, dst); err != nil {
		return err
	}
	start, err := s.await(ctx, src, dst)
	if err != nil {
		return Denied(err, dst.Config().User)
	}
	repl, err := s.startReplication(ctx, &start)
	if err != nil {
		return err
	}
	defer func() { _ = repl.Close(context.WithoutCancel(ctx)) }()
	return Denied(s.own(ctx, src, dst, repl, start), dst.Config().User)
}

// await settles the start and, while another worker has the slot, waits for it to let go.
func (s *Stream) await(ctx context.Context, src, dst *pgx.Conn) (start, error) {
	for {
		paused, err := isPaused(ctx, dst)
		if err != nil {
			return start{}, err
		}
		start, err := s.settle(ctx, src, dst, paused)
		if err != nil {
			return start, err
		}
		s.once.Do(func() { close(s.verified) })
		if paused {
			return start, errPaused
		}
		if !start.active {
			return start, nil
		}
		s.standBy()
		if err := (&standby{Stream: s, src: src, dst: dst}).wait(ctx); err != nil {
			return start, err
		}
	}
}

func (s *Stream) standBy() {
	if s.Health().State != Standby {
		s.log.Info("standing by: another worker reads the stream", "slot", s.cfg.Slot)
	}
	s.setHealth(Standby, nil)
}

// connectSource opens a further connection to the source.
func (s *Stream) connectSource(ctx context.Context) (*pgx.Conn, error) {
	return sourceConnect(ctx, s.opts.SourceURL, s.opts.ClientID)
}

// stray counts a message that is no event because it has no place in commit order: it is sent at once, whether its
// transaction commits or not.
func (s *Stream) stray() {
	s.metrics.strays.Inc()
	s.strays.Do(func() {
		s.log.Warn("a message with prefix weir was emitted outside of its transaction and is ignored: emit it with true as " +
			"the first argument of pg_logical_emit_message")
	})
}

func closeConn(ctx context.Context, conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	_ = conn.Close(ctx) // nothing is left to do with a connection that does not close
}
