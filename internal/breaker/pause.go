package breaker

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/fraiseql/weir/internal/store"
)

// scope is what a pause holds.
type scope string

// The scopes, as weir.paused has them.
const (
	allDeliveries  scope = "deliveries" // all of them
	pausedEndpoint scope = "endpoint"   // River's pause of its queue
	pausedObserver scope = "observer"
	pausedStream   scope = "stream"
)

// statePaused is the state of rows of FollowEndpoints that are pauses.
const statePaused = "paused"

// held names what a person has paused. The name is empty for all deliveries and for the stream, and the queue's for an endpoint.
type held struct {
	scope scope
	name  string
}

// pause is who holds it, since when and why.
type pause struct {
	since      time.Time
	by, reason string
}

func (h held) String() string {
	if h.name == "" {
		return string(h.scope)
	}
	return string(h.scope) + " " + h.name
}

// String is for people.
func (p pause) String() string {
	text := "paused since " + p.since.UTC().Format(time.RFC3339)
	if p.by != "" {
		text += " by " + p.by
	}
	if p.reason != "" {
		text += ": " + p.reason
	}
	return text
}

// Watch names the observers in force, for the metric.
func (p *Panel) Watch(observers []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.observers = observers
	p.countPaused()
}

// ObserverPaused says that deliveries of an observer wait.
func (p *Panel) ObserverPaused(name string) bool { return p.paused(held{pausedObserver, name}) }

// QueuePaused says that nothing of a queue that is an endpoint's, or was, is to be delivered.
func (p *Panel) QueuePaused(queue string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.queuePaused(queue)
}

func (p *Panel) paused(h held) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, is := p.pauses[h]
	return is
}

// queuePaused wants mu to be held.
func (p *Panel) queuePaused(queue string) bool {
	_, all := p.pauses[held{scope: allDeliveries}]
	_, one := p.pauses[held{pausedEndpoint, queue}]
	return all || one
}

// takePauses parts the rows of FollowEndpoints: pauses are taken over, the rest is returned.
func (p *Panel) takePauses(rows []store.FollowEndpointsRow) []store.FollowEndpointsRow {
	pauses := map[held]pause{}
	rest := slices.DeleteFunc(rows, func(r store.FollowEndpointsRow) bool {
		if r.State != statePaused {
			return false
		}
		pauses[held{scope(r.Action), r.Endpoint}] = pause{since: r.ChangedAt, by: r.ChangedBy, reason: r.Reason}
		return true
	})
	p.adoptPauses(pauses)
	return rest
}

// adoptPauses holds what is paused, and lets go what is not any more.
func (p *Panel) adoptPauses(pauses map[held]pause) {
	p.mu.Lock()
	before := p.pauses
	p.pauses = pauses
	for name, c := range p.circuits {
		c.hold(p.queuePaused(p.queueOf(name)))
	}
	p.countPaused()
	p.mu.Unlock()
	_, streamPaused := pauses[held{scope: pausedStream}]
	if streamPaused && p.streamPaused != nil { // each time: who is told may have been about to begin
		p.streamPaused()
	}
	turned, resumed := false, false
	for h, is := range pauses {
		if _, was := before[h]; !was {
			p.log.Info("paused", "what", h.String(), "since", is.since, "by", is.by, "reason", is.reason)
			turned = true
		}
	}
	for h := range before {
		if _, is := pauses[h]; !is {
			p.log.Info("resumed", "what", h.String())
			turned, resumed = true, resumed || h.scope == pausedObserver
		}
	}
	if resumed && p.resumed != nil {
		p.resumed()
	}
	if turned {
		p.turned()
	}
}

// countPaused sets the metric: of all deliveries and the stream, and of the endpoints and observers in force. mu is held.
func (p *Panel) countPaused() {
	names := map[held]string{{scope: allDeliveries}: "", {scope: pausedStream}: ""}
	for name := range p.circuits {
		names[held{pausedEndpoint, p.queueOf(name)}] = name
	}
	for _, name := range p.observers {
		names[held{pausedObserver, name}] = name
	}
	for h, name := range p.counted {
		if _, ok := names[h]; !ok {
			p.metrics.paused.DeleteLabelValues(string(h.scope), name)
		}
	}
	for h, name := range names {
		n := 0.0
		if _, is := p.pauses[h]; is {
			n = 1
		}
		p.metrics.paused.WithLabelValues(string(h.scope), name).Set(n)
	}
	p.counted = names
}

// degradedByPauses lists what is paused but for the stream, which says so itself. mu is held.
func (p *Panel) degradedByPauses() []string {
	endpoints := map[string]string{}
	for name := range p.circuits {
		endpoints[p.queueOf(name)] = name
	}
	var degraded []string
	for _, h := range slices.Collect(maps.Keys(p.pauses)) {
		if h.scope == pausedStream {
			continue
		}
		said := h
		if name, ok := endpoints[h.name]; ok && h.scope == pausedEndpoint {
			said.name = name
		}
		degraded = append(degraded, fmt.Sprintf("%s: %s", said, p.pauses[h]))
	}
	return degraded
}
