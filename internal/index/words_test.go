package index_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/index"
)

func TestTokens(t *testing.T) {
	t.Parallel()
	const id = "5f0c8a52-7c1e-4b7e-9a39-0d6f3c1b2a41"
	tests := []struct {
		text string
		want string // separated by blanks
	}{
		{"", ""},
		{" ,;!? 😀 ", ""},
		{"Anna@Acme.com", "anna acme com"},
		{"don't", "don t"},
		{"ÄRGER straße ΣΊΣΥΦΟΣ", "ärger straße σίσυφοσ"},
		{"İstanbul Iğdır", "istanbul iğdır"},
		{"日本語 4711 ٤٢", "日本語 4711 ٤٢"},
		{"total 19.90, 5.", "total 19.90 5"},
		{"-19.90 (-0.5) 3-5.5 --1.5", "-19.90 -0.5 3 5.5 -1.5"},
		{"-5", "5"},
		{"10.0.0.1 v1.2 1.5kg .5 1..2", "10 0 0 1 v1 2 1 5kg 5 1 2"},
		{"1e-400 1.5E+3", "1e 400 1 5e 3"},
		{"2026-03-01T00:30:00Z", "2026 03 01t00 30 00z"},
		{strings.ToUpper(id), id},
		{"urn:uuid:" + id + ".", "urn uuid " + id},
		{id + "0", "5f0c8a52 7c1e 4b7e 9a39 0d6f3c1b2a410"},
		{"a" + id, "a5f0c8a52 7c1e 4b7e 9a39 0d6f3c1b2a41"},
		{id + "-" + id, id + " " + id},
		{"a\x00b\xffc\uFFFDd", "a b c d"},
		{"a_b=c", "a b c"},
		{strings.Repeat("x", 300), strings.Repeat("x", 200)},
		{strings.Repeat("ä", 99) + "x" + strings.Repeat("ä", 99), strings.Repeat("ä", 99) + "x"},
		{strings.Repeat("1", 198) + ".5", strings.Repeat("1", 198) + " 5"},
	}
	for _, tt := range tests {
		if got := strings.Join(index.Tokens(tt.text), " "); got != tt.want && tt.want != "" || tt.want == "" && got != "" {
			t.Errorf("%q: got %q, want %q", tt.text, got, tt.want)
		}
	}
}

// document is one of an event with the data given.
func document(t *testing.T, data string) *index.Document {
	t.Helper()
	e := order(1, data)
	e.ID = uuid.MustParse("5f0c8a52-7c1e-4b7e-9a39-0d6f3c1b2a41")
	user, actor, source := "17", "human_user", "trigger"
	e.UserID, e.ActorType, e.CDCSource, e.UpdatedFields = &user, &actor, &source, []string{"status", "total"}
	return &index.Document{
		Key: index.KeyOf(e), Seq: 1, At: time.Now(), EventType: "INSERT", EntityType: "Order", EntityID: "42",
		Payload: json.RawMessage(payload(t, e)),
	}
}

func outcome() *index.Outcome {
	status := int32(503)
	return &index.Outcome{
		DeliveryID: uuid.MustParse("d58890f5-f460-5ee1-94eb-c5b141f28eb7"), Observer: "order-shipped", Action: "erp",
		ActionType: "webhook", Endpoint: "https://erp.acme.com", State: "dead", ResponseStatus: &status, Error: "no route to host",
	}
}

// lines are the runs as text, one a line.
func lines(runs [][]string) []string {
	var all []string
	for _, run := range runs {
		all = append(all, strings.Join(run, " "))
	}
	return all
}

func TestRunsOfData(t *testing.T) {
	t.Parallel()
	before := len(document(t, `{}`).Runs())
	tests := map[string][]string{
		`{"status":"Shipped"}`: {"shipped", "=status=shipped", "=data.status=shipped"},
		`{"who":"Anna Smith"}`: {"anna smith", "=who=anna =who=smith", "=data.who=anna =data.who=smith"},
		`{"items":[{"sku":"A1"},{"sku":"B2"}]}`: {
			"a1", "=items=a1", "=items.sku=a1", "=data.items.sku=a1",
			"b2", "=items=b2", "=items.sku=b2", "=data.items.sku=b2",
		},
		`{"a":{"b":[["x"]]}}`:       {"x", "=a=x", "=a.b=x", "=data.a.b=x"},
		`{"n":9007199254740993123}`: {"9007199254740993123", "=n=9007199254740993123", "=data.n=9007199254740993123"},
		`{"n":-100.10,"on":true,"off":false,"nothing":null,"empty":"","dots":"..."}`: {
			"-100.10", "=n=-100.10", "=data.n=-100.10", "true", "=on=true", "=data.on=true", "false", "=off=false", "=data.off=false",
		},
		`{"First Name":"x","a=b":"y","":"z","Ü-1":"v"}`: {
			"x", "=first_name=x", "=data.first_name=x", "y", "=a_b=y", "=data.a_b=y", "z", "=_=z", "=data._=z", "v", "=ü-1=v", "=data.ü-1=v",
		},
		`{"` + strings.Repeat("ä", 80) + `":"` + strings.Repeat("x", 150) + `"}`: { // 255 bytes together
			strings.Repeat("x", 150), "=" + strings.Repeat("ä", 80) + "=" + strings.Repeat("x", 93),
			"=data." + strings.Repeat("ä", 80) + "=" + strings.Repeat("x", 88),
		},
		`["x"]`: {"x", "=data=x"},
		`"x"`:   {"x", "=data=x"},
		`null`:  nil,
		// Of the same name as the envelope's: found under both; what is there already is not repeated.
		`{"entity_id":"42","id":"43"}`:                       {"=data.entity_id=42", "43", "=id=43", "=data.id=43"},
		`{"a":"x y","b":["x y","x","x"]}`:                    {"x y", "=a=x =a=y", "=data.a=x =data.a=y", "=b=x =b=y", "=data.b=x =data.b=y", "x", "=b=x", "=data.b=x"},
		`{"` + strings.Repeat("k", 300) + `":{"x":{"y":1}}}`: {"1", "=" + strings.Repeat("k", 200) + "=1", "=data." + strings.Repeat("k", 195) + "=1"},
	}
	for data, want := range tests {
		if got := lines(document(t, data).Runs()[before:]); !slices.Equal(got, want) {
			t.Errorf("%s:\ngot  %q\nwant %q", data, got, want)
		}
	}
}

func TestRunsOfEnvelopeAndOutcome(t *testing.T) {
	t.Parallel()
	d := document(t, `{}`)
	d.Outcome = outcome()
	got := lines(d.Runs())
	want := []string{
		"d58890f5-f460-5ee1-94eb-c5b141f28eb7", "=delivery=d58890f5-f460-5ee1-94eb-c5b141f28eb7",
		"order shipped", "=observer=order =observer=shipped", "erp", "=action=erp", "webhook", "=type=webhook",
		"https erp acme com", "=endpoint=https =endpoint=erp =endpoint=acme =endpoint=com", "dead", "=outcome=dead",
		"503", "=response_status=503",
		"order", "=entity=order", "42", "=entity_id=42", "insert", "=event_type=insert",
		"5f0c8a52-7c1e-4b7e-9a39-0d6f3c1b2a41", "=id=5f0c8a52-7c1e-4b7e-9a39-0d6f3c1b2a41",
		"b6f9f6c8-3c86-4a4e-8ad6-4d2b9a2a9a10", "=tenant_id=b6f9f6c8-3c86-4a4e-8ad6-4d2b9a2a9a10", "17", "=user_id=17",
		"human user", "=actor_type=human =actor_type=user", "trigger", "=cdc_source=trigger",
		"status", "=updated=status", "total", "=updated=total",
	}
	failure := []string{"no route to host", "=error=no =error=route =error=to =error=host"}
	known := slices.Concat(want[:22], failure)
	want = append(want, failure...)
	if !slices.Equal(got, want) {
		t.Errorf("got\n%q\nwant\n%q", got, want)
	}
	// An event that is recorded no more is known by the columns.
	d.Payload = nil
	if got, want := lines(d.Runs()), known; !slices.Equal(got, want) {
		t.Errorf("without a payload: got\n%q\nwant\n%q", got, want)
	}
}

// big are data that reach one limit or another.
func big() map[string]string {
	numbered := func(n int, format string) string {
		var all []string
		for i := range n {
			all = append(all, fmt.Sprintf(format, i))
		}
		return strings.Join(all, " ")
	}
	repeated := func(text string, n int) string { return strings.TrimSuffix(strings.Repeat(text, n), ",") }
	return map[string]string{
		"one long text":      `{"text":"` + numbered(100_000, "w%d") + `"}`,
		"one long word":      `{"text":"` + repeated("x", 1<<20) + `","more":"findable"}`,
		"short words":        `{"t":"` + repeated("a b c d e f ", 20_000) + `"}`,
		"a common word":      `{"t":["` + strings.ReplaceAll(numbered(600, "en r%d"), " en", `","en`) + `"]}`,
		"many short phrases": `["` + strings.ReplaceAll(numbered(20_000, "%x y"), "y ", `y","`) + `"]`,
		"deep":               strings.Repeat(`{"a":["`+"x y"+`",`, 3000) + "1" + strings.Repeat("]}", 3000),
		"many fields":        `{"x":{` + strings.ReplaceAll(numbered(20_000, `"f%[1]d":%[1]d,`), " ", "") + `"z":0}}`,
	}
}

// A document is bounded, PostgreSQL takes it, and envelope and outcome are in it.
func TestDocumentsAreBounded(t *testing.T) {
	t.Parallel()
	h := newHistory(t)
	for name, data := range big() {
		d := document(t, data)
		d.Outcome = outcome()
		runs := d.Runs()
		size, seen := 0, map[string]bool{}
		for _, line := range lines(runs) {
			size += len(strings.ReplaceAll(line, " ", ""))
			if seen[line] {
				t.Errorf("%s: %q is there twice", name, line)
			}
			seen[line] = true
		}
		if size > index.MaxWords {
			t.Errorf("%s: %d bytes of tokens", name, size)
		}
		q := parse(t, `outcome:dead entity:order tenant_id:b6f9f6c8* error:"no route" updated:total`)
		if !q.Matches(runs) {
			t.Errorf("%s: the envelope is not found", name)
		}
		var found bool
		check(t, h.Pool.QueryRow(t.Context(), `SELECT $1::text::tsvector @@ $2::text::tsquery`, index.TSVector(runs), q.TSQuery()).Scan(&found))
		if !found {
			t.Errorf("%s: PostgreSQL does not find the envelope", name)
		}
	}
	if !parse(t, "more:findable").Matches(document(t, big()["one long word"]).Runs()) {
		t.Error("what comes after a word that is cut is not found")
	}
}

// What is no event's JSON has no words of data, and does no harm.
func TestRunsOfABrokenPayload(t *testing.T) {
	t.Parallel()
	for _, payload := range []string{``, `{`, `[]`, `{"id":1}`, `null`, `{"data":"x"}`} {
		d := index.Document{EntityType: "Order", Payload: json.RawMessage(payload)}
		if runs := d.Runs(); !parse(t, "entity:order").Matches(runs) {
			t.Errorf("%s: got %q", payload, runs)
		}
	}
	if _, err := event.Parse([]byte(`{"id":1}`)); err == nil {
		t.Error("the test's example of a broken payload is none")
	}
}
