package bench

import (
	"fmt"
	"testing"
)

const (
	workersBacklog = 12_000
	// defaultConcurrency is an endpoint's, in each worker.
	defaultConcurrency = 50
)

// BenchmarkWorkers works the same backlog off with more and more workers.
func BenchmarkWorkers(b *testing.B) {
	for _, c := range answers {
		for _, workers := range []int{1, 2, 4} {
			b.Run(fmt.Sprintf("answers=%s/workers=%d", c.name, workers), func(b *testing.B) {
				r, rc := newRig(b), newReceiver(b, c.after, nil)
				config := r.write(rc.everyOrder(defaultConcurrency))
				all := []*process{r.reads(r.start(config))}
				for len(all) < workers {
					all = append(all, r.start(config))
				}
				r.backlog(rc, workersBacklog, workers*defaultConcurrency)
				r.delivered(rc, workersBacklog, all...)
			})
		}
	}
}
