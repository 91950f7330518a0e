package telemetry

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/google/uuid"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

const (
	id     = "4bf92f3577b34da6a3ce929d0e0e4736"
	parent = "00f067aa0ba902b7"
)

func TestTraceContext(t *testing.T) {
	t.Parallel()
	const both = `{"trace_id":"` + id + `","parent_id":"` + parent + `"`
	tests := []struct{ raw, want, state string }{
		{raw: ``},
		{raw: `null`},
		{raw: `[]`, want: "error"},
		{raw: `{}`, want: "error"},
		{raw: `{"trace_id":5,"parent_id":6}`, want: "error"},
		{raw: `{"trace_id":"` + id + `"}`, want: "error"},
		{raw: `{"trace_id":"x\r\ny","parent_id":"` + parent + `"}`, want: "error"},
		{raw: `{"trace_id":"` + strings.Repeat("0", 32) + `","parent_id":"` + parent + `"}`, want: "error"},
		{raw: `{"trace_id":"` + strings.ToUpper(id) + `","parent_id":"` + parent + `"}`, want: "00"},
		{raw: both + `}`, want: "00"},
		{raw: both + `,"trace_flags":1}`, want: "01"},
		{raw: both + `,"trace_flags":255}`, want: "ff"},
		{raw: both + `,"trace_flags":256}`, want: "00"},
		{raw: both + `,"trace_flags":"0A"}`, want: "0a"},
		{raw: both + `,"trace_flags":"+1"}`, want: "00"},
		{raw: both + `,"trace_flags":"\r\n"}`, want: "00"},
		{raw: both + `,"version":"00","trace_flags":"01","tracestate":"a=b,c=d"}`, want: "01", state: "a=b,c=d"},
		{raw: both + `,"tracestate":"a=b\r\nX: y"}`, want: "00"},
		{raw: both + `,"tracestate":"a=` + strings.Repeat("b", 512) + `"}`, want: "00"},
		// W3C's headers, as OpenTelemetry's propagators write them into a map.
		{raw: `{"traceparent":"00-` + id + `-` + parent + `-01","tracestate":"a=b"}`, want: "01", state: "a=b"},
		{raw: `{"traceparent":"01-` + id + `-` + parent + `-01-more"}`, want: "01"},
		{raw: `{"traceparent":"00-` + id + `-01"}`, want: "error"},
		{raw: `{"traceparent":"00-` + id + `-` + parent + `-\""}`, want: "00"},
	}
	for _, tt := range tests {
		sc, err := Parse([]byte(tt.raw))
		h := http.Header{}
		SetHeaders(h, trace.SpanContext{}, []byte(tt.raw))
		traceparent := ""
		switch tt.want {
		case "", "error":
			if sc.IsValid() || (err != nil) != (tt.want != "") {
				t.Errorf("%s: got %v and %v", tt.raw, sc, err)
			}
		default:
			traceparent = "00-" + id + "-" + parent + "-" + tt.want
			if err != nil || !sc.IsRemote() || TraceID(trace.SpanContext{}, []byte(tt.raw)) != id {
				t.Errorf("%s: got %v and %v", tt.raw, sc, err)
			}
		}
		if h.Get("traceparent") != traceparent || h.Get("tracestate") != tt.state {
			t.Errorf("%s: got %v", tt.raw, h)
		}
	}
}

func TestHeadersOfASpan(t *testing.T) {
	t.Parallel()
	raw := []byte(`{"trace_id":"` + id + `","parent_id":"` + parent + `","trace_flags":1}`)
	sc := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}})
	h := http.Header{}
	SetHeaders(h, sc, raw)
	if got := h.Get("traceparent"); got != "00-01000000000000000000000000000000-0200000000000000-00" {
		t.Errorf("got %s", got)
	}
	SetHeaders(h, trace.SpanContext{}, raw)
	if got := h.Values("traceparent"); len(got) != 1 || !strings.HasPrefix(got[0], "00-01") {
		t.Errorf("what was set before: %v", got)
	}
}

// Workers that know nothing of each other start the same span, whatever else they have done.
func TestEventsFirstSpan(t *testing.T) {
	t.Parallel()
	event := uuid.MustParse("7c5a2f0e-6a1b-5f43-9d0e-4f1d5a3c8e21")
	application, err := Parse([]byte(`{"trace_id":"` + id + `","parent_id":"` + parent + `","trace_flags":1}`))
	if err != nil {
		t.Fatal(err)
	}
	one, other := tracer(t, sdktrace.ParentBased(sdktrace.AlwaysSample())), tracer(t, sdktrace.ParentBased(sdktrace.AlwaysSample()))
	_, _ = one.Start(t.Context(), "something else")
	own := StartEvent(t.Context(), one, event, 7, trace.SpanContext{}).SpanContext()
	// The ids are part of the contract with workers of other versions.
	if own.TraceID().String() != "33aa743c2a7d331ed6c8190122c97f79" || !own.IsSampled() {
		t.Errorf("an event's own trace: %s", own.TraceID())
	}
	if again := StartEvent(t.Context(), other, event, 7, trace.SpanContext{}).SpanContext(); !again.Equal(own) {
		t.Errorf("got %v, then %v", own, again)
	}
	if third := StartEvent(t.Context(), one, event, 8, trace.SpanContext{}).SpanContext(); third.TraceID() == own.TraceID() {
		t.Error("another event has the same trace")
	}
	joined := StartEvent(t.Context(), one, event, 7, application).SpanContext()
	if joined.TraceID() != application.TraceID() || joined.SpanID() != own.SpanID() || !joined.IsSampled() {
		t.Errorf("under the application's span: %v", joined)
	}
	ctx := trace.ContextWithRemoteSpanContext(t.Context(), own)
	_, first := one.Start(ctx, "attempt")
	_, second := one.Start(ctx, "attempt")
	if a, b := first.SpanContext(), second.SpanContext(); a.SpanID() == b.SpanID() || a.TraceID() != own.TraceID() || b.TraceID() != own.TraceID() {
		t.Errorf("two attempts: %v, %v", a, b)
	}
}

func TestUnsampledStaysUnsampled(t *testing.T) {
	t.Parallel()
	application, err := Parse([]byte(`{"trace_id":"` + id + `","parent_id":"` + parent + `","trace_flags":"00"}`))
	if err != nil {
		t.Fatal(err)
	}
	span := StartEvent(t.Context(), tracer(t, sdktrace.ParentBased(sdktrace.AlwaysSample())), uuid.New(), 1, application)
	if span.IsRecording() || span.SpanContext().IsSampled() || span.SpanContext().TraceID() != application.TraceID() {
		t.Errorf("got %v", span.SpanContext())
	}
}

// A sampler that goes by the trace's id takes its part of the events: a UUID's fixed bits would make that all or none.
func TestRatioOfEvents(t *testing.T) {
	t.Parallel()
	for _, ratio := range []float64{0.25, 0.5, 0.75} {
		tr := tracer(t, sdktrace.ParentBased(sdktrace.TraceIDRatioBased(ratio)))
		sampled := 0
		for pk := range int64(1000) {
			if StartEvent(t.Context(), tr, uuid.Nil, pk, trace.SpanContext{}).IsRecording() {
				sampled++
			}
		}
		if got := float64(sampled) / 1000; got < ratio-0.06 || got > ratio+0.06 {
			t.Errorf("%g of the events are sampled, want %g", got, ratio)
		}
	}
}

func tracer(t *testing.T, sampler sdktrace.Sampler) trace.Tracer {
	t.Helper()
	p := sdktrace.NewTracerProvider(sdktrace.WithIDGenerator(ids{}), sdktrace.WithSampler(sampler))
	t.Cleanup(func() {
		if err := p.Shutdown(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	return p.Tracer(Scope)
}
