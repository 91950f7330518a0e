package jobs

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/riverqueue/river"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/fraiseql/weir/internal/action"
	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/telemetry"
)

// What is traced of an event: the way from its commit until its deliveries are stored, each attempt of a delivery, and in it the
// call itself. Nothing here decides anything. Where traces are off there is no tracer, and nothing of this is done.

// startEvent starts the event's first span, or says in another worker which one it is.
func (r *runner) startEvent(ctx context.Context, e *event.Event) trace.Span {
	parent, err := telemetry.Parse(e.TraceContext)
	if err != nil {
		r.log.Debug("an event's trace context cannot be used, it gets a trace of its own (not an error)",
			"event_id", e.ID, "error", short(err.Error()))
	}
	begin := time.Time(e.CommitTime)
	if now := time.Now(); begin.IsZero() || begin.After(now) { // by the source's clock
		begin = now
	}
	return telemetry.StartEvent(ctx, r.tracer, e.ID, e.PK, parent,
		trace.WithSpanKind(trace.SpanKindProducer), trace.WithTimestamp(begin))
}

// span starts the span of a change with what it leads to; nil where traces are off. It ends with the COMMIT; without one it is
// forgotten.
func (q *Queue) span(ctx context.Context, c *event.Change, params []river.InsertManyParams) trace.Span {
	if q.runner.tracer == nil {
		return nil
	}
	span := q.runner.startEvent(ctx, &c.Event)
	if !span.IsRecording() {
		return span
	}
	span.SetAttributes(aboutEvent(c.ID, c.EntityType, c.EntityID, c.Type)...)
	span.SetAttributes(attribute.String("weir.lsn", c.LSN.String()), attribute.String("weir.stream", q.stream))
	if c.Reason != "" {
		span.SetStatus(codes.Error, "the change is no event, it is a dead letter")
		return span
	}
	var observers, failed []string
	for _, p := range params {
		if bad, ok := p.Args.(changeArgs); ok {
			failed = append(failed, bad.Observer)
		} else if name := argsIn(p).Observer; !slices.Contains(observers, name) {
			observers = append(observers, name)
		}
	}
	span.SetAttributes(attribute.Int("weir.deliveries", len(params)-len(failed)), attribute.StringSlice("weir.matched", observers))
	if len(failed) > 0 {
		span.SetAttributes(attribute.StringSlice("weir.condition_failed", failed))
		span.SetStatus(codes.Error, "a condition failed, it is a dead letter")
	}
	return span
}

func aboutEvent(id uuid.UUID, entity, entityID string, kind event.Type) []attribute.KeyValue {
	return []attribute.KeyValue{
		attribute.String("weir.event_id", id.String()), attribute.String("weir.entity", entity),
		attribute.String("weir.entity_id", entityID), attribute.String("weir.event_type", string(kind)),
	}
}

// traced makes an attempt a span of its event's trace. The event is loaded for that before its turn: it says which trace.
func (r *runner) traced(next step) step {
	if r.tracer == nil {
		return next
	}
	return func(ctx context.Context, d *delivery) error {
		began := time.Now()
		if r.fetch(ctx, d) != nil {
			return next(ctx, d) // without its event the attempt has no trace, and load says what becomes of it
		}
		of := r.startEvent(ctx, d.rec.Event).SpanContext()
		ctx, span := r.tracer.Start(trace.ContextWithRemoteSpanContext(ctx, of), "deliver "+d.args.Observer+"/"+d.args.Action,
			trace.WithSpanKind(trace.SpanKindConsumer), trace.WithTimestamp(began))
		defer span.End()
		d.span = span.SpanContext()
		err := next(ctx, d)
		if span.IsRecording() {
			span.SetAttributes(aboutEvent(d.args.EventID, d.args.Entity, d.args.EntityID, d.args.EventType)...)
			d.describe(span, began)
		}
		return err
	}
}

// describe puts into the attempt's span what there is to say at its end.
func (d *delivery) describe(span trace.Span, began time.Time) {
	span.SetAttributes(
		attribute.String("weir.observer", d.args.Observer), attribute.String("weir.action", d.args.Action),
		attribute.String("weir.action_type", actionType(d.job.Kind)), attribute.String("weir.delivery_id", d.id().String()),
		attribute.Int64("weir.job_id", d.job.ID), attribute.Int("weir.attempt", d.job.Attempt),
		attribute.Int("weir.max_attempts", d.job.MaxAttempts), attribute.String("weir.outcome", cmp.Or(d.how, waiting)),
		attribute.Float64("weir.queue_wait_seconds", seconds(began.Sub(d.job.ScheduledAt))),
	)
	if d.bound != nil {
		span.SetAttributes(attribute.String("weir.endpoint", d.bound.Action.Endpoint()))
	}
	if of := d.replayOf(); of != uuid.Nil {
		span.SetAttributes(attribute.String("weir.replay_of", of.String()))
	}
	if d.out.DuplicateOf != nil {
		span.SetAttributes(attribute.String("weir.duplicate_of", d.out.DuplicateOf.String()))
	}
	switch d.how {
	case retried, dead, dropped:
		fail(span, d.failure)
	}
}

// calling is the span of the call itself. The action says in it whom it calls, and passes it on to who understands it.
func (r *runner) calling(next step) step {
	if r.tracer == nil {
		return next
	}
	return func(ctx context.Context, d *delivery) error {
		if !d.span.IsValid() {
			return next(ctx, d) // see traced
		}
		kind := trace.SpanKindClient
		if d.bound.Action.Type() == "log" {
			kind = trace.SpanKindInternal
		}
		ctx, span := r.tracer.Start(ctx, d.bound.Action.Type(), trace.WithSpanKind(kind))
		defer span.End()
		err := next(ctx, d)
		if err != nil {
			fail(span, err)
		}
		return err
	}
}

func fail(span trace.Span, err error) {
	if !span.IsRecording() || err == nil {
		return
	}
	kind := "other"
	var failure *action.Error
	if errors.As(err, &failure) {
		kind = failure.Code
	}
	span.SetAttributes(semconv.ErrorTypeKey.String(kind))
	span.SetStatus(codes.Error, short(err.Error()))
}

// note adds a decision to the attempt's span: what decided, and how.
func (r *runner) note(ctx context.Context, what, how string) {
	if r.tracer == nil {
		return
	}
	if span := trace.SpanFromContext(ctx); span.IsRecording() {
		span.AddEvent(what, trace.WithAttributes(attribute.String("weir."+what, how)))
	}
}

// traceID is the trace that the delivery is in, as far as that is known; "" for none.
func (d *delivery) traceID() string {
	if d.rec.Event == nil {
		return ""
	}
	return telemetry.TraceID(d.span, d.rec.Event.TraceContext)
}
