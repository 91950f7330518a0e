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
	}
}
