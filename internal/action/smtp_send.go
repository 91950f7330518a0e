package action

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/textproto"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/wneessen/go-mail/smtp"
)

const (
	// quitTime is how long the server's farewell is waited for: the mail is on its way by then.
	quitTime = time.Second
	// maxSaid bounds what a server may say in one session, in bytes.
	maxSaid = 1 << 20
	// serviceClosing is the reply of a server that hangs up, at whatever command.
	serviceClosing = 421
)

// rendered is a mail as it is sent.
type rendered struct {
	from string   // in angle brackets, as are
	to   []string // at least one, none twice
	raw  []byte
	utf8 bool // an address has characters that not every server takes
}

// send sends a mail to all of its recipients or to none, and returns the server's last word. Once the server has taken the
// mail, nothing that follows is a failure: the mail would be sent twice. ctx bounds it all, wherever the server stands still.
func (m *Mailer) send(ctx context.Context, mail rendered) (reply string, err error) {
	defer func() { m.note(ctx, err) }()
	conn, err := m.dial(ctx)
	if err != nil {
		return "", m.failed(ctx, session("connect"), err)
	}
	hangUp := func() { _ = conn.Close() }
	defer hangUp()
	stop := context.AfterFunc(ctx, hangUp)
	defer stop()
	client, err := m.open(ctx, conn)
	if err != nil {
		return "", err
	}
	reply, err = m.transfer(ctx, client, mail)
	var refused *textproto.Error
	if err == nil || errors.As(err, &refused) {
		_ = conn.SetDeadline(time.Now().Add(quitTime))
		_ = client.Quit()
	}
	return m.redact(reply), err
}

// bounded is a connection that ends when the server has said too much.
type bounded struct {
	net.Conn
	left int
}

var errTalkative = errors.New("the server has said more than 1 MiB")

// Read is the connection's, up to the limit.
func (c *bounded) Read(p []byte) (int, error) {
	if c.left <= 0 {
		return 0, errTalkative
	}
	n, err := c.Conn.Read(p[:min(len(p), c.left)])
	c.left -= n
	return n, err
}

func (m *Mailer) dial(ctx context.Context) (net.Conn, error) {
	plain, err := (&net.Dialer{}).DialContext(ctx, "tcp", m.cfg.address())
	if err != nil {
		return nil, err
	}
	conn := &bounded{plain, maxSaid}
	if m.cfg.TLS != tlsFull {
		return conn, nil
	}
	encrypted := tls.Client(conn, m.tls)
	if err := encrypted.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return encrypted, nil
}

// open begins a session: greeting, encryption, credentials. What goes wrong in it is no mail's fault.
func (m *Mailer) open(ctx context.Context, conn net.Conn) (*smtp.Client, error) {
	client, err := smtp.NewClient(conn, m.cfg.Host)
	if err != nil {
		return nil, m.failed(ctx, session("greeting"), err)
	}
	name, err := os.Hostname()
	if err != nil || name == "" {
		name = "localhost"
	}
	if err := client.Hello(name); err != nil {
		return nil, m.failed(ctx, session("EHLO"), err)
	}
	if m.cfg.TLS == tlsStart {
		if offered, _ := client.Extension("STARTTLS"); !offered {
			return nil, sick(Retry("tls", errors.New("the server does not offer STARTTLS: "+
				"nothing is sent unencrypted, unless smtp.tls is none")))
		}
		if err := client.StartTLS(m.tls); err != nil {
			return nil, m.failed(ctx, session("STARTTLS"), err)
		}
	}
	if m.cfg.UsernameEnv.IsZero() {
		return client, nil
	}
	auth, err := m.auth(client)
	if err != nil {
		return nil, sick(Retry("auth", err))
	}
	if err := client.Auth(auth); err != nil {
		return nil, m.failed(ctx, session("AUTH"), err)
	}
	return client, nil
}

// auth chooses how to show the credentials. The connection is encrypted and its other end known, so the plain ways come first:
// servers offer the others also for accounts that cannot use them.
func (m *Mailer) auth(client *smtp.Client) (smtp.Auth, error) {
	_, offered := client.Extension("AUTH")
	mechanisms := strings.Fields(strings.ToUpper(offered))
	user, password := m.cfg.UsernameEnv.Value(), m.cfg.PasswordEnv.Value()
	switch {
	case slices.Contains(mechanisms, "PLAIN"):
		return smtp.PlainAuth("", user, password, m.cfg.Host, false), nil
	case slices.Contains(mechanisms, "LOGIN"):
		return smtp.LoginAuth(user, password, m.cfg.Host, false), nil
	case slices.Contains(mechanisms, "SCRAM-SHA-256"):
		return smtp.ScramSHA256Auth(user, password), nil
	case slices.Contains(mechanisms, "SCRAM-SHA-1"):
		return smtp.ScramSHA1Auth(user, password), nil
	case slices.Contains(mechanisms, "CRAM-MD5"):
		return smtp.CRAMMD5Auth(user, password), nil
	default:
		return nil, fmt.Errorf("the server offers none of AUTH PLAIN, LOGIN, SCRAM-SHA-256, SCRAM-SHA-1 and CRAM-MD5, but %q", offered)
	}
}

// transfer hands the mail over.
func (m *Mailer) transfer(ctx context.Context, client *smtp.Client, mail rendered) (string, error) {
	if offered, _ := client.Extension("SMTPUTF8"); mail.utf8 && !offered {
		return "", Final("smtp_utf8", errors.New("an address has letters before its @ that the server does not take (no SMTPUTF8)"))
	}
	client.SkipSMTPUTF8(!mail.utf8) // a server that passes the mail on needs its next one to know it, too
	if err := client.Mail(mail.from); err != nil {
		return "", m.failed(ctx, step{name: "MAIL FROM:" + mail.from}, err)
	}
	if err := m.recipients(ctx, client, mail.to); err != nil {
		return "", err
	}
	data, err := client.Data()
	if err != nil {
		return "", m.failed(ctx, step{name: "DATA"}, err)
	}
	if _, err := data.Write(mail.raw); err != nil {
		return "", m.failed(ctx, step{name: "DATA"}, err) // not closed: that would send the part that was written
	}
	if err := data.Close(); err != nil {
		return "", m.failed(ctx, step{name: "end of DATA"}, err)
	}
	if said, ok := data.(*smtp.DataCloser); ok {
		return said.ServerResponse(), nil
	}
	return "", nil
}

// recipients names them all. Where one is refused for good, the others get nothing either: a mail that went to some of them
// could not be tried again for the rest alone.
func (m *Mailer) recipients(ctx context.Context, client *smtp.Client, to []string) error {
	var refusal error
	for _, recipient := range to {
		err := client.Rcpt(recipient)
		if err == nil {
			continue
		}
		err = m.failed(ctx, step{name: "RCPT TO:" + recipient, recipient: true}, err)
		var e *Error
		if !errors.As(err, &e) || e.Class == ClassFinal || e.Sick {
			return err
		}
		refusal = cmp.Or(refusal, err) // the rest is asked for: one that is refused for good decides
	}
	return refusal
}

// step is a part of the exchange.
type step struct {
	name string
	// session: it is about us and the server, and about no mail. recipient: about one of the recipients.
	session, recipient bool
}

func session(name string) step { return step{name: name, session: true} }

// failed classifies an error. A reply of 5xx is final, one of 4xx and silence are not. A session that the server does not
// grant (a wrong password, a certificate that has expired, an address that is blocked) is tried again whatever the reply: that
// is mended at the server or in the configuration, and until then would make every mail a dead letter.
func (m *Mailer) failed(ctx context.Context, at step, err error) error {
	var reply *textproto.Error
	if !errors.As(err, &reply) {
		failure := transportError(ctx, err)
		var e *Error
		if errors.As(failure, &e) {
			e.Err = fmt.Errorf("%s: %w", at.name, e.Err)
		}
		return failure
	}
	code := "smtp_" + strconv.Itoa(reply.Code)
	said := fmt.Errorf("%s: %w", at.name, &textproto.Error{Code: reply.Code, Msg: m.redact(reply.Msg)})
	switch {
	case at.session || aboutSession(reply.Code):
		return sick(Retry(code, said))
	case reply.Code >= 500:
		return Final(code, said)
	case at.recipient && reply.Code != serviceClosing:
		return Retry(code, said) // a full mailbox, greylisting: the server is well
	default:
		return sick(Retry(code, said))
	}
}

// aboutSession says that a reply to a command about a mail is about the session: authentication or encryption is wanted.
func aboutSession(code int) bool { return slices.Contains([]int{530, 534, 535, 538}, code) }
