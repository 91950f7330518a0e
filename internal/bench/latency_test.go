package bench

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"golang.org/x/sync/errgroup"

	"github.com/fraiseql/weir/internal/jobs"
)

const (
	latencyTime = 4 * time.Second
	// latencyWarmUp is how much of it is not counted: connections are opened, statements prepared.
	latencyWarmUp = time.Second
	// committers are enough for the pace to be kept while some of them wait for the disk.
	committers = 16
)

// BenchmarkLatency measures from COMMIT to the call, against bare River.
func BenchmarkLatency(b *testing.B) {
	for _, rate := range []int{100, 500, 1000} {
		b.Run(fmt.Sprintf("rate=%d", rate), func(b *testing.B) {
			b.Run("by=weir", func(b *testing.B) {
				t := newTimings(rate)
				r, rc := newRig(b), newReceiver(b, 0, t.arrive)
				rc.open()
				p := r.reads(r.start(r.write(rc.everyOrder(deliveryConcurrency))))
				t.paced(r, change)
				r.await("the deliveries", func() bool { return rc.answered.Load() >= int64(len(t.committed)) })
				p.stop()
				t.report(b)
			})
			b.Run("by=river", func(b *testing.B) {
				t, r, client := newTimings(rate), newRig(b), inserter(b)
				p := r.startRiver(bareRiver{Queues: []string{"bare"}, Workers: deliveryConcurrency})
				r.await("the queue", func() bool { return r.number("SELECT count(*) FROM weir.river_queue WHERE name = 'bare'") == 1 })
				t.paced(r, func(ctx context.Context, tx pgx.Tx, i int) error {
					_, err := client.InsertTx(ctx, tx, bareArgs{jobs.Args{PK: int64(i)}}, &queueBare)
					return err
				})
				r.await("the jobs", func() bool {
					return r.number("SELECT count(*) FROM weir.river_job WHERE state = 'completed'") >= float64(len(t.committed))
				})
				p.stop()
				t.read(b, p.log.String())
				t.report(b)
			})
		})
	}
}

var queueBare = river.InsertOpts{Queue: "bare"}

// change commits what becomes one webhook, which names its number.
func change(ctx context.Context, tx pgx.Tx, i int) error {
	_, err := tx.Exec(ctx, `INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data)
		VALUES ('Order', 'INSERT', gen_random_uuid(), jsonb_build_object('number', $1::int, 'note', repeat('x', 430)))`, i)
	return err
}

// timings are when the changes of a pace were committed, and when they arrived, in nanoseconds since 1970.
type timings struct {
	rate               int
	committed, arrived []atomic.Int64
	took               time.Duration
}

func newTimings(rate int) *timings {
	n := int(latencyTime.Seconds()) * rate
	return &timings{rate: rate, committed: make([]atomic.Int64, n), arrived: make([]atomic.Int64, n)}
}

// paced commits one after the other, each when its time has come, whether or not others have arrived.
func (t *timings) paced(r *rig, commit func(ctx context.Context, tx pgx.Tx, i int) error) {
	r.b.Helper()
	group, ctx := errgroup.WithContext(r.b.Context())
	due := make(chan int, len(t.committed))
	for range committers {
		conn := r.connect()
		group.Go(func() error {
			for i := range due {
				err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error { return commit(ctx, tx, i) })
				if err != nil {
					return err
				}
				t.committed[i].Store(time.Now().UnixNano())
			}
			return nil
		})
	}
	began := time.Now()
	for i := range t.committed {
		time.Sleep(time.Until(began.Add(time.Duration(i) * time.Second / time.Duration(t.rate))))
		due <- i
	}
	close(due)
	check(r.b, group.Wait())
	t.took = time.Since(began)
}

var number = regexp.MustCompile(`"number": ?(\d+)`)

// arrive takes the time of a request.
func (t *timings) arrive(at time.Time, req *http.Request) {
	body, _ := io.ReadAll(req.Body) // one that breaks off is missed later
	if m := number.FindSubmatch(body); m != nil {
		i, _ := strconv.Atoi(string(m[1]))
		t.arrived[i].CompareAndSwap(0, at.UnixNano())
	}
}

// read takes the times that a process of bare River has printed.
func (t *timings) read(b *testing.B, printed string) {
	b.Helper()
	for line := range strings.Lines(printed) {
		var i int
		var at int64
		if _, err := fmt.Sscan(line, &i, &at); err != nil {
			b.Fatalf("bare River printed %q: %v", line, err)
		}
		t.arrived[i].Store(at)
	}
}

func (t *timings) report(b *testing.B) {
	b.Helper()
	var took []float64
	for i := t.rate * int(latencyWarmUp.Seconds()); i < len(t.committed); i++ {
		arrived := t.arrived[i].Load()
		if arrived == 0 {
			b.Fatalf("change %d never arrived", i)
		}
		took = append(took, float64(arrived-t.committed[i].Load())/1e6)
	}
	slices.Sort(took)
	figures(b, map[string]float64{
		"p50-ms": took[len(took)/2], "p99-ms": took[len(took)*99/100],
		"commits/s": float64(len(t.committed)) / t.took.Seconds(),
	})
}
