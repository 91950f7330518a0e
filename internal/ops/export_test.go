package ops

// ReadThroughputOf is ReadThroughput that looks at fewer rows.
var ReadThroughputOf = readThroughput
