package action

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/jwt"

	"github.com/fraiseql/weir/internal/outbound"
	"github.com/fraiseql/weir/internal/rule"
)

const (
	fcmScope       = "https://www.googleapis.com/auth/firebase.messaging"
	googleTokenURI = "https://oauth2.googleapis.com/token" //nolint:gosec // where tokens come from, none itself
)

// serviceAccount is the JSON key of one, as Google's console gives it. All of it counts as a secret but the project.
type serviceAccount struct {
	Type         string `json:"type"`
	ProjectID    string `json:"project_id"`
	PrivateKeyID string `json:"private_key_id"`
	PrivateKey   string `json:"private_key"`
	ClientEmail  string `json:"client_email"`
	TokenURI     string `json:"token_uri"`
}

// parseServiceAccount reads a key. Its error repeats nothing of it.
func parseServiceAccount(raw string) (serviceAccount, error) {
	var a serviceAccount
	const want = "expected the JSON file that Google's console gives"
	if json.Unmarshal([]byte(raw), &a) != nil {
		return serviceAccount{}, errors.New("it is no JSON: " + want)
	}
	if a.Type != "service_account" || a.ProjectID == "" || a.ClientEmail == "" || a.PrivateKey == "" {
		return serviceAccount{}, errors.New(want + ", with type service_account, project_id, client_email and private_key")
	}
	block, _ := pem.Decode([]byte(a.PrivateKey))
	if block == nil || !isRSA(block.Bytes) {
		return serviceAccount{}, errors.New("its private_key is no RSA key in PEM: " + want)
	}
	a.TokenURI = cmp.Or(a.TokenURI, googleTokenURI)
	uri, err := rule.CompileTemplate(a.TokenURI)
	if err != nil || uri.CheckURL() != nil {
		return serviceAccount{}, errors.New("its token_uri is no URL: " + want)
	}
	return a, nil
}

func isRSA(der []byte) bool {
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		key, err = x509.ParsePKCS1PrivateKey(der)
	}
	_, ok := key.(*rsa.PrivateKey)
	return err == nil && ok
}

// refreshBefore is how long before its end a token is replaced, so that none ends under way. They live for an hour.
const refreshBefore = 5 * time.Minute

// While a token is still good, another one may take refreshTimeout to come, and is not asked for again for refreshPause
// after it has not come: the deliveries need not suffer.
const (
	refreshTimeout = 5 * time.Second
	refreshPause   = 30 * time.Second
)

// tokenSource fetches access tokens by a service account's key (RFC 7523) and keeps the newest. It is the only thing that an
// action remembers between calls.
type tokenSource struct {
	config jwt.Config
	client *outbound.Client
	gate   chan struct{} // of one: who has put something in may use the rest. A lock that a context can end waiting for.
	token  *oauth2.Token // nil: none
	quiet  time.Time     // until then no early refresh is tried
}

func newTokenSource(a serviceAccount, client *outbound.Client) *tokenSource {
	return &tokenSource{
		config: jwt.Config{
			Email: a.ClientEmail, PrivateKey: []byte(a.PrivateKey), PrivateKeyID: a.PrivateKeyID,
			Scopes: []string{fcmScope}, TokenURL: a.TokenURI,
		},
		client: client, gate: make(chan struct{}, 1),
	}
}

// get returns a token that is good for a while. Of many callers without one, the first fetches it.
func (s *tokenSource) get(ctx context.Context) (string, error) {
	select {
	case s.gate <- struct{}{}:
		defer func() { <-s.gate }()
	case <-ctx.Done():
		return "", transportError(ctx, ctx.Err())
	}
	if s.token.Valid() {
		s.refresh(ctx)
		return s.token.AccessToken, nil
	}
	fresh, err := s.fetch(ctx)
	if err != nil {
		return "", err
	}
	s.token = fresh
	return fresh.AccessToken, nil
}

// refresh replaces a token that ends soon, if it can.
func (s *tokenSource) refresh(ctx context.Context) {
	now := time.Now()
	if s.token.Expiry.IsZero() || s.token.Expiry.Sub(now) > refreshBefore || now.Before(s.quiet) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, refreshTimeout)
	defer cancel()
	s.quiet = now.Add(refreshPause)
	if fresh, err := s.fetch(ctx); err == nil {
		s.token = fresh
	}
}

// drop forgets a token that was refused, unless there is another one by now.
func (s *tokenSource) drop(ctx context.Context, refused string) {
	select {
	case s.gate <- struct{}{}:
		defer func() { <-s.gate }()
	case <-ctx.Done():
		return
	}
	if s.token != nil && s.token.AccessToken == refused {
		s.token = nil
	}
}

// roundTripper is a function as an http.RoundTripper.
type roundTripper func(*http.Request) (*http.Response, error)

// RoundTrip calls the function.
func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// fetch asks for a token. The request goes the way of every other: through the proxy, to an address that is checked, and
// to no other by a redirect. A server that is in trouble counts as the endpoint's: nothing can be sent there without a
// token.
func (s *tokenSource) fetch(ctx context.Context) (*oauth2.Token, error) {
	var failed error       // the library keeps only its text
	var assertion []string // what the server must not repeat to people
	client := &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: roundTripper(func(req *http.Request) (*http.Response, error) {
			defer func() { _ = req.Body.Close() }()
			var body []byte
			if body, failed = io.ReadAll(req.Body); failed != nil {
				return nil, failed
			}
			assertion = assertionIn(body)
			again := req.Clone(ctx) // the library's requests have no context
			again.Header.Set("User-Agent", userAgent)
			again.Body = io.NopCloser(bytes.NewReader(body))
			var res *outbound.Response
			if res, failed = s.client.Do(again); failed != nil {
				return nil, failed
			}
			return &http.Response{
				StatusCode: res.Status, Header: res.Header, Body: io.NopCloser(bytes.NewReader(res.Body)), Request: req,
			}, nil
		}),
	}
	token, err := s.config.TokenSource(context.WithValue(ctx, oauth2.HTTPClient, client)).Token()
	var refused *oauth2.RetrieveError
	switch {
	case failed != nil:
		return nil, transportError(ctx, failed)
	case errors.As(err, &refused):
		return nil, judgeToken(refused, assertion)
	case err != nil || token.AccessToken == "":
		return nil, Retry("token", errors.New("the token server's answer holds no token"))
	}
	return token, nil
}

// assertionIn is the signed assertion in a token request, and its parts.
func assertionIn(body []byte) []string {
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil
	}
	assertion := form.Get("assertion")
	return append([]string{assertion}, strings.Split(assertion, ".")...)
}

// judgeToken turns a refusal of the token server into what becomes of the delivery: nothing of it is the message's
// fault. A key that was revoked or a clock that is wrong (invalid_grant) gets mended.
func judgeToken(refused *oauth2.RetrieveError, secrets []string) error {
	res := refused.Response
	cause := fmt.Errorf("%s gives no token for the service account: %s", outbound.RedactURL(res.Request.URL),
		statusText(res.StatusCode))
	var said struct {
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}
	if json.Unmarshal(redact(refused.Body, secrets), &said) == nil && said.Error != "" {
		cause = fmt.Errorf("%w, %s: %s", cause, said.Error, said.Description)
	}
	return refusal(&outbound.Response{Status: res.StatusCode, Header: res.Header}, "token", false, cause)
}
