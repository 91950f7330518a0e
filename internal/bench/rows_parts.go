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
	}
}
