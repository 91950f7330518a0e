package capture

import (
	"testing"
	"time"
)

func TestPace(t *testing.T) {
	t.Parallel()
	pauses := func(every time.Duration) (n int) {
		var p pace
		now := time.Now()
		for range 100 * pauseAfter {
			pause := p.pause(now)
			if pause > 0 {
				n++
			}
			now = now.Add(pause + every)
		}
		return n
	}
	if n := pauses(time.Second / 3000); n > 0 {
		t.Errorf("%d pauses at 3,000 messages in a second, which are 1,000 transactions of one row", n)
	}
	if n := pauses(20 * time.Microsecond); n != 99 {
		t.Errorf("%d pauses at 50,000 messages in a second, want one for each %d but the first", n, pauseAfter)
	}
}
