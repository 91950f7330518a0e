package jobs

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/fraiseql/weir/internal/action"
	"github.com/fraiseql/weir/internal/observer"
)

// door is a log that nobody gets through until it is open: a delivery that writes to it runs for as long.
type door struct {
	slog.Handler
	entered, open chan struct{}
}

func newDoor() *door {
	return &door{slog.DiscardHandler, make(chan struct{}, 100), make(chan struct{})}
}

func (d *door) Enabled(context.Context, slog.Level) bool { return true }

func (d *door) Handle(context.Context, slog.Record) error {
	d.entered <- struct{}{}
	<-d.open
	return nil
}

func (d *door) set(t *testing.T, text string) *observer.Set {
	t.Helper()
	var configs map[string]observer.Config
	check(t, yaml.NewDecoder(strings.NewReader(text), yaml.Strict()).DecodeContext(t.Context(), &configs))
	set, err := observer.New(configs, action.Deps{Logger: slog.New(d)})
	check(t, err)
	return set
}

// swept waits until the sweep has seen what was swapped in, and has given up waiting for a queue that does not end.
func (r *rig) swept() {
	r.t.Helper()
	for len(r.q.swapped) > 0 {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(6 * resizePatience)
}

// A queue whose concurrency changed while it was busy, and which has its old one again or serves no endpoint any more before
// it has ended, is served again.
func TestQueueThatIsStoppingIsServedAgain(t *testing.T) {
	t.Parallel()
	const here = `o: {entity: Order, actions: [{type: log}]}`
	for name, then := range map[string]string{
		"changed back": here, "no longer used": `o: {entity: Order, actions: [{type: log, endpoint: elsewhere}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, here)
			d := newDoor()
			of := func(n int) map[string]EndpointConfig { return map[string]EndpointConfig{"log": {Concurrency: n}} }
			r.q.Swap(d.set(t, here), of(5))
			r.run()
			r.swept()
			r.commit(order(1, `{}`))
			<-d.entered
			r.q.Swap(d.set(t, here), of(6))
			r.swept()
			r.commit(order(2, `{}`))
			r.q.Swap(d.set(t, then), of(5))
			r.swept()
			close(d.open)
			r.await("both deliveries", `SELECT count(*) = 2 FROM weir.river_job WHERE kind = 'weir_log' AND state = 'completed'`)
		})
	}
}

// Of many queues that are to stop at once, as when a network fails, each is told at once: none waits for the deliveries of the
// others to end.
func TestManyQueuesStopAtOnce(t *testing.T) {
	t.Parallel()
	const queues = 40
	var text strings.Builder
	text.WriteString("o:\n  entity: Order\n  actions:\n")
	configs := map[string]EndpointConfig{}
	for i := range queues {
		fmt.Fprintf(&text, "    - {type: log, name: a%d, endpoint: e%d}\n", i, i)
		configs[fmt.Sprintf("e%d", i)] = EndpointConfig{Concurrency: 6}
	}
	r := newRig(t, text.String())
	d := newDoor()
	defer close(d.open)
	set := d.set(t, text.String())
	r.q.Swap(set, nil)
	r.run()
	r.swept()
	r.commit(order(1, `{}`))
	for range queues {
		<-d.entered
	}
	r.q.Swap(set, configs)
	r.swept()
	r.commit(order(2, `{}`))
	time.Sleep(200 * time.Millisecond)
	if n := len(d.entered); n > 0 {
		t.Errorf("%d of %d queues went on fetching", n, queues)
	}
}
