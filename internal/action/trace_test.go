package action

import (
	"slices"
	"testing"
)

// A traceparent that the configuration sets is not replaced.
func TestWebhookKeepsItsOwnTrace(t *testing.T) {
	t.Parallel()
	own, _ := deliver(t, `, headers: {traceparent: mine}`, callFor(t, order))
	if got := own.header.Values("traceparent"); !slices.Equal(got, []string{"mine"}) {
		t.Errorf("got %q", got)
	}
}
