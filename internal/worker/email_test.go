package worker_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/mail"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/emersion/go-smtp"

	"github.com/fraiseql/weir/internal/config"
	"github.com/fraiseql/weir/internal/worker"
)

// postbox is a mail server that keeps what it gets.
type postbox struct {
	host, port string
	mu         sync.Mutex // guards mails
	mails      []string
}

func newPostbox(t *testing.T) *postbox {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &postbox{}
	p.host, p.port, _ = net.SplitHostPort(listener.Addr().String())
	server := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return &posting{box: p}, nil }))
	server.Domain, server.ErrorLog = "mail.test", log.New(io.Discard, "", 0)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener)
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
	return p
}

func (p *postbox) section() string {
	return fmt.Sprintf("smtp: {host: %q, port: %s, from: weir@mail.example.org, tls: none}\n", p.host, p.port)
}

func (p *postbox) seen() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.mails...)
}

type posting struct {
	box *postbox
	to  []string
}

func (s *posting) Reset()                               { s.to = nil }
func (s *posting) Logout() error                        { return nil }
func (s *posting) Mail(string, *smtp.MailOptions) error { return nil }
func (s *posting) Rcpt(to string, _ *smtp.RcptOptions) error {
	if strings.HasPrefix(to, "nobody@") {
		return &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "no such mailbox"}
	}
	s.to = append(s.to, to)
	return nil
}

func (s *posting) Data(r io.Reader) error {
	raw, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	s.box.mu.Lock()
	defer s.box.mu.Unlock()
	s.box.mails = append(s.box.mails, strings.Join(s.to, " ")+"\n"+string(raw))
	return nil
}

const confirmation = `
observers:
  confirmation:
    entity: Order
    retry: {max_attempts: 50, initial_delay: 100ms, backoff: fixed}
    actions:
      - type: email
        to: "{{ name }} <{{ email }}>"
        subject: "Order {{ n }}"
        body_template: "Thank you, {{ name }}."
`

// A row becomes a mail, once; a recipient that does not exist is a dead letter at once.
func TestARowBecomesAMail(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	box := newPostbox(t)
	r.started(box.section() + confirmation)
	r.order(`{"n": 7, "name": "Doe, Jane", "email": "jane@example.org"}`)
	r.order(`{"n": 8, "name": "Joe", "email": "nobody@example.org"}`)
	r.await("both", func() bool { return r.jobs("state = 'completed'") == "1" && r.jobs(deadLetter) == "1" })
	got := box.seen()
	if len(got) != 1 {
		t.Fatalf("%d mails: %q", len(got), got)
	}
	to, raw, _ := strings.Cut(got[0], "\n")
	m, err := mail.ReadMessage(strings.NewReader(raw))
	if err != nil || to != "jane@example.org" || m.Header.Get("To") != `"Doe, Jane" <jane@example.org>` || m.Header.Get("Subject") != "Order 7" {
		t.Errorf("%v, to %s:\n%s", err, to, raw)
	}
	if queue := r.one("SELECT string_agg(DISTINCT kind || ' ' || queue, ' ') FROM job"); queue != "weir_email smtp" {
		t.Errorf("kind and queue %s", queue)
	}
	if code := r.one("SELECT metadata->>'weir_dead_letter' FROM job WHERE state <> 'completed'"); code != "smtp_550" {
		t.Errorf("the dead letter's code is %s", code)
	}
}

// A mail server that is away holds back mail and nothing else, and /readyz says so; one of a reloaded configuration takes over
// without a restart.
func TestMailServerAway(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	box := newPostbox(t)
	away, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(away.Addr().String())
	away.Close()
	old := postbox{host: box.host, port: port}
	path := r.write(old.section() + confirmation)
	load := func(ctx context.Context) (*config.Config, error) {
		return config.Load(ctx, config.Options{Path: path, Lookup: os.LookupEnv})
	}
	cfg, err := load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	run := r.work(cfg, worker.Options{Load: load})
	r.await("ready", func() bool { return run.get(t, "/readyz").code == http.StatusOK })
	if got := run.get(t, "/readyz"); !strings.Contains(got.body, `"degraded":[]`) {
		t.Errorf("before any mail: %s", got.body)
	}
	r.order(`{"n": 7, "name": "Jane", "email": "jane@example.org"}`)
	r.await("the trouble", func() bool {
		got := run.get(t, "/readyz")
		return got.code == http.StatusOK && strings.Contains(got.body, `"degraded":["smtp: 127.0.0.1:`+port+`: connect: `)
	})
	rewrite(t, path, strings.Replace(read(t, path), "port: "+port, "port: "+box.port, 1))
	r.await("the mail", func() bool { return len(box.seen()) == 1 && r.jobs("state = 'completed'") == "1" })
	if got := run.get(t, "/readyz"); !strings.Contains(got.body, `"degraded":[]`) {
		t.Errorf("after the mail: %s", got.body)
	}
}
