package worker

import (
	"os"
	"runtime/debug"
)

const (
	// gcPercent trades a little of the processor for memory: a worker stays below 100 MB while it reads a transaction of any size.
	gcPercent = 50
	// gcBallast counts as a part of the heap and is never touched, so it occupies no memory. A worker's heap is small, 10 to 25 MB:
	// by itself it would be collected whenever it has grown by a few megabytes, which took a fifth of the worker's time under load.
	// With the ballast it is half of it more. The greater the heap, the less it matters.
	gcBallast = 24 << 20
)

// ballast is what TuneGC keeps.
var ballast []byte

// TuneGC sets the garbage collector up for the whole process, as the worker's main does first. GOGC of the environment wins, and
// with GOMEMLIMIT, which would count it, there is no ballast.
func TuneGC() {
	if _, set := os.LookupEnv("GOGC"); set {
		return
	}
	debug.SetGCPercent(gcPercent)
	if _, set := os.LookupEnv("GOMEMLIMIT"); !set {
		ballast = make([]byte, gcBallast)
	}
}
