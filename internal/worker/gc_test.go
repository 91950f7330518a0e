package worker

import (
	"runtime/debug"
	"testing"
)

// What the environment says of the garbage collector holds.
func TestTuneGC(t *testing.T) {
	before := debug.SetGCPercent(77)
	t.Cleanup(func() {
		debug.SetGCPercent(before)
		ballast = nil
	})
	for _, tt := range []struct {
		name     string
		variable string
		percent  int
		ballast  int
	}{
		{"nothing", "NOTHING", gcPercent, gcBallast}, {"GOGC", "GOGC", 77, 0}, {"GOMEMLIMIT", "GOMEMLIMIT", gcPercent, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv(tt.variable, "100")
			debug.SetGCPercent(77)
			ballast = nil
			TuneGC()
			percent := debug.SetGCPercent(77)
			if percent != tt.percent || len(ballast) != tt.ballast {
				t.Errorf("GOGC is %d and the ballast %d bytes, want %d and %d", percent, len(ballast), tt.percent, tt.ballast)
			}
		})
	}
}
