package action

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/oauth2"
)

// firebase stands in for FCM and for Google's token server. It complains of requests that are not as documented.
type firebase struct {
	*httptest.Server
	t      *testing.T
	key    *rsa.PrivateKey
	tokens atomic.Int32  // that were given out
	sent   chan received // messages
	life   int           // of a token, in seconds

	mu     sync.Mutex // guards the rest
	answer http.HandlerFunc
	refuse http.HandlerFunc // in place of a token
}

func newFirebase(t *testing.T) *firebase {
	t.Helper()
	fb := firebaseOf(t)
	fb.Server = serve(t, false, fb.handler())
	return fb
}

func firebaseOf(t *testing.T) *firebase {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return &firebase{t: t, key: key, sent: make(chan received, 64), life: 3599}
}

func (fb *firebase) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /token", fb.token)
	mux.HandleFunc("POST /v1/projects/shop-1/messages:send", fb.send)
	return mux
}

func (fb *firebase) behave(answer, refuse http.HandlerFunc) {
	fb.mu.Lock()
	defer fb.mu.Unlock()
	fb.answer, fb.refuse = answer, refuse
}

func (fb *firebase) behavior() (answer, refuse http.HandlerFunc) {
	fb.mu.Lock()
	defer fb.mu.Unlock()
	return fb.answer, fb.refuse
}

// serviceAccount is the JSON key for this server.
func (fb *firebase) serviceAccount() string {
	der, err := x509.MarshalPKCS8PrivateKey(fb.key)
	if err != nil {
		fb.t.Fatal(err)
	}
	raw, err := json.Marshal(map[string]string{
		"type": "service_account", "project_id": "shop-1", "private_key_id": "key-1",
		"private_key":  string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
		"client_email": "weir@shop-1.iam.gserviceaccount.com", "client_id": "1", "token_uri": fb.URL + "/token",
		"auth_uri": "https://accounts.google.com/o/oauth2/auth", "universe_domain": "googleapis.com",
	})
	if err != nil {
		fb.t.Fatal(err)
	}
	return string(raw)
}

func (fb *firebase) action(keys string) Action {
	fb.t.Helper()
	ctx := withEnv(map[string]string{"FCM": fb.serviceAccount()})
	c, err := decodeIn(ctx, "{type: push, credentials_env: FCM, base_url: \""+fb.URL+"\""+keys+"}")
	if err != nil {
		fb.t.Fatal(err)
	}
	return c.Bind(Deps{HTTP: client(fb.t, "127.0.0.0/8")})
}

const (
	device   = "bk3RNwTe3H0:CI2k_HHwgIpoDKCIZvvDMExUdFQ3P1-hunter2"
	pushKeys = `, token: "` + device + `", title_template: "Order {{ status }}", body_template: "{{ note }}"`
)

// token checks the assertion as RFC 7523 and Google describe it.
func (fb *firebase) token(w http.ResponseWriter, r *http.Request) {
	if _, refuse := fb.behavior(); refuse != nil {
		refuse(w, r)
		return
	}
	if agent := r.Header.Get("User-Agent"); agent != userAgent {
		fb.t.Errorf("User-Agent is %s", agent)
	}
	if grant := r.PostFormValue("grant_type"); grant != "urn:ietf:params:oauth:grant-type:jwt-bearer" {
		fb.t.Errorf("grant type %s", grant)
	}
	parts := strings.Split(r.PostFormValue("assertion"), ".")
	if len(parts) != 3 {
		fb.t.Fatalf("assertion of %d parts", len(parts))
	}
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if err := rsa.VerifyPKCS1v15(&fb.key.PublicKey, crypto.SHA256, sum[:], fb.decode(parts[2])); err != nil {
		fb.t.Errorf("signature: %v", err)
	}
	if header := string(fb.decode(parts[0])); header != `{"alg":"RS256","typ":"JWT","kid":"key-1"}` {
		fb.t.Errorf("header %s", header)
	}
	var claims struct {
		Iss, Scope, Aud string
		Iat, Exp        int64
	}
	if err := json.Unmarshal(fb.decode(parts[1]), &claims); err != nil {
		fb.t.Error(err)
	}
	now := time.Now().Unix()
	if claims.Iss != "weir@shop-1.iam.gserviceaccount.com" || claims.Aud != fb.URL+"/token" || claims.Exp > claims.Iat+3600 ||
		claims.Scope != "https://www.googleapis.com/auth/firebase.messaging" || claims.Iat > now+60 || claims.Exp < now {
		fb.t.Errorf("claims %+v", claims)
	}
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"access_token": "ya29.hunter2-%d", "expires_in": %d, "token_type": "Bearer"}`, fb.tokens.Add(1), fb.life)
}

func (fb *firebase) decode(part string) []byte {
	raw, err := base64.RawURLEncoding.DecodeString(part)
	if err != nil {
		fb.t.Error(err)
	}
	return raw
}

func (fb *firebase) send(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		fb.t.Error(err)
	}
	if got, want := r.Header.Get("Authorization"), fmt.Sprintf("Bearer ya29.hunter2-%d", fb.tokens.Load()); got != want {
		fb.t.Errorf("Authorization is %s, want %s", got, want)
	}
	if ct := r.Header.Get("Content-Type"); ct != "application/json" {
		fb.t.Errorf("Content-Type is %s", ct)
	}
	fb.sent <- received{r.Method, r.RequestURI, r.Host, r.Header, body}
	w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	if answer, _ := fb.behavior(); answer != nil {
		answer(w, r)
		return
	}
	io.WriteString(w, `{"name": "projects/shop-1/messages/0:1500415314455276%31bd1c9631bd1c96"}`)
}

// fcmError is the documented form of an error; without an errorCode there is no detail of FCM's.
func fcmError(status int, grpc, errorCode, message string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		details := `{"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": []}`
		if errorCode != "" {
			details = `{"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": "` + errorCode + `"}`
		}
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"error": {"code": %d, "message": %q, "status": %q, "details": [%s]}}`, status, message, grpc, details)
	}
}

func TestPushRequest(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ keys, want string }{
		"a device": {
			pushKeys,
			`{"message":{"token":"` + device + `","notification":{"title":"Order shipped","body":"a \"b\"\r\nX: {{ total }} <&>"}}}`,
		},
		"a topic": {
			`, provider: fcm, topic: "orders-{{ status }}", body_template: "{{ total }} {{ big }}"`,
			`{"message":{"topic":"orders-shipped","notification":{"body":"100.10 9007199254740993123"}}}`,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fb := newFirebase(t)
			a := fb.action(tt.keys)
			out, err := a.Do(t.Context(), callFor(t, order))
			if err != nil {
				t.Fatal(err)
			}
			if got := <-fb.sent; string(got.body) != tt.want {
				t.Errorf("got  %s\nwant %s", got.body, tt.want)
			}
			if out.ResponseStatus != 200 || !strings.Contains(out.ResponseBody, "projects/shop-1/messages/0:15") {
				t.Errorf("outcome %+v", out)
			}
			p, err := a.Preview(callFor(t, order))
			if err != nil || p[0] != (Part{"url", fb.URL + "/v1/projects/shop-1/messages:send"}) || p[1] != (Part{"message", tt.want}) {
				t.Errorf("preview %v, %v", p, err)
			}
		})
	}
}

func TestPushAnswers(t *testing.T) {
	t.Parallel()
	tests := []struct {
		status             int
		grpc, code, result string
		retryAfter         string
		class              Class
		after              time.Duration
		sick               bool
	}{
		{status: 404, grpc: "NOT_FOUND", code: "UNREGISTERED", result: "unregistered", class: ClassFinal},
		{status: 404, grpc: "UNREGISTERED", result: "unregistered", class: ClassFinal},
		{status: 400, grpc: "INVALID_ARGUMENT", code: "INVALID_ARGUMENT", result: "invalid_argument", class: ClassFinal},
		{status: 400, grpc: "INVALID_ARGUMENT", result: "status_400", class: ClassFinal},
		{status: 403, grpc: "PERMISSION_DENIED", code: "SENDER_ID_MISMATCH", result: "sender_id_mismatch", class: ClassFinal},
		{status: 403, grpc: "PERMISSION_DENIED", result: "status_403", class: ClassRetry},
		{status: 404, grpc: "NOT_FOUND", result: "status_404", class: ClassRetry},
		{status: 401, grpc: "UNAUTHENTICATED", code: "THIRD_PARTY_AUTH_ERROR", result: "third_party_auth_error", class: ClassRetry},
		{status: 401, grpc: "UNAUTHENTICATED", result: "status_401", class: ClassRetry},
		{status: 429, grpc: "RESOURCE_EXHAUSTED", code: "QUOTA_EXCEEDED", result: "quota_exceeded", class: ClassLater, after: time.Minute, sick: true},
		{status: 429, grpc: "RESOURCE_EXHAUSTED", code: "QUOTA_EXCEEDED", result: "quota_exceeded", retryAfter: "90", class: ClassLater, after: 90 * time.Second, sick: true},
		{status: 500, grpc: "INTERNAL", code: "INTERNAL", result: "internal", class: ClassRetry, sick: true},
		{status: 503, grpc: "UNAVAILABLE", code: "UNAVAILABLE", result: "unavailable", class: ClassRetry, sick: true},
		{status: 503, grpc: "UNAVAILABLE", code: "UNAVAILABLE", result: "unavailable", retryAfter: "9", class: ClassLater, after: 9 * time.Second, sick: true},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprint(tt.status, tt.grpc, tt.code, tt.retryAfter), func(t *testing.T) {
			t.Parallel()
			fb := newFirebase(t)
			refusal := fcmError(tt.status, tt.grpc, tt.code, "Requested "+device+" was not found.")
			fb.behave(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Retry-After", tt.retryAfter)
				refusal(w, r)
			}, nil)
			a := fb.action(pushKeys)
			out, err := a.Do(t.Context(), callFor(t, order))
			e := wantError(t, err, tt.class, tt.result)
			if e.After != tt.after || e.Sick != tt.sick || out.ResponseStatus != tt.status {
				t.Errorf("got %+v, outcome %+v", e, out)
			}
			said := fmt.Sprint(e, out)
			if strings.Contains(said, "hunter2") || !strings.Contains(e.Error(), tt.code) ||
				!strings.Contains(e.Error(), "Requested [redacted] was not found.") {
				t.Errorf("said %s", said)
			}
			// Only a token that was refused is replaced before the next attempt.
			fb.behave(nil, nil)
			if _, err := a.Do(t.Context(), callFor(t, order)); err != nil {
				t.Error(err)
			}
			want := int32(1)
			if tt.result == "status_401" {
				want = 2
			}
			if n := fb.tokens.Load(); n != want {
				t.Errorf("%d tokens were fetched, want %d", n, want)
			}
		})
	}
}

func TestPushTokenIsFetchedOnce(t *testing.T) {
	t.Parallel()
	fb := newFirebase(t)
	a := fb.action(pushKeys)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, err := a.Do(t.Context(), callFor(t, order)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := fb.tokens.Load(); n != 1 || len(fb.sent) != 20 {
		t.Errorf("%d tokens for %d messages", n, len(fb.sent))
	}
}

// A token that ends soon is replaced; while the token server is in trouble it serves on.
func TestPushTokenIsRefreshedEarly(t *testing.T) {
	t.Parallel()
	fb := newFirebase(t)
	fb.life = 200
	a := fb.action(pushKeys)
	send := func(tokens int32) {
		t.Helper()
		if _, err := a.Do(t.Context(), callFor(t, order)); err != nil {
			t.Error(err)
		}
		if n := fb.tokens.Load(); n != tokens {
			t.Errorf("%d tokens, want %d", n, tokens)
		}
	}
	send(1)
	fb.behave(nil, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	send(1)
	fb.behave(nil, nil)
	send(1)                              // a refresh has failed just now
	a.(*Push).tokens.quiet = time.Time{} //nolint:forcetypeassert // a test
	send(2)
}

func TestPushTokenServerRefuses(t *testing.T) {
	t.Parallel()
	tests := []struct {
		status     int
		body       string
		retryAfter string
		class      Class
		after      time.Duration
		sick       bool
		says       string
	}{
		{status: 400, body: `{"error": "invalid_grant", "error_description": "Invalid JWT Signature."}`, class: ClassRetry, says: "invalid_grant: Invalid JWT Signature."},
		{status: 401, body: `{"error": "invalid_client", "error_description": "The OAuth client was not found."}`, class: ClassRetry, says: "invalid_client"},
		{status: 302, class: ClassRetry, says: "302"},
		{status: 429, class: ClassLater, after: time.Minute, sick: true, says: "429"},
		{status: 500, body: "<html>", class: ClassRetry, sick: true, says: "500"},
		{status: 503, retryAfter: "4", class: ClassLater, after: 4 * time.Second, sick: true, says: "503"},
		{status: 200, body: "{}", class: ClassRetry, says: "holds no token"},
		{status: 200, body: "<html>", class: ClassRetry, says: "holds no token"},
		{status: 400, body: "repeat", class: ClassRetry, says: "400"},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprint(tt.status, tt.body), func(t *testing.T) {
			t.Parallel()
			fb := newFirebase(t)
			var assertion string
			fb.behave(nil, func(w http.ResponseWriter, r *http.Request) {
				assertion = r.PostFormValue("assertion")
				w.Header().Set("Retry-After", tt.retryAfter)
				w.Header().Set("Location", fb.URL+"/elsewhere/hunter2")
				w.WriteHeader(tt.status)
				if tt.body == "repeat" {
					fmt.Fprintf(w, `{"error": "invalid_request", "error_description": %q}`, "what is "+assertion)
					return
				}
				io.WriteString(w, tt.body)
			})
			_, err := fb.action(pushKeys).Do(t.Context(), callFor(t, order))
			e := wantError(t, err, tt.class, "token")
			if e.After != tt.after || e.Sick != tt.sick || !strings.Contains(e.Error(), tt.says) {
				t.Errorf("got %+v", e)
			}
			if strings.Contains(e.Error(), "hunter2") || strings.Contains(e.Error(), assertion[:40]) || len(fb.sent) != 0 {
				t.Errorf("leaked, or sent: %s", e)
			}
		})
	}
}

func TestPushTransport(t *testing.T) {
	t.Parallel()
	fb := newFirebase(t)
	hang := func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body) // else the server does not notice that the client is gone
		<-r.Context().Done()
	}
	fb.behave(hang, nil)
	timesOut(t, fb.action(pushKeys))
	fb.behave(nil, hang)
	timesOut(t, fb.action(pushKeys))

	// The token server's address is checked, too.
	c, err := decodeIn(withEnv(map[string]string{"FCM": fb.serviceAccount()}), "{type: push, credentials_env: FCM"+pushKeys+"}")
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Bind(Deps{HTTP: client(t, "10.0.0.0/8")}).Do(t.Context(), callFor(t, order))
	_ = wantError(t, err, ClassFinal, "blocked_address")
	fb.Close()
	_, err = fb.action(pushKeys).Do(t.Context(), callFor(t, order))
	if e := wantError(t, err, ClassRetry, "connect"); !e.Sick {
		t.Errorf("got %+v", e)
	}
}

func TestPushTemplateErrorsAreFinal(t *testing.T) {
	t.Parallel()
	fb := newFirebase(t)
	for _, keys := range []string{
		`, token: "{{ tenant_id }}", title_template: x`, `, topic: "{{ topc }}", title_template: x`,
		`, token: x, title_template: "{{ tenant_id }}"`, `, token: x, body_template: "{{ totl }}"`,
	} {
		a := fb.action(keys)
		_, err := a.Do(t.Context(), callFor(t, order))
		_ = wantError(t, err, ClassFinal, "template")
		_, err = a.Preview(callFor(t, order))
		_ = wantError(t, err, ClassFinal, "template")
	}
	if n := fb.tokens.Load(); n != 0 || len(fb.sent) != 0 {
		t.Errorf("%d tokens, %d requests", n, len(fb.sent))
	}
}

// Who waits for another's token request waits no longer than its own deadline.
func TestPushTokenWaitEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newTokenSource(serviceAccount{}, nil)
		s.token = &oauth2.Token{AccessToken: "a"}
		s.gate <- struct{}{}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := s.get(ctx)
		_ = wantError(t, err, ClassRetry, "timeout")
		s.drop(ctx, "a") // comes back
		<-s.gate
		if token, err := s.get(t.Context()); token != "a" || err != nil {
			t.Errorf("got %s, %v", token, err)
		}
	})
}

func TestPushPreviewWithoutTheEnvironment(t *testing.T) {
	t.Parallel()
	c, err := decodeIn(t.Context(), `{type: push, credentials_env: FCM`+pushKeys+`}`)
	if err != nil {
		t.Fatal(err)
	}
	if c.Endpoint() != "fcm.googleapis.com" {
		t.Errorf("endpoint %s", c.Endpoint())
	}
	p, err := c.Bind(Deps{}).Preview(callFor(t, order))
	if err != nil || p[0].Value != "https://fcm.googleapis.com/v1/projects/[not known: $FCM is not set]/messages:send" {
		t.Errorf("got %v, %v", p, err)
	}
}

func TestServiceAccount(t *testing.T) {
	t.Parallel()
	good := newFirebase(t).serviceAccount()
	if _, err := parseServiceAccount(good); err != nil {
		t.Error(err)
	}
	for old, edited := range map[string]string{
		`"service_account"`: `"authorized_user"`, `"project_id"`: `"projekt_id"`, `"client_email"`: `"email"`,
		`PRIVATE KEY-----\n`: `PRIVATE hunter2-----\n`, `MII`: `hunter2`, `/token"`: `/token hunter2"`, `{`: `hunter2{`,
	} {
		bad := strings.Replace(good, old, edited, 1)
		if bad == good {
			t.Fatalf("no %s", old)
		}
		_, err := decodeIn(withEnv(map[string]string{"FCM": bad}), "{type: push, credentials_env: FCM, topic: a, title_template: b}")
		if err == nil || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), "variable FCM holds no key") {
			t.Errorf("%s: got %v", edited, err)
		}
	}
}
