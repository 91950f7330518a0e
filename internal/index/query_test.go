package index_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/fraiseql/weir/internal/index"
)

func parse(t testing.TB, text string) index.Query {
	t.Helper()
	q, err := index.ParseQuery(text)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return q
}

const parcel = `{"status":"shipped","customer":{"name":"Acme Corp","mail":"anna@acme.com"},"total":-19.90,"cents":500,
	"items":[{"sku":"A-4711","note":"red big averylongwordofmorecharactersthanaUUIDhas"},{"sku":"B-12","note":"box"}],"ip":"10.0.0.1","ref":"5f0c8a52-7c1e-4b7e-9a39-0d6f3c1b2a42",
	"day":"20260301-1234-x","First Name":"Zoë","link":"https://acme.com/a?b=1","at":"10:30:00"}`

// questions are queries to the parcel that are answered with yes (true) or no.
var questions = map[string]bool{
	"":                          true,
	"  ":                        true,
	"shipped":                   true,
	"SHIPPED":                   true,
	"ship":                      false,
	"status":                    true, // a name is no word, but this one is among the updated fields
	"mail":                      false,
	"status:shipped":            true,
	"Status:Shipped":            true,
	"data.status:shipped":       true,
	"status:acme":               false,
	"customer:acme":             true,
	"customer.name:acme":        true,
	"data.customer:acme":        false,
	"name:acme":                 false,
	`"acme corp"`:               true,
	`"corp acme"`:               false,
	`customer:"acme corp"`:      true,
	`customer.mail:"acme corp"`: false,
	"anna@acme.com":             true,
	"acme@anna.com":             false,
	"customer:anna@acme.com":    true,
	`"big box"`:                 false, // not across values
	`"big B"`:                   false,
	"red box":                   true,
	"shipped -paid":             true,
	"shipped -acme":             false,
	`shipped -"acme anna"`:      true,
	`shipped -"acme corp"`:      false,
	"shipped -status:paid":      true,
	"shipped -(paid OR acme)":   false,
	"shipped -(paid acme)":      true,
	"shipped -(acme -paid)":     false,
	"paid OR shipped":           true,
	"status:paid OR status:new customer:acme":       false,
	"status:paid OR status:shipped customer:acme":   true,
	"status:shipped OR status:paid customer:nobody": false, // (a OR b) c
	"(paid acme) OR shipped":                        true,
	"(paid acme) OR new":                            false,
	"((acme))(shipped)":                             true,
	`acme"red big"shipped`:                          true,
	"ship*":                                         true,
	"SH*":                                           true,
	"status:sh*":                                    true,
	"status:ac*":                                    false,
	"sta*":                                          true,  // again the updated field
	"cust*":                                         false, // no names
	"customer:anna@ac*":                             true,
	"anna@co*":                                      false,
	"5f0c8a52-7c1e-4b7e-9a39-0d6f3c1b2a42":          true,
	"ref:5f0c8a52*":                                 true,
	"ref:5f0c8a52-*":                                true,
	"REF:5F0C8A52-7C1E-4B*":                         true,
	"ref:5f0c8a52-7c1f*":                            false,
	"ref:5f0c8a52-7c1e-4b7e-9a39-0d6f3c1b2a42*": true,
	"shipped -5f0c8a52-7c*":                     false,
	"averylongwordofmorecharactersthanaUUIDhas": true,
	"averylongwordofmorecharactersthanaUUID*":   true,
	"averylongwordofmorecharactersthananother*": false,
	"day:20260301-12*":                          true,
	"total:-19.90":                              true,
	`"-19.90"`:                                  true,
	"total:19.90":                               false,
	"shipped -19.90":                            true, // the minus excludes, and there is no 19.90
	"total:-19.9*":                              true,
	"cents:500":                                 true,
	"10.0.0.1":                                  true,
	"first_name:zoë":                            true,
	"first_name:ZOË":                            true,
	"https://acme.com/a?b=1":                    true,
	"link:https://acme.com/a":                   true,
	"10:30":                                     true,
	"items.sku:A-4711":                          true,
	"items.note:averylongwordofmorecharactersthanaUU*": true,
	"items:4711":       true,
	"items.0.sku:4711": false,
	"or shipped":       false,
	"event_type:insert entity:order id:5f0c8a52-7c1e-4b7e-9a39-0d6f3c1b2a41": true,
	"outcome:dead":             false,
	`\shipped "'acme"`:         true,
	"“shipped”":                true,
	"shipped\u00a0acme\t\nred": true,
}

func TestMatches(t *testing.T) {
	t.Parallel()
	runs := document(t, parcel).Runs()
	for text, want := range questions {
		if got := parse(t, text).Matches(runs); got != want {
			t.Errorf("%s: got %v, want %v", text, got, want)
		}
	}
}

func TestQueryOfAnOutcome(t *testing.T) {
	t.Parallel()
	d := document(t, parcel)
	d.Outcome = outcome()
	for _, text := range []string{
		"outcome:dead status:shipped", "observer:order-shipped action:erp type:webhook", "response_status:503",
		`error:"no route"`, "delivery:d58890f5-f460*", "endpoint:erp.acme.com", "endpoint:https://erp.acme.com",
	} {
		if !parse(t, text).Matches(d.Runs()) {
			t.Errorf("%s: not found", text)
		}
	}
}

func TestParseQueryRefuses(t *testing.T) {
	t.Parallel()
	tests := map[string]string{
		"...":                                `character 1: "..." has only punctuation: expected letters or digits`,
		"acme 😀":                             `character 6: "😀" has only punctuation`,
		"é ...":                              `character 3: "..." has only punctuation`,
		`""`:                                 `character 1: "" has only punctuation`,
		`status:"-"`:                         `character 8: "-" has only punctuation`,
		`a "b c`:                             `character 3: the quote is not closed`,
		`5"`:                                 `character 2: the quote is not closed`,
		"(a":                                 `character 1: "(" is not closed: expected ")"`,
		"a)":                                 `character 2: ")" closes nothing`,
		")":                                  `character 1: ")" closes nothing`,
		"()":                                 `character 2: expected a word between the parentheses`,
		"-a":                                 `character 1: everything here is excluded: expected a word to look for, too`,
		"a (-b)":                             `character 4: everything here is excluded`,
		"a -b OR c":                          `character 3: what is excluded cannot be an alternative`,
		"a OR -b":                            `character 6: what is excluded cannot be an alternative`,
		"-":                                  `character 1: "-" excludes what follows it: expected a word right after it`,
		"a - b":                              `character 3: "-" excludes`,
		"a --b":                              `character 3: "-" excludes`,
		"(a -)":                              `character 4: "-" excludes`,
		"OR a":                               `character 1: OR: expected a word before it`,
		"a OR":                               `character 3: OR: expected a word after it`,
		"a OR OR b":                          `character 6: OR: expected a word before it`,
		"(a OR ) b":                          `character 4: OR: expected a word after it`,
		"a AND b":                            `character 3: AND: words are all looked for anyway`,
		"a NOT b":                            `character 3: NOT: write -word`,
		"total:>100":                         `character 7: ">100": ranges are not supported`,
		"total>=100":                         `ranges are not supported`,
		"total:[1 TO 2]":                     `character 7: "[1": ranges are not supported`,
		"a*b":                                `character 1: "a*b": wildcards inside words are not supported`,
		"*ab":                                `wildcards inside words`,
		"shiped~2":                           `character 1: "shiped~2": fuzzy words are not supported`,
		`"a b"~2`:                            `character 6: "~2": fuzzy words`,
		"a*":                                 `character 1: "a*": expected at least 2 letters or digits`,
		"ip:10.0.0*":                         `character 4: "10.0.0*": expected at least 2`,
		"*":                                  `"*": expected at least 2`,
		"status:*":                           `character 8: "*": expected at least 2`,
		"ab-*":                               `expected at least 2 letters or digits right before "*"`,
		"status:":                            `character 8: expected a word or a phrase right after status:`,
		"status: shipped":                    `character 8: expected a word or a phrase right after status:`,
		"status:(a OR b)":                    `character 8: expected a word or a phrase right after status:`,
		":a":                                 `character 1: "" before ":": expected the name of a field`,
		"pri$e:5":                            `character 1: "pri$e" before ":": expected the name of a field`,
		strings.Repeat("a ", 51):             `character 101: the query is too long: expected at most 50 words`,
		`"` + strings.Repeat("a ", 51) + `"`: `character 1: the query is too long`,
		strings.Repeat("(", 11) + "a" + strings.Repeat(")", 11): `character 11: parentheses are nested too deeply: expected at most 10`,
	}
	for text, want := range tests {
		q, err := index.ParseQuery(text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s:\ngot  %v\nwant %s", text, err, want)
		}
		if !q.IsZero() || q.String() != "" {
			t.Errorf("%s: a refused query is %q", text, q)
		}
	}
	for _, text := range []string{strings.Repeat("a ", 50), strings.Repeat("(", 10) + "a" + strings.Repeat(")", 10)} {
		parse(t, text)
	}
}

func TestQuerySaysWhatItIs(t *testing.T) {
	t.Parallel()
	const text = ` status:Shipped "a b" OR ship* -(x OR "y z") a 5f0c8a52-7c*`
	q := parse(t, text)
	if q.String() != text || q.IsZero() {
		t.Errorf("got %q, zero: %v", q.String(), q.IsZero())
	}
	if got, want := q.Words(), []string{"shipped", "a", "b", "ship", "5f0c8a52-7c", "5f0c8a52", "7c"}; !slices.Equal(got, want) {
		t.Errorf("words %q, want %q", got, want)
	}
	const want = `('=status=shipped') & (('a' <-> 'b') | ('ship':*)) & ('a') & (('5f0c8a52-7c':*) | ('5f0c8a52' <-> '7c':*)) & !(('x') | ('y' <-> 'z'))`
	if got := q.TSQuery(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if q := parse(t, " "); !q.IsZero() || q.TSQuery() != "" || q.Words() != nil || q.Highlight("a b", "<", ">") != "a b" {
		t.Errorf("the empty query is %+v", q)
	}
}

func TestElastic(t *testing.T) {
	t.Parallel()
	tests := map[string]string{
		"":       `{"match_all":{}}`,
		"a":      `{"match_phrase":{"words":{"query":"a"}}}`,
		"f:a@b":  `{"match_phrase":{"words":{"query":"=f=a =f=b"}}}`,
		"f:ab*":  `{"prefix":{"words":{"value":"=f=ab"}}}`,
		"a@bc*":  `{"match_phrase_prefix":{"words":{"max_expansions":1000,"query":"a bc"}}}`,
		"a b":    `{"bool":{"must":[{"match_phrase":{"words":{"query":"a"}}},{"match_phrase":{"words":{"query":"b"}}}]}}`,
		"a OR b": `{"bool":{"minimum_should_match":1,"should":[{"match_phrase":{"words":{"query":"a"}}},{"match_phrase":{"words":{"query":"b"}}}]}}`,
		"a -b":   `{"bool":{"must":[{"match_phrase":{"words":{"query":"a"}}}],"must_not":[{"match_phrase":{"words":{"query":"b"}}}]}}`,
	}
	for text, want := range tests {
		got, err := json.Marshal(parse(t, text).Elastic())
		check(t, err)
		if string(got) != want {
			t.Errorf("%s:\ngot  %s\nwant %s", text, got, want)
		}
	}
}

func TestHighlight(t *testing.T) {
	t.Parallel()
	tests := []struct{ query, text, want string }{
		{"acme", `{"a":"Acme, ACME."}`, `{"a":"<Acme>, <ACME>."}`},
		{"acme", "acmes", "acmes"},
		{"status:ship*", "Shipped, ship; reship", "<Shipped>, <ship>; reship"},
		{`"anna smith" -bob`, "anna bob smith", "<anna> bob <smith>"},
		{"total:-19.90 OR 5.5", "-19.90 19.90 5.5 5", "<-19.90> 19.90 <5.5> 5"},
		{"5f0c8a52*", "x 5F0C8A52-7c1e-4b7e-9a39-0d6f3c1b2a41 y", "x <5F0C8A52-7c1e-4b7e-9a39-0d6f3c1b2a41> y"},
		{"istanbul", "İSTANBUL\xff😀istanbul", "<İSTANBUL>\xff😀<istanbul>"},
		{"a", "", ""},
	}
	for _, tt := range tests {
		if got := parse(t, tt.query).Highlight(tt.text, "<", ">"); got != tt.want {
			t.Errorf("%s in %s:\ngot  %s\nwant %s", tt.query, tt.text, got, tt.want)
		}
	}
}
