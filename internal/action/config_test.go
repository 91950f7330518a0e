package action

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/invopop/jsonschema"
)

func TestConfigDefaults(t *testing.T) {
	t.Parallel()
	c := mustDecode(t, "type: webhook\nurl: https://ERP.example.org/hooks\n")
	if c.Name() != "webhook" || c.Type() != "webhook" || c.Endpoint() != "erp.example.org" || c.Priority() != 1 ||
		c.Timeout() != 30*time.Second || c.Warnings() != nil {
		t.Errorf("got %s %s %s %d %s %v", c.Name(), c.Type(), c.Endpoint(), c.Priority(), c.Timeout(), c.Warnings())
	}
	c = mustDecode(t, "{name: n.1-a_b, type: log, endpoint: audit, priority: 4, timeout: 1m30s}")
	if c.Name() != "n.1-a_b" || c.Type() != "log" || c.Endpoint() != "audit" || c.Priority() != 4 || c.Timeout() != 90*time.Second {
		t.Errorf("got %s %s %s %d %s", c.Name(), c.Type(), c.Endpoint(), c.Priority(), c.Timeout())
	}
	var zero Config
	if zero.Name() != "" || zero.Type() != "" || zero.Warnings() != nil {
		t.Error("the zero value is not empty")
	}
}

func TestEndpoint(t *testing.T) {
	t.Parallel()
	const sms = "type: sms, to: a, from: b, account_env: ERP_SECRET, token_env: ERP_SECRET_OLD"
	for text, want := range map[string]string{
		"{type: webhook, url: https://erp.example.org/a}":                        "erp.example.org",
		"{type: webhook, url: https://erp.example.org:443/a}":                    "erp.example.org",
		"{type: webhook, url: https://ERP.Example.org./a}":                       "erp.example.org",
		"{type: webhook, url: https://erp.example.org:8443}":                     "erp.example.org:8443",
		"{type: webhook, url: http://erp.example.org/a}":                         "erp.example.org:80",
		"{type: webhook, url: http://erp.example.org:80/a}":                      "erp.example.org:80",
		"{type: webhook, url: http://erp.example.org:443/a}":                     "erp.example.org:443",
		"{type: webhook, url: \"https://[::1]/a\"}":                              "[::1]",
		"{type: webhook, url: \"https://[::1]:8443/a\"}":                         "[::1]:8443",
		"{type: webhook, url: \"https://erp.example.org/{{ total }}\"}":          "erp.example.org",
		"{type: webhook, url: \"https://erp.example.org?id={{ total }}\"}":       "erp.example.org",
		"{type: webhook, url: https://erp.example.org, endpoint: erp}":           "erp",
		"{type: webhook, url: https://erp.example.org, endpoint: \"a.test:80\"}": "a.test:80",
		"{type: webhook, url_env: SHORT_URL}":                                    "hooks.example.org",
		"{type: slack, webhook_url_env: SHORT_URL}":                              "hooks.example.org",
		"{type: slack, webhook_url: \"http://a.test/{{ total }}\"}":              "a.test:80",
		"{type: slack, webhook_url_env: SHORT_URL, endpoint: chat}":              "chat",
		"{" + sms + "}": "api.twilio.com",
		"{" + sms + ", base_url: \"http://[::1]:8080/x/\"}":    "[::1]:8080",
		"{" + sms + ", endpoint: phones}":                      "phones",
		"{type: log}":                                          "log",
		"{type: database, function_name: a.f}":                 "database",
		"{type: database, function_name: a.f, endpoint: slow}": "slow",
	} {
		if got := mustDecode(t, text).Endpoint(); got != want {
			t.Errorf("%s: got %q, want %q", text, got, want)
		}
	}
}

// Positions are those of the whole file.
func TestConfigErrorsNameThePlace(t *testing.T) {
	t.Parallel()
	const url = "  - type: webhook\n    url: https://a.test\n"
	const sms = "  - type: sms\n    from: b\n    account_env: ERP_SECRET\n    token_env: ERP_SECRET_OLD\n"
	const push = "  - type: push\n    title_template: c\n    credentials_env: ERP_SECRET\n"
	tests := map[string]struct{ text, at, say string }{
		"no mapping":            {"  - webhook\n", "[2:5]", "expected an action"},
		"no type":               {"  - name: a\n    url: https://a.test\n", "[2:5]", "no type: add one of webhook, "},
		"unknown type":          {"  - name: a\n    type: webhok\n", "[3:11]", `"webhok" is no type of action: expected one of webhook, `},
		"null type":             {"  - name: a\n    type:\n", "[2:5]", "no type"},
		"unknown key":           {url + "    methd: PUT\n", "[4:5]", `unknown key "methd" in a webhook action: expected one of body_template, cache, cloudevents`},
		"another type's key":    {"  - type: log\n    url: https://a.test\n", "[3:5]", `unknown key "url" in a log action`},
		"no url":                {"  - type: webhook\n    method: PUT\n", "[2:5]", "webhook needs url or url_env"},
		"null url":              {"  - type: webhook\n    url:\n", "[2:5]", "webhook needs url or url_env"},
		"two urls":              {url + "    url_env: SHORT_URL\n", "[4:14]", "both url and url_env"},
		"bad url":               {"  - type: webhook\n    url: \"{{ total }}/x\"\n", "[3:10]", "URL"},
		"unset url_env":         {"  - type: webhook\n    url_env: UNSET\n", "[3:14]", "UNSET is not set"},
		"bad url_env":           {"  - type: webhook\n    url_env: BAD_URL\n", "[3:14]", "BAD_URL holds no URL that works"},
		"bad name":              {url + "    name: a b\n", "[4:11]", `"a b" is no name`},
		"long name":             {url + "    name: " + strings.Repeat("a", 65) + "\n", "[4:11]", "at most 64"},
		"bad endpoint":          {url + "    endpoint: a/b\n", "[4:15]", `"a/b" is no name of an endpoint`},
		"priority":              {url + "    priority: 5\n", "[4:15]", "priority is 5: expected 1 (first) to 4"},
		"priority 0":            {url + "    priority: 0\n", "[4:15]", "priority is 0"},
		"priority, text":        {url + "    priority: high\n", "[4:15]", "expected a whole number"},
		"timeout":               {url + "    timeout: 30\n", "[4:14]", "is not a duration"},
		"timeout 0":             {url + "    timeout: 0s\n", "[4:14]", "timeout of 0"},
		"method":                {url + "    method: FETCH\n", "[4:13]", "no method of a webhook"},
		"cloudevents":           {url + "    cloudevents: yes\n", "[4:18]", "expected structured, binary or off"},
		"final_statuses":        {url + "    final_statuses: [200]\n", "[4:21]", "200 is no status of a failure"},
		"final_statuses text":   {url + "    final_statuses: [\"4xx\"]\n", "[4:22]", "expected a whole number"},
		"header name":           {url + "    headers:\n      \"a b\": x\n", "[5:7]", "no name of a header"},
		"header Host":           {url + "    headers: {host: x}\n", "[4:15]", "set by Weir or by HTTP"},
		"header length":         {url + "    headers: {Content-Length: \"5\"}\n", "[4:15]", "set by Weir or by HTTP"},
		"header webhook-id":     {url + "    headers:\n      X-A: b\n      webhook-id: x\n", "[6:7]", "set by Weir or by HTTP"},
		"header signature":      {url + "    headers:\n      WEBHOOK-SIGNATURE: x\n", "[5:7]", "set by Weir or by HTTP"},
		"header fraiseql":       {url + "    headers:\n      x-fraiseql-signature-256: x\n", "[5:7]", "set by Weir or by HTTP"},
		"header of CloudEvents": {url + "    cloudevents: binary\n    headers: {ce-id: x}\n", "[5:15]", "set by Weir or by HTTP"},
		"header with a break":   {url + "    headers:\n      X-A: \"b\\nc\"\n", "[5:12]", "holds a line break"},
		"body":                  {url + "    body_template: \"{{ status }}, x\"\n", "[4:20]", "not give valid JSON"},
		"body, by header":       {url + "    headers: {content-type: a/b+json}\n    body_template: \"<a>\"\n", "[5:20]", "Content-Type"},
		"user in the url":       {"  - type: webhook\n    url: https://jane:pw@a.test\n", "[3:10]", "user or password"},
		"header twice":          {url + "    headers:\n      X-A: b\n      x-a: c\n", "[6:7]", "written twice"},
		"header without":        {url + "    headers:\n      X-A:\n", "[5:7]", "has no value"},
		"two secrets":           {url + "    signing_secret: a\n    signing_secret_env: ERP_SECRET\n", "[4:21]", "signing_secret_env and signing_secret: keep one"},
		"no secrets":            {url + "    signing_secrets_env: []\n", "[4:26]", "is empty"},
		"unset secret":          {url + "    signing_secrets_env: [ERP_SECRET, UNSET]\n", "[4:39]", "UNSET is not set"},
		"bad secret":            {url + "    signing_secret_env: BAD_WHSEC\n", "[4:25]", "$BAD_WHSEC: what follows whsec_ is not base64"},
		"level":                 {"  - type: log\n    level: warning\n", "[3:12]", `"warning" is no level`},
		"no function":           {"  - type: database\n", "[2:5]", "database needs function_name"},
		"a call":                {"  - type: database\n    function_name: app.f(1)\n", "[3:20]", `"app.f(1)" is no function`},
		"no schema":             {"  - type: database\n    function_name: f\n", "[3:20]", `"f" is no function`},
		"odd number":            {"  - type: database\n    function_name: a.f\n    params: {n: 0x1F}\n", "[4:17]", "0x1F is no number in JSON"},
		"infinity":              {"  - type: database\n    function_name: a.f\n    params: [.inf]\n", "[4:14]", "put quotes round it"},
		"slack without":         {"  - type: slack\n    channel: x\n", "[2:5]", "slack needs webhook_url or webhook_url_env"},
		"slack with two":        {"  - type: slack\n    webhook_url: https://a.test/x\n    webhook_url_env: SHORT_URL\n", "[4:22]", "the slack action has both"},
		"slack, host":           {"  - type: slack\n    webhook_url: \"https://{{ total }}/x\"\n", "[3:18]", "host of the URL"},
		"slack, bad env":        {"  - type: slack\n    webhook_url_env: BAD_URL\n", "[3:22]", "BAD_URL holds no URL that works"},
		"slack, unset env":      {"  - type: slack\n    webhook_url_env: UNSET\n", "[3:22]", "UNSET is not set"},
		"slack, no message":     {"  - type: slack\n    webhook_url_env: SHORT_URL\n    message_template: \"\"\n", "[4:23]", "message_template is empty"},
		"slack, unknown key":    {"  - type: slack\n    webhook_url_env: SHORT_URL\n    chanel: x\n", "[4:5]", `unknown key "chanel" in a slack action: expected one of cache, channel, dedup, endpoint`},
		"sms without":           {"  - type: sms\n", "[2:5]", "sms needs the key to: add it"},
		"sms without a token":   {"  - {type: sms, to: a, from: b, account_env: ERP_SECRET}\n", "[2:5]", "sms needs the key token_env: add it"},
		"sms, no recipient":     {sms + "    to: \"\"\n", "[6:9]", "to is empty"},
		"sms, provider":         {sms + "    to: a\n    provider: vonage\n", "[7:15]", `"vonage" is no provider of text messages: expected twilio`},
		"sms, base":             {sms + "    to: a\n    base_url: api.twilio.com\n", "[7:15]", "the scheme of the URL is not http or https"},
		"sms, base with a ?":    {sms + "    to: a\n    base_url: https://a.test/?a=b\n", "[7:15]", "has neither ? nor #"},
		"sms, templated base":   {sms + "    to: a\n    base_url: \"https://a.test/{{ total }}\"\n", "[7:15]", "is no template"},
		"sms, unset token":      {"  - {type: sms, to: a, from: b, account_env: ERP_SECRET, token_env: UNSET}\n", "[2:69]", "UNSET is not set"},
		"push without":          {"  - type: push\n", "[2:5]", "push needs token or topic: add one of them"},
		"push to two":           {push + "    token: a\n    topic: b\n", "[6:12]", "both token and topic: remove one"},
		"push to nobody":        {push + "    token: \"\"\n", "[5:12]", "token is empty"},
		"push without a text":   {"  - {type: push, token: a, credentials_env: ERP_SECRET}\n", "[2:5]", "push needs title_template or body_template"},
		"push, no credentials":  {"  - {type: push, token: a, title_template: b}\n", "[2:5]", "push needs the key credentials_env"},
		"push, bad credentials": {push + "    token: a\n", "[4:22]", "variable ERP_SECRET holds no key of a service account: it is no JSON"},
		"push, provider":        {push + "    token: a\n    provider: apns\n", "[6:15]", `"apns" is no provider of push notifications: expected fcm`},
		"push, base":            {push + "    token: a\n    base_url: ftp://a.test\n", "[6:15]", "the scheme of the URL is not http or https"},
		"flow":                  {"  - {type: webhook}\n", "[2:5]", "webhook needs url or url_env"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := decodeList("actions:\n" + tt.text)
			if err == nil || !strings.Contains(err.Error(), tt.at) || !strings.Contains(err.Error(), tt.say) {
				t.Fatalf("got %v, want %q at %s", err, tt.say, tt.at)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("leaked: %v", err)
			}
		})
	}
}

func decodeList(text string) ([]Config, error) {
	var file struct {
		Actions []Config `yaml:"actions"`
	}
	err := yaml.NewDecoder(strings.NewReader(text), yaml.Strict()).DecodeContext(withEnv(env), &file)
	return file.Actions, err
}

func TestConfigReportsEveryError(t *testing.T) {
	t.Parallel()
	_, err := decode("type: webhook\nurl: https://a.test\npriority: high\nmethd: PUT\ntimeout: never\n")
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok || len(joined.Unwrap()) != 3 {
		t.Fatalf("got %v, want three errors", err)
	}
	for i, at := range []string{"[3:11]", "[4:1]", "[5:10]"} {
		if text := joined.Unwrap()[i].Error(); !strings.Contains(text, at) {
			t.Errorf("error %d is %s, want it at %s", i, text, at)
		}
	}
}

// Without the environment (validate-config --no-env) all but the secrets is checked.
func TestConfigWithoutTheEnvironment(t *testing.T) {
	t.Parallel()
	var c Config
	text := "{type: webhook, url_env: ERP_URL, signing_secrets_env: [A, B]}"
	if err := yaml.UnmarshalWithOptions([]byte(text), &c, yaml.Strict()); err != nil {
		t.Fatal(err)
	}
	if c.Endpoint() != "" || c.Name() != "webhook" {
		t.Errorf("got %q %q", c.Endpoint(), c.Name())
	}
	if err := yaml.UnmarshalWithOptions([]byte("{type: webhook, url_env: ERP_URL, method: X}"), &c, yaml.Strict()); err == nil {
		t.Error("a wrong method was accepted")
	}
}

func TestLiteralSecretWarns(t *testing.T) {
	t.Parallel()
	c := mustDecode(t, "{type: webhook, url: https://a.test, signing_secret: hunter2}")
	if w := c.Warnings(); len(w) != 1 || !strings.Contains(w[0], "signing_secret_env") || strings.Contains(w[0], "hunter2") {
		t.Errorf("got %v", w)
	}
}

func TestSlackURLInTheFileWarns(t *testing.T) {
	t.Parallel()
	c := mustDecode(t, "{type: slack, webhook_url: https://hooks.slack.com/services/hunter2}")
	if w := c.Warnings(); len(w) != 1 || !strings.Contains(w[0], "webhook_url_env") || strings.Contains(w[0], "hunter2") {
		t.Errorf("got %v", w)
	}
	if w := mustDecode(t, "{type: slack, webhook_url_env: SHORT_URL}").Warnings(); w != nil {
		t.Errorf("got %v", w)
	}
}

func TestConfigPrintsNoSecret(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"{type: webhook, url_env: SHORT_URL, signing_secrets_env: [ERP_SECRET, ERP_SECRET_OLD]}",
		"{type: webhook, url_env: SHORT_URL, signing_secret_env: ERP_WHSEC}",
		"{type: webhook, url_env: SHORT_URL, signing_secret: old-secret}",
		"{type: slack, webhook_url_env: SHORT_URL}",
		"{type: slack, webhook_url: https://a.test/hunter2}",
		"{type: sms, to: a, from: b, account_env: ERP_SECRET_OLD, token_env: ERP_SECRET}",
	} {
		c := mustDecode(t, text)
		webhook := c.Bind(Deps{})
		raw, err := json.Marshal(webhook)
		if err != nil {
			t.Fatal(err)
		}
		var logged bytes.Buffer
		slog.New(slog.NewJSONHandler(&logged, nil)).Info("config", "action", webhook, "config", c)
		slog.New(slog.NewTextHandler(&logged, nil)).Info("config", "action", webhook, "config", c)
		printed := []string{string(raw), logged.String()}
		for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
			printed = append(printed, fmt.Sprintf(verb, c), fmt.Sprintf(verb, webhook), fmt.Sprintf(verb, reflect.ValueOf(webhook).Elem().Interface()))
		}
		for _, p := range printed {
			for _, secret := range []string{"hunter2", "new-secret", "old-secret", "C2FVsBQ", "[11 97"} {
				if strings.Contains(p, secret) {
					t.Errorf("%s leaked: %s", secret, p)
				}
			}
		}
	}
}

func TestJSONSchema(t *testing.T) {
	t.Parallel()
	schema := jsonschema.Reflect(&struct {
		Actions []Config `json:"actions"`
	}{})
	raw, err := json.Marshal(schema)
	if err != nil {
		t.Fatal(err)
	}
	union := Config{}.JSONSchema()
	if len(union.OneOf) != len(Types()) {
		t.Fatalf("%d types: %s", len(union.OneOf), raw)
	}
	for i, kind := range Types() {
		one := union.OneOf[i]
		typ, ok := one.Properties.Get("type")
		if !ok || typ.Const != kind || !slices.Contains(one.Required, "type") || one.AdditionalProperties == nil {
			t.Errorf("%s: %+v", kind, one)
		}
		var keys []string
		for pair := one.Properties.Oldest(); pair != nil; pair = pair.Next() {
			keys = append(keys, pair.Key)
			if pair.Value.Description == "" {
				t.Errorf("%s of %s is not described", pair.Key, kind)
			}
		}
		if noResult[kind] != "" {
			keys = append(keys, "cache") // which is refused
		}
		slices.Sort(keys)
		if want := keysOf(reflect.TypeOf(newSpec(kind)).Elem()); !slices.Equal(keys, want) {
			t.Errorf("%s has %v, want %v", kind, keys, want)
		}
	}
	for _, part := range []string{`"url_env"`, `"timeout"`, `"enum":["debug","info","warn","error"]`} {
		if !bytes.Contains(raw, []byte(part)) {
			t.Errorf("no %s in %s", part, raw)
		}
	}
}
