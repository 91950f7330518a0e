package action

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
)

func TestWebhookTrace(t *testing.T) {
	t.Parallel()
	const id, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	tests := map[string]string{
		``:                          "",
		`null`:                      "",
		`[]`:                        "",
		`{}`:                        "",
		`{"trace_id":"` + id + `"}`: "",
		`{"trace_id":"` + id + `","parent_id":"` + parent + `"}`:                      "00-" + id + "-" + parent + "-00",
		`{"trace_id":"` + id + `","parent_id":"` + parent + `","trace_flags":1}`:      "00-" + id + "-" + parent + "-01",
		`{"trace_id":"` + id + `","parent_id":"` + parent + `","trace_flags":255}`:    "00-" + id + "-" + parent + "-ff",
		`{"trace_id":"` + id + `","parent_id":"` + parent + `","trace_flags":"0A"}`:   "00-" + id + "-" + parent + "-0a",
		`{"trace_id":"` + id + `","parent_id":"` + parent + `","trace_flags":"\r\n"}`: "00-" + id + "-" + parent + "-00",
		`{"trace_id":"` + strings.ToUpper(id) + `","parent_id":"` + parent + `"}`:     "00-" + id + "-" + parent + "-00",
		`{"trace_id":"` + strings.Repeat("0", 32) + `","parent_id":"` + parent + `"}`: "",
		`{"trace_id":"x\r\ny","parent_id":"` + parent + `"}`:                          "",
		`{"trace_id":5,"parent_id":6}`:                                                "",
	}
	for raw, want := range tests {
		h := http.Header{}
		setTrace(h, json.RawMessage(raw))
		if got := h.Get("traceparent"); got != want {
			t.Errorf("%s: got %q, want %q", raw, got, want)
		}
	}
	h := http.Header{}
	setTrace(h, json.RawMessage(`{"trace_id":"`+id+`","parent_id":"`+parent+`","tracestate":"a=b\r\nX: y"}`))
	if h.Get("tracestate") != "" {
		t.Errorf("got %q", h)
	}
	own, _ := deliver(t, `, headers: {traceparent: mine}`, callFor(t, order))
	if got := own.header.Values("traceparent"); !slices.Equal(got, []string{"mine"}) {
		t.Errorf("got %q", got)
	}
}
