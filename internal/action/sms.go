package action

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/outbound"
	"github.com/fraiseql/weir/internal/rule"
	"github.com/fraiseql/weir/internal/setting"
)

// SMS is a text message to a phone by Twilio's Messages API.
type SMS struct {
	Common `yaml:",inline"`

	// To is the phone's number in the form +15551234567, or another address that Twilio knows (whatsapp:+15551234567).
	To *rule.Template `yaml:"to" jsonschema:"required"`
	// From is a number of the account, or the SID of a messaging service (MG…), which chooses one.
	From *rule.Template `yaml:"from" jsonschema:"required"`
	// MessageTemplate is the text. Default: defaultMessage.
	MessageTemplate *rule.Template `yaml:"message_template,omitempty"`
	// Provider is "twilio", the default.
	Provider string `yaml:"provider,omitempty" jsonschema:"enum=twilio"`
	// AccountEnv and TokenEnv name the environment variables that hold the account's SID and its auth token.
	AccountEnv setting.Secret `yaml:"account_env" jsonschema:"required"`
	TokenEnv   setting.Secret `yaml:"token_env" jsonschema:"required"`
	// BaseURL is where the API is. Default: https://api.twilio.com.
	BaseURL string `yaml:"base_url,omitempty"`

	base    *url.URL
	message *rule.Template
	client  *outbound.Client
}

const (
	smsType    = "sms"
	twilio     = "twilio"
	twilioBase = "https://api.twilio.com"
	apiVersion = "2010-04-01"
	// messagingService begins the SID of a messaging service, by Twilio's documentation.
	messagingService = "MG"
)

func (s *SMS) check(f fields) (errs []error) {
	errs = needs(f, "to", "from", "account_env", "token_env")
	errs = append(errs, notEmpty(f, "to", s.To)...)
	errs = append(errs, notEmpty(f, "from", s.From)...)
	if s.Provider = cmp.Or(s.Provider, twilio); s.Provider != twilio {
		errs = append(errs, f.errorAt("provider", "%q is no provider of text messages: expected twilio", s.Provider))
	}
	base, problems := checkBase(f, s.BaseURL, twilioBase)
	errs = append(errs, problems...)
	message, problems := messageOf(f, s.MessageTemplate)
	s.base, s.message = base, message
	return append(errs, problems...)
}

func (s *SMS) warnings() []string { return nil }

// Endpoint is what Config.Endpoint says.
func (s *SMS) Endpoint() string { return s.endpointAt(s.base) }

func (s *SMS) bind(d Deps) Action {
	bound := *s
	bound.client = d.HTTP
	return &bound
}

// sms is a message as it was rendered.
type sms struct{ to, from, body string }

// render renders the call. Its errors are final: the same event renders the same way again.
func (s *SMS) render(call Call) (m sms, err error) {
	parts := []part{
		{"to", s.To, rule.Template.Text, &m.to},
		{"from", s.From, rule.Template.Text, &m.from},
		{"message_template", s.message, rule.Template.Text, &m.body},
	}
	if err := renderParts(call.Env, parts...); err != nil {
		return m, err
	}
	for _, p := range parts {
		if strings.TrimSpace(*p.into) == "" {
			return m, Final(codeTemplate, fmt.Errorf("%s renders to nothing", p.key))
		}
	}
	return m, nil
}

// form is the message as Twilio takes it.
func (m sms) form() url.Values {
	form := url.Values{"To": {m.to}, "Body": {m.body}}
	form.Set(m.sender(), m.from)
	return form
}

// sender is the name of the parameter that says who sends.
func (m sms) sender() string {
	if strings.HasPrefix(m.from, messagingService) {
		return "MessagingServiceSid"
	}
	return "From"
}

// url is where messages of an account are made.
func (s *SMS) url(account string) string {
	return under(s.base, "/"+apiVersion+"/Accounts/"+account+"/Messages.json")
}

// Do sends the message once.
func (s *SMS) Do(ctx context.Context, call Call) (event.Outcome, error) {
	m, err := s.render(call)
	if err != nil {
		return event.Outcome{}, err
	}
	account := s.AccountEnv.Value()
	req, err := post(ctx, s.url(url.PathEscape(account)), "application/x-www-form-urlencoded", []byte(m.form().Encode()))
	if err != nil {
		return event.Outcome{}, err
	}
	req.SetBasicAuth(account, s.TokenEnv.Value())
	res, out, err := exchange(s.client, req, nil)
	if err != nil {
		return out, err
	}
	answer := readTwilio(res.Body)
	if isSuccess(res.Status) {
		out.ResponseBody = event.Excerpt(answer.accepted())
		return out, nil
	}
	secrets := append(strings.Fields(req.Header.Get("Authorization")), account, s.TokenEnv.Value(), m.from, m.to)
	private := func(text []byte) []byte { return withoutNumbers(redact(text, secrets)) }
	out.ResponseBody = event.Excerpt(private(res.Body))
	answer.Message = string(private([]byte(answer.Message)))
	return out, judgeTwilio(req, res, answer)
}

// phoneNumber is what looks like one: Twilio repeats the recipient's in its errors, in one form or another.
var phoneNumber = regexp.MustCompile(`\+?[0-9](?:[0-9 ().-]|%20){5,}[0-9]`)

func withoutNumbers(text []byte) []byte {
	return phoneNumber.ReplaceAllFunc(text, func(match []byte) []byte {
		if string(match) == apiVersion {
			return match
		}
		return []byte("[number]")
	})
}

// twilioAnswer is what of an answer of Twilio's is of use: SID and Status of a message, Code and Message of an error.
type twilioAnswer struct {
	SID     string          `json:"sid"`
	Status  json.RawMessage `json:"status"` // "queued" of a message, 400 of an error
	Code    int             `json:"code"`
	Message string          `json:"message"`
}

// readTwilio reads an answer; one that is not Twilio's has nothing in it.
func readTwilio(body []byte) twilioAnswer {
	var a twilioAnswer
	if json.Unmarshal(body, &a) != nil {
		return twilioAnswer{}
	}
	return a
}

// accepted is what the outcome keeps of a message: how to find it at Twilio, and not who it went to.
func (a twilioAnswer) accepted() []byte {
	raw, err := marshal(struct {
		SID    string          `json:"sid"`
		Status json.RawMessage `json:"status"`
	}{a.SID, a.Status})
	if err != nil {
		return nil
	}
	return raw
}

// Codes of Twilio's, https://www.twilio.com/docs/api/errors.
const (
	twilioTooManyRequests = 20429
	twilioQueueIsFull     = 21611 // of the sender; it drains
)

// judgeTwilio turns a refusal into what becomes of the delivery. 400 is about the message: a number that is none (21211,
// 21614), a recipient that has unsubscribed (21610), a text that is too long; the same message meets it again. 401, 403
// and 404 are about the account, which is not part of the message: credentials get mended, so they are retried, as they are for a
// webhook.
func judgeTwilio(req *http.Request, res *outbound.Response, answer twilioAnswer) error {
	cause := answered(req, res)
	if answer.Code != 0 {
		cause = fmt.Errorf("%w, Twilio's error %d: %s", cause, answer.Code, answer.Message)
	}
	if answer.Code == twilioTooManyRequests || answer.Code == twilioQueueIsFull {
		pause, asked := retryAfter(res.Header.Get("Retry-After"), time.Now())
		if !asked {
			pause = defaultPause
		}
		return sick(Later(statusCode(res.Status), pause, cause))
	}
	return refusal(res, statusCode(res.Status), isFinalStatus(res.Status), cause)
}

// Preview is the message.
func (s *SMS) Preview(call Call) (Preview, error) {
	m, err := s.render(call)
	if err != nil {
		return nil, err
	}
	from := "from"
	if m.sender() != "From" {
		from = "messaging service"
	}
	return Preview{{"url", s.url(hidden(s.AccountEnv))}, {"to", m.to}, {from, m.from}, {"body", m.body}}, nil
}
