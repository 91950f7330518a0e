package chaos

import (
	"cmp"
	"io"
	"time"
)

// Options say what a run is. Those that a plan is drawn from are Seed, For, Workers, Elasticsearch and Quiet.
type Options struct {
	Seed uint64
	// For is how long the load runs. Default: 60s.
	For time.Duration
	// Rate is how many changes all clients together write a second, about. Default: 200.
	Rate int
	// Clients is how many connections write. Default: 6.
	Clients int
	// Workers is how many there are. Default: 3.
	Workers int
	// Elasticsearch starts one and keeps the history there, too.
	Elasticsearch bool
	// Quiet leaves the faults out.
	Quiet bool
	// FinishedJobs is history.finished_jobs of the workers. Default: 20s, so that jobs are moved during the run.
	FinishedJobs string
	// Settle bounds how long everything may take to come to its end. Default: 10m.
	Settle time.Duration
	// Binaries is the folder of worker and weir.
	Binaries string
	// Keep leaves the folder with the logs and PostgreSQL's data.
	Keep bool
	// Out gets what is told while it runs.
	Out io.Writer
}

func (o Options) withDefaults() Options {
	o.For = cmp.Or(o.For, time.Minute)
	o.Rate = cmp.Or(o.Rate, 200)
	o.Clients = cmp.Or(o.Clients, 6)
	o.Workers = cmp.Or(o.Workers, 3)
	o.FinishedJobs = cmp.Or(o.FinishedJobs, "20s")
	o.Settle = cmp.Or(o.Settle, 10*time.Minute)
	if o.Out == nil {
		o.Out = io.Discard
	}
	return o
}
