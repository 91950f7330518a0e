package action

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fraiseql/weir/internal/sandbox"
)

// mailpit is a mail server that keeps what it gets, and shows it by HTTP.
type mailpit struct {
	smtp string // host and port
	api  string // URL
	ca   string // a file with its certificate
}

// newMailpit starts one that ends with the test. It takes the user weir with the password hunter2, over TLS only.
func newMailpit(t *testing.T, args ...string) *mailpit {
	t.Helper()
	build := exec.CommandContext(t.Context(), filepath.Join("..", "..", "tools", "run"), "--path", "mailpit")
	var why bytes.Buffer
	build.Stderr = &why
	binary, err := build.Output()
	if err != nil {
		t.Fatalf("tools/run --path mailpit, which builds the mail server of the tests: %v\n%s", err, why.String())
	}
	dir := t.TempDir()
	pair := newCertificate(t, dir)
	m := &mailpit{smtp: freeAddress(t), ca: pair.file}
	listen := freeAddress(t)
	m.api = "http://" + listen + "/"
	args = append([]string{
		"--smtp", m.smtp, "--listen", listen, "--database", filepath.Join(dir, "mail.db"), "--disable-version-check",
		"--smtp-disable-rdns", "--smtp-tls-cert", pair.file, "--smtp-tls-key", pair.key,
	}, args...)
	var log sandbox.Output
	p, err := sandbox.StartProcess(t.Context(), strings.TrimSpace(string(binary)), args, []string{"MP_SMTP_AUTH=weir:hunter2"}, &log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Kill() })
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) { // it says nothing when it is ready
		conn, dialErr := net.Dial("tcp", m.smtp)
		if dialErr == nil {
			_ = conn.Close()
		}
		if resp, err := http.Get(m.api + "readyz"); err == nil && dialErr == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return m
			}
		}
		select {
		case <-p.Exited():
			t.Fatalf("mailpit ended: %v\n%s", p.Wait(), log.String())
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("mailpit is not ready:\n%s", log.String())
		}
	}
}

// freeAddress is one that nobody listens on, below the ports that the kernel gives to the connections of other tests.
func freeAddress(t *testing.T) string {
	t.Helper()
	var err error
	for range 10 {
		var l net.Listener
		if l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 20000+mathrand.IntN(12000))); err == nil {
			l.Close()
			return l.Addr().String()
		}
	}
	t.Fatal(err)
	return ""
}

// certificate is one for 127.0.0.1, signed by itself.
type certificate struct {
	file, key string
	tls       *tls.Config
}

func newCertificate(t *testing.T, dir string) certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "a test"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	c := certificate{file: filepath.Join(dir, "cert.pem"), key: filepath.Join(dir, "key.pem")}
	for file, block := range map[string]*pem.Block{c.file: {Type: "CERTIFICATE", Bytes: der}, c.key: {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pair, err := tls.LoadX509KeyPair(c.file, c.key)
	if err != nil {
		t.Fatal(err)
	}
	c.tls = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	return c
}

func (m *mailpit) section(more string) string {
	host, port, _ := net.SplitHostPort(m.smtp)
	return fmt.Sprintf("{host: %q, port: %s, from: \"Weir am Fluß <weir@mail.example.org>\"%s}", host, port, more)
}

const credentials = ", username_env: SMTP_USER, password_env: SMTP_PASSWORD"

func (m *mailpit) get(t *testing.T, path string, into any) {
	t.Helper()
	resp, err := http.Get(m.api + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s %s %v", path, resp.Status, body, err)
	}
	if err := json.Unmarshal(body, into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

type party struct{ Name, Address string }

type kept struct {
	ID, MessageID, Subject, Text, HTML string
	From                               party
	To, Cc, ReplyTo                    []party
	Headers                            map[string][]string
}

// mails are those with the Message-ID.
func (m *mailpit) mails(t *testing.T, messageID string) []kept {
	t.Helper()
	var found struct{ Messages []kept }
	m.get(t, "api/v1/search?query="+url.QueryEscape("message-id:"+messageID), &found)
	for i, one := range found.Messages {
		m.get(t, "api/v1/message/"+one.ID, &found.Messages[i])
		m.get(t, "api/v1/message/"+one.ID+"/headers", &found.Messages[i].Headers)
	}
	return found.Messages
}

// chaos makes the server refuse what clients say.
func (m *mailpit) chaos(t *testing.T, triggers string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, m.api+"api/v1/chaos", strings.NewReader(triggers))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK {
		t.Fatalf("chaos: %s %s", resp.Status, body)
	}
}

func itoa(n int) string { return fmt.Sprint(n) }
