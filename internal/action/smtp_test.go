package action

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/mail"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
	"github.com/google/uuid"
)

// mailServer is a mail server that fails where it is told to.
type mailServer struct {
	// mail, rcpt and data answer the commands; nil accepts.
	hello, mail, rcpt, data func(string) error
	// auth answers credentials; nil offers no AUTH.
	auth func(user, password string) error
	// at names the command, as the client begins it, that is not answered any more: "connect", "EHLO", …, "." for the end of
	// a mail. Then the connection is closed, or with hang nothing ever comes.
	at   string
	hang bool
	tls  certificate // .tls nil: no STARTTLS

	addr    string
	stopped chan struct{}
	mu      sync.Mutex // guards the rest
	said    []string   // commands that came, in clear
	mails   []delivered
}

type delivered struct {
	from string
	to   []string
	raw  string
}

func (s *mailServer) start(t *testing.T) *mailServer {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr, s.stopped = listener.Addr().String(), make(chan struct{})
	server := smtp.NewServer(smtp.BackendFunc(func(c *smtp.Conn) (smtp.Session, error) {
		if err := answer(s.hello, ""); err != nil {
			return nil, err
		}
		if s.auth != nil {
			return &authSession{mailSession{server: s}}, nil
		}
		return &mailSession{server: s}, nil
	}))
	server.Domain, server.TLSConfig = "mail.test", s.tls.tls
	server.AllowInsecureAuth = s.tls.tls == nil
	server.ErrorLog = log.New(io.Discard, "", 0)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(faultyListener{listener, s})
	}()
	t.Cleanup(func() {
		close(s.stopped)
		_ = server.Close()
		<-done
	})
	return s
}

// mailer sends there, unencrypted unless the section says otherwise.
func (s *mailServer) mailer(t *testing.T, more string) *Mailer {
	t.Helper()
	host, port, _ := net.SplitHostPort(s.addr)
	if more == "" {
		more = ", tls: none"
	}
	return mailerOf(t, fmt.Sprintf("{host: %q, port: %s, from: weir@mail.example.org%s}", host, port, more))
}

func (s *mailServer) got() []delivered {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.mails)
}

func (s *mailServer) heard(command string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.said, func(said string) bool { return strings.HasPrefix(said, command) })
}

type mailSession struct {
	server *mailServer
	now    delivered
}

func answer(f func(string) error, what string) error {
	if f == nil {
		return nil
	}
	return f(what)
}

func (s *mailSession) Reset()        { s.now = delivered{} }
func (s *mailSession) Logout() error { return nil }

func (s *mailSession) Mail(from string, _ *smtp.MailOptions) error {
	s.now.from = from
	return answer(s.server.mail, from)
}

func (s *mailSession) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.now.to = append(s.now.to, to)
	return answer(s.server.rcpt, to)
}

func (s *mailSession) Data(r io.Reader) error {
	raw, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if err := answer(s.server.data, string(raw)); err != nil {
		return err
	}
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	s.now.raw = string(raw)
	s.server.mails = append(s.server.mails, s.now)
	return nil
}

type authSession struct{ mailSession }

func (*authSession) AuthMechanisms() []string { return []string{sasl.Plain} }

func (s *authSession) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, password string) error { return s.server.auth(user, password) }), nil
}

// faultyListener hands out connections that break, or stand still, at a command of the client.
type faultyListener struct {
	net.Listener
	server *mailServer
}

func (l faultyListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if l.server.at == "connect" {
		l.server.fault(conn)
	}
	return &faultyConn{Conn: conn, server: l.server}, nil
}

type faultyConn struct {
	net.Conn
	server *mailServer
}

func (c *faultyConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	said := p[:n]
	c.server.mu.Lock()
	c.server.said = append(c.server.said, string(said))
	c.server.mu.Unlock()
	at := c.server.at
	if at != "" && (bytes.HasPrefix(said, []byte(at)) || at == "." && bytes.HasSuffix(said, []byte("\r\n.\r\n"))) {
		c.server.fault(c.Conn)
	}
	return n, err
}

func (s *mailServer) fault(conn net.Conn) {
	if s.hang {
		<-s.stopped
	}
	_ = conn.Close()
}

func reply(code int) func(string) error {
	return func(string) error {
		return &smtp.SMTPError{Code: code, EnhancedCode: smtp.EnhancedCode{code / 100, 1, 2}, Message: "no"}
	}
}

func send(t *testing.T, m *Mailer) error {
	t.Helper()
	_, err := email(t, m, confirmation).Do(t.Context(), callFor(t, order))
	return err
}

// 5xx to a mail is final, 4xx is not, and a session that is refused is not either.
func TestRepliesOfEachStep(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		server *mailServer
		class  Class
		code   string
		sick   bool
	}{
		"MAIL 451":     {&mailServer{mail: reply(451)}, ClassRetry, "smtp_451", true},
		"MAIL 550":     {&mailServer{mail: reply(550)}, ClassFinal, "smtp_550", false},
		"MAIL 530":     {&mailServer{mail: reply(530)}, ClassRetry, "smtp_530", true},
		"MAIL 421":     {&mailServer{mail: reply(421)}, ClassRetry, "smtp_421", true},
		"RCPT 450":     {&mailServer{rcpt: reply(450)}, ClassRetry, "smtp_450", false},
		"RCPT 421":     {&mailServer{rcpt: reply(421)}, ClassRetry, "smtp_421", true},
		"RCPT 550":     {&mailServer{rcpt: reply(550)}, ClassFinal, "smtp_550", false},
		"DATA 452":     {&mailServer{data: reply(452)}, ClassRetry, "smtp_452", true},
		"DATA 554":     {&mailServer{data: reply(554)}, ClassFinal, "smtp_554", false},
		"EHLO 554":     {&mailServer{hello: reply(554)}, ClassRetry, "smtp_554", true},
		"no STARTTLS":  {&mailServer{}, ClassRetry, "tls", true},
		"no AUTH":      {&mailServer{tls: newCertificate(t, t.TempDir())}, ClassRetry, "auth", true},
		"AUTH refused": {&mailServer{tls: newCertificate(t, t.TempDir()), auth: func(string, string) error { return reply(535)("") }}, ClassRetry, "smtp_535", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := tt.server.start(t)
			more := map[string]string{"no STARTTLS": ", tls: starttls", "no AUTH": ", ca_file: " + s.tls.file + credentials, "AUTH refused": ", ca_file: " + s.tls.file + credentials}
			mailer := s.mailer(t, more[name])
			err := send(t, mailer)
			e := wantError(t, err, tt.class, tt.code)
			if e.Sick != tt.sick || (mailer.Trouble() != "") != tt.sick {
				t.Errorf("%v: sick %t, trouble %q", e, e.Sick, mailer.Trouble())
			}
			if len(s.got()) != 0 {
				t.Error("the mail was sent")
			}
			if strings.HasPrefix(name, "no ") && s.heard("MAIL") {
				t.Error("went on without what is wanted")
			}
		})
	}
}

// Whatever the server stands still or hangs up at, an attempt ends in time, and is worth another one.
func TestServerThatStandsStill(t *testing.T) {
	t.Parallel()
	for _, at := range []string{"connect", "EHLO", "MAIL", "RCPT", "DATA", "."} {
		for _, hang := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s %t", at, hang), func(t *testing.T) {
				t.Parallel()
				s := (&mailServer{at: at, hang: hang}).start(t)
				mailer := s.mailer(t, "")
				timeout, code := 30*time.Second, "connection"
				if hang {
					timeout, code = 300*time.Millisecond, "timeout"
				}
				checkStill(t, mailer, timeout, code)
			})
		}
	}
	t.Run("STARTTLS", func(t *testing.T) {
		t.Parallel()
		s := (&mailServer{at: "STARTTLS", hang: true, tls: newCertificate(t, t.TempDir())}).start(t)
		checkStill(t, s.mailer(t, ", tls: starttls"), 300*time.Millisecond, "timeout")
	})
	t.Run("handshake", func(t *testing.T) {
		t.Parallel()
		s := (&mailServer{at: "connect", hang: true}).start(t)
		checkStill(t, s.mailer(t, ", tls: tls"), 300*time.Millisecond, "timeout")
	})
	t.Run("AUTH", func(t *testing.T) {
		t.Parallel()
		s := &mailServer{tls: newCertificate(t, t.TempDir())}
		s.auth = func(string, string) error {
			<-s.stopped
			return errors.New("too late")
		}
		s.start(t)
		checkStill(t, s.mailer(t, ", ca_file: "+s.tls.file+credentials), 300*time.Millisecond, "timeout")
	})
	t.Run("nobody", func(t *testing.T) {
		t.Parallel()
		s := &mailServer{addr: freeAddress(t)}
		checkStill(t, s.mailer(t, ""), 30*time.Second, "connect")
	})
}

func checkStill(t *testing.T, mailer *Mailer, timeout time.Duration, code string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	begin := time.Now()
	_, err := email(t, mailer, confirmation).Do(ctx, callFor(t, order))
	if e := wantError(t, err, ClassRetry, code); !e.Sick {
		t.Errorf("%v is not the server's fault", e)
	}
	if mailer.Trouble() == "" {
		t.Error("no trouble")
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("took %s", took)
	}
}

// What goes wrong after the server has taken the mail is no failure: it would go out twice.
func TestTakenIsTaken(t *testing.T) {
	t.Parallel()
	for _, hang := range []bool{true, false} {
		s := (&mailServer{at: "QUIT", hang: hang}).start(t)
		begin := time.Now()
		if err := send(t, s.mailer(t, "")); err != nil || len(s.got()) != 1 {
			t.Errorf("hang %t: %v, %d mails", hang, err, len(s.got()))
		}
		if took := time.Since(begin); took > 10*time.Second {
			t.Errorf("hang %t: took %s", hang, took)
		}
	}
}

// Cut off by a stop, an attempt says nothing about the server.
func TestMailThatIsCutOff(t *testing.T) {
	t.Parallel()
	arrived := make(chan struct{})
	s := &mailServer{}
	s.rcpt = func(string) error {
		close(arrived)
		<-s.stopped
		return nil
	}
	s.start(t)
	mailer := s.mailer(t, "")
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-arrived
		cancel()
	}()
	_, err := email(t, mailer, confirmation).Do(ctx, callFor(t, order))
	if e := wantError(t, err, ClassRetry, "canceled"); e.Sick || mailer.Trouble() != "" {
		t.Errorf("%v, trouble %q", e, mailer.Trouble())
	}
}

// A mail goes to all of its recipients or to none, so that a later attempt sends it to nobody twice.
func TestOneRecipientIsRefused(t *testing.T) {
	t.Parallel()
	const three = `{type: email, to: "a@example.org, b@example.org", cc: "c@example.org, A <a@example.org>", subject: s, html_template: x}`
	for bad, want := range map[string]struct {
		class Class
		code  string
	}{
		"a 450":       {ClassRetry, "smtp_450"},
		"b 550":       {ClassFinal, "smtp_550"},
		"a 450 c 550": {ClassFinal, "smtp_550"},
		"":            {},
	} {
		s := &mailServer{}
		s.rcpt = func(to string) error {
			words := strings.Fields(bad)
			if i := slices.Index(words, to[:1]); i >= 0 {
				return reply(map[string]int{"450": 450, "550": 550}[words[i+1]])("")
			}
			return nil
		}
		s.start(t)
		_, err := email(t, s.mailer(t, ""), three).Do(t.Context(), callFor(t, order))
		if bad == "" {
			want := []string{"a@example.org", "b@example.org", "c@example.org"}
			if got := s.got(); err != nil || len(got) != 1 || !slices.Equal(got[0].to, want) {
				t.Errorf("%v, %+v: want each recipient once", err, got)
			}
			continue
		}
		if e := wantError(t, err, want.class, want.code); !strings.Contains(e.Error(), "RCPT TO:<") {
			t.Errorf("%s: %v does not say who", bad, e)
		}
		if len(s.got()) != 0 || s.heard("DATA") {
			t.Errorf("%s: the others got it", bad)
		}
	}
}

// Every attempt has the same Message-ID.
func TestMessageIDIsTheDeliverys(t *testing.T) {
	t.Parallel()
	fail := true
	s := &mailServer{}
	var first string
	s.data = func(raw string) error {
		if fail {
			fail, first = false, raw
			return reply(451)("")
		}
		return nil
	}
	s.start(t)
	a := email(t, s.mailer(t, ""), confirmation)
	call := callFor(t, order)
	if _, err := a.Do(t.Context(), call); err == nil {
		t.Fatal("no failure")
	}
	call.Attempt = 2
	if _, err := a.Do(t.Context(), call); err != nil {
		t.Fatal(err)
	}
	want := "<" + call.DeliveryID.String() + "@mail.example.org>"
	for _, raw := range []string{first, s.got()[0].raw} {
		m, err := mail.ReadMessage(strings.NewReader(raw))
		if err != nil || m.Header.Get("Message-Id") != want {
			t.Errorf("%v, %s: want %s", err, raw, want)
		}
	}
}

// A server that never stops talking is not listened to for ever.
func TestTalkativeServer(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		for {
			if _, err := conn.Write([]byte("220-" + strings.Repeat("x", 1000) + "\r\n")); err != nil {
				return
			}
		}
	}()
	s := &mailServer{addr: listener.Addr().String()}
	if e := wantError(t, send(t, s.mailer(t, "")), ClassRetry, "connection"); !strings.Contains(e.Error(), "1 MiB") {
		t.Errorf("got %v", e)
	}
	<-done
}

// A reload that leaves the section as it is keeps what is known of the server.
func TestMailerIsKept(t *testing.T) {
	t.Parallel()
	m := mailerOf(t, "{host: mail.test, from: a@b.test"+credentials+"}")
	m.trouble.Store("away")
	same := mailerOf(t, "{host: mail.test, port: 587, from: a@b.test"+credentials+"}")
	other := mailerOf(t, "{host: mail.test, from: a@b.test, username_env: SMTP_USER, password_env: WRONG}")
	if m.With(&same.cfg) != m || m.With(&other.cfg).Trouble() != "" || m.With(nil) != nil || (*Mailer)(nil).With(&m.cfg) == nil {
		t.Error("kept or forgotten at the wrong time")
	}
	for section, port := range map[string]int{"": 587, ", tls: tls": 465, ", tls: none": 25, ", tls: tls, port: 2525": 2525} {
		if got := mailerOf(t, "{host: mail.test, from: a@b.test"+section+"}").cfg.Port; got != port {
			t.Errorf("%s: port %d, want %d", section, got, port)
		}
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		if text := fmt.Sprintf(verb, m.cfg); strings.Contains(text, "hunter2") {
			t.Errorf("%s leaked: %s", verb, text)
		}
	}
	if (*Mailer)(nil).Trouble() != "" {
		t.Error("nobody is in trouble")
	}
	_, err := mustDecode(t, confirmation).Bind(Deps{Logger: slog.New(slog.DiscardHandler)}).Do(t.Context(), callFor(t, order))
	_ = wantError(t, err, ClassRetry, "smtp")
}

// The password does not leave in what a server says about it.
func TestPasswordStaysOutOfErrors(t *testing.T) {
	t.Parallel()
	s := &mailServer{tls: newCertificate(t, t.TempDir())}
	s.auth = func(user, password string) error {
		return &smtp.SMTPError{Code: 535, Message: "user " + user + " has another password than " + password}
	}
	s.start(t)
	call := callFor(t, order)
	call.DeliveryID = uuid.New()
	mailer := s.mailer(t, ", ca_file: "+s.tls.file+credentials)
	out, err := email(t, mailer, confirmation).Do(t.Context(), call)
	if e := wantError(t, err, ClassRetry, "smtp_535"); strings.Contains(fmt.Sprint(e, out, mailer.Trouble()), "hunter2") {
		t.Errorf("leaked: %v, %+v, %s", e, out, mailer.Trouble())
	}
}

// A relay on this machine may have a password without encryption.
func TestPasswordOnThisMachine(t *testing.T) {
	t.Parallel()
	var user atomic.Value
	s := &mailServer{auth: func(name, _ string) error {
		user.Store(name)
		return nil
	}}
	s.start(t)
	call := callFor(t, order)
	_, err := email(t, s.mailer(t, ", tls: none"+credentials), confirmation).Do(t.Context(), call)
	if err != nil || user.Load() != "weir" || len(s.got()) != 1 {
		t.Errorf("%v, authenticated %v, %d mails", err, user.Load(), len(s.got()))
	}
}
