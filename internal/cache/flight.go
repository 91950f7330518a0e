package cache

import (
	"sync"
	"time"
)

// flights are the calls of this process whose results others wait for. Safe for concurrent use.
type flights struct {
	mu sync.Mutex // guards the rest, and the deadlines of flights
	by map[string]*flight
}

// flight is one of them.
type flight struct {
	*subject

	until time.Time
	over  chan struct{} // closed when those who wait should look again
}

func newFlights() *flights { return &flights{by: map[string]*flight{}} }

// begin registers a call. One before it of the same name is over: its time has passed, or it was invalidated.
func (fs *flights) begin(s *subject, lease time.Duration) *flight {
	f := &flight{subject: s, until: time.Now().Add(lease), over: make(chan struct{})}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.end(fs.by[s.member])
	fs.by[s.member] = f
	return f
}

// end wakes those who wait. The caller holds mu.
func (fs *flights) end(f *flight) {
	if f == nil || fs.by[f.member] != f {
		return
	}
	delete(fs.by, f.member)
	close(f.over)
}

// land is the end of a call.
func (fs *flights) land(f *flight) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.end(f)
}

// hold moves the deadline of a call.
func (fs *flights) hold(f *flight, lease time.Duration) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	f.until = time.Now().Add(lease)
}

// current is the call that is being made, nil if there is none, and for how long it may still last.
func (fs *flights) current(member string) (over <-chan struct{}, left time.Duration) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	f := fs.by[member]
	if f == nil {
		return nil, 0
	}
	if left = time.Until(f.until); left <= 0 {
		fs.end(f)
		return nil, 0
	}
	return f.over, left
}

// drop ends the waits for what is selected: those calls are not stored any more.
func (fs *flights) drop(s *Selection) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for _, f := range fs.by {
		if s.selects(f.subject) {
			fs.end(f)
		}
	}
}

// sweep forgets the calls of which nobody has told the end.
func (fs *flights) sweep() {
	now := time.Now()
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for _, f := range fs.by {
		if now.After(f.until) {
			fs.end(f)
		}
	}
}
