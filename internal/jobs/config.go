package jobs

import "cmp"

// EndpointConfig is one entry of `endpoints:` in weir.yaml: settings of a place, for all actions that go there. The
// key is host[:port], or the name that an action gives.
type EndpointConfig struct {
	// Concurrency is how many deliveries to the endpoint run at once in each worker process. Default: 50.
	Concurrency int `yaml:"concurrency,omitempty" jsonschema:"minimum=1,maximum=10000"`
}

// WithDefaults fills in what is not set.
func (c EndpointConfig) WithDefaults() EndpointConfig {
	c.Concurrency = cmp.Or(c.Concurrency, 50)
	return c
}
