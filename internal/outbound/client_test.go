package outbound

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func allow(t *testing.T, targets ...string) Config {
	t.Helper()
	var cfg Config
	for _, s := range targets {
		target, err := ParseTarget(s)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Allow = append(cfg.Allow, target)
	}
	return cfg
}

func testClient(t *testing.T, cfg Config, resolver *net.Resolver) *Client {
	t.Helper()
	c := newClient(cfg, resolver)
	t.Cleanup(c.CloseIdleConnections)
	return c
}

func send(t *testing.T, c *Client, target string) (*Response, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, target, strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	return c.Do(req)
}

// server counts the connections that reach it, on the given address.
func server(t *testing.T, address string, h http.Handler) (*httptest.Server, *atomic.Int64) {
	t.Helper()
	var accepted atomic.Int64
	lis, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(h)
	srv.Listener.Close()
	srv.Listener = lis
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			accepted.Add(1)
		}
	}
	srv.Start()
	t.Cleanup(srv.Close)
	return srv, &accepted
}

// An endpoint with a high concurrency uses its connections again: opening one for each request costs a handshake.
func TestManyConnectionsAreKept(t *testing.T) {
	t.Parallel()
	const atOnce, rounds = 200, 3
	together := make(chan struct{}, atOnce)
	srv, accepted := server(t, "127.0.0.1:0", http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		together <- struct{}{} // until all are there, and for each round again
		for len(together) < atOnce {
			time.Sleep(time.Millisecond)
		}
	}))
	c := testClient(t, allow(t, "127.0.0.1"), net.DefaultResolver)
	for range rounds {
		var calls sync.WaitGroup
		for range atOnce {
			calls.Go(func() {
				if _, err := send(t, c, srv.URL); err != nil {
					t.Error(err)
				}
			})
		}
		calls.Wait()
		for range atOnce {
			<-together
		}
	}
	if n := accepted.Load(); n > atOnce*3/2 {
		t.Errorf("%d connections for %d requests at once", n, atOnce)
	}
}

func ok(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "fine") }

func port(t *testing.T, srv *httptest.Server) string {
	t.Helper()
	_, p, err := net.SplitHostPort(srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestDoRefusesPrivateTargets(t *testing.T) {
	t.Parallel()
	v4, accepted4 := server(t, "127.0.0.1:0", http.HandlerFunc(ok))
	v6, accepted6 := server(t, "[::1]:0", http.HandlerFunc(ok))
	resolver := resolve(t, map[string][]string{
		"inner.test.": {"127.0.0.1"}, "mapped.test.": {"::ffff:127.0.0.1"}, "meta.test.": {"169.254.169.254"},
		"nat64.test.": {"64:ff9b::7f00:1"}, "localhost.": {"127.0.0.1"}, "both.test.": {"127.0.0.1", "::1"},
	})
	named := []string{"meta.test"}
	tests := []struct {
		name, url string
		allow     []string
	}{
		{"loopback", "http://127.0.0.1:" + port(t, v4), nil},
		{"loopback 6", "http://[::1]:" + port(t, v6), nil},
		{"mapped", "http://[::ffff:127.0.0.1]:" + port(t, v4), nil},
		{"mapped, hexadecimal", "http://[::ffff:7f00:1]:" + port(t, v4), nil},
		{"unspecified", "http://0.0.0.0:" + port(t, v4), nil},
		{"unspecified 6", "http://[::]:" + port(t, v6), nil},
		{"nat64", "http://[64:ff9b::7f00:1]:" + port(t, v4), nil},
		{"metadata service", "http://169.254.169.254", nil},
		{"localhost", "http://localhost:" + port(t, v4), nil},
		{"localhost with a dot", "http://LOCALHOST.:" + port(t, v4), nil},
		{"name of loopback", "http://inner.test:" + port(t, v4), nil},
		{"name of a mapped address", "http://mapped.test:" + port(t, v4), nil},
		{"name of a NAT64 address", "http://nat64.test:" + port(t, v4), nil},
		{"name of several", "http://both.test:" + port(t, v4), nil},
		{"name of the metadata service, allowed", "http://meta.test", named},
		{"another network allowed", "http://127.0.0.1:" + port(t, v4), []string{"10.0.0.0/8", "::1"}},
		{"another name allowed", "http://inner.test:" + port(t, v4), []string{"outer.test"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := testClient(t, allow(t, tt.allow...), resolver)
			_, err := send(t, c, tt.url)
			var blocked *BlockedError
			if !errors.As(err, &blocked) {
				t.Fatalf("got %v, want a BlockedError", err)
			}
			if !strings.Contains(err.Error(), "outbound.allow") {
				t.Errorf("%q does not say what to do", err)
			}
		})
	}
	if n := accepted4.Load() + accepted6.Load(); n != 0 {
		t.Errorf("%d connections were made", n)
	}
}

func TestDoReachesAllowedTargets(t *testing.T) {
	t.Parallel()
	v4, _ := server(t, "127.0.0.1:0", http.HandlerFunc(ok))
	v6, _ := server(t, "[::1]:0", http.HandlerFunc(ok))
	resolver := resolve(t, map[string][]string{"inner.test.": {"127.0.0.1"}})
	tests := []struct{ name, url, allow string }{
		{"by network", "http://127.0.0.1:" + port(t, v4), "127.0.0.0/8"},
		{"by address", "http://127.0.0.1:" + port(t, v4), "127.0.0.1"},
		{"by address 6", "http://[::1]:" + port(t, v6), "::1"},
		{"mapped, by network", "http://[::ffff:127.0.0.1]:" + port(t, v4), "127.0.0.0/8"},
		{"by name", "http://inner.test:" + port(t, v4), "inner.test"},
		{"by name in capitals", "http://INNER.test.:" + port(t, v4), "inner.TEST"},
		{"a name, by network", "http://inner.test:" + port(t, v4), "127.0.0.1/32"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			res, err := send(t, testClient(t, allow(t, tt.allow), resolver), tt.url)
			if err != nil {
				t.Fatal(err)
			}
			if res.Status != 200 || string(res.Body) != "fine" || res.Truncated {
				t.Errorf("got %+v", res)
			}
		})
	}
}

// The name answers with an allowed address first and with a private one when it is asked again.
func TestDoChecksTheAddressItDials(t *testing.T) {
	t.Parallel()
	srv, _ := server(t, "127.0.0.1:0", http.HandlerFunc(ok))
	answers := map[string][]string{"rebind.test.": {"127.0.0.1"}}
	var asked atomic.Int64
	c := testClient(t, allow(t, "127.0.0.1"), resolveFunc(t, func(name string) []string {
		if asked.Add(1) > 2 { // A and AAAA of the first lookup
			return []string{"169.254.169.254"}
		}
		return answers[name]
	}))
	target := "http://rebind.test:" + port(t, srv)
	if _, err := send(t, c, target); err != nil {
		t.Fatal(err)
	}
	c.CloseIdleConnections()
	_, err := send(t, c, target)
	var blocked *BlockedError
	if !errors.As(err, &blocked) || blocked.Address != netip.MustParseAddr("169.254.169.254") {
		t.Errorf("got %v, want the second address refused", err)
	}
}

// One refused address among several does not make the target refused for good: another may answer next time.
func TestDoPrefersAnotherAddressOverARefusal(t *testing.T) {
	t.Parallel()
	srv, _ := server(t, "127.0.0.1:0", http.HandlerFunc(ok))
	resolver := resolve(t, map[string][]string{"mixed.test.": {"127.0.0.2", "127.0.0.1"}})
	target := "http://mixed.test:" + port(t, srv)
	if _, err := send(t, testClient(t, allow(t, "127.0.0.1"), resolver), target); err != nil {
		t.Error(err)
	}
	srv.Close()
	_, err := send(t, testClient(t, allow(t, "127.0.0.1"), resolver), target)
	var blocked *BlockedError
	if err == nil || errors.As(err, &blocked) {
		t.Errorf("got %v, want an error that can be retried", err)
	}
}

func TestDoFollowsNoRedirect(t *testing.T) {
	t.Parallel()
	inner, accepted := server(t, "127.0.0.1:0", http.HandlerFunc(ok))
	for _, location := range []string{inner.URL + "/admin", "/elsewhere", "http://169.254.169.254/latest", "http://%zz/"} {
		srv, _ := server(t, "127.0.0.1:0", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", location)
			w.WriteHeader(http.StatusTemporaryRedirect)
		}))
		res, err := send(t, testClient(t, allow(t, "127.0.0.1"), nil), srv.URL)
		if err != nil || res.Status != 307 || res.Header.Get("Location") != location {
			t.Errorf("got %+v, %v", res, err)
		}
	}
	if accepted.Load() != 0 {
		t.Error("a redirect was followed")
	}
}

func TestDoLimitsTheBody(t *testing.T) {
	t.Parallel()
	gone := make(chan struct{})
	srv, _ := server(t, "127.0.0.1:0", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		defer close(gone)
		chunk := bytes.Repeat([]byte("x"), 4096)
		for {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}))
	res, err := send(t, testClient(t, allow(t, "127.0.0.1"), nil), srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	if !res.Truncated || len(res.Body) != maxBody {
		t.Errorf("truncated %v, %d bytes", res.Truncated, len(res.Body))
	}
	<-gone // the connection was closed
}

// A receiver that has answered but never ends its body has still answered.
func TestDoKeepsTheStatusOfAHangingBody(t *testing.T) {
	t.Parallel()
	srv, _ := server(t, "127.0.0.1:0", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "begin")
		if err := http.NewResponseController(w).Flush(); err != nil {
			t.Error(err)
		}
		<-r.Context().Done()
	}))
	c := testClient(t, allow(t, "127.0.0.1"), nil)
	c.bodyTime = time.Millisecond
	res, err := send(t, c, srv.URL)
	if err != nil || res.Status != 200 || !res.Truncated {
		t.Errorf("got %+v, %v", res, err)
	}
}

func TestDoEndsWithItsContext(t *testing.T) {
	t.Parallel()
	srv, _ := server(t, "127.0.0.1:0", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, srv.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := testClient(t, allow(t, "127.0.0.1"), nil).Do(req); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestDoLimitsTheHeader(t *testing.T) {
	t.Parallel()
	srv, _ := server(t, "127.0.0.1:0", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Long", strings.Repeat("x", 2*maxHeader))
	}))
	if _, err := send(t, testClient(t, allow(t, "127.0.0.1"), nil), srv.URL); err == nil {
		t.Error("a header of 128 kB was read")
	}
}

func TestDoVerifiesTLS(t *testing.T) {
	t.Parallel()
	srv := httptest.NewUnstartedServer(http.HandlerFunc(ok))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0) // the handshake that fails
	srv.StartTLS()
	t.Cleanup(srv.Close)
	_, err := send(t, testClient(t, allow(t, "127.0.0.1"), nil), srv.URL)
	if err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("got %v, want a certificate error", err)
	}
}

func TestDoIgnoresTheEnvironmentsProxy(t *testing.T) {
	proxy, accepted := server(t, "127.0.0.1:0", http.HandlerFunc(ok))
	for _, name := range []string{"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"} {
		t.Setenv(name, proxy.URL)
	}
	resolver := resolve(t, map[string][]string{"inner.test.": {"127.0.0.1"}})
	if _, err := send(t, testClient(t, Config{}, resolver), "http://inner.test:1"); err == nil {
		t.Error("the request went through")
	}
	if accepted.Load() != 0 {
		t.Error("the environment's proxy was used")
	}
}

func TestDoThroughAProxyStillChecksTheTarget(t *testing.T) {
	t.Parallel()
	var seen atomic.Int64
	proxy, _ := server(t, "127.0.0.1:0", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen.Add(1)
		io.WriteString(w, "proxied "+r.Host)
	}))
	resolver := resolve(t, map[string][]string{
		"public.test.": {"8.8.8.8"}, "inner.test.": {"127.0.0.1"}, "mixed.test.": {"8.8.8.8", "10.0.0.1"},
	})
	cfg := allow(t, "10.9.0.0/16")
	var err error
	if cfg.Proxy, err = ParseProxy(proxy.URL); err != nil {
		t.Fatal(err)
	}
	c := testClient(t, cfg, resolver)
	res, err := send(t, c, "http://public.test/hook")
	if err != nil || string(res.Body) != "proxied public.test" {
		t.Fatalf("got %+v, %v", res, err)
	}
	for _, target := range []string{"http://inner.test", "http://mixed.test", "http://127.0.0.1", "http://[::ffff:10.0.0.1]"} {
		var blocked *BlockedError
		if _, err := send(t, c, target); !errors.As(err, &blocked) {
			t.Errorf("%s: got %v, want a BlockedError", target, err)
		}
	}
	if _, err := send(t, c, "http://10.9.1.1"); err != nil {
		t.Errorf("an allowed target was refused: %v", err)
	}
	if _, err := send(t, c, "http://unknown.test"); err == nil {
		t.Error("a name that does not resolve went to the proxy")
	}
	if n := seen.Load(); n != 2 {
		t.Errorf("the proxy saw %d requests, want 2", n)
	}
}

func TestErrorsLeakNoURL(t *testing.T) {
	t.Parallel()
	dead, _ := server(t, "127.0.0.1:0", http.HandlerFunc(ok))
	dead.Close()
	resolver := resolve(t, nil)
	const user, path = "jane:hunter2@", "/hunter2?token=hunter2#hunter2"
	for _, host := range []string{"127.0.0.1:" + port(t, dead), "10.0.0.1", "unknown.test", "127.0.0.1:99999"} {
		_, err := send(t, testClient(t, allow(t, "127.0.0.1"), resolver), "http://"+user+host+path)
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: got %v", host, err)
		}
	}
	u, err := url.Parse("https://" + user + "host:8443" + path)
	if got := RedactURL(u); err != nil || got != "https://host:8443" {
		t.Errorf("got %s, %v", got, err)
	}
}
