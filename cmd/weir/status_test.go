package main

import (
	"strings"
	"testing"

	"github.com/fraiseql/weir/internal/ops"
)

// What weir status says of who reads the stream.
func TestStreamCell(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		known bool
		role  ops.Role
		want  string
	}{
		"a worker":            {true, ops.RoleReader, "streaming: read by one"},
		"a worker that hangs": {true, ops.RoleHanging, "hanging: one has the slot"},
		"a stranger":          {false, ops.RoleStandby, "not by a worker: one has slot weir"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := (&app{}).streamCell(&ops.Status{
				Stream:  ops.Stream{State: ops.StreamStreaming, Slot: "weir", Reader: "one", ReaderKnown: tt.known},
				Workers: []ops.Worker{{ClientID: "one", Role: tt.role}},
			})
			if !strings.Contains(got.text, tt.want) {
				t.Errorf("got %q, want %q", got.text, tt.want)
			}
		})
	}
}
