package worker_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// collector takes spans as an OpenTelemetry collector does: OTLP over HTTP.
type collector struct {
	*httptest.Server
	mu    sync.Mutex // guards the rest
	raw   []byte
	spans []span
}

// span is one that was received, for comparisons.
type span struct {
	trace, id, parent, name string
	kind                    tracepb.Span_SpanKind
	start, end              time.Time
	failed                  bool
	attributes              map[string]string
	events                  []string
}

func newCollector(t *testing.T) *collector {
	t.Helper()
	c := &collector{}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		raw, err := io.ReadAll(req.Body)
		var got coltracepb.ExportTraceServiceRequest
		if err == nil {
			err = proto.Unmarshal(raw, &got)
		}
		if err != nil || req.URL.Path != "/v1/traces" {
			t.Errorf("%s: %v", req.URL, err)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.raw = append(c.raw, raw...)
		for _, rs := range got.GetResourceSpans() {
			if values(rs.GetResource().GetAttributes())["service.name"] != "weir" {
				t.Errorf("resource %v", rs.GetResource())
			}
			for _, ss := range rs.GetScopeSpans() {
				for _, s := range ss.GetSpans() {
					c.spans = append(c.spans, spanOf(s))
				}
			}
		}
	}))
	t.Cleanup(c.Close)
	return c
}

func spanOf(s *tracepb.Span) span {
	out := span{
		trace: hex.EncodeToString(s.GetTraceId()), id: hex.EncodeToString(s.GetSpanId()), parent: hex.EncodeToString(s.GetParentSpanId()),
		name: s.GetName(), kind: s.GetKind(), failed: s.GetStatus().GetCode() == tracepb.Status_STATUS_CODE_ERROR,
		start: time.Unix(0, int64(s.GetStartTimeUnixNano())), end: time.Unix(0, int64(s.GetEndTimeUnixNano())),
		attributes: values(s.GetAttributes()),
	}
	for _, e := range s.GetEvents() {
		for key, value := range values(e.GetAttributes()) {
			out.events = append(out.events, e.GetName()+" "+key+"="+value)
		}
	}
	return out
}

func values(kvs []*commonpb.KeyValue) map[string]string {
	m := map[string]string{}
	for _, kv := range kvs {
		switch v := kv.GetValue().GetValue().(type) {
		case *commonpb.AnyValue_StringValue:
			m[kv.GetKey()] = v.StringValue
		case *commonpb.AnyValue_IntValue:
			m[kv.GetKey()] = fmt.Sprint(v.IntValue)
		case *commonpb.AnyValue_ArrayValue:
			var all []string
			for _, one := range v.ArrayValue.GetValues() {
				all = append(all, one.GetStringValue())
			}
			m[kv.GetKey()] = strings.Join(all, " ")
		default:
			m[kv.GetKey()] = kv.GetValue().String()
		}
	}
	return m
}

// of are the spans of a trace, in the order of their begin.
func (c *collector) of(trace string) []span {
	c.mu.Lock()
	defer c.mu.Unlock()
	var found []span
	for _, s := range c.spans {
		if s.trace == trace {
			found = append(found, s)
		}
	}
	slices.SortStableFunc(found, func(a, b span) int { return a.start.Compare(b.start) })
	return found
}

// traced commits a row with a trace context, and returns its event's id.
func (r *rig) traced(entity, context string) string {
	r.t.Helper()
	return r.one(`INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data, trace_context)
		VALUES ($1, 'INSERT', gen_random_uuid(), '{"card": "hunter2"}', nullif($2, '')::jsonb) RETURNING id::text`, entity, context)
}

const tracedConfig = `
telemetry: {otlp_endpoint: %q}
outbound: {allow: ["127.0.0.0/8"]}
observers:
  hook:
    entity: Order
    retry: {initial_delay: 1h, backoff: fixed}
    actions:
      - {type: webhook, url: "http://%s/hooks/hunter2?token=hunter2", signing_secret_env: SECRET}
  ledger:
    entity: Order
    actions: [{type: database, function_name: public.note}, {type: log}]
  refused:
    entity: Refused
    actions: [{type: webhook, url: "http://%s/refused"}]
`

const (
	applicationTrace  = "4bf92f3577b34da6a3ce929d0e0e4736"
	applicationSpan   = "00f067aa0ba902b7"
	unsampledTrace    = "af7651916cd43dd8448eb211c80319c7"
	applicationFormat = `{"version": "00", "trace_id": "%s", "parent_id": "%s", "trace_flags": "%s"}`
)

// One trace from the application's span by the commit, the attempts of two workers and the calls to the receiver. The first
// worker captures, and fails to deliver; the second delivers.
func TestTraceFromCommitToReceiver(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.exec("CREATE FUNCTION public.note(jsonb) RETURNS void LANGUAGE sql AS 'SELECT'")
	c := newCollector(t)
	rc := newReceiver(t, func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/refused" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		w.WriteHeader(http.StatusBadGateway)
	})
	host := strings.TrimPrefix(rc.URL, "http://")
	config := fmt.Sprintf(tracedConfig, c.URL, host, host)
	const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	first := r.started(config, "SECRET="+secret)
	r.traced("Order", fmt.Sprintf(applicationFormat, applicationTrace, applicationSpan, "01"))
	own := r.traced("Order", "")
	r.traced("Order", fmt.Sprintf(applicationFormat, unsampledTrace, applicationSpan, "00"))
	r.traced("Refused", `{"traceparent": 5}`) // cannot be read
	r.await("the first attempts", func() bool {
		return r.jobs("args->>'observer' = 'hook' AND jsonb_array_length(to_jsonb(errors)) = 1") == "3"
	})
	r.await("the dead letter", func() bool { return r.jobs(deadLetter) == "1" })
	first.stop(t)
	rc.behave(nil)
	r.exec("UPDATE weir.river_job SET state = 'available', scheduled_at = now() WHERE state = 'retryable'") // the hour is over
	second := r.started(config, "SECRET="+secret)
	r.await("the deliveries", func() bool { return r.jobs("state = 'completed'") == "9" })
	metrics := second.get(t, "/metrics").body
	second.stop(t)

	if !strings.Contains(metrics, "\nweir_trace_spans_dropped_total 0\n") {
		t.Error("/metrics does not count spans")
	}
	checkTrace(t, c.of(applicationTrace), applicationSpan, rc.seen())
	ownTrace := traceOf(t, rc.seen(), own)
	if ownTrace == "" || ownTrace == applicationTrace {
		t.Fatalf("the event without a trace is in %q", ownTrace)
	}
	checkTrace(t, c.of(ownTrace), "", rc.seen())
	if got := c.of(unsampledTrace); len(got) != 0 {
		t.Errorf("spans of a trace that is not sampled: %v", got)
	}
	checkRefused(t, c)
	for _, what := range []string{"hunter2", secret, secret[6:]} {
		if bytes.Contains(c.raw, []byte(what)) {
			t.Errorf("%s is in a span", what)
		}
	}
}

// traceOf is the trace that the receiver was told for an event, the same for every request.
func traceOf(t *testing.T, requests []request, event string) (trace string) {
	t.Helper()
	for _, req := range requests {
		if field(t, req.body, "id") != `"`+event+`"` {
			continue
		}
		parts := strings.Split(req.header.Get("traceparent"), "-")
		if len(parts) != 4 || (trace != "" && parts[1] != trace) {
			t.Fatalf("traceparent %q, want one of trace %q", parts, trace)
		}
		trace = parts[1]
	}
	return trace
}

func checkTrace(t *testing.T, spans []span, parent string, requests []request) {
	t.Helper()
	var said []string
	for _, s := range spans {
		said = append(said, fmt.Sprintf("%+v", s))
	}
	all := strings.Join(said, "\n")
	by := func(name string) (found []span) {
		for _, s := range spans {
			if s.name == name {
				found = append(found, s)
			}
		}
		return found
	}
	commits, attempts, calls := by("commit"), by("deliver hook/webhook"), by("POST")
	if len(spans) != 9 || len(commits) != 1 || len(attempts) != 2 || len(calls) != 2 || len(by("public.note")) != 1 || len(by("log")) != 1 {
		t.Fatalf("%d spans, want 9:\n%s", len(spans), all)
	}
	commit := commits[0]
	if commit.parent != parent || commit.kind != tracepb.Span_SPAN_KIND_PRODUCER || commit.attributes["weir.deliveries"] != "3" ||
		commit.attributes["weir.matched"] != "hook ledger" || commit.failed || !commit.end.After(commit.start) {
		t.Errorf("the commit: %+v", commit)
	}
	for i, a := range attempts {
		outcome := []string{"retried", "delivered"}[i]
		if a.parent != commit.id || a.attributes["weir.outcome"] != outcome || a.attributes["weir.attempt"] != fmt.Sprint(i+1) ||
			a.failed != (i == 0) || a.attributes["weir.observer"] != "hook" || a.start.Before(commit.start) ||
			!slices.Contains(a.events, "breaker weir.breaker=admitted") || a.attributes["weir.event_id"] != commit.attributes["weir.event_id"] {
			t.Errorf("attempt %d: %+v", i+1, a)
		}
		call := calls[i]
		if call.parent != a.id || call.kind != tracepb.Span_SPAN_KIND_CLIENT || call.failed != (i == 0) ||
			call.attributes["server.address"] != "127.0.0.1" || call.attributes["server.port"] == "" ||
			call.attributes["http.response.status_code"] != []string{"502", "200"}[i] {
			t.Errorf("call %d: %+v", i+1, call)
		}
		// The receiver goes on from the call.
		if !slices.ContainsFunc(requests, func(req request) bool {
			return req.header.Get("traceparent") == "00-"+call.trace+"-"+call.id+"-01" && req.id == a.attributes["weir.delivery_id"]
		}) {
			t.Errorf("no request with the traceparent of call %d: %+v", i+1, call)
		}
	}
	note := by("public.note")[0]
	if note.parent != by("deliver ledger/database")[0].id || note.attributes["db.system.name"] != "postgresql" {
		t.Errorf("the function: %+v", note)
	}
}

func checkRefused(t *testing.T, c *collector) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.IndexFunc(c.spans, func(s span) bool { return s.name == "deliver refused/webhook" })
	if i < 0 || !c.spans[i].failed || c.spans[i].attributes["weir.outcome"] != "dead" || c.spans[i].attributes["error.type"] != "status_400" {
		t.Errorf("no span of the dead letter: %v", c.spans)
	}
}

// Where nobody takes the traces, deliveries go on, and the spans are counted.
func TestCollectorAwayHoldsUpNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rc := newReceiver(t, nil)
	away := httptest.NewServer(http.NotFoundHandler())
	away.Close()
	run := r.started(fmt.Sprintf("telemetry: {otlp_endpoint: %q}\n", away.URL) + hook(rc.URL, ""))
	for i := range 5 {
		r.order(fmt.Sprintf(`{"n": %d}`, i))
	}
	r.await("the deliveries", func() bool { return r.jobs("state = 'completed'") == "5" })
	r.await("the metric", func() bool {
		return strings.Contains(run.get(t, "/metrics").body, `weir_trace_spans_exported_total{result="failure"} 15`)
	})
	began := time.Now()
	run.stop(t)
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the worker took %s to stop", took)
	}
}

// Without an endpoint there are no spans, and the receiver is told the application's.
func TestNoTracesUnlessAskedFor(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rc := newReceiver(t, nil)
	run := r.started(hook(rc.URL, ""))
	r.traced("Order", fmt.Sprintf(applicationFormat, applicationTrace, applicationSpan, "01"))
	r.order(`{}`)
	r.await("the deliveries", func() bool { return r.jobs("state = 'completed'") == "2" })
	var got []string
	for _, req := range rc.seen() {
		got = append(got, req.header.Get("traceparent"))
	}
	slices.Sort(got)
	if !slices.Equal(got, []string{"", "00-" + applicationTrace + "-" + applicationSpan + "-01"}) {
		t.Errorf("got %q", got)
	}
	if metrics := run.get(t, "/metrics").body; !strings.Contains(metrics, "\nweir_trace_spans_exported_total{result=\"success\"} 0\n") {
		t.Error("spans were sent")
	}
}

// What was decided on the way to a call, or in place of one, is told; and a refresh, which calls for another action, names the span
// of that call to the receiver.
func TestTraceOfDecisions(t *testing.T) {
	t.Parallel()
	r, rc, c := newRig(t), newVersions(t, 0), newCollector(t)
	run := r.started(fmt.Sprintf("telemetry: {otlp_endpoint: %q}\n", c.URL) + cacheConfig(postgres.Redis(t).URL(), rc.URL))
	r.commit("Order", 1)
	r.awaitDone("lookup", 1)
	r.commit("Order", 1)
	r.awaitDone("lookup", 2)
	r.commit("Customer", 1)
	r.awaitDone("changed", 1)
	run.stop(t)
	var said []string
	spans := map[string]span{}
	for _, s := range c.spans {
		spans[s.id] = s
		if strings.HasPrefix(s.name, "deliver ") {
			said = append(said, s.attributes["weir.outcome"]+": "+strings.Join(s.events, ", "))
		}
	}
	slices.Sort(said)
	want := []string{
		"cached: cache weir.cache=hit",
		"delivered: breaker weir.breaker=admitted", // of the refresh; that of its call is in its own span
		"delivered: cache weir.cache=miss, breaker weir.breaker=admitted",
	}
	if !slices.Equal(said, want) {
		t.Errorf("got %q, want %q", said, want)
	}
	refreshed := rc.seen()[1].header.Get("traceparent")
	parts := strings.Split(refreshed, "-")
	if len(parts) != 4 || spans[parts[2]].name != "POST" || spans[spans[parts[2]].parent].name != "cache" {
		t.Errorf("the receiver of the refresh was told %s", refreshed)
	}
}
