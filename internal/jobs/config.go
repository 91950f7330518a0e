package jobs

import "cmp"

// EndpointConfig is one entry of `endpoints:` in weir.yaml: settings of a place, for all actions that go there. The
// key is host[:port], or the name that an action gives.
type EndpointConfig struct {
	// Concurrency is how many deliveries to the endpoint run at once in each worker process. Default: 50; for the
	// endpoints database and smtp 10, since each takes a connection.
	Concurrency int `yaml:"concurrency,omitempty" jsonschema:"minimum=1,maximum=10000"`
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
