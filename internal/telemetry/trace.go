// Package telemetry puts what Weir does into traces (OpenTelemetry): which trace an event belongs to, and how its spans get
// out of the process.
//
// A trace is not stored. Whatever belongs to an event finds its trace by the event alone: the application's, which the change
// log's trace_context names, or one of the event's own, whose id follows from the event's identity. The event's first span,
// from its commit until it is stored, has an id that follows from it, too. So the worker that captures an event, those that
// attempt its deliveries, and a replay a week later agree without a word.
package telemetry

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/trace"
)

// maxState is how long a tracestate may be, in bytes: W3C asks for no more to be passed on.
const maxState = 512

// traceContext is the change log's trace_context: FraiseQL's object, or W3C's headers as keys, as the propagators of
// OpenTelemetry write them.
type traceContext struct {
	TraceID     string          `json:"trace_id"`
	ParentID    string          `json:"parent_id"`
	TraceFlags  json.RawMessage `json:"trace_flags"` // "01", or the number; absent: not sampled
	TraceState  string          `json:"tracestate"`
	Traceparent string          `json:"traceparent"`
}

var errIncomplete = errors.New("trace_context has neither trace_id and parent_id nor traceparent")

// Parse reads a trace_context. The zero SpanContext says that the event has none; an error, that it is incomplete or malformed
// and to be ignored: tracing must not stop a delivery. A malformed tracestate alone is left out.
func Parse(raw []byte) (trace.SpanContext, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return trace.SpanContext{}, nil
	}
	var tc traceContext
	if err := json.Unmarshal(raw, &tc); err != nil {
		return trace.SpanContext{}, fmt.Errorf("trace_context: %w", err)
	}
	if len(tc.TraceState) > maxState {
		tc.TraceState = ""
	}
	if parts := strings.Split(tc.Traceparent, "-"); tc.TraceID == "" && len(parts) >= 4 {
		tc.TraceID, tc.ParentID, tc.TraceFlags = parts[1], parts[2], json.RawMessage(strconv.Quote(parts[3]))
	}
	id, err := trace.TraceIDFromHex(strings.ToLower(tc.TraceID))
	if err != nil {
		return trace.SpanContext{}, errors.Join(errIncomplete, err)
	}
	parent, err := trace.SpanIDFromHex(strings.ToLower(tc.ParentID))
	if err != nil {
		return trace.SpanContext{}, errors.Join(errIncomplete, err)
	}
	state, _ := trace.ParseTraceState(tc.TraceState) // malformed: empty
	return trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: id, SpanID: parent, TraceFlags: flagsOf(tc.TraceFlags), TraceState: state, Remote: true,
	}), nil
}

// flagsOf is the flags' byte, 0 (not sampled) when there is none that can be read.
func flagsOf(raw json.RawMessage) trace.TraceFlags {
	var number uint8
	if len(raw) > 0 && json.Unmarshal(raw, &number) == nil {
		return trace.TraceFlags(number)
	}
	var text string
	if json.Unmarshal(raw, &text) != nil || len(text) != 2 {
		return 0
	}
	flags, err := strconv.ParseUint(text, 16, 8)
	if err != nil {
		return 0
	}
	return trace.TraceFlags(flags)
}

// SetHeaders sets W3C's traceparent and tracestate: of a span, or where that is none, of the event's trace_context. It leaves
// them alone where a traceparent is set already.
func SetHeaders(h http.Header, sc trace.SpanContext, traceContext []byte) {
	if !sc.IsValid() {
		sc, _ = Parse(traceContext) // a broken one is none
	}
	if !sc.IsValid() || h.Get("traceparent") != "" {
		return
	}
	// By hand: the propagator would drop flags that it does not know, which are the application's to give.
	h.Set("traceparent", "00-"+sc.TraceID().String()+"-"+sc.SpanID().String()+"-"+sc.TraceFlags().String())
	if state := sc.TraceState().String(); state != "" {
		h.Set("tracestate", state)
	}
}

// TraceID is the trace to look for: that of a span, or where that is none, of the event's trace_context; "" for none.
func TraceID(sc trace.SpanContext, traceContext []byte) string {
	if !sc.IsValid() {
		sc, _ = Parse(traceContext) // a broken one is none
	}
	if !sc.IsValid() {
		return ""
	}
	return sc.TraceID().String()
}

// StartEvent starts an event's first span, under parent, or as the root of a trace of the event's own when that is not valid.
// Whoever starts it gets the same ids and the same verdict of the sampler, as far as both have the same one. Only the worker
// that has stored the event ends it; for the others it is what their spans belong to, and is never sent.
func StartEvent(
	ctx context.Context, tracer trace.Tracer, id uuid.UUID, pk int64, parent trace.SpanContext, options ...trace.SpanStartOption,
) trace.Span {
	ctx = context.WithValue(trace.ContextWithRemoteSpanContext(ctx, parent), fixedKey{}, fixedIDs(id, pk))
	_, span := tracer.Start(ctx, "commit", options...) // its context has the ids, which are nobody else's
	return span
}

// fixed are the ids of an event's first span.
type fixed struct {
	trace trace.TraceID
	span  trace.SpanID
}

type fixedKey struct{}

// fixedIDs follow from an event's identity. It is a hash and no UUID: a UUID has bits that are always the same, and a sampler
// that goes by the trace's id would take all of them or none.
func fixedIDs(id uuid.UUID, pk int64) (f fixed) {
	name := binary.BigEndian.AppendUint64(append([]byte("weir event\x00"), id[:]...), uint64(pk))
	sum := sha256.Sum256(name)
	copy(f.trace[:], sum[:16])
	copy(f.span[:], sum[16:24])
	return f
}

// ids gives spans their ids: those that their context fixes, random ones to all others.
type ids struct{}

// NewIDs is asked for the root of a trace.
func (ids) NewIDs(ctx context.Context) (trace.TraceID, trace.SpanID) {
	if f, ok := ctx.Value(fixedKey{}).(fixed); ok {
		return f.trace, f.span
	}
	var id trace.TraceID
	binary.BigEndian.PutUint64(id[:8], rand.Uint64())
	binary.BigEndian.PutUint64(id[8:], rand.Uint64()|1) // never zero, which means none
	return id, randomSpan()
}

// NewSpanID is asked for every other span.
func (ids) NewSpanID(ctx context.Context, _ trace.TraceID) trace.SpanID {
	if f, ok := ctx.Value(fixedKey{}).(fixed); ok {
		return f.span
	}
	return randomSpan()
}

func randomSpan() (id trace.SpanID) {
	binary.BigEndian.PutUint64(id[:], rand.Uint64()|1)
	return id
}
