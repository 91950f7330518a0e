package index_test

import (
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/fraiseql/weir/internal/index"
)

// Names that are asked for are looked up as words, too: whatever is in a name, it is found, and it alone.
func TestSearchByNames(t *testing.T) {
	t.Parallel()
	h := newHistory(t)
	names := []string{"mail", "Mail", "order-shipped_4.5 (EU)", "Übung", "é'\\", "--", "4.50"}
	now := time.Now().UTC()
	var docs []index.Document
	for i, name := range names {
		docs = append(docs, index.Document{
			Key: index.Key{Day: now.Truncate(24 * time.Hour), ID: uuid.New(), PK: 1}, Seq: int64(i + 1), At: now, EntityType: name,
			EntityID: "9/" + name, Version: 1, Outcome: &index.Outcome{DeliveryID: uuid.New(), Observer: name, State: "dead"},
		})
	}
	check(t, index.PutDocuments(t.Context(), h, docs))
	for i, name := range names {
		for what, s := range map[string]index.Search{
			"observer": {Observer: name}, "entity": {Entity: name}, "id": {Entity: name + "/9/" + name},
			"all": {Observer: name, Entity: name, Outcome: "dead", Query: parse(t, "dead -delivered")},
		} {
			s.Limit = len(names)
			hits, err := index.NewPostgres(h).Search(t.Context(), s)
			check(t, err)
			if len(hits) != 1 || hits[0].Seq != int64(i+1) {
				t.Errorf("%s %q: %d hits, want number %d", what, name, len(hits), i+1)
			}
		}
	}
}

// A follower that was thought dead may wake up in the middle of its round.
func TestTheNewestOutcomeWins(t *testing.T) {
	t.Parallel()
	h := newHistory(t)
	now, delivery := time.Now().UTC(), uuid.New()
	put := func(version int64, state string) {
		check(t, index.PutDocuments(t.Context(), h, []index.Document{{
			Key: index.Key{Day: now.Truncate(24 * time.Hour), ID: delivery, PK: 1}, Seq: 1, At: now, EntityType: "Order",
			Version: version, Outcome: &index.Outcome{DeliveryID: delivery, Observer: "o", State: state},
		}}))
	}
	put(2, "dead")
	put(3, "delivered")
	put(2, "dead")
	for state, want := range map[string]int{"delivered": 1, "dead": 0} {
		for _, s := range []index.Search{{Outcome: state, Limit: 10}, {Query: parse(t, state), Limit: 10}} {
			hits, err := index.NewPostgres(h).Search(t.Context(), s)
			check(t, err)
			if len(hits) != want {
				t.Errorf("%d hits of %s, want %d", len(hits), state, want)
			}
		}
	}
}
