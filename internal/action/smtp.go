package action

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/mail"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/goccy/go-yaml/ast"
	"github.com/invopop/jsonschema"

	"github.com/fraiseql/weir/internal/setting"
)

// SMTP is the section `smtp:` of weir.yaml: the mail server that email actions use.
type SMTP struct {
	// Host is the server's name or address. The certificate has to be for it.
	Host string `yaml:"host" jsonschema:"required"`
	// Port of the server. Default: 587 with tls: starttls, 465 with tls: tls, 25 with tls: none.
	Port int `yaml:"port,omitempty" jsonschema:"minimum=1,maximum=65535"`
	// From is the sender of every mail, as in weir@example.org or "Weir <weir@example.org>".
	From Mailbox `yaml:"from" jsonschema:"required"`
	// TLS is starttls (the connection is encrypted before anything is sent, or nothing is sent), tls (encrypted from the
	// first byte) or none. Default: starttls.
	TLS string `yaml:"tls,omitempty" jsonschema:"enum=starttls,enum=tls,enum=none"`
	// CAFile names the authorities that the server's certificate may come from. Default: the system's.
	CAFile setting.CAFile `yaml:"ca_file,omitempty"`
	// UsernameEnv names the environment variable with the user's name; it goes with password_env. Default: none.
	UsernameEnv setting.Secret `yaml:"username_env,omitempty"`
	// PasswordEnv names the environment variable with the password; it goes with username_env. Default: none.
	PasswordEnv setting.Secret `yaml:"password_env,omitempty"`
}

const (
	tlsStart = "starttls"
	tlsFull  = "tls"
	tlsNone  = "none"
)

var smtpHost = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9._-]*[a-zA-Z0-9.])?$`)

// Check looks at what spans several keys.
func (s SMTP) Check(value func(key string) ast.Node) error {
	written := setting.Written(value)
	var errs []error
	if n := written("host"); n != nil && s.Host != "" {
		if _, err := netip.ParseAddr(s.Host); err != nil && !smtpHost.MatchString(s.Host) {
			errs = append(errs, setting.ErrorAt(n, "%q is no host: expected a name or an address, as in mail.example.org; "+
				"the port is a key of its own", s.Host))
		}
	}
	username, password := written("username_env"), written("password_env")
	switch {
	case username != nil && s.TLS == tlsNone && !s.isHere():
		errs = append(errs, setting.ErrorAt(username, "with tls: none the password would be sent for everybody to read: "+
			"write tls: starttls or tls: tls, or remove username_env and password_env"))
	case username != nil && password == nil:
		errs = append(errs, setting.ErrorAt(username, "username_env goes with password_env: write both or none"))
	case username == nil && password != nil:
		errs = append(errs, setting.ErrorAt(password, "password_env goes with username_env: write both or none"))
	}
	if n := written("ca_file"); n != nil && s.TLS == tlsNone {
		errs = append(errs, setting.ErrorAt(n, "with tls: none nobody looks at a certificate: remove ca_file, or write tls: starttls"))
	}
	return errors.Join(errs...)
}

// WithDefaults fills in what is not set.
func (s SMTP) WithDefaults() SMTP {
	s.TLS = cmp.Or(s.TLS, tlsStart)
	s.Port = cmp.Or(s.Port, map[string]int{tlsStart: 587, tlsFull: 465, tlsNone: 25}[s.TLS])
	return s
}

// isHere says that the server is on this machine: what is sent there passes no network.
func (s SMTP) isHere() bool {
	return slices.Contains([]string{"localhost", "127.0.0.1", "::1"}, s.Host)
}

func (s SMTP) address() string { return net.JoinHostPort(s.Host, strconv.Itoa(s.Port)) }

// Mailbox is one mail address, with a name or without.
type Mailbox struct{ address *mail.Address }

// ParseMailbox reads an address as it stands in a mail's header.
func ParseMailbox(text string) (Mailbox, error) {
	address, err := parseAddress(text)
	return Mailbox{address}, err
}

// String is the form that ParseMailbox reads.
func (m Mailbox) String() string {
	if m.address == nil {
		return ""
	}
	return m.address.String()
}

// UnmarshalYAML reads an address at a node of the file.
func (m *Mailbox) UnmarshalYAML(_ context.Context, node ast.Node) error {
	text, _ := setting.Text(node)
	v, err := ParseMailbox(text)
	if err != nil {
		return setting.ErrorAt(node, "expected one mail address, as in weir@example.org or Weir <weir@example.org>")
	}
	*m = v
	return nil
}

// JSONSchema describes an address to editors.
func (Mailbox) JSONSchema() *jsonschema.Schema { return &jsonschema.Schema{Type: "string"} }

// Mailer sends mail through one server. Each mail has a connection of its own: a server's idle connections time out, and what
// one mail has left behind in a session is no other's trouble. A Mailer is safe for concurrent use.
type Mailer struct {
	cfg SMTP
	tls *tls.Config
	// trouble is the text of what kept the last attempt from reaching the server, "" when it was reached.
	trouble atomic.Value
}

// NewMailer returns a mailer for a section that was checked; nil for none.
func NewMailer(cfg *SMTP) *Mailer {
	if cfg == nil {
		return nil
	}
	m := &Mailer{cfg: cfg.WithDefaults()}
	m.tls = &tls.Config{ServerName: m.cfg.Host, RootCAs: m.cfg.CAFile.Pool(), MinVersion: tls.VersionTLS12}
	return m
}

// With returns a mailer for another section: m itself if nothing has changed, so that a reload does not forget m's trouble.
func (m *Mailer) With(cfg *SMTP) *Mailer {
	if m != nil && cfg != nil && reflect.DeepEqual(m.cfg, cfg.WithDefaults()) {
		return m
	}
	return NewMailer(cfg)
}

// Trouble says why the server could not be reached, or would not serve, when mail was last to be sent; "" if it could, or if
// nothing has been sent yet. Nobody asks the server meanwhile.
func (m *Mailer) Trouble() string {
	if m == nil {
		return ""
	}
	text, _ := m.trouble.Load().(string)
	return text
}

// note keeps what an attempt tells about the server. One that was cut off tells nothing.
func (m *Mailer) note(ctx context.Context, err error) {
	var e *Error
	switch {
	case errors.As(err, &e) && e.Sick:
		m.trouble.Store(m.cfg.address() + ": " + e.Error())
	case err == nil || ctx.Err() == nil:
		m.trouble.Store("")
	}
}

// redact keeps the credentials out of a text of the server's.
func (m *Mailer) redact(text string) string {
	for _, secret := range []setting.Secret{m.cfg.PasswordEnv, m.cfg.UsernameEnv} {
		if v := secret.Value(); v != "" {
			text = strings.ReplaceAll(text, v, secret.String())
		}
	}
	return text
}
