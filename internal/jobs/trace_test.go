package jobs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"reflect"
	"testing"

	"github.com/google/uuid"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"
	"go.opentelemetry.io/otel/trace"

	"github.com/fraiseql/weir/internal/action"
	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/index"
	"github.com/fraiseql/weir/internal/observer"
)

const applicationTrace = "4bf92f3577b34da6a3ce929d0e0e4736"

// Every line about a delivery names event, delivery and trace by the same keys: what is looked for first at night.
func TestLinesNameEventDeliveryAndTrace(t *testing.T) {
	t.Parallel()
	e := &event.Event{
		ID: uuid.New(), PK: 7, Type: event.Insert, EntityType: "Order",
		TraceContext: json.RawMessage(`{"trace_id":"` + applicationTrace + `","parent_id":"00f067aa0ba902b7","trace_flags":"00"}`),
	}
	var out bytes.Buffer
	r := &runner{log: slog.New(slog.NewJSONHandler(&out, nil))}
	d := &delivery{
		job: &rivertype.JobRow{ID: 3, Attempt: 1, MaxAttempts: 5}, args: argsOf(e, "hook", "webhook"), rec: index.Record{Event: e},
		bound: &observer.Bound{OnFailure: observer.OnFailureDLQ},
	}
	for _, span := range []trace.SpanContext{
		{}, trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{1}}),
	} {
		out.Reset()
		d.span = span
		r.giveUp(d, action.Final("status_400", errors.New("no")))
		var line map[string]any
		check(t, json.Unmarshal(out.Bytes(), &line))
		want := applicationTrace
		if span.IsValid() {
			want = span.TraceID().String()
		}
		if line["event_id"] != e.ID.String() || line["delivery_id"] != d.id().String() || line["trace_id"] != want {
			t.Errorf("got %s", out.String())
		}
	}
	d.span, d.rec = trace.SpanContext{}, index.Record{Event: &event.Event{ID: e.ID}}
	out.Reset()
	r.giveUp(d, errors.New("no"))
	if bytes.Contains(out.Bytes(), []byte("trace_id")) {
		t.Errorf("a delivery without a trace: %s", out.String())
	}
}

// Where traces are off, nothing is done for them.
func TestNoTracesCostNothing(t *testing.T) {
	// No t.Parallel: allocations are counted.
	q := &Queue{runner: &runner{}}
	var next step = func(context.Context, *delivery) error { return nil }
	for _, wrap := range []func(step) step{q.runner.traced, q.runner.calling} {
		if reflect.ValueOf(wrap(next)).Pointer() != reflect.ValueOf(next).Pointer() {
			t.Error("a step stands in the chain of deliveries")
		}
	}
	ctx := t.Context()
	c := &event.Change{Event: event.Event{TraceContext: json.RawMessage(`{"trace_id":"` + applicationTrace + `"}`)}}
	params := make([]river.InsertManyParams, 3)
	if n := testing.AllocsPerRun(1000, func() {
		if q.span(ctx, c, params) != nil {
			t.Error("a span, without a tracer")
		}
		q.runner.note(ctx, "dedup", lookupNew)
	}); n != 0 {
		t.Errorf("%g allocations a change", n)
	}
}
