package console

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fraiseql/weir/db/migrations"
	"github.com/fraiseql/weir/internal/config"
)

// An address that others reach is refused without authentication, also where no file was checked.
func TestPublicAddress(t *testing.T) {
	t.Parallel()
	u, err := config.ParseURL("postgres://127.0.0.1:1/x")
	check(t, err)
	for _, listen := range []config.Listen{":0", "0.0.0.0:0", "[::]:0", ""} {
		cfg := config.Default(u)
		cfg.Console.Listen = listen
		if _, err := New(t.Context(), Options{Config: cfg, Logger: slog.New(slog.DiscardHandler)}); err == nil || !strings.Contains(err.Error(), "basic_auth") {
			t.Errorf("%q: %v", listen, err)
		}
		cfg.Console.BasicAuth = &config.BasicAuth{User: "ops"}
		if _, err := New(t.Context(), Options{Config: cfg, Logger: slog.New(slog.DiscardHandler)}); err == nil || !strings.Contains(err.Error(), "password") {
			t.Errorf("%q with an empty password: %v", listen, err)
		}
	}
}

// Without a database there are no pages, but the console lives and says what is wrong.
func TestDatabaseAway(t *testing.T) {
	t.Parallel()
	r := newRigOn(t, "postgres://weir:hunter2@127.0.0.1:1/weir?connect_timeout=1", "prefix: /weir")
	for path, want := range map[string]int{
		"/healthz": http.StatusOK, "/metrics": http.StatusOK, "/": http.StatusServiceUnavailable, "/river/": http.StatusServiceUnavailable,
	} {
		status, text, h := r.do(http.MethodGet, path, "", "Accept", "text/html,*/*")
		if status != want || want == http.StatusServiceUnavailable && (!strings.Contains(text, "cannot be reached") || h.Get("Refresh") == "") {
			t.Errorf("%s: %d %v\n%s", path, status, h, text)
		}
	}
	if status, text := r.get("/river/api/jobs"); status != http.StatusServiceUnavailable || !strings.HasPrefix(text, `{"message":"the database`) {
		t.Errorf("%d %s", status, text)
	}
	if strings.Contains(r.log.String(), "hunter2") {
		t.Errorf("a password in the log:\n%s", r.log)
	}
}

// A database that is migrated later is used then; until then, pages say what to do.
func TestDatabaseMigratedLater(t *testing.T) {
	t.Parallel()
	url := postgres.EmptyDatabase(t)
	r := newRigOn(t, url, "read_only: true")
	if status, text := r.get("/river/"); status != http.StatusServiceUnavailable || !strings.Contains(text, "run weir migrate up") {
		t.Errorf("%d %s", status, text)
	}
	check(t, migrations.Up(t.Context(), url, func(string) {}))
	r.await("River UI", func() bool {
		status, _ := r.get("/river/api/jobs")
		return status == http.StatusOK
	})
}

// A running request ends before the console does, if it does so in time.
func TestGracefulStop(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		timeout string
		status  int // 0: cut off
	}{"in time": {"30s", http.StatusOK}, "cut off": {"100ms", 0}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, "prefix: /weir\nshutdown_timeout: "+tt.timeout)
			id := r.insert("discarded", 1)
			r.get("/healthz")
			tx, err := r.db.Begin(t.Context())
			check(t, err)
			defer tx.Rollback(context.WithoutCancel(t.Context()))
			_, err = tx.Exec(t.Context(), "LOCK TABLE weir.river_job IN ACCESS EXCLUSIVE MODE")
			check(t, err)
			answered := make(chan int, 1)
			go func() {
				resp, err := r.client.Post(r.url+"/river/api/jobs/retry", "application/json", strings.NewReader(fmt.Sprintf(`{"ids":["%d"]}`, id)))
				if err != nil {
					answered <- 0
					return
				}
				defer resp.Body.Close()
				answered <- resp.StatusCode
			}()
			const waiting = "SELECT count(*)::text FROM pg_locks WHERE NOT granted AND relation = 'weir.river_job'::regclass"
			r.await("the request to wait", func() bool {
				var n string
				check(t, tx.QueryRow(t.Context(), waiting).Scan(&n))
				return n != "0"
			})
			stopped := make(chan error, 1)
			go func() { stopped <- r.stop() }()
			r.await("the stop", func() bool { return strings.Contains(r.log.String(), "running requests may end") })
			if tt.status != 0 {
				check(t, tx.Rollback(t.Context()))
			}
			if status := <-answered; status != tt.status {
				t.Errorf("the request was answered with %d, want %d", status, tt.status)
			}
			_ = tx.Rollback(context.WithoutCancel(t.Context())) // done already where it was in time
			if err := <-stopped; err != nil {
				t.Errorf("stop: %v", err)
			}
		})
	}
}

// pair makes a certificate for 127.0.0.1 in the files.
func pair(t *testing.T, name, cert, key string) *x509.Certificate {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), DNSNames: []string{name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	check(t, err)
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	check(t, err)
	check(t, os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw}), 0o600))
	check(t, os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded}), 0o600))
	parsed, err := x509.ParseCertificate(raw)
	check(t, err)
	return parsed
}

// HTTPS with an own certificate, which is taken up anew when its files change.
func TestTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	first := pair(t, "first.test", cert, key)
	r := newRig(t, fmt.Sprintf("prefix: /weir, tls: {cert: %q, key: %q}", cert, key))
	roots := x509.NewCertPool()
	roots.AddCert(first)
	r.client.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true, ForceAttemptHTTP2: true}
	status, _, h := r.do(http.MethodGet, "/healthz", "")
	if status != http.StatusOK || !strings.HasPrefix(h.Get("Strict-Transport-Security"), "max-age=") {
		t.Errorf("%d %v", status, h)
	}
	if status, _, _ := r.do(http.MethodPost, "/river/api/jobs/retry", "{}", "Origin", strings.Replace(r.root(), "https", "http", 1)); status != http.StatusForbidden {
		t.Errorf("from the same host without TLS: %d", status)
	}
	addr := strings.TrimPrefix(r.root(), "https://")
	served := func() string {
		conn, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true})
		check(t, err)
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].DNSNames[0]
	}
	old := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
	if conn, err := tls.Dial("tcp", addr, old); err == nil {
		conn.Close()
		t.Error("TLS 1.1 is spoken")
	}
	check(t, os.WriteFile(key, []byte("half a renewal"), 0o600))
	if got := served(); got != "first.test" || !strings.Contains(r.log.String(), "the one before stays in force") {
		t.Errorf("with a broken key: %s\n%s", got, r.log)
	}
	pair(t, "second.test", cert, key)
	later := time.Now().Add(time.Second) // the file system's clock may be coarse
	check(t, os.Chtimes(cert, later, later))
	if got := served(); got != "second.test" {
		t.Errorf("after a renewal: %s", got)
	}
}
