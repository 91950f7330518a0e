package cache

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/redis/go-redis/v9"
)

// scanCount is how many keys the server looks at in one step of a scan.
const scanCount = 1000

// Unlink removes keys of the application from the same Redis, and says how many there were. Keys of Weir's own stay. After an
// *AwayError some of them may be gone.
func (r *Redis) Unlink(ctx context.Context, keys []string) (removed int64, err error) {
	for len(keys) > 0 && err == nil {
		n := min(batch, len(keys))
		err = r.Do(ctx, func(ctx context.Context, client redis.UniversalClient) error {
			gone, err := unlinkEach(ctx, client, keys[:n])
			removed += gone
			return err
		})
		keys = keys[n:]
	}
	return removed, err
}

// unlinkEach asks for each key alone: in a Cluster they are in different places.
func unlinkEach(ctx context.Context, client redis.UniversalClient, keys []string) (removed int64, err error) {
	pipe := client.Pipeline()
	for _, key := range keys {
		if !reserved(key) {
			pipe.Unlink(ctx, key)
		}
	}
	commands, err := pipe.Exec(ctx)
	for _, command := range commands {
		removed += command.(*redis.IntCmd).Val() //nolint:forcetypeassert // what Unlink returns
	}
	return removed, err
}

// UnlinkPattern removes the keys of the application that a pattern matches, and says how many there were. Weir's own stay. It
// goes through all the keys of the servers, each step within the timeout. After an *AwayError some may be gone.
func (r *Redis) UnlinkPattern(ctx context.Context, pattern string) (removed int64, err error) {
	cluster, ok := r.client.(*redis.ClusterClient)
	if !ok {
		return r.unlinkScanned(ctx, r.client, pattern)
	}
	var total atomic.Int64
	err = cluster.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error {
		n, err := r.unlinkScanned(ctx, node, pattern)
		total.Add(n)
		return err
	})
	if away := (*AwayError)(nil); err != nil && !errors.As(err, &away) {
		err = &AwayError{err} // it does not know its nodes
	}
	return total.Load(), err
}

// unlinkScanned does so on one server.
func (r *Redis) unlinkScanned(ctx context.Context, node redis.UniversalClient, pattern string) (removed int64, err error) {
	var cursor uint64
	for {
		var keys []string
		err = r.Do(ctx, func(ctx context.Context, _ redis.UniversalClient) error {
			keys, cursor, err = node.Scan(ctx, cursor, pattern, scanCount).Result()
			return err
		})
		if err != nil {
			return removed, err
		}
		n, err := r.Unlink(ctx, keys)
		removed += n
		if err != nil || cursor == 0 {
			return removed, err
		}
	}
}
