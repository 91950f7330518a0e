package action

import (
	"encoding/json"
	"net/http"
	"regexp"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// traceContext is the change log's trace_context column.
type traceContext struct {
	TraceID    string          `json:"trace_id"`
	ParentID   string          `json:"parent_id"`
	TraceFlags json.RawMessage `json:"trace_flags"` // "01", or the number
	TraceState string          `json:"tracestate"`
}

var (
	traceIDPattern    = regexp.MustCompile(`^[0-9a-f]{32}$`)
	parentIDPattern   = regexp.MustCompile(`^[0-9a-f]{16}$`)
	traceFlagsPattern = regexp.MustCompile(`^[0-9a-f]{2}$`)
)

// setTrace sets W3C's traceparent and tracestate from an event's trace context, unless the action sets its own. A
// context that is incomplete or malformed is left out: tracing must not stop a delivery.
func setTrace(h http.Header, raw json.RawMessage) {
	var tc traceContext
	if len(raw) == 0 || json.Unmarshal(raw, &tc) != nil || h.Get("traceparent") != "" {
		return
	}
	traceID, parentID := strings.ToLower(tc.TraceID), strings.ToLower(tc.ParentID)
	if !traceIDPattern.MatchString(traceID) || !parentIDPattern.MatchString(parentID) ||
		strings.Trim(traceID, "0") == "" || strings.Trim(parentID, "0") == "" {
		return
	}
	h.Set("traceparent", "00-"+traceID+"-"+parentID+"-"+traceFlags(tc.TraceFlags))
	if tc.TraceState != "" && len(tc.TraceState) <= 512 && httpguts.ValidHeaderFieldValue(tc.TraceState) {
		h.Set("tracestate", tc.TraceState)
	}
}

// traceFlags is the flags' byte in hexadecimal, "00" (not sampled) when there is none.
func traceFlags(raw json.RawMessage) string {
	var number uint8
	if json.Unmarshal(raw, &number) == nil && len(raw) > 0 {
		const digits = "0123456789abcdef"
		return string([]byte{digits[number>>4], digits[number&0xf]})
	}
	var text string
	if json.Unmarshal(raw, &text) == nil && traceFlagsPattern.MatchString(strings.ToLower(text)) {
		return strings.ToLower(text)
	}
	return "00"
}
