package action

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/outbound"
	"github.com/fraiseql/weir/internal/rule"
	"github.com/fraiseql/weir/internal/setting"
)

// What the types that speak HTTP share: where they go, the exchange itself, and what an answer means.

const (
	userAgent   = "Weir"
	jsonContent = "application/json"
)

const (
	// maxPause bounds what a receiver may ask for.
	maxPause = time.Hour
	// minPause keeps a Retry-After of 0 or of a moment that has passed from a busy loop.
	minPause = time.Second
	// defaultPause is that of a 429 which does not say how long.
	defaultPause = time.Minute
)

// finalStatuses are those that mean "never send this again", besides the redirects. 404 is not among them: a receiver
// that is being deployed answers so.
var finalStatuses = []int{400, 405, 406, 410, 411, 413, 414, 415, 422, 431, 501}

// checkTarget finds the URL of an action, which stands in the file under a key, or in the environment under that key with
// _env. It is nil when secrets are not looked up.
func checkTarget(f fields, key string, inFile *rule.Template, inEnv setting.Secret) (*rule.Template, []error) {
	env := key + "_env"
	kind, _ := setting.Text(f.values["type"])
	switch {
	case f.has(key) && f.has(env):
		return nil, []error{f.errorAt(env, "the %s action has both %s and %s: remove one", kind, key, env)}
	case !f.has(key) && !f.has(env):
		return nil, []error{f.errorAt(key, "%s needs %s or %s: add one of them", kind, key, env)}
	case f.has(key):
		if err := inFile.CheckURL(); err != nil {
			return inFile, []error{f.errorAt(key, "%s", err)}
		}
		return inFile, nil
	case inEnv.Value() == "":
		return nil, nil
	}
	target, err := rule.CompileTemplate(inEnv.Value())
	if err == nil {
		err = target.CheckURL()
	}
	if err != nil { // which may repeat the URL
		return nil, []error{f.errorAt(env, "environment variable %s holds no URL that works: "+
			"expected an absolute http or https URL whose scheme and host are no templates", inEnv.Env())}
	}
	return target, nil
}

// checkBase reads base_url: where a provider's API is, if not at its usual place.
func checkBase(f fields, written, usual string) (*url.URL, []error) {
	const key = "base_url"
	tmpl, err := rule.CompileTemplate(cmp.Or(written, usual))
	if err == nil {
		err = tmpl.CheckURL()
	}
	if err != nil {
		return nil, []error{f.errorAt(key, "%s", err)}
	}
	text, static := tmpl.Static()
	u, err := url.Parse(text)
	if err != nil || !static || u.RawQuery != "" || u.Fragment != "" {
		return nil, []error{f.errorAt(key, "base_url is no template and has neither ? nor #: expected the beginning of a URL, as in %s",
			usual)}
	}
	return u, nil
}

// under is a URL behind a base. Only in a preview can that be unknown: a configuration is refused if it is.
func under(base *url.URL, path string) string {
	if base == nil {
		return unknown(setting.Secret{}) + path
	}
	return strings.TrimSuffix(base.String(), "/") + path
}

// endpoint is what Config.Endpoint says of an action whose URL is a template.
func (c *Common) endpoint(target *rule.Template) string {
	if target == nil {
		return c.EndpointName
	}
	origin, _, _ := strings.Cut(target.String(), "{{") // CheckURL: no placeholder stands in scheme and host
	u, err := url.Parse(origin)
	if err != nil {
		return c.EndpointName
	}
	return c.endpointAt(u)
}

// endpointAt is what Config.Endpoint says of an action that goes to a URL; nil: it is not known.
func (c *Common) endpointAt(u *url.URL) string {
	if c.EndpointName != "" || u == nil {
		return c.EndpointName
	}
	return endpointOf(u)
}

// fingerprint tells a target, which may hold a secret, from others. It is "" for a URL with placeholders: when one of the places
// that it stands for is gone, the others need not be.
func fingerprint(target *rule.Template) string {
	if target == nil {
		return ""
	}
	text, static := target.Static()
	if !static {
		return ""
	}
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:16])
}

// endpointOf is a URL's place: two URLs with the same one share a queue.
func endpointOf(u *url.URL) string {
	host, port := strings.TrimSuffix(strings.ToLower(u.Hostname()), "."), u.Port()
	if port == "" && u.Scheme == "http" {
		port = "80"
	}
	if port == "" || (port == "443" && u.Scheme == "https") {
		if strings.Contains(host, ":") {
			return "[" + host + "]"
		}
		return host
	}
	return net.JoinHostPort(host, port)
}

// postJSON is a request with a JSON body.
func postJSON(ctx context.Context, target string, body any) (*http.Request, error) {
	raw, err := marshal(body)
	if err != nil {
		return nil, Final(codeTemplate, err)
	}
	return post(ctx, target, jsonContent, raw)
}

func post(ctx context.Context, target, contentType string, body []byte) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, bytes.NewReader(body))
	if err != nil { // which repeats the URL
		return nil, Final(codeTemplate, errors.New("the URL does not render to a URL"))
	}
	req.Header = http.Header{"Content-Type": {contentType}, "User-Agent": {userAgent}}
	return req, nil
}

// marshal does not escape HTML, so that texts and data stay as they were committed.
func marshal(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	return bytes.TrimRight(buf.Bytes(), "\n"), nil
}

// exchange sends a request and reads the answer. The outcome keeps the beginning of its body, without the secrets that the
// receiver has repeated. The error is that of a request that got no answer.
func exchange(client *outbound.Client, req *http.Request, secrets []string) (*outbound.Response, event.Outcome, error) {
	traceRequest(req)
	start := time.Now()
	res, err := client.Do(req)
	out := event.Outcome{DurationMS: time.Since(start).Milliseconds()}
	if err != nil {
		return nil, out, transportError(req.Context(), err)
	}
	traceStatus(req.Context(), res.Status)
	out.ResponseStatus = res.Status
	out.ResponseBody = event.Excerpt(redact(res.Body, secrets))
	return res, out, nil
}

// transportError classifies an error of a request that got no answer: the endpoint is sick, unless it was not asked.
func transportError(ctx context.Context, err error) error {
	var (
		blocked *outbound.BlockedError
		dns     *net.DNSError
		network net.Error
		dial    *net.OpError
	)
	switch {
	case errors.As(err, &blocked):
		return Final("blocked_address", err)
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return sick(Retry("timeout", fmt.Errorf("no answer in time: %w", context.Cause(ctx))))
	case ctx.Err() != nil:
		return Retry("canceled", ctx.Err())
	case errors.As(err, &dns):
		return sick(Retry("dns", err))
	case isTLS(err):
		return sick(Retry("tls", err))
	case errors.As(err, &network) && network.Timeout():
		return sick(Retry("timeout", err))
	case errors.As(err, &dial) && dial.Op == "dial":
		return sick(Retry("connect", err))
	default:
		return sick(Retry("connection", err))
	}
}

// refusal is the error of an answer that is no success. Of those that are not final, 429 waits as long as the receiver asks
// or for a default pause, and 503 waits if the receiver asks; the rest is retried.
func refusal(res *outbound.Response, code string, final bool, cause error) error {
	if final && res.Status == http.StatusGone {
		code = CodeGone
	}
	err := Retry(code, cause)
	pause, asked := retryAfter(res.Header.Get("Retry-After"), time.Now())
	switch {
	case final:
		err = Final(code, cause)
	case res.Status == http.StatusTooManyRequests && !asked:
		err = Later(code, defaultPause, cause)
	case asked && (res.Status == http.StatusTooManyRequests || res.Status == http.StatusServiceUnavailable):
		err = Later(code, pause, cause)
	}
	if isSick(res.Status) {
		return sick(err)
	}
	return err
}

// isSick says that a status is the endpoint's trouble and not the delivery's.
func isSick(status int) bool {
	return status == http.StatusTooManyRequests || status >= http.StatusInternalServerError
}

func isSuccess(status int) bool { return status >= 200 && status < 300 }

// isFinalStatus says whether a status means, by default, that another attempt would end the same way. Redirects do: they are
// not followed.
func isFinalStatus(status int) bool {
	return isRedirect(status) || slices.Contains(finalStatuses, status)
}

func statusCode(status int) string { return "status_" + strconv.Itoa(status) }

// answered says what the receiver answered, and where a redirect would lead.
func answered(req *http.Request, res *outbound.Response) error {
	err := fmt.Errorf("%s answered %s", outbound.RedactURL(req.URL), statusText(res.Status))
	if host := redirectHost(req.URL, res.Header.Get("Location")); isRedirect(res.Status) && host != "" {
		return fmt.Errorf("%w, a redirect to %s: redirects are not followed, put the final URL into the configuration", err, host)
	}
	return err
}

func isRedirect(status int) bool { return status >= 300 && status < 400 }

func statusText(status int) string {
	return strings.TrimSpace(strconv.Itoa(status) + " " + http.StatusText(status))
}

// redirectHost is the host that a Location points to, "" when there is none. Its path may hold a token.
func redirectHost(from *url.URL, location string) string {
	to, err := from.Parse(location)
	if location == "" || err != nil {
		return ""
	}
	return to.Host
}

// retryAfter reads a Retry-After header, which is a number of seconds or a date. ok is false when it is neither.
func retryAfter(value string, now time.Time) (pause time.Duration, ok bool) {
	value = strings.TrimSpace(value)
	if at, err := http.ParseTime(value); err == nil {
		return clampPause(at.Sub(now)), true
	}
	if value == "" || strings.Trim(value, "0123456789") != "" {
		return 0, false
	}
	seconds, err := strconv.ParseInt(value, 10, 64)
	if err != nil || seconds > int64(maxPause/time.Second) {
		return maxPause, true // also more than fits
	}
	return clampPause(time.Duration(seconds) * time.Second), true
}

func clampPause(d time.Duration) time.Duration { return min(max(d, minPause), maxPause) }

// isTLS says that the handshake failed. It is retried: certificates are renewed.
func isTLS(err error) bool {
	var (
		verification *tls.CertificateVerificationError
		record       tls.RecordHeaderError
		op           *net.OpError
	)
	return errors.As(err, &verification) || errors.As(err, &record) ||
		errors.As(err, &op) && op.Op == "remote error" // the peer's alert
}

// minSecret is the shortest text that redact looks for: a shorter one would blacken words.
const minSecret = 8

const redacted = "[redacted]"

// redact removes secrets from what a receiver said: it is shown to people.
func redact(text []byte, secrets []string) []byte {
	for _, secret := range secrets {
		if len(secret) >= minSecret {
			text = bytes.ReplaceAll(text, []byte(secret), []byte(redacted))
		}
	}
	return text
}

// pieces are the texts by which a URL that is a secret can be recognized: its path, its query and their parts.
func pieces(u *url.URL) []string {
	all := []string{u.RequestURI(), u.Path, u.RawQuery}
	all = append(all, strings.Split(u.EscapedPath(), "/")...)
	all = append(all, strings.Split(u.Path, "/")...)
	for _, values := range u.Query() {
		all = append(all, values...)
	}
	return all
}

// isCredential guesses from the name of a header or a parameter that its value is a credential.
func isCredential(name string) bool {
	name = strings.ToLower(name)
	for _, word := range []string{"auth", "token", "key", "secret", "cookie", "password"} {
		if strings.Contains(name, word) {
			return true
		}
	}
	return false
}
