package index

import (
	"cmp"
	"time"

	"github.com/goccy/go-yaml/ast"

	"github.com/fraiseql/weir/internal/setting"
)

// Config is the section `history:` of weir.yaml.
type Config struct {
	// Retention is how long events and outcomes are kept; what an unfinished delivery or a dead letter needs stays. Whole
	// days are dropped. Default: 30d.
	Retention *setting.Duration `yaml:"retention,omitempty"`
	// FinishedJobs is how long finished deliveries stay among River's jobs, before they are outcomes alone. Default: 24h.
	FinishedJobs *setting.Duration `yaml:"finished_jobs,omitempty"`
	// Store is where the history is kept for its retention: postgres, elasticsearch (PostgreSQL then keeps events and outcomes
	// only as long as jobs, recovery and indexing need them) or both. Default: postgres.
	Store string `yaml:"store,omitempty" jsonschema:"enum=postgres,enum=elasticsearch,enum=both"`
	// Events says which events a search can find: all, or those that matched an observer (matched). Default: all.
	Events string `yaml:"events,omitempty" jsonschema:"enum=all,enum=matched"`
	// Redact are fields that the history leaves out, as in Order.data.card_number. Default: none.
	Redact []Redact `yaml:"redact,omitempty"`
}

// The values of Store and of Events.
const (
	storePostgres      = "postgres"
	storeElasticsearch = "elasticsearch"
	storeBoth          = "both"
	eventsAll          = "all"
	eventsMatched      = "matched"
)

// The defaults.
const (
	defaultRetention    = setting.Duration(30 * 24 * time.Hour)
	defaultFinishedJobs = setting.Duration(24 * time.Hour)
	shortestRetention   = setting.Duration(24 * time.Hour)
)

// WithDefaults fills in what is not set.
func (c Config) WithDefaults() Config {
	if c.Retention == nil {
		d := defaultRetention
		c.Retention = &d
	}
	if c.FinishedJobs == nil {
		d := min(defaultFinishedJobs, *c.Retention)
		c.FinishedJobs = &d
	}
	c.Store = cmp.Or(c.Store, storePostgres)
	c.Events = cmp.Or(c.Events, eventsAll)
	return c
}

// InPostgres says that PostgreSQL keeps the history for its retention.
func (c Config) InPostgres() bool { return c.Store != storeElasticsearch }

// InElasticsearch says that Elasticsearch does.
func (c Config) InElasticsearch() bool { return c.Store == storeElasticsearch || c.Store == storeBoth }

// MatchedOnly says that events that matched no observer are left out.
func (c Config) MatchedOnly() bool { return c.Events == eventsMatched }

// Check refuses a retention of less than a day, which is what a partition holds, and jobs that outlast the history.
func (c Config) Check(value func(key string) ast.Node) error {
	switch filled := c.WithDefaults(); {
	case *filled.Retention < shortestRetention:
		return setting.ErrorAt(value("retention"), "a retention of %s is too short: expected at least %s",
			filled.Retention, shortestRetention)
	case *filled.FinishedJobs > *filled.Retention:
		return setting.ErrorAt(value("finished_jobs"), "finished_jobs (%s) is longer than retention (%s): expected at most that",
			filled.FinishedJobs, filled.Retention)
	}
	return nil
}
