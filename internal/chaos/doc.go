// Package chaos breaks everything that Weir stands on while it works, and looks afterwards whether it kept its promises.
//
// # A run
//
// Run starts a PostgreSQL, a Redis and, if asked, an Elasticsearch of its own (internal/sandbox), a receiver of webhooks, and
// worker processes from the binaries that people use. Clients commit transactions of every kind at a bounded rate. Meanwhile a
// plan of faults is carried out. Then everything is mended, what is under way comes to its end, and the checker compares.
//
// # The seed
//
// The plan (what, when, for how long, whom) is a pure function of the seed and the options: NewPlan. The load is drawn from the
// seed, too, but what its clients get to write depends on when a server is away. A run is therefore repeated in what is done to
// Weir, not in each transaction.
//
// # Who is right
//
// The change log in PostgreSQL is the truth: a COMMIT whose answer was lost is looked up there. What each client knows besides
// guards the truth itself. The checker works out from the rows alone, by a few lines of Go that know nothing of internal/rule,
// which deliveries there must be, and compares that with weir.event, River's jobs, weir.outcome, the rows that a database action
// has written, the calls that the receiver has seen, and the documents of the history. check.go names every difference.
//
// # What cannot be done here
//
// Clocks are not moved: the database's clock is the machine's. A worker that is stopped for longer than its lease sees the same
// as one whose clock has jumped. What is left out is said in the report.
package chaos
