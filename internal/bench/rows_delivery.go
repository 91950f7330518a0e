package bench

// deliveryRows are about the way from a job to its receiver.
func deliveryRows() []Row {
	return []Row{
		{
			Name: "delivery", Title: "Delivery: webhooks from a backlog", Benchmark: "BenchmarkDelivery",
			How: "A backlog of 20,000 queued webhooks of about 800 bytes to a local receiver that answers at once, and after 20 ms, " +
				"with `concurrency: 200`, until all are concluded; against bare River workers with `MaxWorkers: 200`, equal jobs, " +
				"bodies and fetch settings that post with the same HTTP client.",
			Compare: []string{"deliveries/s"},
			State:   []string{"cpu-µs/delivery", "statements/1000", "WAL-B/delivery"},
			Goals: []Goal{
				{Unit: "deliveries/s", Ratio: true, AtLeast: 0.85},
				{Unit: "deliveries/s", Case: "20ms", AtLeast: 2000},
			},
		},
		{
			Name: "latency", Title: "Latency: COMMIT to the receiver's first byte", Benchmark: "BenchmarkLatency",
			How: "Changes committed at a fixed pace, whatever becomes of them, from the return of the COMMIT until the webhook's " +
				"request is there; against the same COMMITs that each insert one bare River job, until the job's function is called in " +
				"another process with the same fetch settings.",
			Compare: []string{"p50-ms", "p99-ms"}, State: []string{"commits/s"},
			Goals: []Goal{
				{Unit: "p50-ms", Ratio: true, AtMost: 2},
				{Unit: "p99-ms", Ratio: true, AtMost: 3},
				{Unit: "p99-ms", Case: "rate=500", AtMost: 50},
			},
		},
		{
			Name: "five", Title: "Five actions of 200 ms on one event", Benchmark: "BenchmarkFive",
			How: "From the first request to the last response, of webhooks to one endpoint and to five; against five requests with the " +
				"same HTTP client one after the other.",
			Compare: []string{"actions/s"}, State: []string{"ms"},
			Goals: []Goal{{Unit: "actions/s", Ratio: true, AtLeast: 4.8}},
		},
		{
			Name: "queues", Title: "Many endpoints", Benchmark: "BenchmarkQueues",
			How: "A worker with 1, 20 and 200 endpoints, each a queue: idle for 8 s, beside a bare River client with as many queues; " +
				"and with a backlog of 6,000 webhooks spread over them, and a concurrency of 200 shared out evenly, to a receiver " +
				"that answers at once.",
			State: []string{"queries/s", "WAL-B/s", "cpu-ms/s", "deliveries/s"},
		},
		{
			Name: "workers", Title: "One, two and four workers", Benchmark: "BenchmarkWorkers",
			How: "A backlog of 12,000 webhooks, with the default concurrency of 50 in each worker. The receiver, PostgreSQL and the " +
				"workers share the machine.",
			State: []string{"deliveries/s"},
		},
	}
}
