package index

import (
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
}

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
	return c
}

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
