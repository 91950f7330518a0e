package index

// Query is a parsed question in words.
type Query struct{}
