package event_test

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/fraiseql/weir/internal/event"
)

func TestExcerpt(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ body, want string }{
		"empty":                    {"", ""},
		"short":                    {`{"ok":true}`, `{"ok":true}`},
		"short, broken end":        {"abc\xff", "abc\uFFFD"},
		"exactly a kilobyte":       {strings.Repeat("a", 1024), strings.Repeat("a", 1024)},
		"longer":                   {strings.Repeat("a", 5000), strings.Repeat("a", 1024)},
		"cut inside a character":   {strings.Repeat("a", 1023) + "€€", strings.Repeat("a", 1023)},
		"NUL, which jsonb refuses": {"a\x00b", "a\uFFFDb"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := event.Excerpt([]byte(tt.body)); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func FuzzExcerpt(f *testing.F) {
	f.Add([]byte("a\xff\x00€"))
	f.Add([]byte(strings.Repeat("\xff", 1100)))
	f.Fuzz(func(t *testing.T, body []byte) {
		got := event.Excerpt(body)
		if len(got) > 1024 || !utf8.ValidString(got) || strings.Contains(got, "\x00") {
			t.Errorf("%d bytes, valid %v: %q", len(got), utf8.ValidString(got), got)
		}
	})
}

func TestOutcomeJSONIsShort(t *testing.T) {
	t.Parallel()
	raw, err := json.Marshal(event.Outcome{ResponseStatus: 200, DurationMS: 5})
	if want := `{"status":200,"duration_ms":5}`; err != nil || string(raw) != want {
		t.Errorf("got %s, %v; want %s", raw, err, want)
	}
}
