package rule_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/rule"
)

// FuzzCondition: no source makes compiling, evaluating or explaining panic or run for ever, and they agree.
func FuzzCondition(f *testing.F) {
	for _, source := range []string{
		"status == 'shipped' && total > 100", "field_changed_to('status', 'shipped') || !has_field('x')", "any(items, .qty * .price > 20)",
		"let a = [1.5, -2e3]; a[0] ** 3 in a", "customer?.address.city[1:3] matches '^a' ? true : null ?? false", "huge / 3 % 7 != 1e400",
		"count(1..9999, count(1..9999, # > 5) > 0) > 1", "{'a': `}}`}.a not contains \"b\" // c", "1 < count <= 100 and not paid",
		"absurd + 1 > 0", "tags | join(',') == 'a' || sum(items, .price) >= 0.1", "if paid { 1..3 == [] } else { items[9].x }",
	} {
		f.Add(source)
	}
	f.Fuzz(func(t *testing.T, source string) {
		c, err := rule.CompileCondition(source)
		if err != nil {
			mustBeReadable(t, source, err)
			return
		}
		env := rule.NewEnv(order())
		result, err := c.Eval(env)
		if err != nil {
			mustBeReadable(t, source, err)
		}
		if again, err2 := c.Eval(env); again != result || (err == nil) != (err2 == nil) {
			t.Errorf("%q: %v, %v and then %v, %v", source, result, err, again, err2)
		}
		if reason := c.Explain(env); (reason == "") != (result && err == nil) {
			t.Errorf("%q is %v, %v: explained as %q", source, result, err, reason)
		}
	})
}

// FuzzKey: a key that is looked for alone is what it is once the whole document is decoded.
func FuzzKey(f *testing.F) {
	for _, data := range []string{
		`{"status": "shipped", "note": "x"}`, `{"status": 1, "status": {"status": [2.50]}}`, `{"sta\u0074us": "shipped"}`, `{"status": nul}`,
		`{"status": 1} x`, `{"a": "\\status", "status" : -0}`, `["status"]`, `{"sta\tus": 1, "status": "\xff"}`, `{`, ``, `null`, "{\"\xffstatus\": 1}",
	} {
		f.Add([]byte(data))
	}
	key, err := rule.CompileCondition("string(status) == 'shipped' || status == 1")
	if err != nil {
		f.Fatal(err)
	}
	all, err := rule.CompileCondition("has_field('x')")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		alone, decoded := rule.NewEnv(&event.Event{Data: data}), rule.NewEnv(&event.Event{Data: data})
		_, _ = all.Eval(decoded)
		got, err := key.Eval(alone)
		want, wantErr := key.Eval(decoded)
		if got != want || fmt.Sprint(err) != fmt.Sprint(wantErr) {
			t.Errorf("%q: %v, %v; decoded: %v, %v", data, got, err, want, wantErr)
		}
	})
}

// mustBeReadable fails for an error that speaks of Go's insides: something was not foreseen.
func mustBeReadable(t *testing.T, source string, err error) {
	t.Helper()
	for _, inside := range []string{"interface conversion", "reflect", "runtime error", "goroutine", "*rule.", "opcode", "undefined node"} {
		if strings.Contains(err.Error(), inside) && !strings.Contains(source, inside) {
			t.Errorf("%q: %v", source, err)
		}
	}
}

// FuzzTemplate: whatever the value, it stays a value in every context.
func FuzzTemplate(f *testing.F) {
	for _, value := range []string{
		"plain", `"quotes" 'and' \ back`, "line\r\nX-Evil: 1", "{{ total }}", "*?[a-z]", "a/b?c=d&e#f%20+;", "..", "\xff\xfe", "\x00\u2028é😀", "<b>&amp;",
		"@evil.example:80/", strings.Repeat("x", 9000),
	} {
		f.Add(value)
	}
	jsonBody := mustCompile(f, `{"in": "a{{ note }}b", "whole": {{ note }}, "total": {{ total }}, "list": {{ tags }}}`)
	link := mustCompile(f, "https://api.example.org:8443/p/{{ note }}/q?x={{ note }}&y=1#{{ note }}")
	header := mustCompile(f, "v={{ note }}")
	text := mustCompile(f, "{{ note }}|{{ total }}")
	f.Fuzz(func(t *testing.T, value string) {
		env := rule.NewEnv(hostile(value))
		want := strings.ToValidUTF8(value, "\uFFFD")
		if !utf8.ValidString(value) {
			want = string([]rune(value)) // one U+FFFD for each byte, as encoding/json has it
		}
		checkText(t, text, env, want)
		checkJSON(t, jsonBody, env, want)
		checkURL(t, link, env, want)
		checkHeader(t, header, env, want)
	})
}

func mustCompile(tb testing.TB, source string) *rule.Template {
	tb.Helper()
	tmpl, err := rule.CompileTemplate(source)
	if err != nil {
		tb.Fatal(err)
	}
	return tmpl
}

func checkText(t *testing.T, tmpl *rule.Template, env *rule.Env, want string) {
	t.Helper()
	if got, err := tmpl.Text(env); err != nil || got != want+"|100.10" {
		t.Errorf("text: got %q, %v; want %q", got, err, want)
	}
}

func checkJSON(t *testing.T, tmpl *rule.Template, env *rule.Env, want string) {
	t.Helper()
	raw, err := tmpl.JSON(env)
	if err != nil {
		t.Fatalf("JSON: %v", err)
	}
	var got struct {
		In, Whole string
		Total     json.Number
		List      []string
	}
	if err := json.Unmarshal(raw, &got); err != nil {
		t.Fatalf("JSON does not parse: %v in %s", err, raw)
	}
	if got.In != "a"+want+"b" || got.Whole != want || got.Total != "100.10" || len(got.List) != 1 || got.List[0] != want {
		t.Errorf("JSON: %q became %s", want, raw)
	}
}

func checkURL(t *testing.T, tmpl *rule.Template, env *rule.Env, want string) {
	t.Helper()
	raw, err := tmpl.URL(env)
	if err != nil {
		dots := regexp.MustCompile(`(^|/)\.\.?(/|$)`)
		if len(want)*9 < 8000 && !dots.MatchString(want) {
			t.Errorf("URL with %q: %v", want, err)
		}
		return
	}
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatalf("URL does not parse: %v", err)
	}
	if u.Scheme != "https" || u.Host != "api.example.org:8443" || u.User != nil {
		t.Errorf("%q led to %s", want, raw)
	}
	if u.Path != "/p/"+want+"/q" || u.Fragment != want || strings.Count(u.EscapedPath(), "/") != 3 {
		t.Errorf("%q became the path %q and fragment %q", want, u.Path, u.Fragment)
	}
	if q, err := url.ParseQuery(u.RawQuery); err != nil || len(q) != 2 || q.Get("x") != want || q.Get("y") != "1" {
		t.Errorf("%q became the query %q, %v", want, u.RawQuery, err)
	}
}

func checkHeader(t *testing.T, tmpl *rule.Template, env *rule.Env, want string) {
	t.Helper()
	got, err := tmpl.Header(env)
	switch {
	case err != nil:
		if !strings.ContainsFunc(want, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			t.Errorf("header with %q: %v", want, err)
		}
	case strings.ContainsAny(got, "\r\n\x00") || got != "v="+want:
		t.Errorf("header: got %q, want %q", got, want)
	}
}

// TestNumbersKeepTheirDigits: a number of any length survives the event, text and JSON, and equals itself exactly.
func TestNumbersKeepTheirDigits(t *testing.T) {
	t.Parallel()
	text, body := mustCompile(t, "{{ n }}"), mustCompile(t, `{"n": {{ n }}, "s": "{{ n }}", "all": {{ data }}}`)
	same, err := rule.CompileCondition("n == other && n <= other && !(n < other) && n in [other]")
	if err != nil {
		t.Fatal(err)
	}
	larger, err := rule.CompileCondition("more > n && n != more && n < more")
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		whole := rapid.StringMatching(`-?(0|[1-9][0-9]{0,60})`).Draw(t, "whole")
		fraction := rapid.StringMatching(`[0-9]{1,40}`).Draw(t, "fraction")
		exponent := rapid.SampledFrom([]string{"", "e3", "E-5", "e+12"}).Draw(t, "exponent")
		n := whole + "." + fraction + exponent
		if rapid.Bool().Draw(t, "integer") {
			n = whole
		}
		mantissa, e, _ := strings.Cut(strings.ToLower(n), "e")
		other, more := mantissa, mantissa
		if !strings.Contains(mantissa, ".") {
			other, more = mantissa+".", mantissa+"."
		}
		other += "00"
		more += "00001"
		if strings.HasPrefix(n, "-") {
			n, more = more, n // nearer to 0 is larger
			other = n + "0"
			if e != "" {
				n += "e" + e
				other += "e" + e
			}
		} else if e != "" {
			other += "e" + e
			more += "e" + e
		}
		ev := &event.Event{Data: json.RawMessage(fmt.Sprintf(`{"n":%s,"other":%s,"more":%s}`, n, other, more))}
		env := rule.NewEnv(ev)
		if got, err := text.Text(env); err != nil || got != n {
			t.Fatalf("text: got %s, %v; want %s", got, err, n)
		}
		want := `{"n": ` + n + `, "s": "` + n + `", "all": {"more":` + more + `,"n":` + n + `,"other":` + other + `}}`
		if got, err := body.JSON(env); err != nil || string(got) != want {
			t.Fatalf("JSON: got %s, %v; want %s", got, err, want)
		}
		if ok, err := same.Eval(env); !ok || err != nil {
			t.Fatalf("%s does not equal %s: %v", n, other, err)
		}
		if ok, err := larger.Eval(env); !ok || err != nil {
			t.Fatalf("%s is not larger than %s: %v", more, n, err)
		}
	})
}
