package event

import (
	"strconv"

	"github.com/google/uuid"
)

// Change is one row of the change log as decoded from the WAL: an event or, when Reason is set, a row that cannot be
// one. Of the latter, Event holds only what could be read (at least the position).
type Change struct {
	Event
	// Reason says why the row is no event; "" when it is one.
	Reason string
}

// Delivery is one action of one observer for one event: exactly one River job.
type Delivery struct {
	Observer string
	Action   string
	Event    *Event
}

// deliveryNamespace is the UUIDv5 namespace of delivery ids. It must never change: receivers tell repeats by the id.
var deliveryNamespace = uuid.MustParse("7c5a2f0e-6a1b-5f43-9d0e-4f1d5a3c8e21")

// ID is the delivery's stable identity (webhook-id, Message-ID, dedup): a UUIDv5 of the event's identity, the observer
// and the action. Retries, a restart and `weir dlq retry` keep it.
func (d Delivery) ID() uuid.UUID { return DeliveryID(d.Event.ID, d.Event.PK, d.Observer, d.Action) }

// DeliveryID is Delivery.ID from its parts, for callers that have no event at hand.
func DeliveryID(eventID uuid.UUID, pk int64, observer, action string) uuid.UUID {
	// The separator cannot occur in a name, so different parts never give the same text.
	name := eventID.String() + "\x00" + strconv.FormatInt(pk, 10) + "\x00" + observer + "\x00" + action
	return uuid.NewSHA1(deliveryNamespace, []byte(name))
}

// ReplayedID is the identity of a delivery that is made again by a replay: another one than that of the delivery which it
// repeats, and the same however often the replay is begun again.
func ReplayedID(repeated, replay uuid.UUID) uuid.UUID {
	return uuid.NewSHA1(deliveryNamespace, []byte(repeated.String()+"\x00"+replay.String()))
}
