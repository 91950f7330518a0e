package worker_test

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"
)

// clock is a receiver's: when the first request came, when the last response went, and how many went.
type clock struct {
	mu          sync.Mutex // guards the rest
	first, last time.Time
	answered    int
}

func (c *clock) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.first.IsZero() {
		c.first = time.Now()
	}
}

func (c *clock) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = time.Now()
	c.answered++
}

func (c *clock) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.answered
}

func (c *clock) took() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last.Sub(c.first)
}

// timed is a receiver that answers after a while, or when it is told to go.
func timed(t testing.TB, after time.Duration, release <-chan struct{}) (*receiver, *clock) {
	t.Helper()
	c := &clock{}
	rc := newReceiver(t, func(_ http.ResponseWriter, req *http.Request) {
		c.begin()
		select {
		case <-time.After(after):
			c.end()
		case <-release:
		case <-req.Context().Done():
		}
	})
	return rc, c
}

const (
	hangs  = 30 * time.Second
	quick  = 5 * time.Millisecond
	events = 500
)

// besideAHangingOne commits 500 events that each go to an endpoint that answers in 5 ms and, unless alone, to one that hangs for
// 30 s. It returns how long the quick one took, and how many the other had answered by then.
func besideAHangingOne(t testing.TB, alone bool) (took time.Duration, hung int) {
	t.Helper()
	r := rigOn(t, postgres.Database(t))
	release := make(chan struct{})
	slowly, hanging := timed(t, hangs, release)
	quickly, answers := timed(t, quick, nil)
	actions := fmt.Sprintf("{type: webhook, name: quick, url: %q}", quickly.URL)
	if !alone {
		actions = fmt.Sprintf("{type: webhook, name: slow, timeout: 1m, url: %q}, ", slowly.URL) + actions
	}
	run := r.started(fmt.Sprintf(`
log: {level: warn}
outbound: {allow: ["127.0.0.0/8"]}
observers:
  both: {entity: Order, actions: [%s]}
`, actions))
	r.exec(`INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data)
		SELECT 'Order', 'INSERT', gen_random_uuid(), '{}' FROM generate_series(1, $1)`, events)
	r.await("the quick endpoint's answers", func() bool { return answers.count() == events })
	hung = hanging.count()
	close(release)
	run.stop(t)
	return answers.took(), hung
}

// An endpoint that hangs holds back nothing else: the last delivery of the one beside it is done before its first.
func TestSlowEndpointHoldsBackNothing(t *testing.T) {
	t.Parallel()
	took, hung := besideAHangingOne(t, false)
	t.Logf("%d deliveries to the quick endpoint within %s", events, took.Round(time.Millisecond))
	if hung > 0 {
		t.Errorf("the endpoint that hangs for %s had answered %d times before the quick one was done", hangs, hung)
	}
}

// BenchmarkBesideASlowEndpoint holds the time that 500 deliveries to a quick endpoint take beside one that hangs against the time
// that they take alone.
func BenchmarkBesideASlowEndpoint(b *testing.B) {
	var alone, beside time.Duration
	for b.Loop() {
		one, _ := besideAHangingOne(b, true)
		both, _ := besideAHangingOne(b, false)
		alone, beside = alone+one, beside+both
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(alone.Milliseconds())/float64(b.N), "ms-alone")
	b.ReportMetric(float64(beside.Milliseconds())/float64(b.N), "ms-beside")
	b.ReportMetric(beside.Seconds()/alone.Seconds(), "of-alone")
}
