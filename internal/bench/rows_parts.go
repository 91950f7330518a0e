package bench

// partsRows are about single parts, and what a worker costs that does nothing.
func partsRows() []Row {
	return []Row{
		{
			Name: "dedup", Title: "Deduplication: a claim", Benchmark: "BenchmarkDedup",
			How: "A claim of a new key, and of one whose window runs, one at a time, against bare go-redis: `SET NX PX` and `GET` of " +
				"values of equal size by a client with the same settings. Where there is no Redis, PostgreSQL keeps the claims, " +
				"which waits for the disk: against a bare `INSERT`.",
			Compare: []string{"ns/op"}, State: []string{"allocs/op", "B/op"},
			Goals: []Goal{{Case: "redis", Unit: "ns/op", Ratio: true, AtMost: 1.15}},
		},
		{
			Name: "cache", Title: "Cache: a lookup that hits", Benchmark: "BenchmarkCache",
			How: "A result of 1,000 bytes is found: in Redis, against bare go-redis's `GET` of as many bytes by a client with the same " +
				"settings, and in the worker's memory.",
			Compare: []string{"ns/op"}, State: []string{"ns/op", "allocs/op", "B/op"},
			Goals: []Goal{{Case: "redis", Unit: "ns/op", Ratio: true, AtMost: 1.15}, {Case: "memory", Unit: "ns/op", AtMost: 1000}},
		},
		{
			Name: "match", Title: "Matching: observers, condition, template", Benchmark: "BenchmarkMatch",
			How: "An event of about 500 bytes is decoded, `field_changed_to('status', 'shipped') && total > 0` evaluated, and a " +
				"webhook's body with three placeholders rendered. Many observers, each with its condition, against a set of those " +
				"alone that are of the event's entity: the others cost nothing.",
			Compare: []string{"ns/op"}, State: []string{"ns/op", "allocs/op", "B/op"},
			Goals: []Goal{{Unit: "ns/op", Ratio: true, AtMost: 1.1}},
		},
		{
			Name: "metrics", Title: "Metrics: what they cost", Benchmark: "BenchmarkMetrics", Runs: 10,
			How: "Changes that lead to one delivery each, to a worker whose metrics are scraped as often as is usual, each 15 s, and to " +
				"one that registers none, in turn: the processor's time from the commit to the end of the deliveries, of 18,000 changes " +
				"for each run.",
			Compare: []string{"cpu-µs/change"}, State: []string{"cpu-ms/scrape"},
			Goals: []Goal{{Unit: "cpu-µs/change", Ratio: true, AtMost: 1.01}},
		},
		{
			Name: "idle", Title: "Idle", Benchmark: "BenchmarkIdle",
			How: "A worker of three endpoints with nothing to do, and one with three standbys, against as many bare River clients with " +
				"the same queues and River's defaults: together, for 8 s.",
			Compare: []string{"cpu-ms/s", "queries/s", "WAL-B/s"}, State: []string{"MB"},
		},
	}
}
