package main

import (
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

// What an image's HEALTHCHECK runs asks the worker beside it, by the address of the configuration alone: the secrets may not be
// there.
func TestHealthcheck(t *testing.T) {
	t.Parallel()
	var answer atomic.Int32
	answer.Store(http.StatusOK)
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/healthz" {
			rw.WriteHeader(int(answer.Load()))
		}
	}))
	_, port, err := net.SplitHostPort(server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	observers := `
observers: {o: {entity: Order, actions: [{type: webhook, url_env: NOT_SET}]}}
`
	at := func(listen string) string { return write(t, database+`http: {listen: "`+listen+`"}`+observers) }
	for _, listen := range []string{"127.0.0.1:" + port, ":" + port, "0.0.0.0:" + port, "[::]:" + port} {
		if code, stderr := runUntil(t, "", noEnv, "-healthcheck", "-config", at(listen)); code != 0 {
			t.Errorf("%s: exit %d: %s", listen, code, stderr)
		}
	}
	answer.Store(http.StatusServiceUnavailable)
	if code, stderr := runUntil(t, "", noEnv, "-healthcheck", "-config", at(":"+port)); code != 1 || !strings.Contains(stderr, "503") {
		t.Errorf("unwell: exit %d: %s", code, stderr)
	}
	server.Close()
	if code, stderr := runUntil(t, "", noEnv, "-healthcheck", "-config", at(":"+port)); code != 1 || !strings.Contains(stderr, "not alive") {
		t.Errorf("gone: exit %d: %s", code, stderr)
	}
	if code, stderr := runUntil(t, "", noEnv, "-healthcheck", "-config", at("")); code != 1 || !strings.Contains(stderr, "http.listen is off") {
		t.Errorf("off: exit %d: %s", code, stderr)
	}
	if code, _ := runUntil(t, "", noEnv, "-healthcheck", "-config", write(t, "observers: [")); code != 3 {
		t.Errorf("a broken file: exit %d", code)
	}
}
