package index_test

import (
	"slices"
	"testing"

	"github.com/fraiseql/weir/internal/index"
)

func TestParseRedact(t *testing.T) {
	t.Parallel()
	for text, path := range map[string][]string{
		"Order.data.card_number": {"card_number"}, "*.data.customer.iban": {"customer", "iban"}, "Order.data.data": {"data"},
	} {
		r, err := index.ParseRedact(text)
		if err != nil || !slices.Equal(r.Path(), path) || r.String() != text {
			t.Errorf("%s: got %v of %s, %v", text, r.Path(), r.Entity(), err)
		}
	}
	r, err := index.ParseRedact("Order.data.a")
	if err != nil || !r.Concerns("Order") || r.Concerns("Customer") {
		t.Errorf("Order.data.a concerns the wrong entities: %v", err)
	}
	if r, err = index.ParseRedact("*.data.a"); err != nil || !r.Concerns("Customer") {
		t.Errorf("*.data.a does not concern every entity: %v", err)
	}
	for _, text := range []string{"", "a", "Order", "Order.data", "Order.data.", "*.a.b", "O*.data.a", ".data.a", "Order.data..a"} {
		if r, err := index.ParseRedact(text); err == nil {
			t.Errorf("%q is read as %s", text, r)
		}
	}
}
