// Package breaker answers, for each endpoint: may it be called now, and if not, when. It holds the circuit breakers, the rate
// limits, and the list of actions whose target is gone.
//
// # The breaker
//
// Each worker counts the calls that it makes in a sliding window of its own (failsafe-go). The state is shared: the endpoint's
// row in weir.endpoint is authoritative, and every worker reads all rows each second (Panel.Follow).
//
//	closed ──(a worker's window says so)──▶ open until T ──(T has passed, one worker takes it)──▶ half-open
//	   ▲                                      ▲                                                       │
//	   └────(as many successes as probes)─────┼───────────────────────────────────────────────────────┤
//	                                          └──────────────(the first failure)──────────────────────┘
//
// Every transition is a compare-and-swap on the row, so two workers that see the same thing make one transition of it. A worker
// whose window trips acts at once and writes it down as soon as it can: while the database is away its own decision holds. In
// half-open the row names the worker that probes; the others stay out. A prober that stops hands the state back; one that has
// lost its lease (weir.worker) is replaced. A result counts only for the state in which its call began: what comes late, after
// a transition, says nothing about the new one.
//
// Somebody's `weir breaker open` is a row like any other, with an end that he names or that lies in infinity. It holds also where
// the configuration has no breaker; there it ends without probes.
//
// # The rate limit
//
// rate_next in the row is the next moment that nobody has reserved. A worker that has deliveries waiting moves it forward by a
// slice, a quarter of a second's worth, and hands the moments in between to its deliveries in the order in which they came. So
// the limit holds over all workers; one that dies loses a slice at the most, and those that are busy share evenly. What lies more
// than 5 s ahead cannot be reserved: under a low limit, where a slice is one call, whoever stops or dies would take along minutes
// in which nobody calls. Moments are the database's; they are converted by what its clock said in the same call. While the
// database is away nothing is reserved and nothing is called.
//
// # Gone
//
// weir.gone lists actions whose target answered 410, with a fingerprint of it. A worker whose configuration has another target
// for the action removes the row.
package breaker
