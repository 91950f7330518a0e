// Package dedup sees to it that deliveries with the same key lead to one call, and that a delivery whose call has succeeded does
// not make it again.
//
// Whoever is about to call claims the key, for the length of a lease (Claims.Claim). The window begins when the call has
// succeeded (Done), never before: a crash between the two would otherwise lose the delivery. A call that failed gives the key
// back (Release). A claim names its delivery, so that a later attempt of the same delivery takes it over at once and need not
// wait for the lease of the worker that died.
//
// There are two places for claims with the same behavior: Redis and, where the configuration has none, PostgreSQL. Both go by the
// server's clock.
//
// A second thing is kept in Redis alone: the mark of each delivery whose call has succeeded (Marks), for the moment between the
// call and the completion of the job.
package dedup

import (
	"context"
	"time"

	"github.com/google/uuid"
)

// Key names what deliveries share.
type Key struct{ Observer, Action, Key string }

// Holder is one attempt of a delivery.
type Holder struct {
	Delivery uuid.UUID
	Attempt  uuid.UUID // random for each attempt
}

// State is what became of a question for a claim.
type State int

// The states.
const (
	Claimed   State = iota // ours: nobody held it, or an attempt of the same delivery did, or its time was over
	Busy                   // another delivery is making the call
	Duplicate              // another delivery has made the call within the window
	Repeat                 // this very delivery has made the call, in an earlier attempt
)

// String is the state's name.
func (s State) String() string {
	switch s {
	case Claimed:
		return "claimed"
	case Busy:
		return "busy"
	case Duplicate:
		return "duplicate"
	case Repeat:
		return "repeat"
	default:
		return "unknown"
	}
}

// Answer is the answer to Claim.
type Answer struct {
	State State
	Of    uuid.UUID     // the delivery that holds the key or has made the call; the own one if claimed
	After time.Duration // if busy: how long the claim still lasts
}

// Claims says which delivery makes the call for a key. Safe for concurrent use.
type Claims interface {
	// Claim asks for the call, or asks again for a claim that is held: its lease then begins anew.
	Claim(ctx context.Context, k Key, h Holder, lease time.Duration) (Answer, error)
	// Done begins the window. It does so, too, when the claim was lost meanwhile and nobody holds the key: the call has been made
	// all the same. Another delivery's claim or window is left alone.
	Done(ctx context.Context, k Key, h Holder, window time.Duration) error
	// Release gives a claim back after a call that failed. One that another attempt has taken over stays, also one of the same
	// delivery.
	Release(ctx context.Context, k Key, h Holder) error
}

// answer is what to make of a key that is held or done.
func answer(h Holder, of uuid.UUID, done bool, rest time.Duration) Answer {
	switch {
	case !done:
		return Answer{State: Busy, Of: of, After: rest}
	case of == h.Delivery:
		return Answer{State: Repeat, Of: of}
	default:
		return Answer{State: Duplicate, Of: of}
	}
}
