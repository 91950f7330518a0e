package bench

import (
	"fmt"
	"strings"
	"testing"
)

const (
	queuesBacklog = 6_000
	queuesPlaces  = 200 // concurrency of all endpoints together
)

// BenchmarkQueues says what endpoints cost that nothing goes to, and what it costs to go to many.
func BenchmarkQueues(b *testing.B) {
	for _, endpoints := range []int{1, 20, 200} {
		b.Run(fmt.Sprintf("endpoints=%d", endpoints), func(b *testing.B) {
			b.Run("idle/by=weir", func(b *testing.B) {
				r, rc := newRig(b), newReceiver(b, 0, nil)
				p := r.reads(r.start(r.write(rc.endpoints(endpoints))))
				r.serves(endpoints)
				r.idles([]*process{p})
				p.stop()
			})
			b.Run("idle/by=river", func(b *testing.B) {
				r := newRig(b)
				bare := bareRiver{Workers: queuesPlaces / endpoints}
				for i := range endpoints {
					bare.Queues = append(bare.Queues, fmt.Sprintf("e%d", i))
				}
				p := r.startRiver(bare)
				r.serves(endpoints)
				r.idles([]*process{p})
				p.stop()
			})
			b.Run("load/by=weir", func(b *testing.B) {
				r, rc := newRig(b), newReceiver(b, 0, nil)
				p := r.reads(r.start(r.write(rc.endpoints(endpoints))))
				r.exec(`INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data)
					SELECT 'E' || n % $1, 'INSERT', gen_random_uuid(), jsonb_build_object('total', n, 'note', repeat('x', 430))
					  FROM generate_series(1, $2) n`, endpoints, queuesBacklog)
				r.await("the backlog", func() bool { return r.number("SELECT events FROM weir.checkpoint") >= queuesBacklog })
				r.recorded()
				r.waits(rc, queuesPlaces)
				r.delivered(rc, queuesBacklog, p)
			})
		})
	}
}

// endpoints are so many, all at the same receiver, each with an observer.
func (rc *receiver) endpoints(n int) string {
	var endpoints, observers strings.Builder
	for i := range n {
		fmt.Fprintf(&endpoints, "  e%d: {concurrency: %d}\n", i, queuesPlaces/n)
		fmt.Fprintf(&observers, "  o%d: {entity: E%d, actions: [{type: webhook, timeout: 5m, endpoint: e%d, url: %q}]}\n", i, i, i, rc.URL)
	}
	return "outbound: {allow: [127.0.0.0/8]}\nendpoints:\n" + endpoints.String() + "observers:\n" + observers.String()
}

// serves waits until all queues are.
func (r *rig) serves(endpoints int) {
	r.b.Helper()
	r.await("the queues", func() bool {
		return r.number("SELECT count(*) FROM weir.river_queue WHERE name ~ '^e[0-9]+$'") == float64(endpoints)
	})
}
