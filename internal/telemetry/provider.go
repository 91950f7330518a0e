package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/net/http/httpguts"
)

const (
	// Scope names what has made the spans.
	Scope = "github.com/fraiseql/weir"
	// maxWaiting is how many spans wait to be sent, those under way included: some 20 MB. A batch of the stream may lead to
	// 5,000 at once.
	maxWaiting = 8192
	// flushTime is how long the spans that still wait may take when the worker stops.
	flushTime = 2 * time.Second
	maxText   = 300
)

// Options is what a Provider needs.
type Options struct {
	// Endpoint is the collector's URL; /v1/traces is put behind it.
	Endpoint              string
	Version, Installation string
	Metrics               *Metrics
	Logger                *slog.Logger
}

// Provider makes spans and sends them, in the background and in batches: who ends a span never waits. What is more than the
// queue holds is dropped and counted. Safe for concurrent use.
type Provider struct {
	sdk  *sdktrace.TracerProvider
	sent *exporter
}

// New makes a provider. It connects to nothing yet. The standard variables OTEL_* hold as the SDK has them, save for the
// endpoint. An error is a mistake in one of them; it repeats no value.
func New(ctx context.Context, o Options) (*Provider, error) {
	if err := checkHeaders(); err != nil {
		return nil, err
	}
	base, err := url.Parse(o.Endpoint)
	if err != nil {
		return nil, errors.New("telemetry.otlp_endpoint is no URL")
	}
	otlp, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(base.JoinPath("v1", "traces").String()))
	if err != nil {
		return nil, fmt.Errorf("make the exporter of traces: %w", err)
	}
	// The environment is last, and wins.
	about, err := resource.New(ctx, resource.WithTelemetrySDK(), resource.WithHost(), resource.WithAttributes(
		semconv.ServiceName("weir"), semconv.ServiceVersion(o.Version), attribute.String("weir.installation", o.Installation),
	), resource.WithFromEnv())
	if err != nil {
		return nil, fmt.Errorf("describe this worker in traces: %w", err)
	}
	sent := &exporter{SpanExporter: otlp, metrics: o.Metrics, log: o.Logger.With("component", "telemetry")}
	queue := sdktrace.NewBatchSpanProcessor(sent, sdktrace.WithMaxQueueSize(maxWaiting))
	return &Provider{sent: sent, sdk: sdktrace.NewTracerProvider(
		sdktrace.WithResource(about), sdktrace.WithIDGenerator(ids{}), sdktrace.WithSpanProcessor(bounded{queue, sent}),
	)}, nil
}

// Tracer makes spans. Of a nil Provider it is nil: tracing is off.
func (p *Provider) Tracer() trace.Tracer {
	if p == nil {
		return nil
	}
	return p.sdk.Tracer(Scope)
}

// Stop sends what still waits, for two seconds at most.
func (p *Provider) Stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTime)
	defer cancel()
	err := p.sdk.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = nil                             // said below
		_ = p.sent.SpanExporter.Shutdown(ctx) // cuts off what is under way
	}
	if n := p.sent.giveUp(); n > 0 {
		p.sent.metrics.dropped.Add(float64(n))
		p.sent.log.Warn("the worker stops, and spans were not sent in time", "spans", n)
	}
	return err
}

// headerVariables hold credentials, as name=value,name=value.
var headerVariables = []string{"OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"}

// checkHeaders refuses what the exporter would pass over, and write to the log as it is.
func checkHeaders() error {
	for _, variable := range headerVariables {
		value := os.Getenv(variable)
		if value == "" {
			continue
		}
		for pair := range strings.SplitSeq(value, ",") {
			name, encoded, found := strings.Cut(pair, "=")
			_, err := url.PathUnescape(encoded)
			if !found || err != nil || !httpguts.ValidHeaderFieldName(strings.TrimSpace(name)) {
				return fmt.Errorf("environment variable %s does not hold headers: expected name=value, several with commas between, "+
					"and values with %%20 for a space, as in Authorization=Bearer%%20TOKEN", variable)
			}
		}
	}
	return nil
}

// Metrics count spans by what became of them.
type Metrics struct {
	exported *prometheus.CounterVec
	dropped  prometheus.Counter
}

const (
	resultSuccess = "success"
	resultFailure = "failure"
)

// NewMetrics registers them.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		exported: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_trace_spans_exported_total",
			Help: "Spans that were sent to telemetry.otlp_endpoint, by result: success or failure.",
		}, []string{"result"}),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weir_trace_spans_dropped_total",
			Help: "Spans that were not sent at all, since too many waited already or the worker stopped.",
		}),
	}
	m.exported.WithLabelValues(resultSuccess)
	m.exported.WithLabelValues(resultFailure)
	reg.MustRegister(m.exported, m.dropped)
	return m
}

// bounded lets as many spans into the queue as it holds. The queue would drop the rest, too, and tell nobody.
type bounded struct {
	sdktrace.SpanProcessor
	sent *exporter
}

// OnEnd never waits.
func (b bounded) OnEnd(span sdktrace.ReadOnlySpan) {
	if !span.SpanContext().IsSampled() {
		return
	}
	if b.sent.waiting.Add(1) > maxWaiting {
		b.sent.waiting.Add(-1)
		b.sent.metrics.dropped.Inc()
		return
	}
	b.SpanProcessor.OnEnd(span)
}

// exporter counts what was sent, and says once that it does not arrive.
type exporter struct {
	sdktrace.SpanExporter
	waiting atomic.Int64 // spans that were let in and have not been sent
	away    atomic.Bool
	metrics *Metrics
	log     *slog.Logger

	mu      sync.Mutex // guards stopped, with what is taken from waiting
	stopped bool
}

// giveUp returns how many spans wait. The caller counts them; what still ends afterwards is among them.
func (e *exporter) giveUp() (spans int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.stopped = true
	return e.waiting.Swap(0)
}

// ended takes spans from those that wait. It returns false when they were given up before.
func (e *exporter) ended(spans int) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.stopped {
		return false
	}
	e.waiting.Add(-int64(spans))
	return true
}

// ExportSpans returns no error: the SDK would write each to standard error.
func (e *exporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := e.SpanExporter.ExportSpans(ctx, spans)
	if !e.ended(len(spans)) {
		return nil
	}
	if err != nil {
		e.metrics.exported.WithLabelValues(resultFailure).Add(float64(len(spans)))
		if !e.away.Swap(true) {
			e.log.Warn("traces do not arrive, their spans are counted and dropped", "error", brief(err))
		}
		return nil
	}
	e.metrics.exported.WithLabelValues(resultSuccess).Add(float64(len(spans)))
	if e.away.Swap(false) {
		e.log.Info("traces arrive again")
	}
	return nil
}

// brief is one line of an error, which may hold all that a collector has answered.
func brief(err error) string {
	text := strings.Join(strings.Fields(strings.ToValidUTF8(err.Error(), "\uFFFD")), " ")
	if r := []rune(text); len(r) > maxText {
		return string(r[:maxText-1]) + "…"
	}
	return text
}
