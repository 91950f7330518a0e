package main

import (
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

var secret = "whsec_" + base64.StdEncoding.EncodeToString([]byte("a secret of the test"))

// post sends a body, signed as the specification's own library does it.
func post(t *testing.T, path, signedWith, body string) (status int, printed string) {
	t.Helper()
	signer, err := standardwebhooks.NewWebhook(signedWith)
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	signature, err := signer.Sign("a", now, []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	req := httptest.NewRequestWithContext(t.Context(), http.MethodPost, path, strings.NewReader(body))
	req.Header.Set(standardwebhooks.HeaderWebhookID, "a")
	req.Header.Set(standardwebhooks.HeaderWebhookTimestamp, strconv.FormatInt(now.Unix(), 10))
	req.Header.Set(standardwebhooks.HeaderWebhookSignature, signature)
	var out strings.Builder
	res := httptest.NewRecorder()
	(&receiver{signature: verifier, out: &out}).ServeHTTP(res, req)
	return res.Code, out.String()
}

func TestReceiver(t *testing.T) {
	t.Parallel()
	const event = `{"event_type": "INSERT", "entity_type": "Order", "data": {"total": 100.10}}`
	for _, tt := range []struct {
		path, secret, body string
		status             int
		printed            string
	}{
		{"/orders", secret, event, 204, "204 /orders, signature valid: INSERT Order {\"total\": 100.10}\n"},
		{"/orders", secret, "anything", 204, "204 /orders, signature valid: anything\n"},
		{"/status/503", secret, event, 503, "503 /status/503, signature valid: INSERT Order {\"total\": 100.10}\n"},
		{"/status/99", secret, "x", 204, "204 /status/99, signature valid: x\n"},
		{"/slow/1ms/orders", secret, "x", 204, "204 /slow/1ms/orders, signature valid: x\n"},
		{"/status/204", "whsec_" + base64.StdEncoding.EncodeToString([]byte("another one")), "x", 401, "401 /status/204, "},
	} {
		status, printed := post(t, tt.path, tt.secret, tt.body)
		if status != tt.status || !strings.HasPrefix(printed, tt.printed) {
			t.Errorf("%s %s: %d, printed %q; want %d, %q", tt.path, tt.body, status, printed, tt.status, tt.printed)
		}
	}
}

func TestRefusesToRunWithoutASecret(t *testing.T) {
	t.Parallel()
	for _, secret := range []string{"", "whsec_not base64!"} {
		if err := run(t.Context(), "127.0.0.1:0", secret, nil); err == nil || !strings.Contains(err.Error(), secretsName) {
			t.Errorf("%q: %v", secret, err)
		}
	}
}
