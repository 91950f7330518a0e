package action

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"

	"github.com/invopop/jsonschema"

	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/outbound"
	"github.com/fraiseql/weir/internal/rule"
	"github.com/fraiseql/weir/internal/setting"
)

// Slack is a message to a channel by an incoming webhook of Slack, or of what understands the same requests (Mattermost,
// Rocket.Chat).
type Slack struct { //nolint:recvcheck // jsonschema asks the value for JSONSchemaExtend
	Common `yaml:",inline"`

	// WebhookURL is the incoming webhook. Its path is a secret, so it is better kept in the environment.
	WebhookURL *rule.Template `yaml:"webhook_url,omitempty"`
	// WebhookURLEnv names the environment variable that holds the incoming webhook.
	WebhookURLEnv setting.Secret `yaml:"webhook_url_env,omitempty"`
	// Channel is where the message goes, where the webhook leaves a choice. Default: the webhook's channel.
	Channel *rule.Template `yaml:"channel,omitempty"`
	// MessageTemplate is the text, in Slack's markup. Values are text in it. Default: defaultMessage.
	MessageTemplate *rule.Template `yaml:"message_template,omitempty"`

	target  *rule.Template
	message *rule.Template
	client  *outbound.Client
}

const slackType = "slack"

func (s *Slack) check(f fields) (errs []error) {
	s.target, errs = checkTarget(f, "webhook_url", s.WebhookURL, s.WebhookURLEnv)
	message, problems := messageOf(f, s.MessageTemplate)
	s.message = message
	return append(errs, problems...)
}

func (s *Slack) warnings() []string {
	if s.WebhookURL == nil {
		return nil
	}
	return []string{"webhook_url stands in the file and its path is a secret: move it to an environment variable and name " +
		"that in webhook_url_env"}
}

// Endpoint is what Config.Endpoint says.
func (s *Slack) Endpoint() string { return s.endpoint(s.target) }

// Target is a fingerprint of the webhook, "" for one with placeholders.
func (s *Slack) Target() string { return fingerprint(s.target) }

func (s *Slack) bind(d Deps) Action {
	bound := *s
	bound.client = d.HTTP
	return &bound
}

// slackMessage is what an incoming webhook takes.
type slackMessage struct {
	Text    string `json:"text"`
	Channel string `json:"channel,omitempty"`
}

// render renders the call. Its errors are final: the same event renders the same way again.
func (s *Slack) render(call Call) (m slackMessage, err error) {
	err = renderParts(call.Env,
		part{"message_template", s.message, rule.Template.Slack, &m.Text},
		part{"channel", s.Channel, rule.Template.Text, &m.Channel},
	)
	if err == nil && m.Text == "" {
		err = Final(codeTemplate, errors.New("message_template renders to nothing, which Slack refuses"))
	}
	return m, err
}

// Do posts the message once.
func (s *Slack) Do(ctx context.Context, call Call) (event.Outcome, error) {
	target, err := s.target.URL(call.Env)
	if err != nil {
		return event.Outcome{}, Final(codeTemplate, fmt.Errorf("webhook_url: %w", err))
	}
	m, err := s.render(call)
	if err != nil {
		return event.Outcome{}, err
	}
	req, err := postJSON(ctx, target, m)
	if err != nil {
		return event.Outcome{}, err
	}
	res, out, err := exchange(s.client, req, pieces(req.URL))
	if err != nil {
		return out, err
	}
	return out, judgeSlack(req, res)
}

// slackWord is Slack's answer to a message that it refuses: one word, such as no_service.
var slackWord = regexp.MustCompile(`^[a-z][a-z_]{2,63}$`)

// judgeSlack turns a response into what becomes of the delivery; nil is success.
//
// Slack documents 400 (invalid_payload, user_not_found), 403 (action_prohibited, invalid_token), 404 (channel_not_found,
// no_service) and 410 (channel_is_archived) as errors that the same request meets again: the webhook was revoked, the
// channel is gone or closed. They are final, so that a person sees them at once instead of after days; weir dlq retry sends
// the message once the URL is corrected. 403 and 404 are so only with a word of Slack's own in the body: a page with
// that status is a proxy's, or that of a Mattermost that is being deployed.
func judgeSlack(req *http.Request, res *outbound.Response) error {
	if isSuccess(res.Status) {
		return nil
	}
	cause := answered(req, res)
	word := string(bytes.TrimSpace(res.Body))
	own := slackWord.MatchString(word)
	if own {
		cause = fmt.Errorf("%w: %s", cause, word)
	}
	final := isFinalStatus(res.Status) ||
		own && (res.Status == http.StatusForbidden || res.Status == http.StatusNotFound)
	return refusal(res, statusCode(res.Status), final, cause)
}

// Preview is the message. The path of an incoming webhook is a secret, wherever it stands.
func (s *Slack) Preview(call Call) (Preview, error) {
	m, err := s.render(call)
	if err != nil {
		return nil, err
	}
	target, err := previewURL(s.target, s.WebhookURLEnv, call)
	if err != nil {
		return nil, Final(codeTemplate, fmt.Errorf("webhook_url: %w", err))
	}
	if u, err := url.Parse(target); err == nil && u.Host != "" {
		target = hiddenPath(u)
	}
	p := Preview{{"url", target}}
	if m.Channel != "" {
		p = append(p, Part{"channel", m.Channel})
	}
	return append(p, Part{"text", m.Text}), nil
}

// JSONSchemaExtend says that a message has exactly one of webhook_url and webhook_url_env.
func (Slack) JSONSchemaExtend(s *jsonschema.Schema) {
	s.OneOf = []*jsonschema.Schema{{Required: []string{"webhook_url"}}, {Required: []string{"webhook_url_env"}}}
}
