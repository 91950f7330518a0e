package dedup

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"github.com/fraiseql/weir/internal/cache"
)

const (
	// markLife is how long a mark stays that nobody forgets: longer than a job whose worker died takes to be tried again.
	markLife = 24 * time.Hour
	// forgetBatch is how many marks one round trip removes, within the timeout of a command.
	forgetBatch = 500
)

// Marks are of deliveries whose call has succeeded, and whose job may not be completed yet: a repetition after a crash between
// the two finds the mark and does not call again. Errors are *cache.AwayError. Safe for concurrent use.
type Marks struct{ redis *cache.Redis }

// NewMarks keeps marks behind this connection.
func NewMarks(r *cache.Redis) *Marks { return &Marks{r} }

// Set marks a delivery, with the HTTP status of its answer, or 0.
func (m *Marks) Set(ctx context.Context, delivery uuid.UUID, status int) error {
	return m.redis.Do(ctx, func(ctx context.Context, c redis.UniversalClient) error {
		return c.Set(ctx, m.key(delivery), status, markLife).Err()
	})
}

// Has says whether a delivery is marked, and with which status.
func (m *Marks) Has(ctx context.Context, delivery uuid.UUID) (status int, ok bool, err error) {
	err = m.redis.Do(ctx, func(ctx context.Context, c redis.UniversalClient) error {
		status, err = c.Get(ctx, m.key(delivery)).Int()
		return err
	})
	switch {
	case errors.Is(err, redis.Nil):
		return 0, false, nil
	case err != nil:
		return 0, false, err
	}
	return status, true, nil
}

// Forget removes the marks of deliveries whose jobs are completed. In a Cluster, where each has its own node, the client parts
// the pipeline.
func (m *Marks) Forget(ctx context.Context, deliveries []uuid.UUID) error {
	for batch := range slices.Chunk(deliveries, forgetBatch) {
		err := m.redis.Do(ctx, func(ctx context.Context, c redis.UniversalClient) error {
			_, err := c.Pipelined(ctx, func(p redis.Pipeliner) error {
				for _, d := range batch {
					p.Unlink(ctx, m.key(d))
				}
				return nil
			})
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (m *Marks) key(delivery uuid.UUID) string { return m.redis.Key("once", delivery.String()) }
