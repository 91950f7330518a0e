package capture

import "time"

// A walsender sends each message by itself, and for a reader that waits each one is a wake-up, which costs both sides more than
// the message. So who has read pauseAfter times within pauseWithin, each time all that was there, lets messages gather for a
// moment. At 1,000 transactions in a second it never does; a pause is less than a batch waits for more (batchLinger).
const (
	pauseAfter  = 16
	pauseWithin = 2 * time.Millisecond
	pauseFor    = 500 * time.Microsecond
)

// pace counts the reads of a connection. Its zero value is ready.
type pace struct {
	reads int
	since time.Time
}

// pause is how long to wait before the next read, all that was there being read.
func (p *pace) pause(now time.Time) time.Duration {
	p.reads++
	if p.reads < pauseAfter {
		return 0
	}
	quick := now.Sub(p.since) < pauseWithin
	p.reads, p.since = 0, now
	if !quick {
		return 0
	}
	p.since = now.Add(pauseFor)
	return pauseFor
}
