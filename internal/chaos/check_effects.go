package chaos

import (
	"fmt"

	"github.com/google/uuid"
)

// received compares what is said to be delivered with what the receiver has got.
func (c *checker) received() {
	for i := range c.calls {
		one := &c.calls[i]
		w := c.wants[one.Delivery]
		switch {
		case w == nil:
			c.differ(CallUnwanted, "nothing leads to the call %+v", *one)
		case w.path != one.Path || w.row.ID != one.Event || text(w.row.Entity) != one.Entity || w.data.N != one.Version ||
			w.data.Tx != one.Tx:
			c.differ(CallUnwanted, "the call %+v is not that of %s", *one, w)
		}
	}
	for i := range c.rows {
		for _, w := range c.rows[i].deliveries() {
			if j := c.ended[w.id]; j != nil && w.path != "" && j.outcome() == "delivered" && c.called[w.id] == 0 {
				c.differ(CallMissing, "%s is said to be delivered (%s), and no call of it was answered with success", w, j)
			}
		}
	}
}

// order looks at each entity's calls of the observer that keeps an order, each as it was first seen.
func (c *checker) order() {
	last, seen := map[string]*call{}, map[uuid.UUID]bool{}
	for i := range c.calls {
		one := &c.calls[i]
		if one.Path != "/ordered" || seen[one.Delivery] {
			continue
		}
		seen[one.Delivery] = true
		if before := last[one.Entity]; before != nil && before.Version >= one.Version {
			c.differ(OrderBroken, "entity %s: first seen %+v, then %+v", one.Entity, *before, *one)
		}
		last[one.Entity] = one
	}
}

// dedup looks at what was dropped, and where nothing was broken at what was not.
func (c *checker) dedup() {
	made := map[string]*wanted{}
	for i := range c.rows {
		for _, w := range c.rows[i].deliveries() {
			j := c.ended[w.id]
			if j == nil {
				continue
			}
			if j.DuplicateOf == nil {
				if w.observer == "deduped" && c.strict && j.outcome() == "delivered" {
					if other := made[w.key()]; other != nil {
						c.differ(DedupWrong, "both have made the call for the key %s: %s and %s", w.key(), other, w)
					}
					made[w.key()] = w
				}
				continue
			}
			other := c.wants[*j.DuplicateOf]
			switch {
			case w.observer != "deduped" || other == nil || other.observer != "deduped" || other.key() != w.key():
				c.differ(DedupWrong, "%s was dropped as a duplicate of %s, which is %v", w, *j.DuplicateOf, other)
			case c.called[other.id] == 0:
				c.differ(DedupWrong, "%s was dropped as a duplicate of %s, whose call was never answered with success", w, other)
			}
		}
	}
}

// results compares the database actions with what they have written.
func (c *checker) results() {
	rows := map[uuid.UUID]*logRow{}
	for i := range c.rows {
		rows[c.rows[i].ID] = &c.rows[i]
	}
	written := map[string]int{}
	for i := range c.effects {
		e := &c.effects[i]
		key := fmt.Sprintf("%s of %s", e.By, e.Event)
		written[key]++
		r := rows[e.Event]
		var w *wanted
		if r != nil {
			for _, one := range r.deliveries() {
				if one.observer == e.By && one.action == "book" {
					w = one
				}
			}
		}
		switch {
		case w == nil || e.N == nil || *e.N != w.data.N || text(e.Tx) != w.data.Tx || text(e.Entity) != text(r.Entity):
			c.differ(EffectUnwanted, "nothing leads to what a database action has written: %s, row %v", key, r)
		case written[key] == 2:
			c.differ(EffectDoubled, "twice: %s", w)
		}
	}
	for i := range c.rows {
		for _, w := range c.rows[i].deliveries() {
			n := written[fmt.Sprintf("%s of %s", w.observer, w.row.ID)]
			j := c.ended[w.id]
			if w.action != "book" || j == nil {
				continue
			}
			if n == 0 && j.outcome() == "delivered" {
				c.differ(EffectMissing, "%s is said to be delivered (%s), and has written nothing", w, j)
			} else if n > 0 && j.outcome() == "dead" {
				c.differ(EffectUnwanted, "%s is a dead letter (%s), and has written something", w, j)
			}
		}
	}
}

// history compares a store's documents with the events and with how the deliveries ended.
func (c *checker) history(store string, papers []paper) {
	type document struct {
		of       identity
		delivery uuid.UUID
	}
	wants := map[document]string{}
	for i := range c.events {
		wants[document{of: identity{c.events[i].ID, c.events[i].PK}}] = ""
	}
	for id, j := range c.ended {
		wants[document{identity{j.EventID, j.PK}, id}] = j.outcome()
	}
	seen := map[document]bool{}
	for _, p := range papers {
		key := document{identity{p.EventID, p.PK}, p.Delivery}
		outcome, ok := wants[key]
		switch {
		case seen[key]:
			c.differ(DocumentDoubled, "%s: %+v is there twice", store, p)
		case !ok:
			c.differ(DocumentUnwanted, "%s: %+v is of nothing that there is", store, p)
		case outcome != p.Outcome:
			c.differ(DocumentStale, "%s: %+v is of a delivery that is %q", store, p, outcome)
		}
		seen[key] = true
	}
	for key, outcome := range wants {
		if !seen[key] {
			c.differ(DocumentMissing, "%s has no document of event %s (pk %d), delivery %s, %q",
				store, key.of.id, key.of.pk, key.delivery, outcome)
		}
	}
}
