package ops

import (
	"strings"
	"testing"
	"time"
)

// The clocks of one machine are one clock, so what is judged is given.
func TestClockFinding(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		ahead, took time.Duration
		want        string // "": nothing to say
	}{
		{0, 0, ""},
		{4 * time.Second, 0, ""},
		{-6 * time.Second, 2 * time.Second, ""},
		{6 * time.Second, 0, "6s behind the database's"},
		{-90 * time.Second, time.Second, "1m30s ahead of the database's"},
	} {
		f := clockFinding(tc.ahead, tc.took)
		if (f.Level == LevelOK) != (tc.want == "") || !strings.Contains(f.Problem, tc.want) || (f.Mend == "") != (tc.want == "") {
			t.Errorf("%v, asked for %v: got %+v, want %q", tc.ahead, tc.took, f, tc.want)
		}
	}
}
