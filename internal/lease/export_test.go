package lease

import "time"

// Saw is a renewal at this time of the database's clock.
func (l *Lease) Saw(at time.Time) { l.saw(at) }
