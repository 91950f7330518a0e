package action

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
	"github.com/invopop/jsonschema"
	"golang.org/x/net/http/httpguts"

	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/outbound"
	"github.com/fraiseql/weir/internal/rule"
	"github.com/fraiseql/weir/internal/setting"
)

// Webhook is an HTTP request. Its body is the event's JSON as it is stored, unless BodyTemplate says otherwise.
type Webhook struct { //nolint:recvcheck // jsonschema asks the value for JSONSchemaExtend
	Common `yaml:",inline"`

	// URL is the target. Its scheme and host cannot be templated.
	URL *rule.Template `yaml:"url,omitempty"`
	// URLEnv names the environment variable that holds the target, which may be a template, too.
	URLEnv setting.Secret `yaml:"url_env,omitempty"`
	// Method is one of methods. Default: POST. A GET has a body only with BodyTemplate.
	Method string `yaml:"method,omitempty" jsonschema:"enum=POST,enum=PUT,enum=PATCH,enum=DELETE,enum=GET"`
	// Headers are added to the request. A Content-Type decides how BodyTemplate escapes; default: application/json.
	Headers map[string]*rule.Template `yaml:"headers,omitempty"`
	// BodyTemplate is the body. In JSON, by the Content-Type, values are escaped.
	BodyTemplate *rule.Template `yaml:"body_template,omitempty"`
	// SigningSecretEnv, SigningSecretsEnv and SigningSecret exclude one another. All secrets of a list sign.
	SigningSecretEnv  setting.Secret   `yaml:"signing_secret_env,omitempty"`
	SigningSecretsEnv []setting.Secret `yaml:"signing_secrets_env,omitempty" jsonschema:"minItems=1"`
	SigningSecret     literalSecret    `yaml:"signing_secret,omitempty"`
	// CloudEvents is "structured", "binary" or "off" (default).
	CloudEvents string `yaml:"cloudevents,omitempty" jsonschema:"enum=off,enum=structured,enum=binary"`
	// FinalStatuses are the statuses that are not retried, in place of the default list and the redirects.
	FinalStatuses []int `yaml:"final_statuses,omitempty"`

	target *rule.Template
	signer *signer // nil: unsigned
	client *outbound.Client
}

var (
	// methods are those that a receiver may want.
	methods = []string{http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodGet}

	// reservedHeaders are set by the protocol or by Weir; so are those that begin with one of reservedPrefixes.
	reservedHeaders = []string{
		"Host", "Content-Length", "Transfer-Encoding", "Connection", "Keep-Alive", "Te", "Trailer", "Upgrade", "Expect",
		"Proxy-Connection", headerFraiseQL,
	}
	reservedPrefixes = []string{"Webhook-", "X-Weir-"}
)

func (w *Webhook) check(f fields) []error {
	return slices.Concat(w.checkTarget(f), w.checkRequest(f), w.checkHeaders(f), w.checkBody(f), w.checkSecrets(f))
}

func (w *Webhook) checkTarget(f fields) (errs []error) {
	w.target, errs = checkTarget(f, "url", w.URL, w.URLEnv)
	return errs
}

func (w *Webhook) checkRequest(f fields) []error {
	var errs []error
	w.Method = strings.ToUpper(cmp.Or(w.Method, http.MethodPost))
	if !slices.Contains(methods, w.Method) {
		errs = append(errs, f.errorAt("method", "%q is no method of a webhook: expected one of %s",
			w.Method, strings.Join(methods, ", ")))
	}
	switch w.CloudEvents {
	case "", cloudEventsOff, cloudEventsStructured, cloudEventsBinary:
	default:
		errs = append(errs, f.errorAt("cloudevents", "%q is no form of a CloudEvent: expected structured, binary or off",
			w.CloudEvents))
	}
	for _, status := range w.FinalStatuses {
		if status < 300 || status > 599 {
			errs = append(errs, f.errorAt("final_statuses", "%d is no status of a failure: expected 300 to 599", status))
		}
	}
	return errs
}

func (w *Webhook) checkHeaders(f fields) []error {
	var errs []error
	seen := map[string]bool{}
	headers, _ := f.values["headers"].(*ast.MappingNode)
	if headers == nil {
		return nil
	}
	for _, pair := range headers.Values {
		name := pair.Key.GetToken().Value
		canonical := http.CanonicalHeaderKey(name)
		switch {
		case !httpguts.ValidHeaderFieldName(name):
			errs = append(errs, setting.ErrorAt(pair.Key, "%q is no name of a header: expected one as in X-Api-Key", name))
		case w.isReserved(canonical):
			errs = append(errs, setting.ErrorAt(pair.Key, "header %s is set by Weir or by HTTP: remove it", name))
		case seen[canonical]:
			errs = append(errs, setting.ErrorAt(pair.Key, "header %s is written twice: remove one", canonical))
		case w.Headers[name] == nil:
			errs = append(errs, setting.ErrorAt(pair.Key, "header %s has no value: add one or remove it", name))
		default:
			if static, ok := w.Headers[name].Static(); ok && !httpguts.ValidHeaderFieldValue(static) {
				errs = append(errs, setting.ErrorAt(pair.Value, "the value of header %s holds a line break or "+
					"another control character: remove it", name))
			}
		}
		seen[canonical] = true
	}
	return errs
}

func (w *Webhook) isReserved(canonical string) bool {
	return slices.Contains(reservedHeaders, canonical) ||
		w.CloudEvents == cloudEventsBinary && strings.HasPrefix(canonical, "Ce-") ||
		slices.ContainsFunc(reservedPrefixes, func(p string) bool { return strings.HasPrefix(canonical, p) })
}

// checkBody finds a body that would not be JSON for any event, if a body in JSON is what the Content-Type promises.
func (w *Webhook) checkBody(f fields) []error {
	contentType, known := jsonContent, true
	for name, tmpl := range w.Headers {
		if tmpl != nil && http.CanonicalHeaderKey(name) == "Content-Type" {
			contentType, known = tmpl.Static()
		}
	}
	if w.BodyTemplate == nil || !known || !isJSON(contentType) {
		return nil
	}
	if err := w.BodyTemplate.CheckJSON(); err != nil {
		return []error{f.errorAt("body_template", "%s; for another kind of body write a Content-Type into headers", err)}
	}
	return nil
}

func (w *Webhook) checkSecrets(f fields) []error {
	const one, list, literal = "signing_secret_env", "signing_secrets_env", "signing_secret"
	var written []string
	for _, key := range []string{one, list, literal} {
		if f.has(key) {
			written = append(written, key)
		}
	}
	switch {
	case len(written) == 0:
		return nil
	case len(written) > 1:
		return []error{f.errorAt(written[1], "the webhook has %s: keep one", strings.Join(written, " and "))}
	case written[0] == list && len(w.SigningSecretsEnv) == 0:
		return []error{f.errorAt(list, "%s is empty: name at least one variable, or remove it to send unsigned", list)}
	}
	var errs []error
	w.signer = &signer{}
	for _, secret := range w.secrets() {
		if secret.Value() == "" {
			continue // secrets are not looked up
		}
		if err := w.signer.add(secret.Value()); err != nil {
			errs = append(errs, f.errorAt(written[0], "signing secret %s: %s", secret, err))
		}
	}
	return errs
}

func (w *Webhook) secrets() []setting.Secret {
	if len(w.SigningSecretsEnv) > 0 {
		return w.SigningSecretsEnv
	}
	if !w.SigningSecret.IsZero() {
		return []setting.Secret{w.SigningSecret.Secret}
	}
	return []setting.Secret{w.SigningSecretEnv}
}

func (w *Webhook) warnings() []string {
	if w.SigningSecret.IsZero() {
		return nil
	}
	return []string{"signing_secret stands in the file: move it to an environment variable and name that in signing_secret_env"}
}

// Endpoint is what Config.Endpoint says.
func (w *Webhook) Endpoint() string { return w.endpoint(w.target) }

// Target is a fingerprint of the URL, "" for one with placeholders.
func (w *Webhook) Target() string { return fingerprint(w.target) }

func (w *Webhook) bind(d Deps) Action {
	bound := *w
	bound.client = d.HTTP
	return &bound
}

// Do sends the request once.
func (w *Webhook) Do(ctx context.Context, call Call) (event.Outcome, error) {
	req, err := w.request(ctx, call, time.Now())
	if err != nil {
		return event.Outcome{}, err
	}
	res, out, err := exchange(w.client, req, w.confidential(req))
	if err != nil {
		return out, err
	}
	return out, w.judge(req, res)
}

// JSONSchemaExtend says that a webhook has exactly one of url and url_env, and at most one kind of secret.
func (Webhook) JSONSchemaExtend(s *jsonschema.Schema) {
	s.OneOf = []*jsonschema.Schema{{Required: []string{"url"}}, {Required: []string{"url_env"}}}
	secrets := []string{"signing_secret_env", "signing_secrets_env", "signing_secret"}
	for i, a := range secrets {
		for _, b := range secrets[i+1:] {
			s.AllOf = append(s.AllOf, &jsonschema.Schema{Not: &jsonschema.Schema{Required: []string{a, b}}})
		}
	}
}
