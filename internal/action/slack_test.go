package action

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// slackAction is bound to a URL in the environment, as it should be.
func slackAction(t *testing.T, url, keys string) Action {
	t.Helper()
	c, err := decodeIn(withEnv(map[string]string{"SLACK_URL": url}), "{type: slack, webhook_url_env: SLACK_URL"+keys+"}")
	if err != nil {
		t.Fatal(err)
	}
	return c.Bind(Deps{HTTP: client(t, "127.0.0.0/8")})
}

func TestSlackRequest(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ keys, want string }{
		"default": {"", `{"text":"Event: UPDATE on Order (ID: ` + order.EntityID + `)"}`},
		"all": {
			`, channel: "#orders-{{ status }}", message_template: "*{{ status }}* <https://a.test|{{ total }}> {{ big }}"`,
			`{"text":"*shipped* <https://a.test|100.10> 9007199254740993123","channel":"#orders-shipped"}`,
		},
		"values are text":       {`, message_template: "{{ note }}"`, `{"text":"a \"b\"\r\nX: {{ total }} &lt;&amp;&gt;"}`},
		"channel that is empty": {`, channel: "{{ tenant_id }}", message_template: x`, `{"text":"x"}`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url, got := receiver(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") })
			a := slackAction(t, url+"/services/T000/B000/XXXX", tt.keys)
			out, err := a.Do(t.Context(), callFor(t, order))
			if err != nil {
				t.Fatal(err)
			}
			r := <-got
			if r.method != http.MethodPost || r.uri != "/services/T000/B000/XXXX" || r.header.Get("Content-Type") != "application/json" {
				t.Errorf("got %s %s %v", r.method, r.uri, r.header)
			}
			if string(r.body) != tt.want {
				t.Errorf("got  %s\nwant %s", r.body, tt.want)
			}
			if out.ResponseStatus != 200 || out.ResponseBody != "ok" {
				t.Errorf("outcome %+v", out)
			}
			// The preview is what was sent.
			p := parts(t, a, callFor(t, order))
			var sent map[string]string
			if err := json.Unmarshal(r.body, &sent); err != nil {
				t.Fatal(err)
			}
			if p["text"] != sent["text"] || p["channel"] != sent["channel"] || p["url"] != url+"/[redacted]" {
				t.Errorf("preview %v", p)
			}
		})
	}
}

func TestSlackAnswers(t *testing.T) {
	t.Parallel()
	const page = "<html>hunter2-page</html>"
	tests := []struct {
		status     int
		body       string
		retryAfter string
		class      Class
		after      time.Duration
		sick       bool
	}{
		{status: 400, body: "invalid_payload", class: ClassFinal},
		{status: 400, body: "user_not_found", class: ClassFinal},
		{status: 403, body: "action_prohibited", class: ClassFinal},
		{status: 403, body: "invalid_token", class: ClassFinal},
		{status: 404, body: "channel_not_found\n", class: ClassFinal},
		{status: 404, body: "no_service", class: ClassFinal},
		{status: 410, body: "channel_is_archived", class: ClassFinal},
		{status: 302, body: page, class: ClassFinal},
		{status: 403, body: page, class: ClassRetry},
		{status: 404, body: page, class: ClassRetry},
		{status: 401, body: page, class: ClassRetry},
		{status: 429, body: "rate_limited", retryAfter: "30", class: ClassLater, after: 30 * time.Second, sick: true},
		{status: 429, body: "", class: ClassLater, after: time.Minute, sick: true},
		{status: 500, body: "rollup_error", class: ClassRetry, sick: true},
		{status: 502, body: page, class: ClassRetry, sick: true},
		{status: 503, body: page, retryAfter: "7", class: ClassLater, after: 7 * time.Second, sick: true},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprint(tt.status, tt.body), func(t *testing.T) {
			t.Parallel()
			url, _ := receiver(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Retry-After", tt.retryAfter)
				w.WriteHeader(tt.status)
				io.WriteString(w, tt.body)
			})
			out, err := slackAction(t, url+"/services/hunter2", "").Do(t.Context(), callFor(t, order))
			code := fmt.Sprint("status_", tt.status)
			if tt.status == http.StatusGone {
				code = CodeGone
			}
			e := wantError(t, err, tt.class, code)
			if e.After != tt.after || e.Sick != tt.sick || out.ResponseStatus != tt.status {
				t.Errorf("got %+v, outcome %+v", e, out)
			}
			if word := strings.TrimSpace(tt.body); tt.body != page && !strings.Contains(e.Error(), word) {
				t.Errorf("%q lacks %q", e, word)
			}
			if strings.Contains(e.Error(), "hunter2") {
				t.Errorf("leaked: %s", e)
			}
		})
	}
}

func TestSlackLeaksNoURL(t *testing.T) {
	t.Parallel()
	url, _ := receiver(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprintf(w, "no route for %s (%q)", r.RequestURI, strings.Split(r.URL.Path, "/"))
	})
	for _, a := range []Action{
		slackAction(t, url+"/services/hunter2/hunter2-token", ""),
		bind(t, "{type: slack, webhook_url: "+url+"/services/hunter2/hunter2-token}"),
	} {
		out, err := a.Do(t.Context(), callFor(t, order))
		_ = wantError(t, err, ClassRetry, "status_404")
		if said := fmt.Sprint(out, err); strings.Contains(said, "hunter2-token") {
			t.Errorf("leaked: %s", said)
		}
		_ = parts(t, a, callFor(t, order)) // looks itself
	}
	_, err := slackAction(t, "http://127.0.0.1:1/hunter2", "").Do(t.Context(), callFor(t, order))
	if e := wantError(t, err, ClassRetry, "connect"); strings.Contains(e.Error(), "hunter2") || !e.Sick {
		t.Errorf("leaked: %s", e)
	}
}

func TestSlackTemplateErrorsAreFinal(t *testing.T) {
	t.Parallel()
	url, got := receiver(t, nil)
	for _, keys := range []string{
		`, message_template: "{{ totl }}"`, `, channel: "{{ chanel }}"`, `, message_template: "{{ tenant_id }}"`,
	} {
		a := slackAction(t, url, keys)
		_, err := a.Do(t.Context(), callFor(t, order))
		_ = wantError(t, err, ClassFinal, "template")
		_, err = a.Preview(callFor(t, order))
		_ = wantError(t, err, ClassFinal, "template")
	}
	_, err := slackAction(t, url+"/{{ totl }}", "").Do(t.Context(), callFor(t, order))
	_ = wantError(t, err, ClassFinal, "template")
	if len(got) != 0 {
		t.Error("a request was sent")
	}
}

func TestSlackTimesOut(t *testing.T) {
	t.Parallel()
	url, _ := receiver(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	timesOut(t, slackAction(t, url, ""))
}
