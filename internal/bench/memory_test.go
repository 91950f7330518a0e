package bench

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// BenchmarkMemory reads from the kernel how much memory a worker has occupied at the most, under each load a new one.
func BenchmarkMemory(b *testing.B) {
	b.Run("load=idle", func(b *testing.B) {
		r := newRig(b)
		config := r.write(manyActions(1))
		r.makeSlot(config)
		p := r.reads(r.start(config))
		time.Sleep(10 * time.Second)
		figures(b, map[string]float64{"MB": p.megabytes()})
		p.stop()
	})
	b.Run("load=backlog", func(b *testing.B) {
		r := newRig(b)
		config := r.write(manyActions(3))
		r.makePaused(config)
		r.changes("Order", 100_000, 1000)
		r.occupied(config, "SELECT events FROM weir.checkpoint", 100_000)
	})
	b.Run("load=webhooks", func(b *testing.B) {
		r := newRig(b)
		rc := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		b.Cleanup(rc.Close)
		config := r.write(fmt.Sprintf("outbound: {allow: [\"127.0.0.1\"]}\n"+
			"observers: {every: {entity: Order, actions: [{type: webhook, url: %q}]}}", rc.URL))
		r.makeSlot(config)
		r.changes("Order", 20_000, 1)
		r.occupied(config, "SELECT count(*) FROM weir.river_job WHERE state = 'completed' AND kind = 'weir_webhook'", 20_000)
	})
	b.Run("load=transaction", func(b *testing.B) {
		r := newRig(b)
		config := r.write("observers: {tenth: {entity: Order, condition: total % 10 == 0, actions: [{type: log, level: debug}]}}")
		r.makePaused(config)
		r.changes("Order", 1_000_000, 1_000_000)
		r.occupied(config, "SELECT events FROM weir.checkpoint", 1_000_000)
	})
}

// occupied runs a worker until a number has been reached, and says what it has occupied by then, and a quarter of the way and
// half of it.
func (r *rig) occupied(config, progress string, end float64) {
	r.b.Helper()
	p := r.reads(r.start(config))
	byUnit := map[string]float64{}
	for _, at := range []struct {
		unit string
		part float64
	}{{"MB-at-1/4", 0.25}, {"MB-at-1/2", 0.5}, {"MB", 1}} {
		r.await("the load", func() bool {
			time.Sleep(20 * time.Millisecond)
			return r.number(progress) >= at.part*end
		})
		byUnit[at.unit] = p.megabytes()
	}
	figures(r.b, byUnit)
	p.stop()
}

func (p *process) megabytes() float64 {
	p.b.Helper()
	return p.resident() / (1 << 20)
}
