package cache

import (
	"context"
	"encoding/json"
	"errors"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	tellEvery = 2 * time.Second
	tellLife  = 10 * time.Second
)

// Stats are a worker's figures since it started.
type Stats struct {
	ClientID    string  `json:"client_id"`   // the worker
	HitsMemory  int64   `json:"hits_memory"` // lookups that found a result in the worker's memory
	HitsRedis   int64   `json:"hits_redis"`  // lookups that found a result in Redis
	Misses      int64   `json:"misses"`      // lookups that found nothing: a call was made
	Busy        int64   `json:"busy"`        // lookups that found another delivery making the call
	Away        int64   `json:"away"`        // lookups that went on without the cache, since Redis was away
	Waited      int64   `json:"waited"`      // lookups that waited for another's call, whatever they found
	HitRatio    float64 `json:"hit_ratio"`   // of the lookups that found a result or led to a call
	Entries     int     `json:"entries"`     // in memory
	Bytes       int     `json:"bytes"`       // of the worker's memory that results take
	Invalidated int64   `json:"invalidated"` // at this worker's word
	NotStored   int64   `json:"not_stored"`  // results that were not kept
}

// figures are what Stats are made of.
type figures struct {
	hitsMemory, hitsRedis, misses, busy, away, waited, invalidated, notStored atomic.Int64
}

// lookups is how many there were.
func (s *Stats) lookups() int64 { return s.HitsMemory + s.HitsRedis + s.Misses + s.Busy + s.Away }

// Stats are this worker's.
func (c *Results) Stats() Stats {
	f := &c.figures
	s := Stats{
		ClientID: c.clientID, HitsMemory: f.hitsMemory.Load(), HitsRedis: f.hitsRedis.Load(), Misses: f.misses.Load(),
		Busy: f.busy.Load(), Away: f.away.Load(), Waited: f.waited.Load(),
		Invalidated: f.invalidated.Load(), NotStored: f.notStored.Load(),
	}
	s.Entries, s.Bytes = c.memory.used()
	if hits := s.HitsMemory + s.HitsRedis; hits > 0 {
		s.HitRatio = float64(hits) / float64(hits+s.Misses)
	}
	return s
}

func (r *Redis) figuresOf(clientID string) string { return r.Key("worker", clientID) }

// tell writes this worker's figures down from time to time, once there are any.
func (c *Results) tell(ctx context.Context) {
	ticker := time.NewTicker(tellEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		c.flights.sweep()
		stats := c.Stats()
		if stats.lookups() == 0 {
			continue
		}
		text, err := json.Marshal(stats)
		if err != nil {
			c.log.Warn("Figures not told", "error", err)
			continue
		}
		_ = c.redis.Do(ctx, func(ctx context.Context, client redis.UniversalClient) error { // the next time, then
			return client.Set(ctx, c.redis.figuresOf(c.clientID), text, tellLife).Err()
		})
	}
}

// WorkerStats are the figures of those workers that have looked for results and live.
func (r *Remote) WorkerStats(ctx context.Context, clientIDs []string) (map[string]Stats, error) {
	all := map[string]Stats{}
	for _, id := range clientIDs {
		var s Stats
		err := r.redis.Do(ctx, func(ctx context.Context, client redis.UniversalClient) error {
			text, err := client.Get(ctx, r.redis.figuresOf(id)).Bytes()
			if err != nil {
				return err
			}
			return json.Unmarshal(text, &s)
		})
		switch {
		case err == nil:
			all[id] = s
		case !errors.Is(err, redis.Nil):
			return nil, err
		}
	}
	return all, nil
}

// Count is how many results there are in Redis, with the calls that are being made for one.
func (r *Remote) Count(ctx context.Context) (results int, err error) {
	err = r.redis.Do(ctx, func(ctx context.Context, client redis.UniversalClient) error {
		results, err = countScript.Run(ctx, client, []string{r.redis.indexOfAll()}, indexSlack.Microseconds()).Int()
		return err
	})
	return results, err
}
