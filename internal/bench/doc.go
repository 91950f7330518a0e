// Package bench measures Weir against the limits that it cannot pass: PostgreSQL's own, River's own, the bare client's. A row
// is a Go benchmark of this package whose sub-benchmarks end in by=weir and by=<the limit>; both do the same work, in turn, on
// the same server. Command run, which is `make bench`, calls a row several times, keeps what the benchmarks printed (benchstat
// reads it), and writes docs/performance.md from it.
package bench
