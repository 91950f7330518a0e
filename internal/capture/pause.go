package capture

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/fraiseql/weir/internal/store"
)

// errPaused says that nobody is to read the stream. What was under way ends as when the worker stops: a batch is stored or not,
// and the checkpoint says which.
var errPaused = errors.New("the stream is paused")

// pausedPoll is how often a paused worker looks whether it may go on. It asks nobody else for anything meanwhile.
const pausedPoll = time.Second

// Pause tells the stream that it is paused, so that it looks itself. Told again and again, it does nothing more. Safe for
// concurrent use; it does not block.
func (s *Stream) Pause() {
	select {
	case s.pauses <- struct{}{}:
	default:
	}
}

// attemptUntilPaused is an attempt that ends when it is told of a pause, whatever it is doing: it reads, stands by, takes a
// snapshot or recovers.
func (s *Stream) attemptUntilPaused(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	select {
	case <-s.pauses: // of before
	default:
	}
	var watching sync.WaitGroup
	watching.Go(func() {
		select {
		case <-s.pauses:
			cancel(errPaused)
		case <-ctx.Done():
		}
	})
	err := s.attempt(ctx)
	cancel(nil)
	watching.Wait()
	var setup *SetupError
	if errors.Is(context.Cause(ctx), errPaused) && !errors.As(err, &setup) {
		return errPaused
	}
	return err
}

// rest waits until the stream is not paused any more. The slot holds WAL meanwhile, which the metric goes on telling.
func (s *Stream) rest(ctx context.Context) error {
	dst, err := ingestConnect(ctx, s.opts.DatabaseURL, s.opts.ClientID)
	if err != nil {
		return fmt.Errorf("connect to the database: %w", err)
	}
	defer closeConn(ctx, dst)
	var measured time.Time
	told := false
	for ctx.Err() == nil {
		paused, err := isPaused(ctx, dst)
		if err != nil {
			return err
		}
		if !paused {
			if told {
				s.log.Info("the stream is not paused any more", "slot", s.cfg.Slot)
			}
			return nil
		}
		if !told {
			s.log.Warn("the stream is paused: nobody reads it, and its slot holds WAL", "slot", s.cfg.Slot,
				"mend", "weir resume --stream")
			told = true
		}
		cp, err := readCheckpoint(ctx, dst)
		if err != nil {
			return err
		}
		if cp != nil && cp.State == stateGap { // which a pause does not hide
			s.setHealth(Gap, errors.New(cp.Problem+"; to go on: "+GapMend))
		} else {
			s.setHealth(Paused, nil)
		}
		if time.Since(measured) >= s.cfg.Heartbeat.Std() {
			measured = time.Now()
			s.measure(ctx)
		}
		sleep(ctx, pausedPoll)
	}
	return ctx.Err()
}

func isPaused(ctx context.Context, db store.DBTX) (bool, error) {
	paused, err := store.New().StreamPaused(ctx, db)
	if err != nil {
		return false, fmt.Errorf("look whether the stream is paused: %w", migrationsMissing(err))
	}
	return paused, nil
}

// measure keeps the figure of the WAL that the slot holds. A source that is away does not matter to who reads nothing.
func (s *Stream) measure(ctx context.Context) {
	timeout, cancel := context.WithTimeout(ctx, measureTime)
	defer cancel()
	src, err := s.connectSource(timeout)
	if err == nil {
		defer closeConn(ctx, src)
		_, err = s.metrics.measure(timeout, src, s.cfg.Slot)
	}
	if err != nil {
		s.log.Debug("how much WAL the slot holds is not known (not an error)", "error", err)
	}
}

const measureTime = 5 * time.Second
