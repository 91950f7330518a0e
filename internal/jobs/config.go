package jobs

import (
	"cmp"
	"math"
	"time"

	"github.com/fraiseql/weir/internal/breaker"
	"github.com/fraiseql/weir/internal/observer"
	"github.com/fraiseql/weir/internal/setting"
)

// EndpointConfig is one entry of `endpoints:` in weir.yaml: settings of a place, for all actions that go there. The
// key is host[:port], or the name that an action gives.
type EndpointConfig struct {
	// Concurrency is how many deliveries to the endpoint run at once in each worker process. Default: 50; for the
	// endpoints database and smtp 10, since each takes a connection.
	Concurrency int `yaml:"concurrency,omitempty" jsonschema:"minimum=1,maximum=10000"`
	// RateLimit is how many calls all workers together make, as in 50/s, 600/m or 1000/h, at an even pace. Default: no limit.
	RateLimit setting.Rate `yaml:"rate_limit,omitempty"`
	// Breaker says when to stop calling an endpoint that fails: keys with values, or off. Default: on, with the defaults of its
	// keys, for what is called over HTTP or SMTP; off for the endpoints database and log.
	Breaker breaker.Config `yaml:"breaker,omitempty"`
}

// WithDefaults fills in what is not set, for the endpoint of this name.
func (c EndpointConfig) WithDefaults(endpoint string) EndpointConfig {
	concurrency := 50
	switch endpoint {
	case "database":
		concurrency = 10 // PostgreSQL has 100 connections unless told otherwise, for everybody
	case "smtp":
		concurrency = 10 // mail servers take few connections from one client, Postfix 50 of all workers of a machine together
	}
	c.Concurrency = cmp.Or(c.Concurrency, concurrency)
	return c
}

// robust are the types of actions whose endpoints have no breaker unless the configuration says so: our own database, and what
// does not leave the process.
var robust = map[string]bool{"database": true, "log": true}

// place is an endpoint in force.
type place struct {
	name        string
	concurrency int // of its queue
	settings    breaker.Endpoint
}

// places are the endpoints that actions go to, by the names of their queues.
func places(set *observer.Set, configs map[string]EndpointConfig) map[string]place {
	longest, calls := map[string]time.Duration{}, map[string]bool{}
	for _, b := range set.All() {
		endpoint := b.Action.Endpoint()
		longest[endpoint] = max(longest[endpoint], b.Action.Timeout())
		calls[endpoint] = calls[endpoint] || !robust[b.Action.Type()]
	}
	byQueue := map[string]place{}
	for _, name := range set.Endpoints() {
		cfg := configs[name].WithDefaults(name)
		if cfg.Breaker.IsZero() {
			cfg.Breaker.Off = !calls[name]
		}
		byQueue[QueueName(name)] = place{
			name: name, concurrency: useful(cfg.Concurrency, cfg.RateLimit, longest[name]),
			settings: breaker.Endpoint{Breaker: cfg.Breaker.WithDefaults(), RateLimit: cfg.RateLimit},
		}
	}
	return byQueue
}

// waitingRoom is for how long ahead deliveries are fetched that wait for a rate limit.
const waitingRoom = 5 * time.Second

// useful is a concurrency without the places in which deliveries would only wait for the rate limit.
func useful(concurrency int, rate setting.Rate, timeout time.Duration) int {
	if rate.IsZero() {
		return concurrency
	}
	return int(min(float64(concurrency), math.Ceil(float64(timeout+waitingRoom)/float64(rate.Gap()))))
}

// targets are the fingerprints of what actions go to, of those that may be gone (410).
func targets(set *observer.Set) map[breaker.Action]string {
	found := map[breaker.Action]string{}
	for _, b := range set.All() {
		if target := targetOf(b.Action); target != "" {
			found[breaker.Action{Observer: b.Observer, Action: b.Action.Name()}] = target
		}
	}
	return found
}
