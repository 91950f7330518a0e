package rule_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/rule"
)

// order is an event with a bit of everything.
func order() *event.Event {
	user, duration := "17", int64(42)
	return &event.Event{
		ID: uuid.MustParse("0191d6f4-0000-7000-8000-000000000001"), Type: event.Update,
		EntityType: "Order", EntityID: "0191d6f4-0000-7000-8000-0000000000aa",
		Data: json.RawMessage(`{
			"id": "inner", "status": "shipped", "total": 100.10, "round": 100.00, "count": 100, "none": null, "paid": true,
			"big": 9007199254740993, "bigger": 9007199254740992, "huge": 9007199254740993123456789,
			"fine": 9007199254740993.5, "text": "100", "customer": {"name": "Ada", "tier": null, "address": {"city": "Paris"}},
			"items": [{"sku": "a", "price": 10.10, "qty": 2}, {"sku": "b", "price": 0.20, "qty": 1}],
			"tags": ["new", "vip"], "empty": [], "placed_at": "2026-01-31T10:00:00Z", "absurd": 1e999999999,
			"null": "not null", "quoted": "say \"hi\"\n{{ total }}", "straße": "Hauptstraße", "mixed": [1, "a", true, null]
		}`),
		Changes:       json.RawMessage(`{"status": {"old": "paid", "new": "shipped"}, "total": {"old": null, "new": 100.10}}`),
		UserID:        &user,
		DurationMS:    &duration,
		Timestamp:     event.Time(time.Date(2026, 1, 31, 10, 0, 0, 0, time.UTC)),
		UpdatedFields: []string{"status", "total"},
		LSN:           0x16B374D848,
		TraceContext:  json.RawMessage(`{"trace_id": "4bf92f3577b34da6a3ce929d0e0e4736"}`),
	}
}

func eval(t *testing.T, source string, e *event.Event) (bool, error) {
	t.Helper()
	c, err := rule.CompileCondition(source)
	if err != nil {
		t.Fatalf("%s does not compile: %v", source, err)
	}
	return c.Eval(rule.NewEnv(e))
}

func TestConditions(t *testing.T) {
	t.Parallel()
	tests := map[string]map[bool][]string{
		"FraiseQL's operators": {
			true: {
				"status == 'shipped'", "status != 'paid'", "total > 100", "total >= 100.1", "count < 100.10", "count <= 100",
				"status == 'shipped' && total > 100", "status == 'paid' || total > 100", "!(status == 'paid')",
				"!has_field('deleted_at') || (count >= 500)", "has_field('none')", "paid == true", "paid", "none == null",
				"status == 'paid' || status == 'shipped' && count == 100", "\nstatus == 'shipped' &&\n  total > 100\n",
			},
			false: {"status == 'paid'", "total < 100", "has_field('deleted_at')", "!paid", "status == null", "!has_field('none')"},
		},
		"exact numbers": {
			true: {
				"100.00 == 100", "round == 100", "round == count", "round == 1e2", "total == 100.10", "total == 100.1", "0.1 + 0.2 == 0.3",
				"big == 9007199254740993", "big != 9007199254740992", "big > bigger", "fine == 9007199254740993.5",
				"fine > 9007199254740993", "huge == 9007199254740993123456789.0", "huge != 9007199254740993123456788.0",
				"huge > big", "-huge < -big", "big == 9_007_199_254_740_993", "0xff == 255", ".5 == 0.50", "-(-1.5) == 1.5",
				"total * 3 == 300.30", "total - 0.10 == 100", "10 / 4 == 2.5", "huge / 3 * 3 == huge || huge > 0", "7 % 3 == 1",
				"7.5 % 2 == 1.5", "2 ** 70 == 1180591620717411303424.0", "2 ^ 3 == 8", "2 ** -1 == 0.5", "-count == -100", "+count == 100",
				"9223372036854775807 + 1 == 9223372036854775808.0", "1 < 2 < 3", "-0.0 == 0",
				"9223372036854775807 * 9223372036854775807 == 85070591730234615847396907784232501249.0",
			},
			false: {"big == bigger", "huge == 9007199254740993123456788.0", "fine == 9007199254740993", "1 < 2 < 2", "0.1 + 0.2 != 0.3"},
		},
		"a number never equals a string": {
			true:  {"text != 100", "count != '100'", "text == '100'", "text in ['100']", "!(text in [100])"},
			false: {"text == 100", "count == '100'", "100 == '100'", "count in ['100', '101']"},
		},
		"null": {
			true: {
				"none == null", "null == none", "none == nil", "status != null", "!(none > 5)", "none != 5", "(none ?? 5) == 5",
				"none + 1 == null", "upper(none) == null", "none in [null]", "customer.tier == null", "data['null'] == 'not null'",
				"(none > 1 || paid) && none != 'x'",
			},
			false: {
				"none > 5", "none < 5", "none >= null", "5 <= none", "none == 0", "none == ''", "none == false", "none == 'null'",
				"none contains 'x'", "'a' in none", "none in ['a']", "none matches 'x'",
			},
		},
		"strings": {
			true: {
				"status < 'z'", "placed_at > '2026-01-01'", "timestamp >= '2026-01-31T10:00:00Z'", "status contains 'hip'",
				"status startsWith 'ship'", "status endsWith 'ped'", "status matches '^s.*d$'", "status not contains 'x'",
				"status in ['new', 'shipped']", "status not in ['new']", `status == "shipped"`, "status + '!' == 'shipped!'",
				"status[0:4] == 'ship'", "status[-1:] == 'd'", "straße[-3:] == 'aße'", "data.straße startsWith 'Haupt'",
				"len(straße) == 11", "indexOf(straße, 'ße') == 9", "status | upper() == 'SHIPPED'", "'}}' == '}}'",
			},
			false: {"status > 'z'", "status matches '^x'", "status not in ['shipped']"},
		},
		"paths": {
			true: {
				"data.total == 100.10", "data.customer.name == 'Ada'", "customer.address.city == 'Paris'", "customer['name'] == 'Ada'",
				"customer?.address?.city == 'Paris'", "customer.tier?.name == null", "customer.tier?.name.first == null",
				"customer?.missing == null", "data?.missing?.name == null", "get(customer, 'missing') == null", "items[0].sku == 'a'",
				"items[-1].sku == 'b'", "items?.[9] == null", "changes.status.old == 'paid'", "changes.total.old == null",
				"'name' in customer", "'missing' not in customer", "trace_context.trace_id startsWith '4bf9'",
			},
		},
		"event fields win": {
			true: {
				"id != 'inner'", "data.id == 'inner'", "id == '0191d6f4-0000-7000-8000-000000000001'", "event_type == 'UPDATE'",
				"entity_type == 'Order'", "entity_id endsWith 'aa'", "user_id == '17'", "duration_ms == 42", "tenant_id == null", "seq == null",
				"timestamp == '2026-01-31T10:00:00Z'", "commit_time == null", "lsn == '16/B374D848'", "'status' in updated_fields",
				"cdc_source == null && schema_version == null && actor_type == null && acting_for == null",
			},
		},
		"lists": {
			true: {
				"any(items, .qty > 1)", "all(items, .price > 0.1)", "none(items, .sku == 'z')", "one(items, .qty == 1)", "count(items, .qty > 0) == 2",
				"sum(items, .price) == 10.3", "sum(items, .price * .qty) == 20.40", "sum(map(items, .qty)) == 3", "len(filter(items, .qty > 1)) == 1",
				"find(items, .sku == 'b').price == 0.2", "findIndex(items, .sku == 'b') == 1", "find(items, .sku == 'z') == null",
				"map(items, .sku) == ['a', 'b']", "map(items, #index) == [0, 1]", "'vip' in tags", "len(tags) == 2", "first(tags) == 'new'",
				"last(tags) == 'vip'", "first(empty) == null", "join(tags, ',') == 'new,vip'", "tags[0:1] == ['new']", "concat(tags, ['x'])[2] == 'x'",
				"max(items[0].price, items[1].price) == 10.1", "min([3, 1.5, 2]) == 1.5", "max(empty) == null", "[1, 2.0] == [1.0, 2]",
				"[1, 'a'] != [1, true]", "split('a,b', ',') == ['a', 'b']", "1..3 == [1, 2, 3]", "3..1 == []", "any(tags, # == 'vip')",
				"all(empty, .nothing)", "count([true, false, true]) == 2", "{'a': 1, 'b': [2]} == {'b': [2.0], 'a': 1.0}", "'x' not in tags",
				"find(items, {.sku == 'a'}).qty == 2", "sum([]) == 0", "keys({b: 1, a: 2}) == ['a', 'b']",
			},
			false: {"any(empty, true)", "sum(items, .price) == 10.31", "'z' in tags", "[1] == [1, 2]", "{a: 1} == {b: 1}"},
		},
		"functions": {
			true: {
				"lower('ABC') == 'abc'", "trim('  a ') == 'a'", "trim('xax', 'x') == 'a'", "trimPrefix('abc', 'a') == 'bc'",
				"trimSuffix('abc', 'c') == 'ab'", "hasPrefix(status, 'ship')", "hasSuffix(status, 'ped')", "replace('aba', 'a', 'x') == 'xbx'",
				"string(total) == '100.10'", "string(big) == '9007199254740993'", "float('100.10') == total", "int('7') == 7", "int(7.9) == 7",
				"int(-7.9) == -7", "abs(-1.5) == 1.5", "abs(-5) == 5", "ceil(1.2) == 2", "floor(-1.2) == -2", "round(2.5) == 3", "round(-2.5) == -3",
				"round(total, 1) == 100.1", "round(12345, -2) == 12300", "toJSON(tags) == '[\"new\",\"vip\"]'", "fromJSON('{\"a\": 1.50}').a == 1.5",
				"toBase64('a:b') == 'YTpi'", "len(customer) == 3", "items[1.0].sku == 'b'", "string(round(2.449, 2)) == '2.45'",
			},
		},
		"short circuit": {
			true:  {"paid || missing == 1", "has_field('missing') && missing == 1 || true", "true || none > {}.x"},
			false: {"!paid && missing == 1", "has_field('missing') && missing == 1"},
		},
		"the rest of the language": {
			true: {
				"paid ? total > 100 : missing", "if paid { true } else { missing }", "let t = total * 2; t > 200", "let total = 1; total == 1",
				"(none ?? status) == 'shipped'", "not paid or paid and paid", "total > 100 // a comment", "total > 100 /* }} */",
			},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for want, sources := range tt {
				for _, source := range sources {
					if got, err := eval(t, source, order()); err != nil || got != want {
						t.Errorf("%s: got %v, %v; want %v", source, got, err, want)
					}
				}
			}
		})
	}
}

func TestConditionErrors(t *testing.T) {
	t.Parallel()
	tests := map[string]string{
		"totl > 100":                    `column 1 (totl): data has no key "totl" (did you mean "total"?); has_field('totl') asks without an error`,
		"status == 'x' || totl > 100":   `column 18 (totl): data has no key "totl" (did you mean "total"?)`,
		"paid &&\n  totl > 100":         `line 2, column 3 (totl): data has no key "totl"`,
		"zzz == 1":                      `(zzz): data has no key "zzz"; has_field`,
		"entity_typ == 'Order'":         `data has no key "entity_typ" (did you mean "entity_type"?)`,
		"data.totl > 100":               `column 6 (data.totl): there is no key "totl" (did you mean "total"?)`,
		"customer.nme == 'x'":           `column 10 (customer.nme): there is no key "nme" (did you mean "name"?)`,
		"customer.tier.name == 'x'":     `(customer.tier.name): this is null and has no key "name"; ?. gives null instead`,
		"status.name == 'x'":            `this is a string and has no key "name"`,
		"customer?.missing.name == 'x'": "this is null",
		"missing?.name == null":         `data has no key "missing"`,
		"items[2].sku == 'x'":           "(items[2]): the list has 2 elements and none at 2",
		"items[-3].sku == 'x'":          "none at -3",
		"items['sku'] == 'x'":           "the index of a list is a number, found a string",
		"items[0.5].sku == 'x'":         "0.5 is no whole number",
		"status > 5":                    "column 8 (status > 5): cannot compare a string with a number",
		"text < 200":                    "cannot compare a string with a number",
		"paid == 'true'":                "cannot compare true or false with a string",
		"paid != 1":                     "cannot compare true or false with a number",
		"customer == 'Ada'":             "cannot compare an object with a string",
		"customer == 1":                 "cannot compare an object with a number",
		"tags == customer":              "cannot compare a list with an object",
		"paid < data.paid":              "true or false is neither less nor greater",
		"customer > customer":           "neither less nor greater",
		"tags < tags":                   "a list is neither less nor greater than anything",
		"paid in ['a']":                 "cannot compare true or false with a string",
		"'a' in status":                 "in needs a list, found a string; in a string, write contains",
		"1 in customer":                 "the key of an object is a string, found a number",
		"total contains '1'":            "contains needs strings, found a number and a string",
		"total matches '1'":             "matches needs strings",
		"status":                        "a condition is true or false, but this is a string",
		"none":                          "but this is null",
		"!status":                       "column 2 (status): expected true or false, found a string",
		"!none":                         "expected true or false, found null: compare it, as in x == true",
		"status && paid":                "column 1 (status): expected true or false, found a string",
		"paid && none":                  "expected true or false, found null",
		"hasPrefix(none, 'a') || true":  "column 1 (hasPrefix(none, 'a')): expected true or false, found null",
		"status ? true : false":         "expected true or false, found a string",
		"any(items, .sku)":              "expected true or false, found a string",
		"any(none, true)":               "column 5 (none): expected a list, found null; x ?? [] gives an empty one for null",
		"any(customer, true)":           "expected a list, found an object",
		"sum(tags) == 1":                "sum needs numbers, found a string",
		"total + status == ''":          "cannot add a number and a string: string(x) makes a string",
		"paid + 1 == 2":                 "+ adds numbers or joins strings, found true or false",
		"total * status == 1":           "(total * status): expected a number, found a string",
		"upper(total) == ''":            "column 1 (upper(total)): expected a string, found a number",
		"(total - 100.10 + 5) / (count - 100) == 1":     "division by zero",
		"total % (count - 100) == 1":                    "division by zero",
		"absurd > 1":                                    "the number 1e999999999 is too large or too small to compute with",
		"absurd == 1.5":                                 "too large",
		"2 ** 0.5 == 1":                                 "a whole number between",
		"2 ** 1001 == 1":                                "a whole number between",
		"(((10.5 ** 1000) ** 1000) ** 1000) > 1":        "too many digits",
		"int('x') == 1":                                 `"x" is no number`,
		"fromJSON('{') == 1":                            "not valid JSON",
		"1..10001 == []":                                "at most 10000 elements",
		"-9223372036854775807..9223372036854775807==[]": "at most 10000 elements",
		"count(1..9999, count(1..9999, true) > 0) > 0":  "this costs more than an expression may",
		"let a = status + status; let b = a+a+a+a+a+a+a+a; let c = b+b+b+b+b+b+b+b; let d = c+c+c+c+c+c+c+c; let e = d+d+d+d+d+d+d+d;" +
			"let f = e+e+e+e+e+e+e+e; let g = f+f+f+f+f+f+f+f; let h = g+g+g+g+g+g+g+g; let i = h+h+h+h+h+h+h+h; i == ''": "this costs more",
		"let a = [tags,tags,tags,tags,tags,tags,tags,tags]; let b = [a,a,a,a,a,a,a,a]; let c = [b,b,b,b,b,b,b,b]; " +
			"let d = [c,c,c,c,c,c,c,c]; let e = [d,d,d,d,d,d,d,d]; let f = [e,e,e,e,e,e,e,e]; let g = [f,f,f,f,f,f,f,f]; g == [f,f,f,f,f,f,f,f]": "this costs more",
	}
	for source, want := range tests {
		t.Run(source, func(t *testing.T) {
			t.Parallel()
			got, err := eval(t, source, order())
			if err == nil || got || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, %v; want an error with %q", got, err, want)
			}
		})
	}
}

func TestConditionsThatDoNotCompile(t *testing.T) {
	t.Parallel()
	tests := map[string]string{
		"":                              "the expression is empty",
		"  ":                            "the expression is empty",
		"total >":                       "column 7: unexpected end of the expression",
		"total = 100":                   `column 7: unexpected "=": write == to compare`,
		"status == 'a' AND total > 1":   `column 15: unexpected "AND": write &&`,
		"deleted_at is null":            `column 12: unexpected "is": write == null`,
		"status <> 'a'":                 "column",
		"status == 'a":                  "literal not terminated",
		"(total > 1":                    "column",
		"total > 1)":                    `unexpected ")"`,
		"paid &&\n total = 1":           "line 2, column 8:",
		`status == 'a\d'`:               `write \\ for a backslash`,
		"total":                         "",
		"100":                           "a condition is true or false, but this is always a number",
		"'shipped'":                     "always a string",
		"total + 'a' * 2 > 1":           "column 13: * needs a number on both sides, found a string",
		"'a' > 1":                       "column 5: cannot compare a string with a number",
		"event_type > 1":                "cannot compare a string with a number",
		"event_type == true":            "cannot compare a string with true or false",
		"(total > 1) > 0":               "neither less nor greater",
		"true < false":                  "column 6: true or false is neither less nor greater",
		"paid < true":                   "neither less nor greater",
		"findLast(items, .qty > 0) > 1": "the function findLast is not available",
		"total && true":                 "",
		"'a' && true":                   "column 1: expected true or false, found a string",
		"!null":                         "expected true or false, found null",
		"null && true":                  "expected true or false, found null",
		"has_field()":                   "has_field needs at least 1 arguments, found 0",
		"has_field('a', 'b')":           "has_field takes at most 1 arguments, found 2",
		"has_field(1)":                  "column 11: has_field needs a string here, found a number",
		"field_changed_to('status')":    "needs at least 2 arguments",
		"has_feld('a')":                 `column 1: there is no function has_feld (did you mean "has_field"?)`,
		"now() > 1":                     "the function now is not available; there are abs, ceil,",
		"date('2026-01-01') > 1":        "the function date is not available",
		"reduce(items, #acc + 1) > 1":   "reduce is not available",
		"repeat('x', 1000000) == ''":    "the function repeat is not available",
		"status.upper() == 'X'":         "values have no methods",
		"$env.total > 1":                "the name $env is not available",
		"let $env = 1; $env > 0":        "the name $env is not available",
		"true; true":                    "expected one expression",
		"b'abc' == 'abc'":               "bytes are not available",
		"placed_at > 2026-01-31":        "a date is a string: write it in quotes",
		"big == 99999999999999999999":   "the number is too large for an integer: write it with a fraction",
		"total > 1e400":                 "the number is too large",
		"status matches total":          "matches needs a pattern in quotes",
		"status matches '('":            "column 16: ",
		"{(status): 1} == {}":           "the key of an object must be",
		"sum(items, #acc) > 1":          "#acc is not available",
		"any('abc', true)":              "any needs a list, found a string",
		"\xff":                          "not valid UTF-8",
		strings.Repeat("(", 300) + "1":  "column",
		strings.Repeat("!", 300) + "1":  "nested more than 200 deep",
		strings.Repeat("a", 4097):       "longer than 4096 bytes",
		strings.Repeat("1+", 600) + "1": "column",
	}
	for source, want := range tests {
		_, err := rule.CompileCondition(source)
		if want == "" && err != nil {
			t.Errorf("%s: %v; want it to compile: only an event can tell", source, err)
		}
		if want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%.80s: got %v; want an error with %q", source, err, want)
		}
	}
}

// TestPartsOfALargerExpression: whatever an operator or a loop leaves on the machine's stack, its neighbors are not
// disturbed. (expr's findLast does, which is why it is not available.)
func TestPartsOfALargerExpression(t *testing.T) {
	t.Parallel()
	for part, value := range map[string]string{
		"any(tags, # == 'new')": "true", "any(tags, # == 'x')": "false", "all(tags, # == 'x')": "false", "all(tags, # != 'x')": "true",
		"none(tags, # == 'new')": "false", "none(tags, # == 'x')": "true", "one(tags, # == 'new')": "true", "one(tags, true)": "false",
		"filter(tags, # == 'vip')": "['vip']", "filter(tags, false)": "[]", "map(tags, #index)": "[0, 1]", "map([], #)": "[]",
		"find(tags, # == 'vip')": "'vip'", "find(tags, # == 'x')": "null", "findIndex(tags, # == 'vip')": "1", "findIndex(tags, false)": "null",
		"count(tags, # == 'vip')": "1", "count([true, true])": "2", "sum(items, .qty)": "3", "sum([1, 2])": "3",
		"paid ? 1 : 2": "1", "!paid ? 1 : 2": "2", "none ?? 7": "7", "total ?? 7": "100.1", "paid && !paid": "false", "paid || !paid": "true",
		"!paid && paid": "false", "!paid || paid": "true", "customer?.tier?.x": "null", "customer?.name": "'Ada'", "customer.tier?.a.b": "null",
		"(let x = 5; x + 1)": "6", "{a: paid ? 1 : 2}.a": "1", "map(tags, map([1, 2], # * 2))": "[[2, 4], [2, 4]]",
		"find(items, any(tags, # == 'vip') && .qty == 1).sku": "'b'", "tags[1:][0]": "'vip'", "if paid { 'a' } else { 'b' }": "'a'",
	} {
		if strings.HasPrefix(part, "if ") {
			part = "(" + part + ")"
		}
		for _, source := range []string{
			"[1, " + part + ", 3] == [1, " + value + ", 3]",
			"get([" + part + ", 2], 1) + get([2, " + part + "], 0) == 4",
			"all([[1, " + part + "], [1, " + part + "]], #[1] == (" + value + ") && #[0] == 1)",
			"{a: 1, b: " + part + ", c: 3} == {a: 1, b: " + value + ", c: 3}",
		} {
			if got, err := eval(t, source, order()); err != nil || !got {
				t.Errorf("%s: got %v, %v", source, got, err)
			}
		}
	}
}
