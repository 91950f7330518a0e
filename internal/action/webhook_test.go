package action

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/fraiseql/weir/internal/event"
)

// deliver makes one call and returns what the receiver saw.
func deliver(t *testing.T, keys string, call Call) (received, event.Outcome) {
	t.Helper()
	url, got := receiver(t, nil)
	out, err := bind(t, "{type: webhook, url: \""+url+"/hooks/orders\""+keys+"}").Do(t.Context(), call)
	if err != nil {
		t.Fatal(err)
	}
	return <-got, out
}

func TestWebhookDefault(t *testing.T) {
	t.Parallel()
	call := callFor(t, order)
	before := time.Now().Unix()
	got, out := deliver(t, "", call)
	if got.method != "POST" || got.uri != "/hooks/orders" {
		t.Errorf("got %s %s", got.method, got.uri)
	}
	if !bytes.Equal(got.body, call.Payload) {
		t.Errorf("the body is not the stored event: %s", got.body)
	}
	for name, want := range map[string]string{
		"Content-Type": "application/json", "User-Agent": "Weir", "webhook-id": call.DeliveryID.String(),
		"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "tracestate": "a=b",
		"webhook-signature": "", "X-FraiseQL-Signature-256": "", "Accept-Encoding": "",
	} {
		if v := got.header.Get(name); v != want {
			t.Errorf("%s is %q, want %q", name, v, want)
		}
	}
	if ts, err := strconv.ParseInt(got.header.Get("webhook-timestamp"), 10, 64); err != nil || ts < before || ts > time.Now().Unix() {
		t.Errorf("webhook-timestamp is %q", got.header.Get("webhook-timestamp"))
	}
	if out.ResponseStatus != 200 {
		t.Errorf("outcome %+v", out)
	}
}

// What a replay has made says which delivery it repeats.
func TestReplayHeader(t *testing.T) {
	t.Parallel()
	call := callFor(t, order)
	call.ReplayOf, call.DeliveryID = call.DeliveryID, event.ReplayedID(call.DeliveryID, uuid.New())
	got, _ := deliver(t, "", call)
	if of := got.header.Get("X-Weir-Replay-Of"); of != call.ReplayOf.String() || got.header.Get("webhook-id") != call.DeliveryID.String() {
		t.Errorf("got %v", got.header)
	}
	if got, _ = deliver(t, "", callFor(t, order)); len(got.header.Values("X-Weir-Replay-Of")) != 0 {
		t.Errorf("no replay: %v", got.header)
	}
	s := (&mailServer{}).start(t)
	mail := email(t, s.mailer(t, ""), `{type: email, to: a@b.test, subject: s, body_template: b}`)
	for _, one := range []Call{call, callFor(t, order)} {
		if _, err := mail.Do(t.Context(), one); err != nil {
			t.Fatal(err)
		}
	}
	if got := s.got()[0].raw; !strings.Contains(got, "\r\nX-Weir-Replay-Of: "+call.ReplayOf.String()+"\r\n") {
		t.Errorf("the mail of a replay: %s", got)
	}
	if got := s.got()[1].raw; strings.Contains(got, "Replay") {
		t.Errorf("another mail: %s", got)
	}
}

// A payload is sent as it was stored, even where encoding it again would write other bytes.
func TestWebhookSendsThePayloadVerbatim(t *testing.T) {
	t.Parallel()
	call := callFor(t, order)
	call.Payload = []byte("{ \"total\": 100.10,\n\"big\":9007199254740993123 , \"html\": \"<&>\" }")
	got, _ := deliver(t, ", signing_secret_env: ERP_SECRET", call)
	if !bytes.Equal(got.body, call.Payload) {
		t.Errorf("got %s", got.body)
	}
}

func TestWebhookKeepsItsIDOverAttempts(t *testing.T) {
	t.Parallel()
	call := callFor(t, order)
	first, _ := deliver(t, "", call)
	call.Attempt = 2
	second, _ := deliver(t, "", call)
	if a, b := first.header.Get("webhook-id"), second.header.Get("webhook-id"); a != b || a == "" {
		t.Errorf("got %q, then %q", a, b)
	}
}

func TestWebhookKeepsTheResponse(t *testing.T) {
	t.Parallel()
	url, _ := receiver(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusUnprocessableEntity)
		io.WriteString(w, "no field \xff"+strings.Repeat("x", 100_000))
	})
	out, err := bind(t, "{type: webhook, url: \""+url+"\"}").Do(t.Context(), callFor(t, order))
	_ = wantError(t, err, ClassFinal, "status_422")
	if !strings.HasPrefix(out.ResponseBody, "no field \uFFFDxxx") || len(out.ResponseBody) > 1024 {
		t.Errorf("got %d bytes: %.20q", len(out.ResponseBody), out.ResponseBody)
	}
}

// An error page that repeats the request must not show what the environment keeps secret.
func TestWebhookRedactsTheResponse(t *testing.T) {
	t.Parallel()
	url, _ := receiver(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprintf(w, "%s Cannot POST %s %s %s %s", strings.Repeat(".", 1000), r.RequestURI, r.URL.Path,
			r.URL.Query().Get("token"), r.Header.Get("Authorization"))
	})
	ctx := withEnv(map[string]string{"HOOK": url + "/T0/hunter2%2Fpath?token=hunter2%20query"})
	c, err := decodeIn(ctx, `{type: webhook, url_env: HOOK, headers: {Authorization: "Bearer hunter2-header"}}`)
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.Bind(Deps{HTTP: client(t, "127.0.0.1")}).Do(t.Context(), callFor(t, order))
	_ = wantError(t, err, ClassRetry, "status_404")
	if strings.Contains(out.ResponseBody, "hunter2") || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("leaked: %s, %v", out.ResponseBody, err)
	}
}

func TestWebhookTemplates(t *testing.T) {
	t.Parallel()
	call := callFor(t, order)
	got, _ := deliver(t, `, method: put, headers: {X-Total: "{{ total }}", user-agent: Mine, Authorization: Bearer x},
		body_template: '{"total": {{ total }}, "big": {{ big }}, "note": {{ note }}}'`, call)
	if got.method != "PUT" || got.header.Get("X-Total") != "100.10" || got.header.Get("User-Agent") != "Mine" ||
		got.header.Get("Authorization") != "Bearer x" {
		t.Errorf("got %s %v", got.method, got.header)
	}
	want := `{"total": 100.10, "big": 9007199254740993123, "note": "a \"b\"\r\nX: {{ total }}`
	if !strings.HasPrefix(string(got.body), want) || !json.Valid(got.body) {
		t.Errorf("got %s", got.body)
	}
}

func TestWebhookBodyFollowsTheContentType(t *testing.T) {
	t.Parallel()
	const quoted = `"shipped"`
	for contentType, want := range map[string]string{
		"application/json": quoted, "application/json; charset=utf-8": quoted, "application/vnd.api+json": quoted,
		"text/plain": "shipped", "text/plain; charset=utf-8": "shipped", "application/x-www-form-urlencoded": "shipped",
	} {
		got, _ := deliver(t, `, headers: {content-type: "`+contentType+`"}, body_template: "{{ status }}"`, callFor(t, order))
		if string(got.body) != want || got.header.Get("Content-Type") != contentType {
			t.Errorf("%s: got %s as %s", contentType, got.body, got.header.Get("Content-Type"))
		}
	}
}

func TestWebhookTemplateErrorsAreFinal(t *testing.T) {
	t.Parallel()
	for name, keys := range map[string]string{
		"misspelt field":      `, body_template: "{{ totl }}"`,
		"body that is broken": `, body_template: '{ {{ total }}: 1}'`,
		"header with CR LF":   `, headers: {X-Note: "{{ note }}"}`,
		"misspelt in header":  `, headers: {X-Note: "{{ nte }}"}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url, got := receiver(t, nil)
			_, err := bind(t, "{type: webhook, url: \""+url+"\""+keys+"}").Do(t.Context(), callFor(t, order))
			_ = wantError(t, err, ClassFinal, "template")
			if len(got) != 0 {
				t.Error("a request was sent")
			}
		})
	}
}

func TestWebhookURLTemplateEscapes(t *testing.T) {
	t.Parallel()
	url, got := receiver(t, nil)
	c := bind(t, "{type: webhook, url: \""+url+"/o/{{ slash }}/x\"}")
	if _, err := c.Do(t.Context(), callFor(t, order)); err != nil {
		t.Fatal(err)
	}
	if r := <-got; r.uri != "/o/a%2Fb%3Fc=d%23e/x" {
		t.Errorf("got %s", r.uri)
	}
}

func TestWebhookGetHasNoBody(t *testing.T) {
	t.Parallel()
	got, _ := deliver(t, ", method: GET, signing_secret_env: ERP_SECRET", callFor(t, order))
	if got.method != "GET" || len(got.body) != 0 {
		t.Errorf("got %s %s", got.method, got.body)
	}
	verify(t, "new-secret", got)
}
