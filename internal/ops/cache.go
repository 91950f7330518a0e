package ops

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/fraiseql/weir/internal/cache"
	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/jobs"
	"github.com/fraiseql/weir/internal/store"
)

// ResultCache is what there is to know of the result cache.
type ResultCache struct {
	Time event.Time `json:"time"` // by the database's clock
	// Results is how many are kept in Redis, calls that are being made included.
	Results int `json:"results"`
	// Workers are those that are alive, the oldest first.
	Workers []CacheWorker `json:"workers"`
}

// CacheWorker is a worker's own share.
type CacheWorker struct {
	ClientID string     `json:"client_id"`  // the worker
	Started  event.Time `json:"started_at"` // when it took its lease
	// Stats are since the worker started; null for one that has looked nothing up yet, or cannot reach Redis.
	Stats *cache.Stats `json:"stats"`
}

// NameKeys tells the connection to Redis whose keys are meant: those of the workers of this database.
func NameKeys(ctx context.Context, db DB, r *cache.Redis, installation string) error {
	identity, err := jobs.Identity(ctx, db)
	if err != nil {
		return err
	}
	r.Name(installation, identity)
	return nil
}

// ReadResultCache asks the database who is alive and Redis for their figures.
func ReadResultCache(ctx context.Context, db DB, r *cache.Redis) (ResultCache, error) {
	workers, err := store.New().ListWorkers(ctx, db)
	if err != nil {
		return ResultCache{}, fmt.Errorf("list workers: %w", err)
	}
	found := ResultCache{Time: event.Time(time.Now()), Workers: []CacheWorker{}}
	ids := make([]string, len(workers))
	for i, w := range workers {
		ids[i], found.Time = w.ClientID, event.Time(w.Now)
	}
	remote := cache.NewRemote(r)
	stats, err := remote.WorkerStats(ctx, ids)
	if err != nil {
		return ResultCache{}, err
	}
	if found.Results, err = remote.Count(ctx); err != nil {
		return ResultCache{}, err
	}
	for _, w := range workers {
		one := CacheWorker{ClientID: w.ClientID, Started: event.Time(w.StartedAt)}
		if s, ok := stats[w.ClientID]; ok {
			one.Stats = &s
		}
		found.Workers = append(found.Workers, one)
	}
	return found, nil
}

// Cleared is what was removed from the result cache.
type Cleared struct {
	Results int `json:"results"` // how many
}

// ClearResultCache removes results at every worker.
func ClearResultCache(ctx context.Context, r *cache.Redis, s cache.Selection) (Cleared, error) {
	n, err := cache.NewRemote(r).Invalidate(ctx, s)
	return Cleared{Results: n}, err
}

const redisCheck = "redis"

// DoctorRedis looks at the Redis of the configuration. A worker goes on without it, so what is wrong is no error.
func DoctorRedis(ctx context.Context, db DB, r *cache.Redis, installation string) Finding {
	found := Finding{Check: redisCheck, Level: LevelWarning}
	err := NameKeys(ctx, db, r, installation)
	var server cache.Server
	if err == nil {
		server, err = r.Survey(ctx)
	}
	switch {
	case err != nil:
		found.Problem = "workers would go on without dedup and result cache: " + err.Error()
		found.Mend = "-- check that it runs, and the section redis of the configuration"
	case server.MaxMemory != "0" && strings.HasPrefix(server.Policy, "allkeys-"):
		found.Problem = "at its memory limit it evicts any key (" + server.Policy + "): calls may be repeated, and an " +
			"invalidation may miss results until their ttl"
		found.Mend = "-- on the server: CONFIG SET maxmemory-policy noeviction"
	default:
		found.Level, found.Problem = LevelOK, "it serves"
		if server.Version != "" {
			found.Problem += ", version " + server.Version
		}
	}
	return found
}
