package action

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"io"
	"slices"
	"strings"
	"testing"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

func TestWebhookSignatures(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		keys    string
		secrets []string // as the receiver has them
	}{
		"one":      {", signing_secret_env: ERP_SECRET", []string{"new-secret"}},
		"rotation": {", signing_secrets_env: [ERP_SECRET, ERP_SECRET_OLD]", []string{"new-secret", "old-secret"}},
		"whsec":    {", signing_secret_env: ERP_WHSEC", []string{env["ERP_WHSEC"]}},
		"mixed":    {", signing_secrets_env: [ERP_SECRET, ERP_WHSEC]", []string{"new-secret", env["ERP_WHSEC"]}},
		"literal":  {", signing_secret: old-secret", []string{"old-secret"}},
		"template": {", signing_secret_env: ERP_SECRET, body_template: '{\"t\": {{ total }}}'", []string{"new-secret"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, _ := deliver(t, tt.keys, callFor(t, order))
			if n := len(strings.Fields(got.header.Get("webhook-signature"))); n != len(tt.secrets) {
				t.Errorf("%d signatures, want %d", n, len(tt.secrets))
			}
			for _, secret := range tt.secrets {
				verify(t, secret, got)
			}
			verifyFails(t, "another-secret", got)
			got.body = append(got.body, ' ')
			verifyFails(t, tt.secrets[0], got)
		})
	}
}

// verify checks both signatures: the standard's by its own library and by hand, FraiseQL's by hand.
func verify(t *testing.T, secret string, got received) {
	t.Helper()
	wh, key := verifier(t, secret)
	if err := wh.Verify(got.body, got.header); err != nil {
		t.Errorf("%s: %v", secret, err)
	}
	ts := got.header.Get("webhook-timestamp")
	sum := hmacOf(key, got.header.Get("webhook-id")+"."+ts+"."+string(got.body))
	if want := "v1," + base64.StdEncoding.EncodeToString(sum); !slices.Contains(strings.Fields(got.header.Get("webhook-signature")), want) {
		t.Errorf("%s: no %s in %s", secret, want, got.header.Get("webhook-signature"))
	}
	parts := strings.Split(got.header.Get("X-FraiseQL-Signature-256"), ",")
	want := "v1=" + hex.EncodeToString(hmacOf(key, ts+"."+string(got.body)))
	if parts[0] != "t="+ts || !slices.Contains(parts[1:], want) {
		t.Errorf("%s: no %s in %s", secret, want, parts)
	}
}

func verifyFails(t *testing.T, secret string, got received) {
	t.Helper()
	wh, _ := verifier(t, secret)
	if err := wh.Verify(got.body, got.header); err == nil {
		t.Errorf("the signature holds for %s and %s", secret, got.body)
	}
}

func verifier(t *testing.T, secret string) (*standardwebhooks.Webhook, []byte) {
	t.Helper()
	if encoded, ok := strings.CutPrefix(secret, "whsec_"); ok {
		key, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil {
			t.Fatal(err)
		}
		wh, err := standardwebhooks.NewWebhook(secret)
		if err != nil {
			t.Fatal(err)
		}
		return wh, key
	}
	wh, err := standardwebhooks.NewWebhookRaw([]byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	return wh, []byte(secret)
}

func hmacOf(key []byte, text string) []byte {
	m := hmac.New(sha256.New, key)
	io.WriteString(m, text)
	return m.Sum(nil)
}
