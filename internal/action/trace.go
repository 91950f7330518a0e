package action

import (
	"context"
	"net/http"
	"strconv"

	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// recording is the call's span, nil when nobody records it. What is put into it is known to everybody who may see traces: where
// the call goes and how it ended, but neither a path, which may hold a token, nor a body.
func recording(ctx context.Context) trace.Span {
	if span := trace.SpanFromContext(ctx); span.IsRecording() {
		return span
	}
	return nil
}

// traceRequest says whom a request goes to.
func traceRequest(req *http.Request) {
	span := recording(req.Context())
	if span == nil {
		return
	}
	span.SetName(req.Method)
	span.SetAttributes(semconv.HTTPRequestMethodKey.String(req.Method))
	port := req.URL.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[req.URL.Scheme]
	}
	traceServer(span, req.URL.Hostname(), port)
}

// traceStatus says what was answered.
func traceStatus(ctx context.Context, status int) {
	if span := recording(ctx); span != nil {
		span.SetAttributes(semconv.HTTPResponseStatusCode(status))
	}
}

func traceServer(span trace.Span, host, port string) {
	span.SetAttributes(semconv.ServerAddress(host))
	if n, err := strconv.Atoi(port); err == nil {
		span.SetAttributes(semconv.ServerPort(n))
	}
}
