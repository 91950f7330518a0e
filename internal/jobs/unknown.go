package jobs

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"github.com/fraiseql/weir/internal/store"
)

const (
	// metaUnknown is since when a job waits for a worker that knows its observer. What was known again since is "".
	metaUnknown = "weir_unknown"
	// unknownGrace is how old it may become that way: a rolling deploy, or a mistake that is mended.
	unknownGrace = time.Hour
	// unknownFirst and unknownLongest bound how long it is put off at a time. The wait doubles: each costs the database a
	// rewritten job, and a reload that brings the observer back ends it (release).
	unknownFirst   = 15 * time.Second
	unknownLongest = 2 * time.Minute
	releaseBatch   = 1000
)

// unknownWait is how long a job of this age is put off that has waited for so long already; 0 when it is old enough.
func unknownWait(age, waited time.Duration) time.Duration {
	return max(0, min(max(unknownFirst, waited), unknownLongest, unknownGrace-age))
}

// strangers remembers for whom jobs wait, so that each is spoken of once.
type strangers struct {
	mu   sync.Mutex // guards seen
	seen map[[2]string]bool
}

func (s *strangers) first(observer, action string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen == nil {
		s.seen = map[[2]string]bool{}
	}
	key := [2]string{observer, action}
	seen := s.seen[key]
	s.seen[key] = true
	return !seen
}

func (s *strangers) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = nil
}

// await puts a job off whose observer, or action, nobody knows, until it is an hour old. nil when it is.
func (r *runner) await(ctx context.Context, job *rivertype.JobRow, a Args) error {
	since, waits := metaTime(job.Metadata, metaUnknown)
	if !waits {
		since = time.Now()
		if err := river.MetadataSet(ctx, metaUnknown, since.UTC().Format(time.RFC3339)); err != nil {
			return fmt.Errorf("mark the job as waiting: %w", err)
		}
	}
	wait := unknownWait(time.Since(job.CreatedAt), time.Since(since))
	if wait == 0 {
		return nil
	}
	if r.strangers.first(a.Observer, a.Action) {
		r.log.Warn("deliveries wait: the configuration has no such observer with such an action",
			"observer", a.Observer, "action", a.Action, "event_id", a.EventID, "delivery_id", a.DeliveryID(), "job_id", job.ID,
			"at_most", unknownGrace)
	}
	r.metrics.deliveries.WithLabelValues("", actionType(job.Kind), waiting).Inc()
	return river.JobSnooze(wait)
}

// known takes the mark from a job that waited. The next wait begins with short ones.
func (r *runner) known(ctx context.Context, job *rivertype.JobRow) {
	if _, waits := metaTime(job.Metadata, metaUnknown); !waits {
		return
	}
	if err := river.MetadataSet(ctx, metaUnknown, ""); err != nil {
		r.log.Error("a job that waited is still marked as waiting", "job_id", job.ID, "error", err)
	}
}

// actionType is that of a kind of jobs.
func actionType(kind string) string { return strings.TrimPrefix(kind, "weir_") }

// release makes the jobs available whose observer and action are known (again): once for each configuration, and only those,
// so that workers that know different ones do not toss jobs to each other. It returns false when there are more. So it does with
// those that were set aside while their observer was paused.
func (q *Queue) release(ctx context.Context) (done bool, err error) {
	if !q.unreleased.Swap(false) {
		return true, nil
	}
	observers, actions, _ := q.names()
	queues, err := store.New().ReleaseUnknown(ctx, q.runner.pool, store.ReleaseUnknownParams{
		Observers: observers, Actions: actions, MaxRows: releaseBatch,
	})
	if err == nil {
		err = announce(ctx, q.runner.pool, queues)
	}
	if err != nil {
		q.unreleased.Store(true)
		return false, fmt.Errorf("make jobs available that waited for their observer: %w", err)
	}
	done, err = q.releasePaused(ctx)
	if err != nil || !done || len(queues) == releaseBatch {
		q.unreleased.Store(true)
		return false, err
	}
	return true, nil
}

// names are the observers, the actions and the queues of everything that a job may name. The lists are parallel. An observer
// without an action, and a queue, is what a change names that could not be matched.
func (q *Queue) names() (observers, actions, queues []string) {
	last := ""
	for _, b := range q.set.Load().All() {
		if b.Observer != last {
			last = b.Observer
			observers, actions, queues = append(observers, last), append(actions, ""), append(queues, "")
		}
		observers, actions = append(observers, b.Observer), append(actions, b.Action.Name())
		queues = append(queues, QueueName(b.Action.Endpoint()))
	}
	return observers, actions, queues
}
