package action

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/rule"
	"github.com/fraiseql/weir/internal/telemetry"
)

// Log is a structured log line.
type Log struct {
	Common `yaml:",inline"`

	// Level is debug, info, warn or error. Default: info.
	Level string `yaml:"level,omitempty" jsonschema:"enum=debug,enum=info,enum=warn,enum=error"`
	// MessageTemplate is the line's message. Default: "event".
	MessageTemplate *rule.Template `yaml:"message_template,omitempty"`

	level  slog.Level
	logger *slog.Logger
}

func (l *Log) check(f fields) []error {
	switch l.Level {
	case "debug":
		l.level = slog.LevelDebug
	case "", "info":
		l.level = slog.LevelInfo
	case "warn":
		l.level = slog.LevelWarn
	case "error":
		l.level = slog.LevelError
	default:
		return []error{f.errorAt("level", "%q is no level: expected debug, info, warn or error", l.Level)}
	}
	return nil
}

func (l *Log) warnings() []string { return nil }

// Endpoint is "log" unless the action names another.
func (l *Log) Endpoint() string { return cmp.Or(l.EndpointName, "log") }

func (l *Log) bind(d Deps) Action {
	bound := *l
	bound.logger = d.Logger
	return &bound
}

// Do writes the line. The event is in its attributes, whatever the message says.
func (l *Log) Do(ctx context.Context, call Call) (event.Outcome, error) {
	start := time.Now()
	message, err := l.message(call)
	if err != nil {
		return event.Outcome{}, err
	}
	e := call.Event
	attrs := []slog.Attr{
		slog.String("delivery_id", call.DeliveryID.String()),
		slog.String("observer", call.Observer),
		slog.String("action", call.Action),
		slog.Int("attempt", call.Attempt),
		slog.String("event_id", e.ID.String()),
		slog.String("entity_type", e.EntityType),
		slog.String("entity_id", e.EntityID),
		slog.String("event_type", string(e.Type)),
	}
	if id := telemetry.TraceID(trace.SpanContextFromContext(ctx), e.TraceContext); id != "" {
		attrs = append(attrs, slog.String("trace_id", id))
	}
	l.logger.LogAttrs(ctx, l.level, message, attrs...) //nolint:sloglint // the message is what this action is configured with
	return event.Outcome{DurationMS: time.Since(start).Milliseconds()}, nil
}

// Preview is the line's level and message.
func (l *Log) Preview(call Call) (Preview, error) {
	message, err := l.message(call)
	if err != nil {
		return nil, err
	}
	return Preview{{"level", strings.ToLower(l.level.String())}, {"message", message}}, nil
}

func (l *Log) message(call Call) (string, error) {
	if l.MessageTemplate == nil {
		return "event", nil
	}
	message, err := l.MessageTemplate.Text(call.Env)
	if err != nil {
		return "", Final(codeTemplate, fmt.Errorf("message_template: %w", err))
	}
	return message, nil
}
