package rule_test

import (
	"testing"

	"github.com/fraiseql/weir/internal/rule"
)

func TestExplain(t *testing.T) {
	t.Parallel()
	tests := map[string]string{
		"status == 'shipped' && total > 200":        "total > 200 is false (total = 100.10)",
		"status == 'paid' && totl > 200":            `status == 'paid' is false (status = "shipped")`,
		"(status == 'paid' || count > 500) && paid": `status == 'paid' is false (status = "shipped") and count > 500 is false (count = 100)`,
		"!paid":                                        "paid is true",
		"!(total > 100 && count == 100)":               "total > 100 is true (total = 100.10) and count == 100 is true (count = 100)",
		"!(total > 500 || count == 100)":               "count == 100 is true (count = 100)",
		"(total - 50) * 2 > count * (2 + 3)":           "(total - 50) * 2 > count * (2 + 3) is false ((total - 50) * 2 = 100.20, count * (2 + 3) = 500)",
		"has_field('x')":                               "has_field('x') is false",
		"field_changed_to('status', 'paid')":           `field_changed_to('status', 'paid') is false (status changed from "paid" to "shipped")`,
		"field_changed('count') && paid":               "field_changed('count') is false (count did not change)",
		"any(items, .qty > 5)":                         `any(items, .qty > 5) is false (items = [{"price":10.10,"qty":2,"sku":"a"},{"price":0.20,"qty":1,"sk…)`,
		"status in ['new', 'paid']":                    `status in ['new', 'paid'] is false (status = "shipped")`,
		"customer.address.city == 'Rome' && true":      `customer.address.city == 'Rome' is false (customer.address.city = "Paris")`,
		"items[0].sku == 'z'":                          `items[0].sku == 'z' is false (items[0].sku = "a")`,
		"let t = total; t > 500 && paid":               "let t = total; t > 500 && paid is false",
		"none > 5":                                     "none > 5 is false (none = null)",
		"1 < count < 50":                               "count < 50 is false (count = 100)",
		"hasPrefix(status, 'x') == true":               "hasPrefix(status, 'x') == true is false (hasPrefix(status, 'x') = false)",
		"total > 100":                                  "",
		"missing > 100":                                `column 1 (missing): data has no key "missing"; has_field('missing') asks without an error`,
		"status | upper() == 'X' && paid":              `status | upper() == 'X' is false (status | upper() = "SHIPPED")`,
		"total > 0 ? false : true":                     "total > 0 ? false : true is false",
		"event_type == 'INSERT' || tenant_id == 'abc'": `event_type == 'INSERT' is false (event_type = "UPDATE") and tenant_id == 'abc' is false (tenant_id = null)`,
	}
	for source, want := range tests {
		c, err := rule.CompileCondition(source)
		if err != nil {
			t.Fatalf("%s: %v", source, err)
		}
		if got := c.Explain(rule.NewEnv(order())); got != want {
			t.Errorf("%s:\n got %s\nwant %s", source, got, want)
		}
	}
}
