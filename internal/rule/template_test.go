package rule_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/invopop/jsonschema"

	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/rule"
	"github.com/fraiseql/weir/internal/setting"
)

func template(t *testing.T, source string) *rule.Template {
	t.Helper()
	tmpl, err := rule.CompileTemplate(source)
	if err != nil {
		t.Fatalf("%s: %v", source, err)
	}
	return tmpl
}

// hostile is an event whose note has everything that a careless template would interpret.
func hostile(note string) *event.Event {
	e := order()
	data, err := json.Marshal(map[string]any{"note": note, "total": json.Number("100.10"), "none": nil, "tags": []string{note}})
	if err != nil {
		panic(err)
	}
	e.Data = data
	return e
}

func TestText(t *testing.T) {
	t.Parallel()
	tests := map[string]string{
		"no placeholder": "no placeholder",
		"":               "",
		"{{ status }}|{{status}}|{{ data.status }}": "shipped|shipped|shipped",
		"{{\n status\n}}":                                          "shipped",
		"Total: {{ total }} {{ data.total }}":                      "Total: 100.10 100.10",
		"{{ big }} {{ huge }} {{ fine }}":                          "9007199254740993 9007199254740993123456789 9007199254740993.5",
		"{{ absurd }}":                                             "1e999999999",
		"{{ total * 2 }} {{ total + 0.900 }}":                      "200.20 101.000",
		"[{{ none }}]":                                             "[]",
		"{{ upper(customer.name) }}":                               "ADA",
		"{{ event_type }} {{ entity_type }} {{ id }}":              "UPDATE Order 0191d6f4-0000-7000-8000-000000000001",
		"{{ data.id }}":                                            "inner",
		"{{ paid }} {{ count }}":                                   "true 100",
		"{{ tags }} {{ customer }}":                                `["new","vip"] {"address":{"city":"Paris"},"name":"Ada","tier":null}`,
		"{{ '{{' }} {{ '}}' }} }} { }":                             "{{ }} }} { }",
		"{{ quoted }}":                                             "say \"hi\"\n{{ total }}",
		"{{ {'a': {'b': total}}.a.b }}{{ {'a': 1}}}":               `100.10{"a":1}`,
		"{{ `}}` }}{{ \"a\\\"}}\" }}":                              `}}a"}}`,
		"{{ paid ? 'yes' : 'no' }}":                                "yes",
		"{{ join(map(items, .sku + '=' + string(.price)), ';') }}": "a=10.10;b=0.20",
	}
	for source, want := range tests {
		tmpl := template(t, source)
		got, err := tmpl.Text(rule.NewEnv(order()))
		if err != nil || got != want {
			t.Errorf("%s: got %q, %v; want %q", source, got, err, want)
		}
		if tmpl.String() != source {
			t.Errorf("String is %q, want %q", tmpl.String(), source)
		}
	}
}

func TestStatic(t *testing.T) {
	t.Parallel()
	for source, want := range map[string]bool{"": true, "plain }} text": true, "{{ status }}": false, "a{{ 'b' }}": false} {
		text, ok := template(t, source).Static()
		if ok != want || ok && text != source {
			t.Errorf("%q: got %q, %v", source, text, ok)
		}
	}
	if text, ok := new(rule.Template).Static(); text != "" || !ok {
		t.Errorf("zero value: got %q, %v", text, ok)
	}
}

func TestTemplatesThatDoNotCompile(t *testing.T) {
	t.Parallel()
	tests := map[string]string{
		"a {{ status":                "column 3: {{ is not closed: write }} behind the expression",
		"a\nb {{ status }":           "line 2, column 3: {{ is not closed",
		"{{ 'a }}":                   "a quote ' in it is not closed either",
		"{{ {'a': 1 }}":              "{{ is not closed",
		"{{ }}":                      "column 1: {{ }} is empty",
		"é{{}}":                      "column 2: {{ }} is empty",
		"é {{ total = 1 }}":          `column 12: unexpected "=": write == to compare`,
		"a\n\n {{ now() }}":          "line 3, column 5: the function now is not available",
		"{{ $env }}":                 "$env is not available",
		"\xff":                       "not valid UTF-8",
		strings.Repeat("a", 1<<20+1): "longer than 1 MiB",
	}
	for source, want := range tests {
		if _, err := rule.CompileTemplate(source); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: got %v; want an error with %q", source, err, want)
		}
	}
}

func TestRenderingFails(t *testing.T) {
	t.Parallel()
	tests := map[string]string{
		"{{ totl }}":               `{{ totl }}: column 1 (totl): data has no key "totl" (did you mean "total"?)`,
		"{{ customer.tier.name }}": "this is null",
		"{{ paid + 1 }}":           "found true or false",
		"{{ data.missing }}":       `there is no key "missing"`,
		"{{ let a=[tags,tags,tags,tags,tags,tags,tags,tags,tags,tags]; let b=[a,a,a,a,a,a,a,a,a,a,a]; let c=[b,b,b,b,b,b,b,b,b,b]; " +
			"let d=[c,c,c,c,c,c,c,c,c,c]; let e=[d,d,d,d,d,d,d,d,d,d]; let f=[e,e,e,e,e,e,e,e,e,e]; [f,f,f,f,f,f,f,f,f,f] }}": "longer than 64 MiB",
	}
	for source, want := range tests {
		if _, err := template(t, source).Text(rule.NewEnv(order())); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v; want an error with %q", source, err, want)
		}
	}
}

func TestJSON(t *testing.T) {
	t.Parallel()
	const note = "say \"hi\" \\ \r\n\t{{ total }} </script>\x01é\u2028"
	tests := map[string]string{
		`{"note": "{{ note }}"}`:                         `{"note": "say \"hi\" \\ \r\n\t{{ total }} </script>\u0001é` + "\u2028" + `"}`,
		`{"note": {{ note }}, "n": {{ total }}}`:         `{"note": "say \"hi\" \\ \r\n\t{{ total }} </script>\u0001é` + "\u2028" + `", "n": 100.10}`,
		`{"total": "{{ total }} EUR"}`:                   `{"total": "100.10 EUR"}`,
		`{"none": {{ none }}, "empty": "{{ none }}"}`:    `{"none": null, "empty": ""}`,
		`{"a\"b{{ total }}": 1, "c": "\\{{ total }}"}`:   `{"a\"b100.10": 1, "c": "\\100.10"}`,
		`{{ data.total }}`:                               `100.10`,
		`[{{ event_type }}, {{ total > 5 }}]`:            `["UPDATE", true]`,
		`{{ {"event": event_type, "sum": total * 10} }}`: `{"event":"UPDATE","sum":1001.00}`,
		`{"list": {{ [1, 2.50, null] }}}`:                `{"list": [1,2.50,null]}`,
		`{ {{ event_type }}: "{{ {'a': 1} }}" }`:         `{ "UPDATE": "{\"a\":1}" }`,
		`{"nested": "{{ tags }}"}`:                       `{"nested": "[\"say \\\"hi\\\" \\\\ \\r\\n\\t{{ total }} </script>\\u0001é` + "\u2028" + `\"]"}`,
	}
	for source, want := range tests {
		tmpl := template(t, source)
		if err := tmpl.CheckJSON(); err != nil {
			t.Errorf("%s: CheckJSON: %v", source, err)
		}
		got, err := tmpl.JSON(rule.NewEnv(hostile(note)))
		if err != nil || string(got) != want {
			t.Errorf("%s:\n got %s, %v\nwant %s", source, got, err, want)
		}
	}
}

func TestJSONThatDoesNotParse(t *testing.T) {
	t.Parallel()
	tests := []struct{ source, check, render string }{
		{`{"a": {{ total }}`, "does not give valid JSON: unexpected end of JSON input", "unexpected end of JSON input"},
		{`{"a": Total {{ total }}}`, "invalid character 'T'", "invalid character 'T' looking for beginning of value at byte 7"},
		{`{"a": {{ total }} EUR}`, "invalid character", "invalid character"},
		{`{"a": "\{{ note }}"}`, "cannot follow a backslash", "cannot follow a backslash"},
		{`{ {{ total }}: 1 }`, "", "invalid character '1'"},
		{``, "unexpected end", "unexpected end"},
	}
	for _, tt := range tests {
		tmpl := template(t, tt.source)
		if err := tmpl.CheckJSON(); (err == nil) != (tt.check == "") || err != nil && !strings.Contains(err.Error(), tt.check) {
			t.Errorf("%s: CheckJSON: got %v; want %q", tt.source, err, tt.check)
		}
		if got, err := tmpl.JSON(rule.NewEnv(hostile("n"))); err == nil || !strings.Contains(err.Error(), tt.render) {
			t.Errorf("%s: got %s, %v; want an error with %q", tt.source, got, err, tt.render)
		}
	}
}

func TestURL(t *testing.T) {
	t.Parallel()
	tests := []struct{ source, note, want string }{
		{"https://erp.example.org/hooks", "", "https://erp.example.org/hooks"},
		{"https://erp.example.org:8443/a/{{ note }}/b", "x y/z?q#f%;é", "https://erp.example.org:8443/a/x%20y%2Fz%3Fq%23f%25%3B%C3%A9/b"},
		{"http://h/a?q={{ note }}&t={{ total }}#{{ note }}", "a&b=c d+e#", "http://h/a?q=a%26b%3Dc+d%2Be%23&t=100.10#a&b=c%20d+e%23"},
		{"http://h?q={{ note }}", "\r\nHost: x", "http://h?q=%0D%0AHost%3A+x"},
		{"http://h/{{ note }}", "@evil.example/", "http://h/@evil.example%2F"},
		{"http://h/v{{ note }}", ".", "http://h/v."},
		{"http://[::1]:80/{{ none }}", "", "http://[::1]:80/"},
		{"http://h/{{ note }}", "*?[]{{ total }}", "http://h/%2A%3F%5B%5D%7B%7B%20total%20%7D%7D"},
	}
	for _, tt := range tests {
		tmpl := template(t, tt.source)
		if err := tmpl.CheckURL(); err != nil {
			t.Errorf("%s: CheckURL: %v", tt.source, err)
		}
		got, err := tmpl.URL(rule.NewEnv(hostile(tt.note)))
		if err != nil || strings.ReplaceAll(got, "%2A", "*") != strings.ReplaceAll(tt.want, "%2A", "*") {
			t.Errorf("%s: got %s, %v; want %s", tt.source, got, err, tt.want)
		}
	}
	for _, tt := range []struct{ source, note, want string }{
		{"http://h/a/{{ note }}/b", "..", `contains ".."`},
		{"http://h/a/{{ note }}", ".", `contains "."`},
		{"http://h/a/{{ note }}{{ note }}/b", ".", `contains ".."`},
		{"http://h/a/{{ note }}", "../../admin", `contains ".."`},
		{"http://h/a/{{ note }}", strings.Repeat("x", 9000), "longer than 8192 bytes"},
		{"http://{{ note }}/", "h", "stands in the scheme or host"},
	} {
		if got, err := template(t, tt.source).URL(rule.NewEnv(hostile(tt.note))); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s with %.20q: got %.40s, %v; want an error with %q", tt.source, tt.note, got, err, tt.want)
		}
	}
}

func TestCheckURL(t *testing.T) {
	t.Parallel()
	tests := map[string]string{
		"{{ data.url }}":                         "stands in the scheme or host",
		"{{ 'https' }}://h/":                     "stands in the scheme or host",
		"https://{{ note }}.example.org/":        "stands in the scheme or host",
		"https://h{{ note }}/":                   "stands in the scheme or host",
		"https://h:{{ note }}/":                  "stands in the scheme or host",
		"https://h:80{{ note }}":                 "stands in the scheme or host",
		"https:/{{ note }}/x":                    "stands in the scheme or host",
		"https:///{{ note }}":                    "no host",
		"https:{{ note }}":                       "stands in the scheme or host",
		`https://h\x/{{ note }}`:                 "a backslash",
		"ftp://h/":                               "the scheme of the URL is not http",
		"/hooks":                                 "the scheme of the URL is not http",
		"":                                       "scheme",
		"https:h/{{ note }}":                     "stands in the scheme or host",
		"https://user:secret@h/":                 "user or password",
		"https://h/a b":                          "a space",
		"https://h/\n":                           "a control character",
		"https://h:port/":                        "this is no URL (invalid port): expected",
		"https://user:secret/":                   "this is no URL (invalid port): expected",
		"https://h/%zz":                          "no URL",
		"https://h/../a":                         `contains ".."`,
		"https://h/" + strings.Repeat("a", 2048): "longer than 2048 bytes",
	}
	for source, want := range tests {
		err := template(t, source).CheckURL()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s: got %v; want an error with %q", source, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("the error repeats what may be a secret: %v", err)
		}
	}
}

func TestHeader(t *testing.T) {
	t.Parallel()
	if got, err := template(t, "{{ note }}; n={{ total }}").Header(rule.NewEnv(hostile(`a "b" {{ total }} é`))); err != nil ||
		got != `a "b" {{ total }} é; n=100.10` {
		t.Errorf("got %q, %v", got, err)
	}
	for _, note := range []string{"a\r\nX-Evil: 1", "a\n", "\r", "a\x00b", "\x7f", "\x1b[0m"} {
		if got, err := template(t, "{{ note }}").Header(rule.NewEnv(hostile(note))); err == nil ||
			!strings.Contains(err.Error(), "a header cannot contain the control character U+") {
			t.Errorf("%q: got %q, %v", note, got, err)
		}
	}
}

func TestHTMLAndSlack(t *testing.T) {
	t.Parallel()
	const note = `<b onclick="x('y')">&amp;</b> {{ total }}`
	env := rule.NewEnv(hostile(note))
	tmpl := template(t, "<p>{{ note }} {{ total }}</p>")
	if got, err := tmpl.HTML(env); err != nil ||
		got != `<p>&lt;b onclick=&#34;x(&#39;y&#39;)&#34;&gt;&amp;amp;&lt;/b&gt; {{ total }} 100.10</p>` {
		t.Errorf("HTML: got %s, %v", got, err)
	}
	if got, err := tmpl.Slack(env); err != nil ||
		got != `<p>&lt;b onclick="x('y')"&gt;&amp;amp;&lt;/b&gt; {{ total }} 100.10</p>` {
		t.Errorf("Slack: got %s, %v", got, err)
	}
}

type config struct {
	Condition *rule.Condition           `yaml:"condition"`
	Body      *rule.Template            `yaml:"body"`
	Headers   map[string]*rule.Template `yaml:"headers"`
}

func decode(t *testing.T, dir, source string) (config, error) {
	t.Helper()
	var c config
	ctx := setting.NewContext(context.Background(), setting.Surroundings{Dir: dir})
	err := yaml.NewDecoder(strings.NewReader(source)).DecodeContext(ctx, &c)
	return c, err
}

func TestYAML(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, content := range map[string]string{"mail.html": "Dear {{ customer.name }}\n", "bad.html": "a\n{{ total = 1 }}"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := decode(t, dir, "condition: total > 100\nbody: {file: mail.html}\nheaders:\n  X-Total: \"{{ total }}\"\n  X-N: 5\n")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := c.Condition.Eval(rule.NewEnv(order())); !got || err != nil || c.Condition.String() != "total > 100" {
		t.Errorf("condition: %v, %v", got, err)
	}
	for tmpl, want := range map[*rule.Template]string{c.Body: "Dear Ada", c.Headers["X-Total"]: "100.10", c.Headers["X-N"]: "5"} {
		if got, err := tmpl.Text(rule.NewEnv(order())); err != nil || got != want {
			t.Errorf("got %q, %v; want %q", got, err, want)
		}
	}
	block, err := decode(t, dir, "body:\n  file: "+filepath.Join(dir, "mail.html")+"\n")
	if err != nil || block.Body.String() != "Dear {{ customer.name }}" {
		t.Errorf("got %v, %v", block.Body, err)
	}

	for source, want := range map[string][]string{
		"condition: total = 100":      {"[1:12]", `the condition does not compile: column 7: unexpected "=": write == to compare`},
		"body: x\ncondition:\n  a: 1": {"[3:", "expected a condition, as in status == 'shipped'"},
		"condition: total":            nil,
		"condition: total + 1":        nil,
		"condition: \"'a'\"":          {"[1:12]", "always a string"},
		"condition: [a]":              {"[1:12]", "expected a condition"},
		"condition: true":             {"[1:12]", "expected a condition"},
		"headers:\n  A: \"{{ total\"": {"[2:6]", "the template does not compile: column 1: {{ is not closed"},
		"body: [a]":                   {"[1:7]", "expected a template: text, or {file: path}"},
		"body: {path: a}":             {"expected a template: text, or {file: path}"},
		"body: {file: a, b: c}":       {"expected a template: text, or {file: path}"},
		"body: {file: [a]}":           {"expected the path of a file"},
		"body: {file: none.html}":     {"[1:14]", "the template cannot be read", "none.html"},
		"body: {file: bad.html}":      {"[1:14]", "bad.html does not compile: line 2, column 10: unexpected \"=\""},
	} {
		_, err := decode(t, dir, source)
		if want == nil && err != nil {
			t.Errorf("%s: %v", source, err)
		}
		for _, part := range want {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("%s: got %v; want an error with %q", source, err, part)
			}
		}
	}
}

func TestSchema(t *testing.T) {
	t.Parallel()
	raw, err := json.Marshal([]*jsonschema.Schema{rule.Condition{}.JSONSchema(), rule.Template{}.JSONSchema()})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"oneOf":[{"type":"string"},{"properties":{"file":{"type":"string"`, `"additionalProperties":false`, `"type":"string","description":"An expression`,
	} {
		if !strings.Contains(string(raw), want) {
			t.Errorf("the schema has no %s: %s", want, raw)
		}
	}
}

// What a template's text cuts is cut; a comma in quotes, in an expression or in a value cuts nothing.
func TestSplit(t *testing.T) {
	t.Parallel()
	env := rule.NewEnv(hostile(`a, b`))
	for source, want := range map[string][]string{
		"":                                     {""},
		"a":                                    {"a"},
		"a,b,":                                 {"a", "b", ""},
		"{{ note }},{{ note }}":                {"a, b", "a, b"},
		"{{ replace(note, ',', ';') }}":        {"a; b"},
		`"Doe, Jane" <j@x>, "{{ note }}, c",d`: {`"Doe, Jane" <j@x>`, ` "a, b, c"`, "d"},
		`"a\",b",c`:                            {`"a\",b"`, "c"},
		`x {{ note }} y,z`:                     {"x a, b y", "z"},
	} {
		var got []string
		for _, piece := range template(t, source).Split(',') {
			text, err := piece.Text(env)
			if err != nil {
				t.Errorf("%s: %v", source, err)
			}
			if _, static := piece.Static(); static == strings.Contains(piece.String(), "{{") {
				t.Errorf("%s: %q is static: %t", source, piece, static)
			}
			got = append(got, text)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", source, got, want)
		}
	}
}

func TestTemplateReads(t *testing.T) {
	t.Parallel()
	for source, want := range map[string]bool{
		"{{ id }}": true, "a-{{ status }}-{{ upper(id) }}": true, "{{ status == 'x' ? id : '' }}": true,
		"id": false, "{{ data.id }}": false, "{{ 'id' }}": false, "{{ entity_id }}": false, "{{ let id = data.id; id }}": false,
	} {
		tmpl, err := rule.CompileTemplate(source)
		if err != nil {
			t.Fatal(err)
		}
		if got := tmpl.Reads("id"); got != want {
			t.Errorf("%s: %t", source, got)
		}
	}
}

// What escapes is told the values alone.
func TestTemplateEscaped(t *testing.T) {
	t.Parallel()
	tmpl, err := rule.CompileTemplate("*{{ data.a }}*")
	if err != nil {
		t.Fatal(err)
	}
	got, err := tmpl.Escaped(rule.NewEnv(&event.Event{Data: []byte(`{"a": "*b"}`)}), strings.ToUpper)
	if got != "**B*" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}
