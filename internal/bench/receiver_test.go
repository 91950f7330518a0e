package bench

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fraiseql/weir/internal/jobs"
)

// receiver takes webhooks. It answers none until it is opened: who measures lets every worker get as far as that first.
type receiver struct {
	*httptest.Server
	open     func()
	opened   chan struct{}
	after    time.Duration // how long an answer takes
	seen     func(at time.Time, req *http.Request)
	arrived  atomic.Int64
	answered atomic.Int64
}

// newReceiver starts one. seen is told of each request as soon as it is there; it may be nil.
func newReceiver(b *testing.B, after time.Duration, seen func(at time.Time, req *http.Request)) *receiver {
	b.Helper()
	rc := &receiver{after: after, seen: seen, opened: make(chan struct{})}
	rc.open = sync.OnceFunc(func() { close(rc.opened) })
	rc.Server = httptest.NewServer(rc)
	b.Cleanup(func() {
		rc.open()
		rc.CloseClientConnections()
		rc.Close()
	})
	return rc
}

// ServeHTTP answers 200.
func (rc *receiver) ServeHTTP(_ http.ResponseWriter, req *http.Request) {
	if rc.seen != nil {
		rc.seen(time.Now(), req)
	}
	rc.arrived.Add(1)
	<-rc.opened
	time.Sleep(rc.after)
	rc.answered.Add(1)
}

// endpoint is what weir.yaml calls it.
func (rc *receiver) endpoint() string { return strings.TrimPrefix(rc.URL, "http://") }

// queue is where deliveries to it wait.
func (rc *receiver) queue() string { return jobs.QueueName(rc.endpoint()) }

// everyOrder is an observer that posts every order to it. The receiver may be shut for long.
func (rc *receiver) everyOrder(concurrency int) string {
	return fmt.Sprintf("outbound: {allow: [127.0.0.0/8]}\nendpoints: {%q: {concurrency: %d}}\n"+
		"observers: {every: {entity: Order, actions: [{type: webhook, timeout: 5m, url: %q}]}}\n", rc.endpoint(), concurrency, rc.URL)
}
