package event_test

import (
	"testing"

	"github.com/google/uuid"

	"github.com/fraiseql/weir/internal/event"
)

// Receivers tell repeats by these ids, also across versions of Weir: what is pinned here must never change.
func TestDeliveryIDsArePinned(t *testing.T) {
	t.Parallel()
	id := uuid.MustParse("5f0c8a52-7c1e-4b7e-9a39-0d6f3c1b2a41")
	tests := []struct {
		id               uuid.UUID
		pk               int64
		observer, action string
		want             string
	}{
		{id, 77, "order-shipped", "notify-erp", "d58890f5-f460-5ee1-94eb-c5b141f28eb7"},
		{id, 0, "order-shipped", "webhook", "94cee18d-c22f-5300-9607-f7bfb5a678e5"},
		{uuid.Nil, -1, "o", "a", "169968a8-4c57-5d96-b926-3b8fa9df522f"},
	}
	for _, tt := range tests {
		got := event.DeliveryID(tt.id, tt.pk, tt.observer, tt.action)
		if got.String() != tt.want || got.Version() != 5 {
			t.Errorf("%s %d %s %s: got %s (version %d), want %s", tt.id, tt.pk, tt.observer, tt.action, got, got.Version(), tt.want)
		}
		d := event.Delivery{Observer: tt.observer, Action: tt.action, Event: &event.Event{ID: tt.id, PK: tt.pk}}
		if d.ID() != got {
			t.Errorf("Delivery.ID is %s, DeliveryID %s", d.ID(), got)
		}
	}
}

// What is no part of the identity must not change the id: a retry, another position after a recovery, other data.
func TestDeliveryIDIsOfTheIdentityOnly(t *testing.T) {
	t.Parallel()
	one := event.Event{ID: uuid.MustParse("5f0c8a52-7c1e-4b7e-9a39-0d6f3c1b2a41"), PK: 77}
	two := *full()
	if one.ID != two.ID || one.PK != two.PK {
		t.Fatal("the test's events are of different identity")
	}
	if a, b := (event.Delivery{Observer: "o", Action: "a", Event: &one}).ID(), (event.Delivery{Observer: "o", Action: "a", Event: &two}).ID(); a != b {
		t.Errorf("%s and %s", a, b)
	}
}

// However the parts are cut, other parts have another id.
func TestDeliveryIDPartsAreKeptApart(t *testing.T) {
	t.Parallel()
	a, b := uuid.MustParse("5f0c8a52-7c1e-4b7e-9a39-0d6f3c1b2a41"), uuid.MustParse("5f0c8a52-7c1e-4b7e-9a39-0d6f3c1b2a42")
	seen := map[uuid.UUID]string{}
	for _, d := range []struct {
		id               uuid.UUID
		pk               int64
		observer, action string
	}{
		{a, 1, "ab", "c"},
		{b, 1, "ab", "c"},
		{a, 2, "ab", "c"},
		{a, -1, "ab", "c"},
		{a, 1, "a", "bc"},
		{a, 1, "abc", ""},
		{a, 1, "c", "ab"},
		{a, 1, "ab", "C"},
		{a, 11, "ab", "c"},
		{a, 1, "1ab", "c"},
		{a, 1, "1", "ab.c"},
		{a, 1, "1.ab", "c"},
		{a, 1, "1-ab", "c"},
		{a, 1, "1", "ab-c"},
	} {
		name := d.id.String() + " " + d.observer + " " + d.action
		id := event.DeliveryID(d.id, d.pk, d.observer, d.action)
		if other, taken := seen[id]; taken {
			t.Errorf("%s %d and %s have the same id", name, d.pk, other)
		}
		seen[id] = name
	}
}
