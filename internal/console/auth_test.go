package console

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fraiseql/weir/internal/config"
	"github.com/fraiseql/weir/internal/setting"
)

// A trusted header is believed from the proxies, and from nobody else.
func TestTrustedHeader(t *testing.T) {
	t.Parallel()
	const path = "/river/api/jobs"
	r := newRig(t, "trusted_header: {proxies: [127.0.0.1/32]}")
	if status, _ := r.get(path, "X-Forwarded-User", "ann"); status != http.StatusOK {
		t.Errorf("from the proxy: %d", status)
	}
	r.await("the user in the log", func() bool { return strings.Contains(r.log.String(), "user=ann") })
	for _, headers := range [][]string{
		nil,
		{"X-Forwarded-User", ""},
		{"X-Forwarded-User", "ann", "X-Forwarded-User", "bob"},
		{"X-Remote-User", "ann"},
		{"X-Forwarded-User", strings.Repeat("a", userLength+1)},
		basic("ops", password),
	} {
		status, _, h := r.do(http.MethodGet, path, "", headers...)
		if status != http.StatusUnauthorized || h.Get("WWW-Authenticate") != "" { // a browser could only ask for a password that there is not
			t.Errorf("%.40v: %d %v", headers, status, h)
		}
	}
	elsewhere := newRig(t, "trusted_header: {name: X-Remote-User, proxies: [10.1.0.7]}, basic_auth: {user: ops, password_env: CONSOLE_PASSWORD}")
	if status, _ := elsewhere.get(path, "X-Remote-User", "ann", "X-Forwarded-For", "10.1.0.7"); status != http.StatusUnauthorized {
		t.Errorf("from elsewhere: %d", status)
	}
	if status, _ := elsewhere.get(path, basic("ops", password)...); status != http.StatusOK {
		t.Errorf("with the password beside it: %d", status)
	}
}

// guarded is a guard in front of something that says who came, and with which headers.
func guarded(cfg config.Console, log *bytes.Buffer, level slog.Level) *guard {
	return newGuard(cfg, slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: level})), newMetrics(prometheus.NewRegistry(), "test"),
		http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			_, _ = rw.Write([]byte(rw.(*visit).user + "|" + r.Header.Get("X-Forwarded-User") + "|" + r.Header.Get("Authorization")))
		}))
}

// ask sends a request as if it came from the address.
func ask(g *guard, from, target string, headers ...string) (status int, text string) {
	req := httptest.NewRequest(http.MethodGet, target, nil)
	req.RemoteAddr = netip.AddrPortFrom(netip.MustParseAddr(from), 4711).String()
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	rec := httptest.NewRecorder()
	g.ServeHTTP(rec, req)
	return rec.Code, rec.Body.String()
}

func both(t *testing.T) config.Console {
	t.Helper()
	proxy, err := config.ParseNetwork("10.1.0.0/16")
	check(t, err)
	return config.Console{
		BasicAuth:     &config.BasicAuth{User: "ops", Password: config.Password{Secret: setting.LiteralSecret(password)}},
		TrustedHeader: &config.TrustedHeader{Name: "X-Forwarded-User", Proxies: []config.Network{proxy}},
	}
}

// Credentials end at the guard; and a header that is not to be believed is not seen behind it.
func TestCredentialsEnd(t *testing.T) {
	t.Parallel()
	g := guarded(both(t), &bytes.Buffer{}, slog.LevelDebug)
	known := basic("ops", password)
	for _, tt := range []struct {
		from    string
		headers []string
		want    string
	}{
		{"10.1.2.3", []string{"X-Forwarded-User", "ann"}, "ann|ann|"},
		{"::ffff:10.1.2.3", []string{"X-Forwarded-User", "ann"}, "ann|ann|"},
		{"10.2.0.1", append([]string{"X-Forwarded-User", "ann"}, known...), "ops||"},
		{"10.1.2.3", known, "ops||"},
	} {
		if status, text := ask(g, tt.from, "/", tt.headers...); status != http.StatusOK || text != tt.want {
			t.Errorf("%s %v: %d %s", tt.from, tt.headers, status, text)
		}
	}
	if status, _ := ask(g, "10.2.0.1", "/", "X-Forwarded-User", "ann"); status != http.StatusUnauthorized {
		t.Errorf("from elsewhere: %d", status)
	}
}

// Who guesses passwords is stopped, with his network, and nobody else; after a while he may try again.
func TestGuesses(t *testing.T) {
	t.Parallel()
	g := guarded(both(t), &bytes.Buffer{}, slog.LevelDebug)
	guess := func(from string, times int) (status int) {
		for range times {
			status, _ = ask(g, from, "/", basic("ops", "guess")...)
		}
		return status
	}
	for _, from := range []string{"192.0.2.1", "2001:db8::1"} {
		if status := guess(from, guessLimit); status != http.StatusUnauthorized {
			t.Errorf("%s: guess %d: %d", from, guessLimit, status)
		}
		if status := guess(from, 1); status != http.StatusTooManyRequests {
			t.Errorf("%s: one more: %d", from, status)
		}
		if status, _ := ask(g, from, "/", basic("ops", password)...); status != http.StatusTooManyRequests {
			t.Errorf("%s: the right one tells the guesser something: %d", from, status)
		}
	}
	if status, _ := ask(g, "2001:db8::2", "/", basic("ops", password)...); status != http.StatusTooManyRequests {
		t.Errorf("another address of the network: %d", status)
	}
	for _, from := range []string{"192.0.2.2", "2001:db8:0:1::1"} {
		if status, _ := ask(g, from, "/", basic("ops", password)...); status != http.StatusOK {
			t.Errorf("somebody else: %s: %d", from, status)
		}
	}
	for _, from := range []string{"127.0.0.1", "10.1.0.1"} { // many may come from there
		if status := guess(from, 2*guessLimit); status != http.StatusUnauthorized {
			t.Errorf("%s: %d", from, status)
		}
	}
	past, _ := g.known.guesses.byAddr.Get(guesser(netip.MustParseAddr("192.0.2.1")))
	past.since = past.since.Add(-guessWindow)
	g.known.guesses.byAddr.Add(guesser(netip.MustParseAddr("192.0.2.1")), past)
	if status, _ := ask(g, "192.0.2.1", "/", basic("ops", password)...); status != http.StatusOK {
		t.Errorf("a minute later: %d", status)
	}
	if status := guess("192.0.2.1", guessLimit); status != http.StatusUnauthorized || time.Since(past.since) < guessWindow {
		t.Errorf("and again: %d", status)
	}
}

// Log lines name the user and never what proves who it is; what people search for is for debugging.
func TestLogs(t *testing.T) {
	t.Parallel()
	for _, level := range []slog.Level{slog.LevelInfo, slog.LevelDebug} {
		var log bytes.Buffer
		g := guarded(both(t), &log, level)
		ask(g, "192.0.2.1", "/search?q=jane@example.org", basic("ops", "guess-"+password)...)
		ask(g, "192.0.2.1", "/search?q=jane@example.org", basic("ops", password)...)
		text := log.String()
		if strings.Contains(text, password) || strings.Contains(text, basic("ops", password)[1]) || strings.Contains(text, "Basic") {
			t.Errorf("%s: a credential got out:\n%s", level, text)
		}
		if strings.Contains(text, "jane") != (level == slog.LevelDebug) || !strings.Contains(text, "status=401") {
			t.Errorf("%s:\n%s", level, text)
		}
		if level == slog.LevelDebug && !strings.Contains(text, "user=ops remote=192.0.2.1:4711 method=GET path=/search status=200") {
			t.Errorf("%s:\n%s", level, text)
		}
	}
}
