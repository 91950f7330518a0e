package action

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/invopop/jsonschema"

	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/outbound"
	"github.com/fraiseql/weir/internal/rule"
	"github.com/fraiseql/weir/internal/setting"
)

// Push is a push notification by Firebase Cloud Messaging, HTTP v1.
type Push struct { //nolint:recvcheck // jsonschema asks the value for JSONSchemaExtend
	Common `yaml:",inline"`

	// Token is the registration token of one device, Topic the name of a topic. They exclude one another.
	Token *rule.Template `yaml:"token,omitempty"`
	Topic *rule.Template `yaml:"topic,omitempty"`
	// TitleTemplate and BodyTemplate are what the device shows. At least one is needed.
	TitleTemplate *rule.Template `yaml:"title_template,omitempty"`
	BodyTemplate  *rule.Template `yaml:"body_template,omitempty"`
	// Provider is "fcm", the default.
	Provider string `yaml:"provider,omitempty" jsonschema:"enum=fcm"`
	// CredentialsEnv names the environment variable that holds the JSON key of a service account.
	CredentialsEnv setting.Secret `yaml:"credentials_env" jsonschema:"required"`
	// BaseURL is where the API is. Default: https://fcm.googleapis.com.
	BaseURL string `yaml:"base_url,omitempty"`

	base    *url.URL
	account serviceAccount // empty when secrets are not looked up
	tokens  *tokenSource
	client  *outbound.Client
}

const (
	pushType = "push"
	fcm      = "fcm"
	fcmBase  = "https://fcm.googleapis.com"
)

func (p *Push) check(f fields) (errs []error) {
	switch {
	case f.has("token") && f.has("topic"):
		errs = append(errs, f.errorAt("topic", "the push action has both token and topic: remove one"))
	case !f.has("token") && !f.has("topic"):
		errs = append(errs, f.errorAt("token", "push needs token or topic: add one of them"))
	}
	errs = append(errs, notEmpty(f, "token", p.Token)...)
	errs = append(errs, notEmpty(f, "topic", p.Topic)...)
	if p.TitleTemplate == nil && p.BodyTemplate == nil {
		errs = append(errs, f.errorAt("title_template", "push needs title_template or body_template: add at least one of them"))
	}
	if p.Provider = cmp.Or(p.Provider, fcm); p.Provider != fcm {
		errs = append(errs, f.errorAt("provider", "%q is no provider of push notifications: expected fcm", p.Provider))
	}
	errs = append(errs, needs(f, "credentials_env")...)
	base, problems := checkBase(f, p.BaseURL, fcmBase)
	p.base = base
	errs = append(errs, problems...)
	if secret := p.CredentialsEnv.Value(); secret != "" {
		var err error
		if p.account, err = parseServiceAccount(secret); err != nil {
			errs = append(errs, f.errorAt("credentials_env", "environment variable %s holds no key of a service account: %s",
				p.CredentialsEnv.Env(), err))
		}
	}
	return errs
}

func (p *Push) warnings() []string { return nil }

// Endpoint is what Config.Endpoint says.
func (p *Push) Endpoint() string { return p.endpointAt(p.base) }

func (p *Push) bind(d Deps) Action {
	bound := *p
	bound.client = d.HTTP
	bound.tokens = newTokenSource(p.account, d.HTTP)
	return &bound
}

// fcmRequest is what the API takes.
type fcmRequest struct {
	Message fcmMessage `json:"message"`
}

type fcmMessage struct {
	Token        string          `json:"token,omitempty"`
	Topic        string          `json:"topic,omitempty"`
	Notification fcmNotification `json:"notification"`
}

type fcmNotification struct {
	Title string `json:"title,omitempty"`
	Body  string `json:"body,omitempty"`
}

// render renders the call. Its errors are final: the same event renders the same way again.
func (p *Push) render(call Call) (r fcmRequest, err error) {
	m := &r.Message
	err = renderParts(call.Env,
		part{"token", p.Token, rule.Template.Text, &m.Token},
		part{"topic", p.Topic, rule.Template.Text, &m.Topic},
		part{"title_template", p.TitleTemplate, rule.Template.Text, &m.Notification.Title},
		part{"body_template", p.BodyTemplate, rule.Template.Text, &m.Notification.Body},
	)
	if err != nil {
		return r, err
	}
	switch {
	case m.Token == "" && m.Topic == "":
		return r, Final(codeTemplate, errors.New("token or topic renders to nothing"))
	case m.Notification == fcmNotification{}:
		return r, Final(codeTemplate, errors.New("title and body render to nothing"))
	}
	return r, nil
}

// url is where messages of a project are sent.
func (p *Push) url(project string) string {
	return under(p.base, "/v1/projects/"+project+"/messages:send")
}

// Do sends the message once.
func (p *Push) Do(ctx context.Context, call Call) (event.Outcome, error) {
	message, err := p.render(call)
	if err != nil {
		return event.Outcome{}, err
	}
	bearer, err := p.tokens.get(ctx)
	if err != nil {
		return event.Outcome{}, err
	}
	req, err := postJSON(ctx, p.url(url.PathEscape(p.account.ProjectID)), message)
	if err != nil {
		return event.Outcome{}, err
	}
	req.Header.Set("Authorization", "Bearer "+bearer)
	secrets := []string{bearer, message.Message.Token}
	res, out, err := exchange(p.client, req, secrets)
	if err != nil || isSuccess(res.Status) {
		return out, err
	}
	answer := readFCM(redact(res.Body, secrets))
	if res.Status == http.StatusUnauthorized && answer.code != fcmThirdPartyAuth {
		p.tokens.drop(ctx, bearer) // the next attempt gets another
	}
	return out, judgeFCM(req, res, answer)
}

// The error codes of FCM that need a name, https://firebase.google.com/docs/reference/fcm/rest/v1/ErrorCode.
const (
	fcmUnregistered     = "UNREGISTERED"
	fcmInvalidArgument  = "INVALID_ARGUMENT"
	fcmSenderIDMismatch = "SENDER_ID_MISMATCH"
	fcmThirdPartyAuth   = "THIRD_PARTY_AUTH_ERROR"
)

// fcmAnswer is what FCM says of a message that it refuses.
type fcmAnswer struct {
	code    string // FCM's own, "" without one
	message string
}

// readFCM reads an answer; one that is not FCM's has nothing in it.
func readFCM(body []byte) (a fcmAnswer) {
	var answer struct {
		Error struct {
			Message string `json:"message"`
			Status  string `json:"status"`
			Details []struct {
				Type      string `json:"@type"`
				ErrorCode string `json:"errorCode"`
			} `json:"details"`
		} `json:"error"`
	}
	if json.Unmarshal(body, &answer) != nil {
		return a
	}
	a.message = answer.Error.Message
	if answer.Error.Status == fcmUnregistered { // so say some gateways that base_url may name; with FCM it is NOT_FOUND
		a.code = fcmUnregistered
	}
	for _, detail := range answer.Error.Details {
		if detail.Type == "type.googleapis.com/google.firebase.fcm.v1.FcmError" {
			a.code = detail.ErrorCode
		}
	}
	return a
}

// judgeFCM turns a refusal into what becomes of the delivery. A device that is gone (UNREGISTERED), a message that is wrong
// and a token of another sender stay so. 401, 403 and 404 without such a code are about the credentials and the project, and
// credentials get mended; so does the APNs certificate of THIRD_PARTY_AUTH_ERROR.
func judgeFCM(req *http.Request, res *outbound.Response, answer fcmAnswer) error {
	cause, code := answered(req, res), statusCode(res.Status)
	final := isFinalStatus(res.Status)
	if answer.code != "" {
		cause, code = fmt.Errorf("%w, %s", cause, answer.code), strings.ToLower(answer.code)
		final = final || slices.Contains([]string{fcmUnregistered, fcmInvalidArgument, fcmSenderIDMismatch}, answer.code)
	}
	if answer.message != "" {
		cause = fmt.Errorf("%w: %s", cause, answer.message)
	}
	return refusal(res, code, final, cause)
}

// Preview is the message as JSON.
func (p *Push) Preview(call Call) (Preview, error) {
	message, err := p.render(call)
	if err != nil {
		return nil, err
	}
	raw, err := marshal(message)
	if err != nil {
		return nil, Final(codeTemplate, err)
	}
	return Preview{{"url", p.url(cmp.Or(p.account.ProjectID, unknown(p.CredentialsEnv)))}, {"message", string(raw)}}, nil
}

// JSONSchemaExtend says that a push has exactly one of token and topic, and at least one text.
func (Push) JSONSchemaExtend(s *jsonschema.Schema) {
	s.OneOf = []*jsonschema.Schema{{Required: []string{"token"}}, {Required: []string{"topic"}}}
	s.AnyOf = []*jsonschema.Schema{{Required: []string{"title_template"}}, {Required: []string{"body_template"}}}
}
