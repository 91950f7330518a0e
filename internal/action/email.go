package action

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	netmail "net/mail"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/invopop/jsonschema"
	"github.com/wneessen/go-mail"

	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/rule"
	"github.com/fraiseql/weir/internal/setting"
)

// Email is a mail, sent by the server of the section `smtp:` from its address. It goes to all recipients or to none.
type Email struct { //nolint:recvcheck // JSONSchemaExtend is looked for at the value
	Common `yaml:",inline"`

	// To and Cc are the recipients, ReplyTo where answers go: a list, or text with commas. An entry that renders as empty text
	// is left out.
	To      addresses `yaml:"to" jsonschema:"required"`
	Cc      addresses `yaml:"cc,omitempty"`
	ReplyTo addresses `yaml:"reply_to,omitempty"`
	// Subject is one line.
	Subject *rule.Template `yaml:"subject" jsonschema:"required"`
	// BodyTemplate is the text, HTMLTemplate the same in HTML, in which values are escaped. At least one is there; with both,
	// the recipient's program chooses.
	BodyTemplate *rule.Template `yaml:"body_template,omitempty"`
	HTMLTemplate *rule.Template `yaml:"html_template,omitempty"`

	mailer *Mailer
}

const (
	emailType = "email"
	// smtpEndpoint is the endpoint of mail: there is one server, whatever its name is today.
	smtpEndpoint = "smtp"

	// maxWord bounds what stands in a line of a header unbroken, in bytes; with the header's name a line has 78, as RFC 5322 wants.
	maxWord = 66
	// encodedBytes are what fits into an encoded word: a line with one has at most 76 bytes (RFC 2047).
	encodedBytes = 39
)

func (e *Email) check(f fields) []error {
	var errs []error
	if len(e.To) == 0 {
		errs = append(errs, f.errorAt("to", "email needs to: the recipients, as in to: jane@example.org"))
	}
	if e.Subject == nil {
		errs = append(errs, f.errorAt("subject", "email needs subject: add one"))
	} else if text, ok := e.Subject.Static(); ok && strings.ContainsAny(text, "\r\n") {
		errs = append(errs, f.errorAt("subject", "a subject is one line: remove the line break"))
	}
	if e.BodyTemplate == nil && e.HTMLTemplate == nil {
		errs = append(errs, f.errorAt("body_template", "email needs body_template or html_template: add one of them, or both"))
	}
	return errs
}

func (e *Email) warnings() []string { return nil }

// Endpoint is "smtp" unless the action names another.
func (e *Email) Endpoint() string { return cmp.Or(e.EndpointName, smtpEndpoint) }

func (e *Email) bind(d Deps) Action {
	bound := *e
	bound.mailer = d.Mailer
	return &bound
}

// Do sends the mail once. Between the server's taking it and its saying so a connection may break: then the mail goes out
// again, with the same Message-ID.
func (e *Email) Do(ctx context.Context, call Call) (event.Outcome, error) {
	if e.mailer == nil {
		return event.Outcome{}, Retry("smtp", errors.New("there is no mail server: write the section smtp"))
	}
	l, err := e.letter(call.Env)
	if err != nil {
		return event.Outcome{}, err
	}
	m, err := l.message(call, time.Now())
	if err != nil {
		return event.Outcome{}, Final(emailType, err)
	}
	if span := recording(ctx); span != nil {
		span.SetName("smtp")
		traceServer(span, e.mailer.cfg.Host, strconv.Itoa(e.mailer.cfg.Port))
	}
	start := time.Now()
	reply, err := e.mailer.send(ctx, m)
	out := event.Outcome{DurationMS: time.Since(start).Milliseconds()}
	var refused *textproto.Error
	switch {
	case err == nil:
		out.ResponseStatus, out.ResponseBody = 250, event.Excerpt([]byte(reply))
	case errors.As(err, &refused):
		out.ResponseStatus, out.ResponseBody = refused.Code, event.Excerpt([]byte(refused.Msg))
	}
	return out, err
}

// Preview is the mail that Do would send.
func (e *Email) Preview(call Call) (Preview, error) {
	l, err := e.letter(call.Env)
	if err != nil {
		return nil, err
	}
	from := readable(l.from)
	if e.mailer != nil && from == "" {
		from = unknown(setting.Secret{})
	}
	var p Preview
	for _, part := range []Part{
		{"from", from},
		{"to", readable(l.to...)},
		{"cc", readable(l.cc...)},
		{"reply_to", readable(l.replyTo...)},
		{"subject", l.subject},
		{"text", l.text},
		{"html", l.html},
	} {
		if part.Value != "" {
			p = append(p, part)
		}
	}
	return p, nil
}

// letter is a rendered email.
type letter struct {
	from            *netmail.Address // nil in a preview that does not know it
	to, cc, replyTo []*netmail.Address
	subject         string
	text, html      string
}

// letter renders the templates. What fails is final: it would fail again.
func (e *Email) letter(env *rule.Env) (letter, error) {
	var l letter
	if e.mailer != nil {
		l.from = e.mailer.cfg.From.address
	}
	for _, field := range []struct {
		key  string
		from addresses
		to   *[]*netmail.Address
	}{{"to", e.To, &l.to}, {"cc", e.Cc, &l.cc}, {"reply_to", e.ReplyTo, &l.replyTo}} {
		var err error
		if *field.to, err = field.from.render(env); err != nil {
			return letter{}, Final(codeTemplate, fmt.Errorf("%s: %w", field.key, err))
		}
	}
	if len(l.to) == 0 {
		return letter{}, Final(codeTemplate, errors.New("to: nobody is left, every entry is empty"))
	}
	err := renderParts(env,
		part{"subject", e.Subject, rule.Template.Header, &l.subject},
		part{"body_template", e.BodyTemplate, rule.Template.Text, &l.text},
		part{"html_template", e.HTMLTemplate, rule.Template.HTML, &l.html},
	)
	return l, err
}

// message puts the mail together. Its Message-ID is the delivery's: a program that has the mail already can tell.
func (l letter) message(call Call, now time.Time) (rendered, error) {
	m := mail.NewMsg(mail.WithNoDefaultUserAgent())
	m.FromMailAddress(l.from)
	m.ToMailAddress(l.to...)
	if len(l.cc) > 0 {
		m.CcMailAddress(l.cc...)
	}
	if len(l.replyTo) > 0 {
		m.ReplyToMailAddress(l.replyTo...)
	}
	setSubject(m, l.subject)
	m.SetMessageIDWithValue(call.DeliveryID.String() + l.from.Address[strings.LastIndex(l.from.Address, "@"):])
	m.SetDateWithValue(now)
	m.SetGenHeader("Auto-Submitted", "auto-generated") // RFC 3834: nobody's holiday notice answers it
	if call.ReplayOf != uuid.Nil {
		m.SetGenHeader(headerReplayOf, call.ReplayOf.String())
	}
	switch {
	case l.html == "":
		m.SetBodyString(mail.TypeTextPlain, l.text)
	case l.text == "":
		m.SetBodyString(mail.TypeTextHTML, l.html)
	default:
		m.SetBodyString(mail.TypeTextPlain, l.text)
		m.AddAlternativeString(mail.TypeTextHTML, l.html)
	}
	var raw bytes.Buffer
	if _, err := m.WriteTo(&raw); err != nil {
		return rendered{}, fmt.Errorf("put the mail together: %w", err)
	}
	out := rendered{from: envelope(l.from), raw: raw.Bytes()}
	for _, a := range slices.Concat(l.to, l.cc) {
		if to := envelope(a); !slices.Contains(out.to, to) {
			out.to = append(out.to, to)
		}
	}
	out.utf8 = slices.ContainsFunc(append(out.to, out.from), notASCII)
	return out, nil
}

// setSubject sets it so that it is read as it was rendered. go-mail encodes other letters; of ASCII it breaks the line at spaces
// and nowhere else, so that a long word makes a line that servers refuse (RFC 5322: 998 bytes), and many spaces one that seems to
// be empty, which ends the header for some readers. What looks encoded would be decoded.
func setSubject(m *mail.Msg, subject string) {
	words := strings.Fields(subject)
	odd := func(word string) bool { return len(word) > maxWord || strings.Contains(word, "=?") }
	if notASCII(subject) || strings.Join(words, " ") == subject && !slices.ContainsFunc(words, odd) {
		m.Subject(subject)
		return
	}
	var encoded []string
	for chunk := range slices.Chunk([]byte(subject), encodedBytes) {
		encoded = append(encoded, "=?UTF-8?b?"+base64.StdEncoding.EncodeToString(chunk)+"?=")
	}
	m.SetGenHeaderPreformatted(mail.HeaderSubject, strings.Join(encoded, mail.SingleNewLine+" "))
}

// JSONSchemaExtend says that a mail has a text, or HTML, or both.
func (Email) JSONSchemaExtend(s *jsonschema.Schema) {
	s.AnyOf = []*jsonschema.Schema{{Required: []string{"body_template"}}, {Required: []string{"html_template"}}}
}
