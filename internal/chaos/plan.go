package chaos

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Kind is a kind of fault.
type Kind string

// The kinds of faults. Those of a worker name one; kill-owner and stop-owner mean the one that reads the stream at that moment.
const (
	KillOwner       Kind = "kill-owner"       // SIGKILL, and a new process after a while
	KillWorker      Kind = "kill-worker"      // the same, whoever it is
	StopOwner       Kind = "stop-owner"       // SIGSTOP, SIGCONT
	StopWorker      Kind = "stop-worker"      // the same, whoever it is
	TermWorker      Kind = "term-worker"      // SIGTERM, and a new process after a while
	RollWorkers     Kind = "roll-workers"     // all of them anew, one after the other, as a deploy does
	LogFull         Kind = "log-full"         // the disk of the worker's log is full: each write to it fails
	PostgresFast    Kind = "postgres-fast"    // restart, sessions are ended
	PostgresCrash   Kind = "postgres-crash"   // restart after an immediate shutdown
	PostgresKill    Kind = "postgres-kill"    // SIGKILL of every process of the server, and a start after a while
	PostgresCut     Kind = "postgres-cut"     // a worker's connections to PostgreSQL are closed, new ones refused
	PostgresSilent  Kind = "postgres-silent"  // they carry nothing, and nobody is told
	PostgresLatency Kind = "postgres-latency" // whatever they carry comes late
	PostgresAllCut  Kind = "postgres-all-cut" // postgres-cut for all workers
	RedisCut        Kind = "redis-cut"
	RedisSilent     Kind = "redis-silent"
	RedisLatency    Kind = "redis-latency"
	RedisKill       Kind = "redis-kill" // what it held is gone
	RedisFlush      Kind = "redis-flush"
	RedisStop       Kind = "redis-stop" // SIGSTOP, SIGCONT
	ReceiverAway    Kind = "receiver-away"
	ReceiverFails   Kind = "receiver-fails" // 500
	ReceiverSlow    Kind = "receiver-slow"
	ReceiverHangs   Kind = "receiver-hangs" // longer than the timeout of the action
	ReceiverResets  Kind = "receiver-resets"
	ElasticKill     Kind = "elasticsearch-kill"
	ElasticStop     Kind = "elasticsearch-stop" // SIGSTOP, SIGCONT
	SlotDropped     Kind = "slot-dropped"
	SlotInvalidated Kind = "slot-invalidated"
)

// skipped are faults that one would want and that are not to be had, with the reason.
var skipped = []string{
	"clock jumps: the database's clock is the machine's, and there is nothing to preload into a worker; stop-worker and " +
		"stop-owner outlast leases, which looks the same from inside",
	"PostgreSQL's disk full: needs a file system of its own, hence root; a worker keeps nothing on disk but its log (log-full)",
}

// Fault is one entry of a plan.
type Fault struct {
	At   time.Duration // since the load began
	For  time.Duration // until it is mended
	Kind Kind
	// Worker is which one, from 0. -1: it is nobody's, or the owner's.
	Worker int
	// Path is the receiver's, for faults of the receiver.
	Path string
	// Latency is what each piece of data waits, or each answer of the receiver.
	Latency time.Duration
}

// String is a line for people.
func (f Fault) String() string {
	var s strings.Builder
	fmt.Fprintf(&s, "%8.2fs  %-18s for %5.2fs", f.At.Seconds(), f.Kind, f.For.Seconds())
	if f.Worker >= 0 {
		fmt.Fprintf(&s, "  worker %d", f.Worker+1)
	}
	if f.Path != "" {
		fmt.Fprintf(&s, "  %s", f.Path)
	}
	if f.Latency > 0 {
		fmt.Fprintf(&s, "  %s", f.Latency)
	}
	return s.String()
}

// recipe says how faults of a kind are drawn.
type recipe struct {
	kind     Kind
	min, max time.Duration // how long
	perWork  bool          // of one worker
	perPath  bool          // of one path of the receiver
	late     time.Duration // the most latency
	// holds is what the fault takes: two that take the same do not overlap. "": nothing. Those of a worker or path take their own.
	holds string
	// rest is for how long nothing else may take it afterwards: where what follows takes time, it shall come to an end.
	rest time.Duration
	only func(Options) bool // nil: always
}

func elastic(o Options) bool { return o.Elasticsearch }

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

var recipes = []recipe{
	{kind: KillOwner, min: 0, max: seconds(2)},
	{kind: KillOwner, min: 0, max: seconds(2)}, // twice: it is what failover is for
	{kind: KillWorker, min: 0, max: seconds(8), perWork: true, holds: "process"},
	{kind: StopOwner, min: seconds(0.2), max: seconds(10), holds: "owner"},
	{kind: StopWorker, min: seconds(0.2), max: seconds(10), perWork: true, holds: "process"},
	{kind: TermWorker, min: 0, max: seconds(3), perWork: true, holds: "process"},
	{kind: RollWorkers, min: seconds(1), max: seconds(3), holds: "all"},
	{kind: LogFull, min: seconds(3), max: seconds(10), perWork: true, holds: "process"},
	{kind: PostgresFast, holds: "postgres"},
	{kind: PostgresCrash, holds: "postgres"},
	{kind: PostgresKill, max: seconds(4), holds: "postgres"},
	{kind: PostgresCut, min: seconds(0.1), max: seconds(8), perWork: true, holds: "to-postgres"},
	{kind: PostgresSilent, min: seconds(1), max: seconds(12), perWork: true, holds: "to-postgres"},
	{kind: PostgresLatency, min: seconds(2), max: seconds(8), perWork: true, holds: "to-postgres", late: seconds(0.05)},
	{kind: PostgresAllCut, min: seconds(0.1), max: seconds(3), holds: "all-to-postgres"},
	{kind: RedisCut, min: seconds(0.1), max: seconds(8), perWork: true, holds: "to-redis"},
	{kind: RedisSilent, min: seconds(1), max: seconds(8), perWork: true, holds: "to-redis"},
	{kind: RedisLatency, min: seconds(2), max: seconds(8), perWork: true, holds: "to-redis", late: seconds(0.15)},
	{kind: RedisKill, max: seconds(6), holds: "redis"},
	{kind: RedisFlush},
	{kind: RedisStop, min: seconds(0.5), max: seconds(6), holds: "redis"},
	{kind: ReceiverAway, min: seconds(1), max: seconds(10), perPath: true, holds: "receiver"},
	{kind: ReceiverFails, min: seconds(1), max: seconds(8), perPath: true, holds: "receiver"},
	{kind: ReceiverSlow, min: seconds(2), max: seconds(10), perPath: true, holds: "receiver", late: seconds(0.5)},
	{kind: ReceiverHangs, min: seconds(2), max: seconds(8), perPath: true, holds: "receiver"},
	{kind: ReceiverResets, min: seconds(1), max: seconds(8), perPath: true, holds: "receiver"},
	{kind: ElasticKill, max: seconds(10), holds: "elasticsearch", only: elastic},
	{kind: ElasticStop, min: seconds(1), max: seconds(15), holds: "elasticsearch", only: elastic},
	{kind: SlotDropped, holds: "slot", rest: slotRest},
	{kind: SlotInvalidated, holds: "slot", rest: slotRest},
}

const (
	// calm is how long the load runs before the first fault.
	calm = 2 * time.Second
	// shortGap and longGap are between the beginnings of two faults.
	shortGap, longGap = 500 * time.Millisecond, 3500 * time.Millisecond
	// slotRest is between two lost slots. A recovery reads the whole of the change log's window, and each kill of its worker
	// makes it begin again.
	slotRest = 2 * time.Minute
)

// NewPlan draws the faults of a run from the seed, in the order of their beginnings. Each kind comes before any comes again, as
// far as there is time. All are over when the load ends.
func NewPlan(o Options) []Fault {
	if o.Quiet {
		return nil
	}
	d := drawing{
		rnd: rand.New(rand.NewPCG(o.Seed, 0x77656972)), options: o, taken: map[string]time.Duration{},
	}
	var plan []Fault
	for at := calm; at < o.For; at += d.between(shortGap, longGap) {
		if f, ok := d.fault(at); ok {
			plan = append(plan, f)
		}
	}
	slices.SortStableFunc(plan, func(a, b Fault) int { return cmp.Compare(a.At, b.At) })
	return plan
}

// drawing is the state of a plan that is being made.
type drawing struct {
	rnd     *rand.Rand
	options Options
	bag     []recipe                 // what has not had its turn
	taken   map[string]time.Duration // until when something is held
}

func (d *drawing) between(least, most time.Duration) time.Duration {
	if most <= least {
		return least
	}
	return (least + time.Duration(d.rnd.Int64N(int64(most-least)))).Round(time.Millisecond)
}

// fault draws the next one: the first of the bag that overlaps with nothing that it must not overlap with.
func (d *drawing) fault(at time.Duration) (Fault, bool) {
	if len(d.bag) == 0 {
		d.fill()
	}
	d.bag = slices.DeleteFunc(d.bag, func(r recipe) bool { return r.rest > 0 && d.taken[r.holds] > at }) // in the next round
	for i, r := range d.bag {
		f := Fault{At: at, Kind: r.kind, For: d.between(r.min, r.max), Worker: -1, Latency: d.between(r.late/10, r.late)}
		what := r.holds
		if r.perWork {
			f.Worker = d.rnd.IntN(d.options.Workers)
			what += fmt.Sprint(" ", f.Worker)
		}
		if r.perPath {
			f.Path = paths[d.rnd.IntN(len(paths))]
			what += f.Path
		}
		end := f.At + f.For
		if end > d.options.For || r.holds != "" && d.taken[what] > at {
			continue
		}
		d.taken[what] = end + r.rest
		d.bag = slices.Delete(d.bag, i, i+1)
		return f, true
	}
	return Fault{}, false
}

func (d *drawing) fill() {
	for _, r := range recipes {
		if r.only == nil || r.only(d.options) {
			d.bag = append(d.bag, r)
		}
	}
	d.rnd.Shuffle(len(d.bag), func(i, j int) { d.bag[i], d.bag[j] = d.bag[j], d.bag[i] })
}

// WritePlan is the plan for people, with what it lacks.
func WritePlan(plan []Fault) string {
	var s strings.Builder
	for _, f := range plan {
		fmt.Fprintln(&s, f)
	}
	for _, why := range skipped {
		fmt.Fprintln(&s, "left out:", why)
	}
	return s.String()
}
