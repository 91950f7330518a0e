package capture

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/fraiseql/weir/internal/event"
)

const (
	// minStatusEvery and maxStatusEvery bound how often the server hears from us; see statusEvery.
	minStatusEvery = 250 * time.Millisecond
	maxStatusEvery = 2 * time.Second
	// silenceProbe and silenceLimit watch over a connection that is alive but deaf: after the first we ask the server
	// to answer, after the second we connect anew. A dead connection is noticed sooner, see dial.
	silenceProbe    = 15 * time.Second
	minSilenceLimit = 60 * time.Second
	maxSilenceLimit = 24 * time.Hour
	maxRarely       = time.Minute
)

var errSilent = errors.New("the server was silent for too long")

// senderTimeout is after how long the server ends a silent connection; 0: never. src has the settings of the replication
// connection, being opened with the same URL.
func senderTimeout(ctx context.Context, src *pgx.Conn) (time.Duration, error) {
	var ms int64
	err := src.QueryRow(ctx, "SELECT setting::bigint FROM pg_settings WHERE name = 'wal_sender_timeout'").Scan(&ms)
	if err != nil {
		return 0, fmt.Errorf("read wal_sender_timeout: %w", err)
	}
	return time.Duration(ms) * time.Millisecond, nil
}

// statusEvery is the time between two status messages: a quarter of the sender's timeout, so that one message which is
// late does not cost the connection.
func statusEvery(timeout time.Duration) time.Duration {
	if timeout == 0 {
		return maxStatusEvery
	}
	return min(max(timeout/4, minStatusEvery), maxStatusEvery)
}

// statusDue is the time until the next status message to a server that has said nothing for so long. One that decodes reads
// none, or few: what is sent all the same fills its connection, and a full one looks to the kernel as if nobody were there.
func statusDue(every, rarely, silent time.Duration) time.Duration {
	if silent <= silenceProbe {
		return every
	}
	return max(every, min(silent/8, rarely))
}

// rarely is how often a silent server hears from us at the least: often enough for its timeout.
func rarely(timeout time.Duration) time.Duration {
	if timeout == 0 {
		return maxRarely
	}
	return min(timeout/4, maxRarely)
}

// silenceLimit is how long a server may say nothing. While it decodes a large transaction of which nothing is for us, it
// reads what we say, and answers, only when half of wal_sender_timeout has passed since it last did, and some versions not
// even then. A limit below that would cut off a server that is merely busy, which then begins again from the front, for
// ever. So each silence that came of a limit, with no progress between, doubles the next one.
func silenceLimit(timeout time.Duration, silences int) time.Duration {
	limit := max(minSilenceLimit, timeout)
	for range silences {
		limit = max(limit, min(2*limit, maxSilenceLimit))
	}
	return limit
}

// stream is the one goroutine on the replication connection: it receives, answers keepalives in time, also while a
// batch waits for the database, and sends status.
type stream struct {
	cfg     Config
	conn    *pgconn.PgConn
	dec     *decoder
	after   event.Position // what is at or before it was ingested by an earlier run
	batches chan<- *batch  // unbuffered: one batch is filled, one prepared, one committed
	queued  *atomic.Int32  // those that were handed over and are not committed yet
	stored  *confirmations // filled by the committer
	every   time.Duration  // between two status messages; see statusEvery
	rarely  time.Duration  // between two to a server that is silent; see statusDue
	silence time.Duration  // see silenceLimit
	turn    event.LSN      // where to stop and go on with other publications; 0: nowhere
	most    int            // changes of a batch; 0: batchChanges
	metrics *metrics

	pace       pace
	open       *batch
	deadline   time.Time
	lastStatus time.Time
	lastHeard  time.Time
	told       confirmed
	heard      event.LSN // the newest position that the server has sent something from
}

// run reads until the context ends or the connection does.
func (s *stream) run(ctx context.Context) error {
	// The connection's read deadline is the only timer: no goroutine and no context a message. Stopping moves it.
	stop := context.AfterFunc(ctx, func() { _ = s.conn.Conn().SetReadDeadline(time.Now()) })
	defer stop()
	s.begin()
	s.lastHeard = time.Now()
	for {
		if err := s.tend(ctx, time.Now()); err != nil {
			return err
		}
		// After the deadline was set, not before: else a stop in between would go unnoticed until it passes.
		if err := ctx.Err(); err != nil {
			return errors.Join(err, s.sendStatus(ctx, time.Now(), true)) // so that the next reader starts here
		}
		if s.conn.Frontend().ReadBufferLen() == 0 {
			time.Sleep(s.pace.pause(time.Now()))
		}
		msg, err := s.conn.ReceiveMessage(context.WithoutCancel(ctx))
		if err == nil {
			err = s.handle(ctx, msg)
		} else if pgconn.Timeout(err) {
			err = nil
		}
		if err != nil {
			return err
		}
	}
}

// tend does what is due between two messages: status, handing over a batch, the watchdog, the next deadline.
func (s *stream) tend(ctx context.Context, now time.Time) error {
	if err := s.sendStatus(ctx, now, false); err != nil {
		return err
	}
	if s.open.ripe(now) {
		if err := s.handOver(ctx); err != nil {
			return err
		}
		now = time.Now()
	}
	if now.Sub(s.lastHeard) > s.silence {
		return errSilent
	}
	wake := s.lastStatus.Add(s.every)
	if s.open.worthStoring() {
		wake = now.Add(batchLinger)
	}
	// Setting a deadline for each message would cost more than reading it: an early wake-up is harmless, and so is a
	// late one by less than the linger.
	if s.deadline.Before(now) || s.deadline.After(wake) {
		s.deadline = wake
		return s.conn.Conn().SetReadDeadline(wake)
	}
	return nil
}

func (s *stream) handle(ctx context.Context, msg pgproto3.BackendMessage) error {
	now := time.Now()
	s.lastHeard = now
	switch m := msg.(type) {
	case *pgproto3.CopyData:
		return s.copyData(ctx, m.Data, now)
	case *pgproto3.ErrorResponse:
		said := pgconn.ErrorResponseToPgError(m)
		if saysTooYoung(said) {
			return errTooYoung
		}
		return said
	case *pgproto3.NoticeResponse:
		if saysTooYoung(pgconn.ErrorResponseToPgError((*pgproto3.ErrorResponse)(m))) {
			return errTooYoung
		}
		return nil
	case *pgproto3.ParameterStatus:
		return nil
	default:
		return fmt.Errorf("unexpected %T on the replication connection", msg)
	}
}

func (s *stream) copyData(ctx context.Context, data []byte, now time.Time) error {
	if len(data) == 0 {
		return errTruncated
	}
	switch data[0] {
	case pglogrepl.PrimaryKeepaliveMessageByteID:
		k, err := pglogrepl.ParsePrimaryKeepaliveMessage(data[1:])
		if err != nil {
			return fmt.Errorf("decode keepalive: %w", err)
		}
		s.hears(k.ServerWALEnd)
		if k.ReplyRequested {
			s.lastStatus = time.Time{}
		}
		return nil
	case pglogrepl.XLogDataByteID:
		x, err := pglogrepl.ParseXLogData(data[1:])
		if err != nil {
			return fmt.Errorf("decode XLogData: %w", err)
		}
		s.hears(x.ServerWALEnd)
		s.metrics.bytes.Add(float64(len(x.WALData)))
		switch turns, err := s.turns(x.WALData); {
		case err != nil:
			return err
		case turns:
			return s.turnOver(ctx)
		}
		d, err := s.dec.decode(x.WALData, s.after)
		if err != nil {
			return err
		}
		if d.change != nil && len(s.open.changes) == 0 {
			s.metrics.openSince.Store(s.dec.committed.UnixNano())
		}
		s.open.add(d, len(x.WALData), now)
		s.open.end, s.open.committed = s.dec.pos, s.dec.committed
		return nil
	default:
		return fmt.Errorf("unexpected replication message %q", data[0])
	}
}

// hears is told the position that a message comes from. It is not adopted: it serves for the lag, and says what the server was
// ready to send.
func (s *stream) hears(end pglogrepl.LSN) {
	s.metrics.walEnd.Store(uint64(end))
	s.heard = max(s.heard, event.LSN(end))
}

// handOver gives the batch to be prepared and committed. While another one is, a batch with room goes on growing: it returns
// at once. A full batch waits for its turn, and with it the socket (that is the back-pressure), but not the status.
func (s *stream) handOver(ctx context.Context) error {
	if !s.open.full() && s.queued.Load() > 0 {
		return nil
	}
	due := time.NewTimer(time.Until(s.lastStatus.Add(s.every))) // at once for a keepalive that asked for an answer
	defer due.Stop()
	for {
		select {
		case s.batches <- s.open:
			s.queued.Add(1)
			s.begin()
			s.lastHeard = time.Now() // the silence was ours
			return nil
		case now := <-due.C:
			if err := s.sendStatus(ctx, now, true); err != nil {
				return err
			}
			due.Reset(s.every)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// begin opens the next batch.
func (s *stream) begin() {
	s.open = &batch{most: s.most, end: s.dec.pos}
	s.metrics.openSince.Store(0)
}

// sendStatus confirms the stored position, when it moved past the interval or when forced.
func (s *stream) sendStatus(ctx context.Context, now time.Time, force bool) error {
	stored := s.stored.confirm(s.heard)
	since := now.Sub(s.lastStatus)
	due := since >= statusDue(s.every, s.rarely, now.Sub(s.lastHeard)) || (stored != s.told && since >= s.every/10)
	if !force && !due {
		return nil
	}
	s.lastStatus, s.told = now, stored
	lsn := pglogrepl.LSN(stored)
	return pglogrepl.SendStandbyStatusUpdate(ctx, s.conn, pglogrepl.StandbyStatusUpdate{
		WALWritePosition: lsn, WALFlushPosition: lsn, WALApplyPosition: lsn, // all three: pglogrepl replaces a 0
		ClientTime:     now,
		ReplyRequested: now.Sub(s.lastHeard) > silenceProbe,
	})
}

// hold keeps the connection, and with it the stream, for us while nothing is read from it, until the context ends.
func (s *stream) hold(ctx context.Context) error {
	tick := time.NewTicker(s.every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			s.lastHeard = now // the silence is ours
			if err := s.sendStatus(ctx, now, true); err != nil && ctx.Err() == nil {
				return err
			}
		}
	}
}
