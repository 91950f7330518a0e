package bench

import (
	"runtime"
	"slices"
	"testing"
	"time"
)

// side is one of those that are compared: what by= says of it, and what is measured.
type side struct {
	by string // "": it is compared with nothing
	op func()
}

// inTurn measures steps that take microseconds: the sides take turns of so many steps each, so that what else the machine does
// hits them alike, and a side's time is the median of its turns.
func inTurn(b *testing.B, setting string, turns, steps int, sides ...side) {
	b.Helper()
	took := make([][]float64, len(sides))
	for range turns {
		for i, s := range sides {
			began := time.Now()
			for range steps {
				s.op()
			}
			took[i] = append(took[i], float64(time.Since(began))/float64(steps))
		}
	}
	for i, s := range sides {
		name := setting
		if s.by != "" {
			name += "/by=" + s.by
		}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs() // else neither of these units is printed
			slices.Sort(took[i])
			objects, bytes := allocations(s.op)
			figures(b, map[string]float64{"ns/op": took[i][len(took[i])/2], "allocs/op": objects, "B/op": bytes})
		})
	}
}

// allocations are those of a step.
func allocations(op func()) (objects, bytes float64) {
	const steps = 100
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range steps {
		op()
	}
	runtime.ReadMemStats(&after)
	return float64(after.Mallocs-before.Mallocs) / steps, float64(after.TotalAlloc-before.TotalAlloc) / steps
}
