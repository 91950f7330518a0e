package orders_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/fraiseql/weir/examples/orders"
)

const plainSecret = "a plain secret, used as it is"

// post sends a webhook, signed as both specifications say: written from them, not from the receiver.
func post(t *testing.T, r *orders.Receiver, path, id string, change func(h http.Header)) int {
	t.Helper()
	body := fmt.Appendf(nil, `{"id":%q}`, id)
	unix := strconv.FormatInt(time.Now().Unix(), 10)
	req := httptest.NewRequestWithContext(t.Context(), http.MethodPost, path, bytes.NewReader(body))
	req.Header.Set("Webhook-Id", id)
	req.Header.Set("Webhook-Timestamp", unix)
	req.Header.Set("Webhook-Signature", "v1,"+base64.StdEncoding.EncodeToString(mac(id+"."+unix+".", body)))
	req.Header.Set("X-FraiseQL-Signature-256", "t="+unix+",v1="+hex.EncodeToString(mac(unix+".", body)))
	if change != nil {
		change(req.Header)
	}
	res := httptest.NewRecorder()
	r.ServeHTTP(res, req)
	return res.Code
}

func mac(prefix string, body []byte) []byte {
	m := hmac.New(sha256.New, []byte(plainSecret))
	m.Write([]byte(prefix))
	m.Write(body)
	return m.Sum(nil)
}

func newReceiver(t *testing.T, o orders.ReceiverOptions) *orders.Receiver {
	t.Helper()
	o.Secret = plainSecret
	r, err := orders.NewReceiver(o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func ids(requests []orders.Request) string {
	var list []string
	for _, r := range requests {
		list = append(list, r.ID)
	}
	return strings.Join(list, " ")
}

func TestReceiver(t *testing.T) {
	t.Parallel()
	var heard []orders.Request
	r := newReceiver(t, orders.ReceiverOptions{Notify: func(got orders.Request) { heard = append(heard, got) }})
	for _, step := range []struct {
		path, id string
		want     int
	}{
		{orders.PathCreated, "a", http.StatusNoContent},
		{orders.PathShipped, "b", http.StatusNoContent},
		{orders.PathCreated, "a", http.StatusNoContent}, // dropped
		{orders.PathWarehouse, "c", http.StatusInternalServerError},
		{orders.PathWarehouse, "c", http.StatusInternalServerError},
		{"/elsewhere", "d", http.StatusNotFound},
	} {
		if got := post(t, r, step.path, step.id, nil); got != step.want {
			t.Errorf("%s %s: %d, want %d", step.path, step.id, got, step.want)
		}
	}
	if got := ids(r.Accepted()); got != "a b" {
		t.Errorf("accepted %q, want each delivery once, without those that failed", got)
	}
	if got := ids(heard); got != "a b a c c" || !heard[2].Repeat || heard[2].Accepted() || heard[3].Repeat || heard[3].Accepted() {
		t.Errorf("heard of %q: %+v", got, heard)
	}
}

func TestReceiverRefusesWhatIsNotSigned(t *testing.T) {
	t.Parallel()
	old := strconv.FormatInt(time.Now().Add(-time.Hour).Unix(), 10)
	tests := map[string]func(h http.Header){
		"no standard signature":     func(h http.Header) { h.Del("Webhook-Signature") },
		"no FraiseQL signature":     func(h http.Header) { h.Del("X-FraiseQL-Signature-256") },
		"another id":                func(h http.Header) { h.Set("Webhook-Id", "other") },
		"another time":              func(h http.Header) { h.Set("Webhook-Timestamp", old) },
		"FraiseQL, another time":    func(h http.Header) { fraiseQL(h, "t="+old+",v1=") },
		"FraiseQL, wrong signature": func(h http.Header) { h.Set("X-FraiseQL-Signature-256", h.Get("X-FraiseQL-Signature-256")[:20]+"00") },
		"FraiseQL, malformed":       func(h http.Header) { h.Set("X-FraiseQL-Signature-256", "v1=00") },
		"FraiseQL, old but signed": func(h http.Header) {
			h.Set("X-FraiseQL-Signature-256", "t="+old+",v1="+hex.EncodeToString(mac(old+".", []byte(`{"id":"a"}`))))
		},
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newReceiver(t, orders.ReceiverOptions{})
			if got := post(t, r, orders.PathCreated, "a", change); got != http.StatusUnauthorized {
				t.Errorf("%d, want 401", got)
			}
			if len(r.Accepted()) != 0 {
				t.Error("it was accepted")
			}
			if got := post(t, r, orders.PathCreated, "a", nil); got != http.StatusNoContent || len(r.Accepted()) != 1 {
				t.Errorf("the true one after it: %d, accepted %v", got, r.Accepted())
			}
		})
	}
}

// fraiseQL replaces what is before the signature.
func fraiseQL(h http.Header, before string) {
	_, signature, _ := strings.Cut(h.Get("X-FraiseQL-Signature-256"), "v1=")
	h.Set("X-FraiseQL-Signature-256", before+signature)
}

func TestReceiverTakesOneOfManySignatures(t *testing.T) {
	t.Parallel()
	r := newReceiver(t, orders.ReceiverOptions{})
	rotated := func(h http.Header) {
		h.Set("Webhook-Signature", "v1,AAAA "+h.Get("Webhook-Signature"))
		h.Set("X-FraiseQL-Signature-256", strings.Replace(h.Get("X-FraiseQL-Signature-256"), ",v1=", ",v1=00,v1=", 1))
	}
	if got := post(t, r, orders.PathCreated, "a", rotated); got != http.StatusNoContent {
		t.Errorf("%d, want 204", got)
	}
}

func TestReceiverForgetsOne(t *testing.T) {
	t.Parallel()
	var heard []orders.Request
	r := newReceiver(t, orders.ReceiverOptions{Forget: 2, Notify: func(got orders.Request) { heard = append(heard, got) }})
	for _, id := range []string{"a", "a", "b", "c"} {
		if got := post(t, r, orders.PathCreated, id, nil); got != http.StatusNoContent {
			t.Errorf("%s: %d", id, got)
		}
	}
	if got := ids(r.Accepted()); got != "a c" {
		t.Errorf("accepted %q, want all but the second", got)
	}
	if slices.ContainsFunc(heard, func(r orders.Request) bool { return r.ID == "b" }) {
		t.Error("it told of the one that it forgot")
	}
}

func TestNewReceiverRefusesSecrets(t *testing.T) {
	t.Parallel()
	for _, secret := range []string{"", "whsec_", "whsec_not base64!"} {
		if _, err := orders.NewReceiver(orders.ReceiverOptions{Secret: secret}); err == nil {
			t.Errorf("%q passed", secret)
		} else if secret != "" && strings.Contains(err.Error(), "not base64!") {
			t.Errorf("the error repeats the secret: %v", err)
		}
	}
}
