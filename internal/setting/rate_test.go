package setting_test

import (
	"testing"
	"time"

	"github.com/fraiseql/weir/internal/setting"
)

func TestParseRate(t *testing.T) {
	t.Parallel()
	for text, gap := range map[string]time.Duration{
		"50/s": 20 * time.Millisecond, "600/m": 100 * time.Millisecond, "1/h": time.Hour, "1000000/s": time.Microsecond,
	} {
		rate, err := setting.ParseRate(text)
		if err != nil || rate.Gap() != gap || rate.String() != text {
			t.Errorf("%q: got %s with a gap of %s, %v; want a gap of %s", text, rate, rate.Gap(), err, gap)
		}
	}
	if none := (setting.Rate{}); !none.IsZero() || none.Gap() != 0 || none.String() != "" {
		t.Errorf("no limit: %q, a gap of %s", none, none.Gap())
	}
	for _, text := range []string{"", "50", "50/", "/s", "0/s", "-1/s", "1.5/s", "50/d", "50 per s", "1000001/s", "50/s/s"} {
		if rate, err := setting.ParseRate(text); err == nil {
			t.Errorf("%q: got %s, want an error", text, rate)
		}
	}
}
