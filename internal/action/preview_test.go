package action

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

// parts is a preview by the names of its parts.
func parts(t *testing.T, a Action, call Call) map[string]string {
	t.Helper()
	p, err := a.Preview(call)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, part := range p {
		if _, twice := found[part.Name]; twice {
			t.Errorf("two parts are named %s", part.Name)
		}
		found[part.Name] = part.Value
		if strings.Contains(part.Value, "hunter2") {
			t.Errorf("%s leaked: %s", part.Name, part.Value)
		}
	}
	return found
}

// A preview of a webhook is what its receiver gets, but for the time and the signatures.
func TestWebhookPreviewIsWhatIsSent(t *testing.T) {
	t.Parallel()
	call := callFor(t, order)
	for _, keys := range []string{
		"", ", cloudevents: structured", ", cloudevents: binary", ", method: GET",
		`, method: PUT, headers: {Content-Type: text/plain, X-Total: "{{ total }}"}, body_template: "{{ note }}"`,
	} {
		url, got := receiver(t, nil)
		a := bind(t, `{type: webhook, signing_secret_env: ERP_SECRET, url: "`+url+`/o/{{ slash }}?t={{ total }}"`+keys+"}")
		if _, err := a.Do(t.Context(), call); err != nil {
			t.Fatal(err)
		}
		sent, p := <-got, parts(t, a, call)
		if p["method"] != sent.method || p["url"] != url+sent.uri || p["body"] != string(sent.body) {
			t.Errorf("%s: %v\nis not %+v", keys, p, sent)
		}
		for name := range sent.header {
			value, ok := p["header "+name]
			if !ok && name != "Content-Length" || ok && value != sent.header.Get(name) && value != whenSent {
				t.Errorf("%s: header %s is %q in the preview, sent was %q", keys, name, value, sent.header.Get(name))
			}
		}
	}
}

func TestWebhookPreviewHidesSecrets(t *testing.T) {
	t.Parallel()
	a := bind(t, `{type: webhook, url_env: SHORT_URL, headers: {Authorization: Bearer hunter2, X-Api-Key: hunter2}}`)
	p := parts(t, a, callFor(t, order))
	if p["url"] != "https://hooks.example.org/[redacted]" || p["header Authorization"] != redacted || p["header X-Api-Key"] != redacted {
		t.Errorf("got %v", p)
	}
	a = bind(t, `{type: webhook, url: "https://a.test/x?total={{ total }}&api_key=hunter2"}`)
	if p = parts(t, a, callFor(t, order)); p["url"] != "https://a.test/x?total=100.10&api_key=[redacted]" {
		t.Errorf("got %v", p)
	}
}

// What only the environment knows is named in a preview, and no error.
func TestPreviewWithoutTheEnvironment(t *testing.T) {
	t.Parallel()
	var c Config
	if err := yaml.UnmarshalWithOptions([]byte("{type: webhook, url_env: ERP_URL}"), &c, yaml.Strict()); err != nil {
		t.Fatal(err)
	}
	if p := parts(t, c.Bind(Deps{}), callFor(t, order)); p["url"] != "[not known: $ERP_URL is not set]" || p["body"] == "" {
		t.Errorf("got %v", p)
	}
	// The configuration's loader lets pass what depends on a variable that is not set.
	c = Config{}
	if err := yaml.UnmarshalWithOptions([]byte("{type: webhook, url: \"${ERP}/x\"}"), &c, yaml.Strict()); err == nil {
		t.Fatal("no error")
	}
	if p := parts(t, c.Bind(Deps{}), callFor(t, order)); p["url"] != "[not known: the environment lacks a value]" {
		t.Errorf("got %v", p)
	}
	for _, text := range []string{
		"{type: sms, to: a, from: b, account_env: A, token_env: B, base_url: \"${ERP}\"}",
		"{type: push, topic: a, title_template: b, credentials_env: A, base_url: \"${ERP}\"}",
		"{type: slack, webhook_url: \"${ERP}\"}",
	} {
		c = Config{}
		if err := yaml.UnmarshalWithOptions([]byte(text), &c, yaml.Strict()); err == nil {
			t.Fatal("no error")
		}
		if p := parts(t, c.Bind(Deps{}), callFor(t, order)); !strings.HasPrefix(p["url"], "[not known: the environment lacks a value]") {
			t.Errorf("got %v", p)
		}
		if e := c.Endpoint(); e != "" {
			t.Errorf("endpoint %s", e)
		}
	}
	c = Config{}
	if err := yaml.UnmarshalWithOptions([]byte("{type: email, to: [a@b.test, \"${TO}\"], timeout: \"${T}\"}"), &c, yaml.Strict()); err == nil {
		t.Fatal("no error")
	}
	a := c.Bind(Deps{})
	if p := parts(t, a, callFor(t, order)); a.Name() != "email" || p["not known"] != "the environment lacks ${TO}, ${T}" {
		t.Errorf("%s: %v", a.Name(), p)
	}
}

func TestPreviewFailsAsDoDoes(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		`{type: webhook, url: https://a.test, body_template: "{{ totl }}"}`,
		`{type: webhook, url: "https://a.test/{{ totl }}"}`,
		`{type: webhook, url: https://a.test, headers: {X-Note: "{{ note }}"}}`,
		`{type: log, message_template: "{{ totl }}"}`,
	} {
		_, err := bind(t, text).Preview(callFor(t, order))
		_ = wantError(t, err, ClassFinal, "template")
	}
}

func TestPreviewOfTheOtherTypes(t *testing.T) {
	t.Parallel()
	call := callFor(t, order)
	p := parts(t, bind(t, `{type: log, level: warn, message_template: "{{ total }}"}`), call)
	if p["level"] != "warn" || p["message"] != "100.10" {
		t.Errorf("got %v", p)
	}
	p = parts(t, bind(t, `{type: database, function_name: app.f, params: {n: 1.50}}`), call)
	if p["function"] != "app.f" || p["argument"] != `{"event":`+string(call.Payload)+`,"params":{"n":1.50}}` {
		t.Errorf("got %v", p)
	}
}

// A preview does nothing.
func TestPreviewSendsNothing(t *testing.T) {
	t.Parallel()
	url, got := receiver(t, nil)
	parts(t, bind(t, `{type: webhook, url: "`+url+`"}`), callFor(t, order))
	var logged bytes.Buffer
	c := mustDecode(t, "{type: log}")
	parts(t, c.Bind(Deps{Logger: slog.New(slog.NewTextHandler(&logged, nil))}), callFor(t, order))
	if len(got) != 0 || logged.Len() != 0 {
		t.Errorf("%d requests, logged %s", len(got), logged.String())
	}
}
