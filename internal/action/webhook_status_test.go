package action

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestWebhookStatusClasses(t *testing.T) {
	t.Parallel()
	const overridden = ", final_statuses: [404, 429]"
	tests := []struct {
		status     int
		keys       string
		retryAfter string
		class      Class
		ok         bool
	}{
		{status: 200, ok: true},
		{status: 201, ok: true},
		{status: 202, ok: true},
		{status: 204, ok: true},
		{status: 299, ok: true},
		{status: 300, class: ClassFinal},
		{status: 301, class: ClassFinal},
		{status: 302, class: ClassFinal},
		{status: 304, class: ClassFinal},
		{status: 307, class: ClassFinal},
		{status: 308, class: ClassFinal},
		{status: 400, class: ClassFinal},
		{status: 405, class: ClassFinal},
		{status: 406, class: ClassFinal},
		{status: 410, class: ClassFinal},
		{status: 411, class: ClassFinal},
		{status: 413, class: ClassFinal},
		{status: 414, class: ClassFinal},
		{status: 415, class: ClassFinal},
		{status: 422, class: ClassFinal},
		{status: 431, class: ClassFinal},
		{status: 501, class: ClassFinal},
		{status: 401, class: ClassRetry},
		{status: 403, class: ClassRetry},
		{status: 404, class: ClassRetry},
		{status: 408, class: ClassRetry},
		{status: 409, class: ClassRetry},
		{status: 412, class: ClassRetry},
		{status: 423, class: ClassRetry},
		{status: 425, class: ClassRetry},
		{status: 499, class: ClassRetry},
		{status: 500, class: ClassRetry},
		{status: 502, class: ClassRetry},
		{status: 503, class: ClassRetry},
		{status: 504, class: ClassRetry},
		{status: 599, class: ClassRetry},
		{status: 500, retryAfter: "7", class: ClassRetry},
		{status: 503, retryAfter: "soon", class: ClassRetry},
		{status: 503, retryAfter: "7", class: ClassLater},
		{status: 429, class: ClassLater},
		{status: 429, retryAfter: "7", class: ClassLater},
		{status: 404, keys: overridden, class: ClassFinal},
		{status: 429, keys: overridden, retryAfter: "7", class: ClassFinal},
		{status: 400, keys: overridden, class: ClassRetry},
		{status: 302, keys: overridden, class: ClassRetry},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%d%s %s", tt.status, tt.keys, tt.retryAfter), func(t *testing.T) {
			t.Parallel()
			url, _ := receiver(t, func(w http.ResponseWriter, _ *http.Request) {
				if tt.retryAfter != "" {
					w.Header().Set("Retry-After", tt.retryAfter)
				}
				w.WriteHeader(tt.status)
			})
			out, err := bind(t, "{type: webhook, url: \""+url+"\""+tt.keys+"}").Do(t.Context(), callFor(t, order))
			if out.ResponseStatus != tt.status {
				t.Errorf("outcome %+v", out)
			}
			if tt.ok {
				if err != nil {
					t.Errorf("got %v", err)
				}
				return
			}
			code := "status_" + strconv.Itoa(tt.status)
			if tt.status == http.StatusGone {
				code = CodeGone
			}
			e := wantError(t, err, tt.class, code)
			if !strings.Contains(e.Error(), strconv.Itoa(tt.status)) {
				t.Errorf("%q does not name the status", e)
			}
		})
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	tests := map[string]time.Duration{
		"7":                               7 * time.Second,
		" 120 ":                           2 * time.Minute,
		"0":                               time.Second,
		"3600":                            time.Hour,
		"3601":                            time.Hour,
		"99999999999999999999999999":      time.Hour,
		"Fri, 02 Jan 2026 03:05:05 GMT":   time.Minute,
		"Friday, 02-Jan-26 03:05:05 GMT":  time.Minute,
		"Fri Jan  2 03:05:05 2026":        time.Minute,
		"Fri, 02 Jan 2026 03:00:00 GMT":   time.Second,
		"Sat, 03 Jan 2026 03:04:05 GMT":   time.Hour,
		"Fri, 02 Jan 2026 04:05:05 +0000": 0,
		"":                                0, "soon": 0, "-5": 0, "1.5": 0, "7s": 0,
	}
	for value, want := range tests {
		got, ok := retryAfter(value, now)
		if got != want || ok != (want > 0) {
			t.Errorf("%q: got %s %v, want %s", value, got, ok, want)
		}
	}
}

func TestWebhookWaitsAsAsked(t *testing.T) {
	t.Parallel()
	date := time.Now().Add(30 * time.Minute).UTC().Format(http.TimeFormat)
	tests := []struct {
		status   int
		value    string
		min, max time.Duration
	}{
		{429, "7", 7 * time.Second, 7 * time.Second},
		{503, "7", 7 * time.Second, 7 * time.Second},
		{429, "", time.Minute, time.Minute},
		{429, "soon", time.Minute, time.Minute},
		{429, "86400", time.Hour, time.Hour},
		{503, date, 20 * time.Minute, 30 * time.Minute},
		{429, date, 20 * time.Minute, 30 * time.Minute},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprint(tt.status, tt.value), func(t *testing.T) {
			t.Parallel()
			url, _ := receiver(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Retry-After", tt.value)
				w.WriteHeader(tt.status)
			})
			_, err := bind(t, "{type: webhook, url: \""+url+"\"}").Do(t.Context(), callFor(t, order))
			e := wantError(t, err, ClassLater, "status_"+strconv.Itoa(tt.status))
			if e.After < tt.min || e.After > tt.max {
				t.Errorf("got %s", e.After)
			}
		})
	}
}

func TestWebhookFollowsNoRedirect(t *testing.T) {
	t.Parallel()
	inner, innerGot := receiver(t, nil)
	for _, location := range []string{
		inner + "/admin?token=hunter2", "http://169.254.169.254/latest/meta-data/hunter2", "//user:hunter2@127.0.0.1/x", "/moved/hunter2",
	} {
		url, got := receiver(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", location)
			w.WriteHeader(http.StatusPermanentRedirect)
		})
		_, err := bind(t, "{type: webhook, url: \""+url+"\"}").Do(t.Context(), callFor(t, order))
		e := wantError(t, err, ClassFinal, "status_308")
		if text := e.Error(); !strings.Contains(text, "a redirect to 1") || strings.Contains(text, "hunter2") {
			t.Errorf("got %s", text)
		}
		if len(got) != 1 || len(innerGot) != 0 {
			t.Errorf("%d requests, %d of them redirected", len(got), len(innerGot))
		}
	}
}

func TestWebhookRefusesPrivateTargets(t *testing.T) {
	t.Parallel()
	url, got := receiver(t, nil)
	_, port, err := net.SplitHostPort(strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "localhost", "169.254.169.254", "0.0.0.0"} {
		c := mustDecode(t, "{type: webhook, url: \"http://"+host+":"+port+"/hunter2\"}")
		_, err := c.Bind(Deps{HTTP: client(t, "meta.internal", "10.0.0.0/8")}).Do(t.Context(), callFor(t, order))
		if e := wantError(t, err, ClassFinal, "blocked_address"); !strings.Contains(e.Error(), "outbound.allow") || strings.Contains(e.Error(), "hunter2") {
			t.Errorf("%s: got %s", host, e)
		}
	}
	if len(got) != 0 {
		t.Error("the receiver was reached")
	}
	c := mustDecode(t, "{type: webhook, url: \"http://localhost:"+port+"\"}")
	if _, err := c.Bind(Deps{HTTP: client(t, "localhost")}).Do(t.Context(), callFor(t, order)); err != nil {
		t.Errorf("allowed by name: %v", err)
	}
}

func TestWebhookRetriesWhatMayPass(t *testing.T) {
	t.Parallel()
	const dead = "http://127.0.0.1:1" // nobody listens there; the port of a server that was closed may be another test's by now
	tlsServer := httptest.NewUnstartedServer(http.NotFoundHandler())
	tlsServer.Config.ErrorLog = discard()
	tlsServer.StartTLS()
	t.Cleanup(tlsServer.Close)
	cut, _ := receiver(t, func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		conn.Close()
	})
	for url, code := range map[string]string{
		dead: "connect", tlsServer.URL: "tls", "http://does-not-exist.invalid": "dns", cut: "connection",
	} {
		_, err := bind(t, "{type: webhook, url: \""+url+"/hunter2\"}").Do(t.Context(), callFor(t, order))
		if e := wantError(t, err, ClassRetry, code); strings.Contains(e.Error(), "hunter2") {
			t.Errorf("leaked: %s", e)
		}
	}
}

func TestWebhookTimesOut(t *testing.T) {
	t.Parallel()
	url, _ := receiver(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	timesOut(t, bind(t, "{type: webhook, url: \""+url+"\"}"))
}

// timesOut makes a call of an action whose receiver never answers.
func timesOut(t *testing.T, a Action) {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, errors.New("longer than its timeout of 50ms"))
	defer cancel()
	_, err := a.Do(ctx, callFor(t, order))
	if e := wantError(t, err, ClassRetry, "timeout"); !strings.Contains(e.Error(), "timeout of 50ms") || !e.Sick {
		t.Errorf("got %s", e)
	}
}

// TestWebhookIsSentOnceAnAttempt drops a request that was read: the client must not repeat it on its own, since the
// receiver may have acted on it. That is for the next attempt, which River counts.
func TestWebhookIsSentOnceAnAttempt(t *testing.T) {
	t.Parallel()
	var requests atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		io.Copy(io.Discard, req.Body)
		if requests.Add(1) == 2 { // on the connection that the first one left open
			panic(http.ErrAbortHandler)
		}
	}))
	t.Cleanup(server.Close)
	action := bind(t, "{type: webhook, url: \""+server.URL+"\"}")
	call := callFor(t, order)
	if _, err := action.Do(t.Context(), call); err != nil {
		t.Fatal(err)
	}
	_, err := action.Do(t.Context(), call)
	if e := wantError(t, err, ClassRetry, "connection"); requests.Load() != 2 {
		t.Errorf("%d requests for two attempts (%v)", requests.Load(), e)
	}
}

func TestWebhookCanceled(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	url, _ := receiver(t, func(_ http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	})
	_, err := bind(t, "{type: webhook, url: \""+url+"\"}").Do(ctx, callFor(t, order))
	_ = wantError(t, err, ClassRetry, "canceled")
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
