package bench

// storageRows are about what is stored, and what grows.
func storageRows() []Row {
	return []Row{}
}
