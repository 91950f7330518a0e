package action

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/fraiseql/weir/internal/outbound"
)

const proxyPassword = "hunter2-proxy"

// proxy is one of HTTP or SOCKS5 that wants a user and a password, and remembers what it was asked for.
type proxy struct {
	t   *testing.T
	url string // with user and password

	tunnels sync.WaitGroup // more than 0 until the proxy is closed
	mu      sync.Mutex     // guards the rest
	asked   []string
	dialed  []string // our ends of the connections to targets
}

// newProxy starts a proxy of a scheme: http, https or socks5.
func newProxy(t *testing.T, scheme string) *proxy {
	t.Helper()
	p := &proxy{t: t}
	p.tunnels.Add(1)
	t.Cleanup(func() {
		p.tunnels.Done()
		p.tunnels.Wait()
	})
	var address string
	if scheme == "socks5" {
		address = p.listenSOCKS()
	} else {
		address = serve(t, scheme == "https", http.HandlerFunc(p.serveHTTP)).Listener.Addr().String()
	}
	p.url = (&url.URL{Scheme: scheme, User: url.UserPassword("ops", proxyPassword), Host: address}).String()
	return p
}

// client goes through the proxy, with a password.
func (p *proxy) client(password string) *outbound.Client {
	p.t.Helper()
	through, err := outbound.ParseProxy(strings.Replace(p.url, proxyPassword, password, 1))
	if err != nil {
		p.t.Fatal(err)
	}
	target, err := outbound.ParseTarget("127.0.0.0/8")
	if err != nil {
		p.t.Fatal(err)
	}
	c := outbound.New(outbound.Config{Allow: []outbound.Target{target}, Proxy: through})
	p.t.Cleanup(c.CloseIdleConnections)
	return c
}

func (p *proxy) dial(ctx context.Context, network, target string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, network, target)
	if err == nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.dialed = append(p.dialed, conn.LocalAddr().String())
	}
	return conn, err
}

// has says that a connection to a target is one of the proxy's.
func (p *proxy) has(remote string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Contains(p.dialed, remote)
}

func (p *proxy) note(what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = append(p.asked, what)
}

// requests are what the proxy was asked for, each once.
func (p *proxy) requests() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	asked := slices.Clone(p.asked)
	slices.Sort(asked)
	return slices.Compact(asked)
}

func (p *proxy) serveHTTP(w http.ResponseWriter, r *http.Request) {
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte("ops:"+proxyPassword))
	if r.Header.Get("Proxy-Authorization") != want {
		w.WriteHeader(http.StatusProxyAuthRequired)
		return
	}
	if r.Method == http.MethodConnect {
		p.tunnels.Add(1) // the server does not wait for a connection that was taken from it
		defer p.tunnels.Done()
		p.note("CONNECT " + r.Host)
		target, err := p.dial(r.Context(), "tcp", r.Host)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		w.WriteHeader(http.StatusOK)
		conn, read, err := http.NewResponseController(w).Hijack()
		if err != nil {
			p.t.Error(err)
			return
		}
		tunnel(taken{conn, read}, target)
		return
	}
	p.note(r.Method + " " + r.URL.Scheme + "://" + r.URL.Host)
	p.forward(w, r)
}

func (p *proxy) forward(w http.ResponseWriter, r *http.Request) {
	transport := &http.Transport{DialContext: p.dial, DisableKeepAlives: true}
	req := r.Clone(r.Context())
	req.RequestURI = ""
	req.Header.Del("Proxy-Authorization")
	res, err := transport.RoundTrip(req)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	defer res.Body.Close()
	w.WriteHeader(res.StatusCode)
	io.Copy(w, res.Body)
}

// taken is a connection that was taken from a server, which may have read the first bytes of the tunnel already.
type taken struct {
	net.Conn

	read io.Reader
}

func (t taken) Read(p []byte) (int, error) { return t.read.Read(p) }

// tunnel copies until one side ends.
func tunnel(a, b net.Conn) {
	var both sync.WaitGroup
	for _, pair := range [][2]net.Conn{{a, b}, {b, a}} {
		both.Go(func() {
			io.Copy(pair[0], pair[1])
			a.Close()
			b.Close()
		})
	}
	both.Wait()
}

func (p *proxy) listenSOCKS() string {
	p.t.Helper()
	lis, err := (&net.ListenConfig{}).Listen(p.t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		p.t.Fatal(err)
	}
	p.tunnels.Go(func() {
		for {
			conn, err := lis.Accept()
			if err != nil {
				return
			}
			p.tunnels.Go(func() {
				defer conn.Close()
				if err := p.serveSOCKS(conn); err != nil {
					p.t.Logf("SOCKS: %v", err)
				}
			})
		}
	})
	p.t.Cleanup(func() { lis.Close() })
	return lis.Addr().String()
}

// serveSOCKS speaks RFC 1928 with the authentication of RFC 1929.
func (p *proxy) serveSOCKS(conn net.Conn) error {
	field := func(n int) []byte {
		raw := make([]byte, n)
		if _, err := io.ReadFull(conn, raw); err != nil {
			return make([]byte, n)
		}
		return raw
	}
	if methods := field(int(field(2)[1])); !bytes.Contains(methods, []byte{2}) {
		return errors.New("no password is offered")
	}
	conn.Write([]byte{5, 2})
	user := field(int(field(2)[1]))
	password := field(int(field(1)[0]))
	if string(user) != "ops" || string(password) != proxyPassword {
		conn.Write([]byte{1, 1})
		return errors.New("wrong password")
	}
	conn.Write([]byte{1, 0})
	var host string
	switch kind := field(4)[3]; kind {
	case 1:
		host = net.IP(field(4)).String()
	case 3:
		host = string(field(int(field(1)[0])))
	default:
		return fmt.Errorf("address of kind %d", kind)
	}
	port := field(2)
	address := net.JoinHostPort(host, strconv.Itoa(int(port[0])<<8|int(port[1])))
	p.note("SOCKS " + address)
	target, err := p.dial(p.t.Context(), "tcp", address)
	if err != nil {
		return err
	}
	conn.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
	tunnel(conn, target)
	return nil
}

// provider stands in for every receiver, and complains of a connection that is not the proxy's.
func (p *proxy) provider(secure bool) (base string, env map[string]string) {
	p.t.Helper()
	fb := firebaseOf(p.t)
	mux := http.NewServeMux()
	mux.Handle("/token", fb.handler())
	mux.Handle("/v1/", fb.handler())
	mux.HandleFunc("/", func(http.ResponseWriter, *http.Request) {})
	fb.Server = serve(p.t, secure, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !p.has(r.RemoteAddr) {
			p.t.Errorf("%s %s came without the proxy", r.Method, r.URL.Path)
		}
		if r.Header.Get("Proxy-Authorization") != "" {
			p.t.Error("the target sees the proxy's credentials")
		}
		mux.ServeHTTP(w, r)
	}))
	return fb.URL, map[string]string{"SECRET": "s", "HOOK": fb.URL + "/services/hunter2", "FCM": fb.serviceAccount()}
}

// proxied are actions of every type that speaks HTTP. BASE stands for the receiver.
func proxied() map[string]string {
	return map[string]string{
		"webhook": "{type: webhook, url: BASE/hook}",
		"slack":   "{type: slack, webhook_url_env: HOOK}",
		"sms":     "{type: sms, to: a, from: b, account_env: SECRET, token_env: SECRET, base_url: BASE}",
		"push":    "{type: push, topic: a, title_template: b, credentials_env: FCM, base_url: BASE}",
	}
}

// TestOutboundProxy: every request of every type goes through the proxy, that for push's access token included, and the
// proxy gets its password.
func TestOutboundProxy(t *testing.T) {
	t.Parallel()
	for _, scheme := range []string{"http", "https", "socks5"} {
		for _, secure := range []bool{false, true} {
			for kind, text := range proxied() {
				t.Run(fmt.Sprintf("%s, %s, TLS %t", kind, scheme, secure), func(t *testing.T) {
					t.Parallel()
					p := newProxy(t, scheme)
					base, env := p.provider(secure)
					c, err := decodeIn(withEnv(env), strings.ReplaceAll(text, "BASE", base))
					if err != nil {
						t.Fatal(err)
					}
					if _, err := c.Bind(Deps{HTTP: p.client(proxyPassword)}).Do(t.Context(), callFor(t, order)); err != nil {
						t.Fatal(err)
					}
					_, host, _ := strings.Cut(base, "://")
					want := map[string]string{"socks5": "SOCKS " + host}[scheme]
					switch {
					case want == "" && secure:
						want = "CONNECT " + host
					case want == "":
						want = "POST " + base
					}
					if got := p.requests(); !slices.Equal(got, []string{want}) {
						t.Errorf("the proxy was asked for %q, want %q", got, want)
					}
				})
			}
		}
	}
}

// TestOutboundProxyRefuses: the password does not show where it is wrong, nor where the proxy is gone.
func TestOutboundProxyRefuses(t *testing.T) {
	t.Parallel()
	for _, scheme := range []string{"http", "https", "socks5"} {
		for _, secure := range []bool{false, true} {
			for kind, text := range proxied() {
				t.Run(fmt.Sprintf("%s, %s, TLS %t", kind, scheme, secure), func(t *testing.T) {
					t.Parallel()
					p := newProxy(t, scheme)
					base, env := p.provider(secure)
					c, err := decodeIn(withEnv(env), strings.ReplaceAll(text, "BASE", base))
					if err != nil {
						t.Fatal(err)
					}
					out, err := c.Bind(Deps{HTTP: p.client("hunter2-wrong")}).Do(t.Context(), callFor(t, order))
					var e *Error
					if !errors.As(err, &e) || e.Class != ClassRetry {
						t.Fatalf("got %v, want one to retry", err)
					}
					if said := fmt.Sprint(out, err); strings.Contains(said, "hunter2") || strings.Contains(said, "ops:") {
						t.Errorf("leaked: %s", said)
					}
				})
			}
		}
	}
}
