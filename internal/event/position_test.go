package event_test

import (
	"encoding/json"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/fraiseql/weir/internal/event"
)

func TestLSN(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]event.LSN{
		"0/0": 0, "0/1": 1, "16/B374D848": 0x16_B374D848, "FFFFFFFF/FFFFFFFF": 1<<64 - 1, "1/0": 1 << 32, "0/FFFFFFFF": 1<<32 - 1,
	} {
		got, err := event.ParseLSN(text)
		if err != nil || got != want {
			t.Errorf("%s: got %d, %v; want %d", text, got, err, want)
		}
		if want.String() != text {
			t.Errorf("%d is written %s, want %s", want, want, text)
		}
		raw, err := json.Marshal(want)
		if err != nil || string(raw) != `"`+text+`"` {
			t.Errorf("%s as JSON: %s, %v", text, raw, err)
		}
		var back event.LSN
		if err := json.Unmarshal(raw, &back); err != nil || back != want {
			t.Errorf("%s from JSON: %s, %v", raw, back, err)
		}
	}
	if got, err := event.ParseLSN("16/b374d848"); err != nil || got != 0x16_B374D848 {
		t.Errorf("lower case: %s, %v", got, err)
	}
	for _, text := range []string{
		"", "/", "16", "16/", "/16", "16/B374D848/0", "1G/0", "0/G", "100000000/0", "0/100000000", "-1/0", "0/+1", " 0/0", "0x1/0", "1_0/0",
	} {
		if got, err := event.ParseLSN(text); err == nil {
			t.Errorf("%q is accepted as %s", text, got)
		}
	}
}

// Positions are in commit order: by LSN as a number, and only then by index.
func TestPositionOrder(t *testing.T) {
	t.Parallel()
	ordered := []event.Position{
		{},
		{Index: 1},
		{LSN: 9, Index: 500},
		{LSN: 10},
		{LSN: 10, Index: 1},
		{LSN: 10, Index: 2},
		{LSN: 10, Index: 10},
		{LSN: 0xFFFFFFFF, Index: 7},
		{LSN: 1 << 32},
		{LSN: 1 << 63, Index: 1},
		{LSN: 1<<64 - 1},
	}
	for i, p := range ordered {
		for j, q := range ordered {
			want := min(max(i-j, -1), 1)
			if got := p.Compare(q); got != want {
				t.Errorf("%s against %s: %d, want %d", p, q, got, want)
			}
		}
	}
	shuffled := slices.Clone(ordered)
	rand.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	slices.SortFunc(shuffled, event.Position.Compare)
	if !slices.Equal(shuffled, ordered) {
		t.Errorf("sorted: %v", shuffled)
	}
}

func TestPositionOfAnEvent(t *testing.T) {
	t.Parallel()
	e := event.Event{LSN: 0x16_B374D848, TxIndex: 3}
	if got := e.Position().String(); got != "16/B374D848+3" {
		t.Errorf("got %s", got)
	}
}
