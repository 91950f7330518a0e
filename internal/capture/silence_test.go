package capture

import (
	"testing"
	"time"
)

// Who decodes for a day is not sent a message every two seconds, which it does not read.
func TestStatusToASilentServer(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ timeout, silent, want time.Duration }{
		{time.Minute, 0, 2 * time.Second},
		{time.Minute, 15 * time.Second, 2 * time.Second},
		{time.Minute, 80 * time.Second, 10 * time.Second},
		{time.Minute, time.Hour, 15 * time.Second},
		{2 * time.Second, time.Hour, 500 * time.Millisecond},
		{0, time.Minute, 7500 * time.Millisecond},
		{0, 24 * time.Hour, time.Minute},
	} {
		if got := statusDue(statusEvery(tc.timeout), rarely(tc.timeout), tc.silent); got != tc.want {
			t.Errorf("wal_sender_timeout %s, silent for %s: %s, want %s", tc.timeout, tc.silent, got, tc.want)
		}
	}
}

// A server that decodes a large transaction is silent for half of its timeout, or for as long as it takes.
func TestSilenceLimit(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		timeout  time.Duration
		silences int
		want     time.Duration
	}{
		{time.Minute, 0, time.Minute},
		{2 * time.Second, 0, time.Minute},
		{time.Hour, 0, time.Hour},
		{time.Hour, 1, 2 * time.Hour},
		{0, 0, time.Minute},
		{0, 1, 2 * time.Minute},
		{0, 5, 32 * time.Minute},
		{0, 1000, 24 * time.Hour},
		{48 * time.Hour, 1, 48 * time.Hour},
	} {
		if got := silenceLimit(tc.timeout, tc.silences); got != tc.want {
			t.Errorf("wal_sender_timeout %s, silent %d times: %s, want %s", tc.timeout, tc.silences, got, tc.want)
		}
	}
}
