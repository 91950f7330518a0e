package ops

import (
	"time"

	"github.com/fraiseql/weir/internal/lease"
	"github.com/fraiseql/weir/internal/store"
)

// Role is what a worker is for the stream.
type Role string

// The roles.
const (
	RoleReader  Role = "reader"  // it has the slot, and reads
	RoleHanging Role = "hanging" // it has the slot and gives no sign of life: a standby takes over within source.lease
	RoleStandby Role = "standby" // it would take over
	RoleDead    Role = "dead"    // its lease has run out
)

// roleOf tells a reader that hangs from one that reads. What it said before it took the stream is not about this time.
func (s *Status) roleOf(w store.ListWorkersRow) Role {
	owns, alive := w.ClientID == s.Stream.Reader, w.Now.Sub(w.SeenAt) < lease.Expiry
	said := w.SeenAt
	if w.StreamAt != nil {
		said = *w.StreamAt
	}
	if cp := s.Checkpoint; cp != nil && cp.Owner == w.ClientID && time.Time(cp.OwnedSince).After(said) {
		said = time.Time(cp.OwnedSince)
	}
	switch {
	case owns && w.Now.Sub(said) >= lease.Expiry:
		return RoleHanging
	case !alive:
		return RoleDead
	case owns:
		return RoleReader
	default:
		return RoleStandby
	}
}
