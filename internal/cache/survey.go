package cache

import (
	"context"
	"strings"

	"github.com/redis/go-redis/v9"
)

// Server is what a server says of itself, as INFO has it; "" for what it does not tell.
type Server struct {
	Version   string // redis_version
	MaxMemory string // maxmemory in bytes; 0: no limit
	Policy    string // maxmemory_policy: what it does at the limit
}

// Survey asks whether Redis serves, by a write as Run does, and what the server (of a Cluster, one of them) says of itself.
func (r *Redis) Survey(ctx context.Context) (s Server, err error) {
	if r.prefix.Load() == nil {
		return s, &AwayError{errUnnamed}
	}
	err = r.try(ctx, func(ctx context.Context, c redis.UniversalClient) error {
		if err := c.Set(ctx, r.Key("up"), "", probeLife).Err(); err != nil {
			return err
		}
		info, err := c.Info(ctx).Result()
		if redis.HasErrorPrefix(err, "NOPERM") {
			return nil
		}
		for line := range strings.Lines(info) {
			switch name, value, _ := strings.Cut(strings.TrimSpace(line), ":"); name {
			case "redis_version":
				s.Version = value
			case "maxmemory":
				s.MaxMemory = value
			case "maxmemory_policy":
				s.Policy = value
			}
		}
		return err
	})
	return s, err
}
