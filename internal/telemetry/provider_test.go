package telemetry

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"

	"github.com/fraiseql/weir/internal/sandbox"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sending is a provider with a collector.
type sending struct {
	*Provider
	metrics *Metrics
	log     *sandbox.Output
}

func newSending(t *testing.T, endpoint string) *sending {
	t.Helper()
	s := &sending{metrics: NewMetrics(prometheus.NewRegistry()), log: &sandbox.Output{}}
	var err error
	s.Provider, err = New(t.Context(), Options{
		Endpoint: endpoint, Version: "test", Metrics: s.metrics, Logger: slog.New(slog.NewTextHandler(s.log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *sending) end(t *testing.T, spans int) {
	t.Helper()
	for range spans {
		_, span := s.Tracer().Start(t.Context(), "x")
		span.End()
	}
}

func (s *sending) count(result string) float64 {
	if result == "dropped" {
		return testutil.ToFloat64(s.metrics.dropped)
	}
	return testutil.ToFloat64(s.metrics.exported.WithLabelValues(result))
}

// A collector that is away costs spans and one line of the log, and nobody's time.
func TestCollectorAway(t *testing.T) {
	t.Parallel()
	var away atomic.Bool
	away.Store(true)
	collector := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if away.Load() {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = w.Write([]byte("no\nsuch\nthing" + strings.Repeat(".", 1000)))
		}
	}))
	defer collector.Close()
	s := newSending(t, collector.URL)
	for range 3 {
		s.end(t, 10)
		if err := s.sdk.ForceFlush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if got := s.log.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "no such thing") || len(got) > 600 {
		t.Errorf("the log: %s", got)
	}
	away.Store(false)
	s.end(t, 5)
	if err := s.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if s.count("failure") != 30 || s.count("success") != 5 || s.count("dropped") != 0 {
		t.Errorf("failed %g, sent %g, dropped %g", s.count("failure"), s.count("success"), s.count("dropped"))
	}
	if got := s.log.String(); !strings.Contains(got, "traces arrive again") {
		t.Errorf("the log: %s", got)
	}
}

// A collector that hangs holds up nobody, not even the worker's end; what there is no room for is counted.
func TestCollectorHangs(t *testing.T) {
	t.Parallel()
	reached := make(chan struct{}, 100)
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		_, _ = io.Copy(io.Discard, req.Body) // else the server does not notice that the client goes
		reached <- struct{}{}
		<-req.Context().Done()
	}))
	defer collector.Close()
	s := newSending(t, collector.URL)
	began := time.Now()
	s.end(t, maxWaiting+1000)
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("ending spans took %s", took)
	}
	<-reached
	if got := s.count("dropped"); got != 1000 {
		t.Errorf("%g spans dropped, want 1000", got)
	}
	began = time.Now()
	if err := s.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > flushTime+time.Second {
		t.Errorf("the end took %s", took)
	}
	if got := s.count("dropped") + s.count("failure"); got != maxWaiting+1000 {
		t.Errorf("%g spans counted, want all", got)
	}
}

// Mistakes in the variables with credentials are told without the credentials, by us: the exporter would write them to the log.
func TestHeadersWithMistakes(t *testing.T) {
	for _, value := range []string{"hunter2", "Authorization=Bearer%20hunter2,hunter2", "my key=hunter2", "key=hunter2%zz"} {
		t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", value)
		_, err := New(t.Context(), Options{Endpoint: "http://localhost:4318", Logger: slog.New(slog.DiscardHandler)})
		if err == nil || !strings.Contains(err.Error(), "OTEL_EXPORTER_OTLP_HEADERS") || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: got %v", value, err)
		}
	}
}

// The standard variables hold.
func TestEnvironment(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Bearer%20hunter2")
	t.Setenv("OTEL_SERVICE_NAME", "weir-eu")
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=staging")
	t.Setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
	got := make(chan *http.Request, 1)
	body := make(chan string, 1)
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		var buf bytes.Buffer
		_, _ = buf.ReadFrom(req.Body)
		got <- req
		body <- buf.String()
	}))
	defer collector.Close()
	s := newSending(t, collector.URL+"/otlp/")
	s.end(t, 1) // not sampled
	ctx := trace.ContextWithRemoteSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{1}, SpanID: trace.SpanID{1}, TraceFlags: trace.FlagsSampled,
	}))
	_, span := s.Tracer().Start(ctx, "sampled")
	span.End()
	if err := s.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	req, sent := <-got, <-body
	if req.URL.Path != "/otlp/v1/traces" || req.Header.Get("Authorization") != "Bearer hunter2" {
		t.Errorf("got %s %v", req.URL, req.Header)
	}
	for _, want := range []string{"weir-eu", "staging", "service.version"} {
		if !strings.Contains(sent, want) {
			t.Errorf("the spans lack %s", want)
		}
	}
	if s.count("success") != 1 || strings.Contains(s.log.String(), "hunter2") {
		t.Errorf("%g spans sent; the log: %s", s.count("success"), s.log)
	}
}
