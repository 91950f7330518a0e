package bench

// storageRows are about what is stored, and what grows.
func storageRows() []Row {
	return []Row{
		{
			Name: "checkpoint", Title: "Checkpoint: changes that are durably checkpointed", Benchmark: "BenchmarkCheckpoint",
			How: "A backlog read into a sink that stores nothing, so that each batch only moves the checkpoint: with batches of one " +
				"change, against a loop of `UPDATE` statements of one row that commit by themselves, and with batches as they are.",
			Compare: []string{"changes/s"}, State: []string{"changes/s", "changes/batch"},
			Goals: []Goal{
				{Case: "batch=1", Unit: "changes/s", Ratio: true, AtLeast: 0.9},
				{Case: "batch=default", Unit: "changes/s", AtLeast: 10_000},
			},
		},
		{
			Name: "wal", Title: "WAL: bytes of our own for a change", Benchmark: "BenchmarkWAL",
			How: "What the server writes into its WAL for a change of about 500 bytes, from its commit until its one webhook was " +
				"delivered and both can be found, against what the `INSERT` of the change itself has written: for a backlog, and for " +
				"changes that are committed one by one, 200 in a second. Below that by what it is for (`pg_walinspect`): `pages` are " +
				"whole pages that are written after a server's checkpoint, `other` are commits, mostly.",
			Compare: []string{"B/change"},
			State: []string{
				"event-B", "event-index-B", "job-B", "job-btree-B", "job-gin-B", "document-B", "document-gin-B",
				"checkpoint-B", "pages-B", "other-B",
			},
		},
		{
			Name: "history", Title: "History: ingest while it is followed", Benchmark: "BenchmarkHistory",
			How: "A backlog of 20,000 changes of which half match, whose jobs wait, while documents of them are stored, in PostgreSQL " +
				"and in an Elasticsearch on the same machine, against the same load while nobody does. `documents/s` is from the " +
				"beginning until the last one is there, `behind-s` how long after the end of ingest.",
			Compare: []string{"changes/s"},
			State:   []string{"changes/s", "documents/s", "behind-s", "WAL-B/change", "cpu-µs/change"},
		},
		{
			Name: "growth", Title: "Growth: finished jobs and history that are there already", Benchmark: "BenchmarkGrowth",
			How: "A backlog of 40,000 changes is ingested while its jobs wait, and then 15,000 of the jobs are worked off, in a " +
				"database that holds so many events of a month with their documents, and as many finished jobs of a day, which have " +
				"waited before and were vacuumed since, against an empty one. Before the measured changes the server makes a " +
				"checkpoint, and then 40,000 are ingested that are not measured.",
			Compare: []string{"changes/s", "jobs/s"}, State: []string{"WAL-B/change"},
			Goals: []Goal{
				{Unit: "changes/s", Ratio: true, AtLeast: 0.8},
				{Unit: "jobs/s", Ratio: true, AtLeast: 0.8},
			},
		},
		{
			Name: "memory", Title: "Memory: the most that a worker occupies", Benchmark: "BenchmarkMemory",
			How: "`VmHWM` of a worker: one that is idle; one that ingests a backlog of 100,000 changes with three jobs each; one that " +
				"delivers 20,000 webhooks; one that ingests a transaction of 1,000,000 rows of about 500 bytes, of which each tenth " +
				"matches. Flat means that it is the same a quarter of the way as at its end.",
			State: []string{"MB-at-1/4", "MB-at-1/2", "MB"},
			Goals: []Goal{{Unit: "MB", AtMost: 100}},
		},
	}
}
