package action

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
)

// A traceparent that the configuration sets is not replaced.
func TestWebhookKeepsItsOwnTrace(t *testing.T) {
	t.Parallel()
	own, _ := deliver(t, `, headers: {traceparent: mine}`, callFor(t, order))
	if got := own.header.Values("traceparent"); !slices.Equal(got, []string{"mine"}) {
		t.Errorf("got %q", got)
	}
}

// What a call says of itself in its span: whom it calls, and nothing that may be secret.
func TestSpansOfCalls(t *testing.T) {
	t.Parallel()
	url, _ := receiver(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	host, port, _ := strings.Cut(strings.TrimPrefix(url, "http://"), ":")
	mailer := (&mailServer{}).start(t).mailer(t, "")
	for name, tt := range map[string]struct {
		act  Action
		want string
	}{
		"webhook": {
			bind(t, fmt.Sprintf("{type: webhook, method: PUT, url: %q}", url+"/hunter2?token=hunter2")),
			"PUT http.request.method=PUT http.response.status_code=418 server.address=" + host + " server.port=" + port,
		},
		"slack": {
			bind(t, fmt.Sprintf("{type: slack, webhook_url: %q}", url+"/services/hunter2")),
			"POST http.request.method=POST http.response.status_code=418 server.address=" + host + " server.port=" + port,
		},
		"email": {
			email(t, mailer, `{type: email, to: a@b.test, subject: hunter2, body_template: hunter2}`),
			fmt.Sprintf("smtp server.address=%s server.port=%d", mailer.cfg.Host, mailer.cfg.Port),
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			recorder := tracetest.NewSpanRecorder()
			tracer := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder)).Tracer("test")
			ctx, span := tracer.Start(t.Context(), "the call")
			_, _ = tt.act.Do(ctx, callFor(t, order))
			span.End()
			ended := recorder.Ended()[0]
			var said []string
			for _, kv := range ended.Attributes() {
				said = append(said, string(kv.Key)+"="+kv.Value.String())
			}
			slices.Sort(said)
			if got := ended.Name() + " " + strings.Join(said, " "); got != tt.want {
				t.Errorf("got %s\nwant %s", got, tt.want)
			}
		})
	}
}
