package jobs

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"

	"github.com/fraiseql/weir/internal/index"
)

// deliveryArgs are the arguments of any type of action.
type deliveryArgs interface {
	river.JobArgs
	args() Args
}

// worker is River's typed worker of one type of action.
type worker[T deliveryArgs] struct {
	river.WorkerDefaults[T]
	runner *runner
	run    step
}

func newWorker[T deliveryArgs](r *runner) *worker[T] { return &worker[T]{runner: r, run: r.chain()} }

// Work delivers once.
func (w *worker[T]) Work(ctx context.Context, job *river.Job[T]) error {
	return w.run(ctx, &delivery{job: job.JobRow, args: job.Args.args()})
}

// riverGrace is by how much River's timeout is longer than the action's own, which the chain has and which tells who took
// too long. Without any, River would never give up on a delivery whose worker was killed.
const riverGrace = time.Minute

// Timeout is that of the action, and some. What may wait for a rate limit has none: its time begins when that is over.
func (w *worker[T]) Timeout(job *river.Job[T]) time.Duration {
	a := job.Args.args()
	bound, ok := w.runner.set.Load().Lookup(a.Observer, a.Action)
	switch {
	case !ok:
		return riverGrace
	case w.runner.limited(bound.Action):
		return -1
	default:
		return bound.Action.Timeout() + riverGrace
	}
}

// NextRetry is the observer's policy; the zero time leaves it to River's when nobody knows the observer.
func (w *worker[T]) NextRetry(job *river.Job[T]) time.Time {
	a := job.Args.args()
	bound, ok := w.runner.set.Load().Lookup(a.Observer, a.Action)
	if !ok {
		return time.Time{}
	}
	return time.Now().Add(bound.Retry.Delay(job.Attempt, rand.Float64))
}

// loadEvent reads the event that the arguments name.
func loadEvent(ctx context.Context, pool *pgxpool.Pool, x *index.Index, a Args) (index.Record, error) {
	day, err := time.Parse(dayLayout, a.Day)
	if err != nil {
		return index.Record{}, fmt.Errorf("job argument day: %w", err)
	}
	return x.Load(ctx, pool, index.Key{Day: day, ID: a.EventID, PK: a.PK})
}

func metaTime(metadata []byte, key string) (time.Time, bool) {
	if !bytes.Contains(metadata, []byte(key)) { // nearly always: each delivery asks
		return time.Time{}, false
	}
	var meta map[string]json.RawMessage
	var text string
	if json.Unmarshal(metadata, &meta) != nil || json.Unmarshal(meta[key], &text) != nil {
		return time.Time{}, false
	}
	t, err := time.Parse(time.RFC3339, text)
	return t, err == nil
}
