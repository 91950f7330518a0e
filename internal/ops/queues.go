package ops

import (
	"context"
	"fmt"

	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/store"
)

// ReadQueues counts the unfinished jobs. It costs as much as there are: it is for a person's question.
func ReadQueues(ctx context.Context, db DB) ([]Queue, error) {
	rows, err := store.New().QueueStats(ctx, db)
	if err != nil {
		return nil, fmt.Errorf("count the jobs: %w", err)
	}
	queues := make([]Queue, len(rows))
	for i, q := range rows {
		queues[i] = Queue{Queue: q.Queue, State: q.State, Jobs: q.Jobs, Oldest: event.Time(q.Oldest)}
	}
	return queues, nil
}
