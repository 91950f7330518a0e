package bench

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fraiseql/weir/internal/outbound"
)

const (
	fiveActions = 5
	fiveAfter   = 200 * time.Millisecond
	fiveTimes   = 5 // an event alone says little
)

// BenchmarkFive makes the five calls of an event, against a client that makes them one after the other.
func BenchmarkFive(b *testing.B) {
	for _, endpoints := range []int{1, fiveActions} {
		b.Run(fmt.Sprintf("endpoints=%d", endpoints), func(b *testing.B) {
			b.Run("by=weir", func(b *testing.B) { atOnce(b, endpoints) })
			b.Run("by=sum", oneByOne)
		})
	}
}

// atOnce commits events one after the other, and adds up from the first request of each to the last response.
func atOnce(b *testing.B, endpoints int) {
	b.Helper()
	var first atomic.Pointer[time.Time] // request of an event
	r, rc := newRig(b), newReceiver(b, fiveAfter, func(at time.Time, _ *http.Request) { first.CompareAndSwap(nil, &at) })
	rc.open()
	var actions []string
	for i := range fiveActions {
		actions = append(actions, fmt.Sprintf("{type: webhook, name: a%d, endpoint: e%d, url: %q}", i, i%endpoints, rc.URL))
	}
	p := r.reads(r.start(r.write(fmt.Sprintf("outbound: {allow: [127.0.0.0/8]}\nobservers: {five: {entity: Order, actions: [%s]}}\n",
		strings.Join(actions, ", ")))))
	r.await("the queues", func() bool {
		return r.number("SELECT count(*) FROM weir.river_queue WHERE name LIKE 'e_'") == float64(endpoints)
	})
	took := time.Duration(0)
	for i := range fiveTimes {
		first.Store(nil)
		r.changes("Order", 1, 1)
		all := int64(fiveActions * (i + 1))
		for rc.answered.Load() < all {
			time.Sleep(100 * time.Microsecond)
		}
		took += time.Since(*first.Load())
	}
	fiveFigures(b, took)
	p.stop()
}

// oneByOne makes the same calls by hand.
func oneByOne(b *testing.B) {
	local, err := outbound.ParseTarget("127.0.0.0/8")
	check(b, err)
	client, rc := outbound.New(outbound.Config{Allow: []outbound.Target{local}}), newReceiver(b, fiveAfter, nil)
	rc.open()
	body := bytes.Repeat([]byte("x"), 800)
	began := time.Now()
	for range fiveTimes * fiveActions {
		req, err := http.NewRequestWithContext(b.Context(), http.MethodPost, rc.URL, bytes.NewReader(body))
		check(b, err)
		_, err = client.Do(req)
		check(b, err)
	}
	fiveFigures(b, time.Since(began))
}

func fiveFigures(b *testing.B, took time.Duration) {
	b.Helper()
	figures(b, map[string]float64{
		"ms": float64(took.Microseconds()) / 1000 / fiveTimes, "actions/s": fiveTimes * fiveActions / took.Seconds(),
	})
}
