package jobs

import (
	"context"
	"encoding/json"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"github.com/fraiseql/weir/internal/dedup"
)

const (
	// forgetEvery is for how long completed deliveries are collected before their marks are removed together.
	forgetEvery = time.Second
	// forgetMost bounds how many are collected: when Redis is slow, the rest expires by itself.
	forgetMost = 10_000
)

// made removes the marks of deliveries that are completed: nothing repeats those, and marks would fill the memory. A mark
// whose removal is missed expires by itself.
type made struct {
	marks *dedup.Marks
	log   *slog.Logger

	mu   sync.Mutex // guards done
	done []uuid.UUID
}

// add remembers a completed delivery. A nil made remembers nothing.
func (m *made) add(delivery uuid.UUID) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.done) < forgetMost {
		m.done = append(m.done, delivery)
	}
}

// start follows what River completes until the function that it returns is called.
func (m *made) start(ctx context.Context, client *river.Client[pgx.Tx]) (stop func()) {
	if m == nil {
		return func() {}
	}
	completed, unsubscribe := client.SubscribeConfig(&river.SubscribeConfig{
		ChanSize: eventBuffer, Kinds: []river.EventKind{river.EventKindJobCompleted},
	})
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { m.run(ctx, completed) })
	return func() {
		cancel()
		running.Wait()
		unsubscribe()
	}
}

func (m *made) run(ctx context.Context, completed <-chan *river.Event) {
	tick := time.NewTicker(forgetEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			for range len(completed) { // River has stopped: there come no more
				if e, ok := <-completed; ok {
					m.addJob(e.Job)
				}
			}
			m.forget(context.WithoutCancel(ctx))
			return
		case e, ok := <-completed:
			if !ok {
				completed = nil
				continue
			}
			m.addJob(e.Job)
		case <-tick.C:
			m.forget(ctx)
		}
	}
}

func (m *made) addJob(job *rivertype.JobRow) {
	var args Args
	if !unmarked[actionType(job.Kind)] && json.Unmarshal(job.EncodedArgs, &args) == nil && args.Action != "" {
		m.add(args.DeliveryID())
	}
}

func (m *made) forget(ctx context.Context) {
	m.mu.Lock()
	done := m.done
	m.done = nil
	m.mu.Unlock()
	if len(done) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, concludeTime)
	defer cancel()
	if err := m.marks.Forget(ctx, done); err != nil {
		m.log.Debug("marks of completed deliveries not removed, they expire", "deliveries", len(done), "error", err)
	}
}
