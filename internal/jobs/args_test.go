package jobs

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/riverqueue/river"

	"github.com/fraiseql/weir/internal/action"
	"github.com/fraiseql/weir/internal/event"
)

// Kinds and keys are what River UI shows, what `weir` searches by, and what jobs that were inserted by an older version
// have: a change here strands them.
func TestArgsArePinned(t *testing.T) {
	t.Parallel()
	e := order(77, `{"card":"4111111111111111"}`).Event
	e.ID = uuid.MustParse("5f0c8a52-7c1e-4b7e-9a39-0d6f3c1b2a41")
	args := argsOf(&e, "order-shipped", "notify-erp")
	const common = `"observer":"order-shipped","action":"notify-erp","entity":"Order","entity_id":"42","event_type":"INSERT",` +
		`"event_id":"5f0c8a52-7c1e-4b7e-9a39-0d6f3c1b2a41","lsn":"16/B374D848","tx_index":77,"day":"2026-02-28","pk":77`
	tests := []struct {
		args       river.JobArgs
		kind, json string
	}{
		{webhookArgs{args}, "weir_webhook", "{" + common + "}"},
		{logArgs{args}, "weir_log", "{" + common + "}"},
		{
			changeArgs{Args: args, CommitTime: time.Date(2026, 2, 28, 22, 30, 0, 0, time.UTC), Reason: "unknown verb"},
			"weir_change",
			"{" + common + `,"commit_time":"2026-02-28T22:30:00Z","reason":"unknown verb"}`,
		},
	}
	for _, tt := range tests {
		if got := tt.args.Kind(); got != tt.kind {
			t.Errorf("kind %s, want %s", got, tt.kind)
		}
		if got, err := json.Marshal(tt.args); err != nil || string(got) != tt.json {
			t.Errorf("%s: %v\n got %s\nwant %s", tt.kind, err, got, tt.json)
		}
	}
	var back webhookArgs
	if err := json.Unmarshal([]byte(tests[0].json), &back); err != nil || back.args() != args {
		t.Errorf("read back: %+v, %v", back, err)
	}
	want := event.Delivery{Observer: "order-shipped", Action: "notify-erp", Event: &e}.ID()
	if got := back.DeliveryID(); got != want {
		t.Errorf("the job's delivery is %s, the event's %s", got, want)
	}
}

// Every type of action that the configuration accepts has job arguments of its kind.
func TestEveryActionTypeHasArgs(t *testing.T) {
	t.Parallel()
	for _, kind := range action.Types() {
		args := typedArgs(kind, Args{Observer: "o"})
		if got := args.Kind(); got != "weir_"+kind {
			t.Errorf("%s: kind %s", kind, got)
		}
		if d, ok := args.(deliveryArgs); !ok || d.args().Observer != "o" {
			t.Errorf("%s: %+v", kind, args)
		}
	}
}

func TestShort(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                               "",
		"plain":                          "plain",
		"two\nlines\r\n":                 "two lines",
		"a\x00b\x1b[31mc\u0085d":         "a b [31mc d",
		"broken \xff\xfe end":            "broken \uFFFD end",
		strings.Repeat("a", 300):         strings.Repeat("a", 300),
		strings.Repeat("a", 301):         strings.Repeat("a", 299) + "…",
		strings.Repeat("€", 300):         strings.Repeat("€", 300),
		strings.Repeat("€", 5000):        strings.Repeat("€", 299) + "…",
		"\n\n" + strings.Repeat("\t", 9): "",
	} {
		if got := short(text); got != want {
			t.Errorf("short(%.40q) = %q, want %q", text, got, want)
		}
	}
}

func FuzzShort(f *testing.F) {
	f.Add("a\x00b\n")
	f.Add(strings.Repeat("\xff€", 400))
	f.Fuzz(func(t *testing.T, text string) {
		got := short(text)
		if utf8.RuneCountInString(got) > maxText || !utf8.ValidString(got) || strings.ContainsFunc(got, unicode.IsControl) {
			t.Errorf("%q", got)
		}
		if short(got) != got {
			t.Errorf("%q becomes %q", got, short(got))
		}
	})
}

func TestMetaTime(t *testing.T) {
	t.Parallel()
	want := time.Date(2026, 2, 28, 22, 30, 0, 0, time.UTC)
	for metadata, ok := range map[string]bool{
		`{"since":"2026-02-28T22:30:00Z","output":{"since":5},"snoozes":3}`: true,
		`{"since":"2026-03-01T00:30:00+02:00"}`:                             true,
		`{}`:                                                                false, ``: false, `null`: false, `[]`: false, `{"since":null}`: false, `{"since":5}`: false, `{"since":""}`: false,
		`{"since":"yesterday"}`: false, `{"output":{"since":"2026-02-28T22:30:00Z"}}`: false,
	} {
		got, found := metaTime([]byte(metadata), "since")
		if found != ok || ok && !got.Equal(want) {
			t.Errorf("%s: got %s, %v", metadata, got, found)
		}
	}
}
