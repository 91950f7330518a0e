package main

import (
	"bytes"
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/ops"
)

func TestAgo(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for _, tt := range []struct {
		ago  time.Duration
		want string
	}{
		{0, "now"},
		{12 * time.Second, "12 s ago"},
		{-90 * time.Second, "in 1 min 30 s"},
		{3*time.Hour + 20*time.Minute + time.Second, "3 h 20 min ago"},
		{50 * time.Hour, "2 d 2 h ago"},
	} {
		if got := ago(now, event.Time(now.Add(-tt.ago))); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.ago, got, tt.want)
		}
	}
	if got := ago(now, event.Time{}); got != "never" {
		t.Errorf("zero time: got %q", got)
	}
}

func TestSize(t *testing.T) {
	t.Parallel()
	for bytes, want := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 kB", 1536: "1.5 kB", 5 << 20: "5.0 MB", 3 << 30: "3.0 GB", 1 << 42: "4.0 TB", 1 << 52: "4096.0 TB",
	} {
		if got := ops.Size(bytes); got != want {
			t.Errorf("%d: got %q, want %q", bytes, got, want)
		}
	}
}

func TestTableAlignsWhatIsColored(t *testing.T) {
	t.Parallel()
	a := &app{environment: environment{terminal: true, lookup: func(string) (string, bool) { return "", false }}}
	var out strings.Builder
	table := table{header: []string{"A", "B"}}
	table.add(cell{"größer", red}, c("x"))
	table.add(c("y"), c(""))
	table.write(a, &out)
	want := "\x1b[1mA\x1b[0m       \x1b[1mB\x1b[0m\n\x1b[31mgrößer\x1b[0m  x\ny\n"
	if got := out.String(); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// FuzzYAML reads what was written with a YAML library and compares it with what JSON says.
func FuzzYAML(f *testing.F) {
	for _, seed := range []string{
		`{"a":1,"b":[1,{"c":null,"d":[]},[true,["x"]]],"e":{},"f":{"g":{"h":"i"}}}`, `[]`, `{}`, `"x"`, `null`, `[[],{}]`,
		`{"yes":"no","on":"true","1":"2","":"","-":"- x","#":"a #b","k:":"a: b","q":"\"'","n":"1e3","d":"2026-01-31","t":" x "}`,
		`["line\nbreak","tab\t","\u2028","<&>","${X}","@","*a","&b","!c","%d","{{ e }}","~","0x1","1_000",".5","=","<<"]`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, document string) {
		var want any
		if json.Unmarshal([]byte(document), &want) != nil || hasControls(want) {
			return
		}
		document = normal(t, want) // without duplicate keys
		var out bytes.Buffer
		if err := writeYAML(&out, []byte(document)); err != nil {
			t.Fatalf("%s: %v", document, err)
		}
		var got any
		if err := yaml.Unmarshal(out.Bytes(), &got); err != nil {
			t.Fatalf("%q gives %q: %v", document, out.String(), err)
		}
		if a, b := normal(t, got), normal(t, want); a != b {
			t.Errorf("%q gives %q, which reads as %s, want %s", document, out.String(), a, b)
		}
	})
}

// hasControls finds what the reading library (not YAML) cannot take, and numbers, which it rounds.
func hasControls(v any) bool {
	switch v := v.(type) {
	case string:
		return strings.ContainsFunc(v, func(r rune) bool { return r < ' ' && r != '\n' && r != '\t' || r > '~' })
	case float64:
		return v != float64(int32(v)) || v == 0 && math.Signbit(v)
	case []any:
		for _, e := range v {
			if hasControls(e) {
				return true
			}
		}
	case map[string]any:
		for k, e := range v {
			if hasControls(k) || hasControls(e) {
				return true
			}
		}
	}
	return false
}

func normal(t *testing.T, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	check(t, err)
	return string(raw)
}

func TestYAMLKeepsDigits(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	check(t, writeYAML(&out, []byte(`{"total":100.10,"big":9007199254740993123,"list":[{"a":1,"b":2},"x"]}`)))
	want := "total: 100.10\nbig: 9007199254740993123\nlist:\n  - a: 1\n    b: 2\n  - x\n"
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
}

// A line ends at the terminal's width; what has no blank and what is to be copied stay whole.
func TestTableWraps(t *testing.T) {
	t.Parallel()
	const long = "one two three four five six seven eight nine ten eleven twelve"
	for columns, want := range map[int]string{
		0:   "name  " + long + "\n",
		100: "name  " + long + "\n",
		50:  "name  one two three four five six seven eight nine\n      ten eleven twelve\n",
		10:  "name  one two three four five six seven eight\n      nine ten eleven twelve\n", // nobody reads text that is narrower
	} {
		a := &app{environment: environment{columns: columns}}
		var out strings.Builder
		var table table
		table.add(c("name"), c(long))
		table.write(a, &out)
		if out.String() != want {
			t.Errorf("%d columns: got\n%swant\n%s", columns, out.String(), want)
		}
	}
	var out strings.Builder
	var table table
	table.add(c("name"), cell{strings.Repeat("SELECT 1; ", 12), quoted})
	table.detail(plain, strings.Repeat("x", 90)+" y")
	table.add(c(strings.Repeat("n", 70)), c(long))
	table.write(&app{}, &out)
	want := "name  " + strings.Repeat(" ", 64) + "  " + strings.Repeat("SELECT 1; ", 12) + "\n    " + strings.Repeat("x", 90) + "\n    y\n" +
		strings.Repeat("n", 70) + "\n    " + long + "\n"
	if got := out.String(); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}
