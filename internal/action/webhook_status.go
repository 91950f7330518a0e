package action

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fraiseql/weir/internal/outbound"
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

// judge turns a response into what becomes of the delivery; nil is success.
func (w *Webhook) judge(req *http.Request, res *outbound.Response) error {
	err := w.classify(req, res)
	if isSick(res.Status) {
		return sick(err)
	}
	return err
}

// isSick says that a status is the endpoint's trouble and not the delivery's.
func isSick(status int) bool {
	return status == http.StatusTooManyRequests || status >= http.StatusInternalServerError
}

func (w *Webhook) classify(req *http.Request, res *outbound.Response) error {
	status := res.Status
	if status >= 200 && status < 300 {
		return nil
	}
	code := "status_" + strconv.Itoa(status)
	err := fmt.Errorf("%s answered %s", outbound.RedactURL(req.URL), statusText(status))
	if host := redirectHost(req.URL, res.Header.Get("Location")); isRedirect(status) && host != "" {
		err = fmt.Errorf("%w, a redirect to %s: redirects are not followed, put the final URL into the configuration", err, host)
	}
	if w.isFinal(status) {
		if status == http.StatusGone {
			code = CodeGone
		}
		return Final(code, err)
	}
	pause, asked := retryAfter(res.Header.Get("Retry-After"), time.Now())
	switch {
	case status == http.StatusTooManyRequests && !asked:
		return Later(code, defaultPause, err)
	case asked && (status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable):
		return Later(code, pause, err)
	default:
		return Retry(code, err)
	}
}

// isFinal says whether a status is never retried. The configured list replaces the default one and the redirects.
func (w *Webhook) isFinal(status int) bool {
	if len(w.FinalStatuses) > 0 {
		return slices.Contains(w.FinalStatuses, status)
	}
	return isRedirect(status) || slices.Contains(finalStatuses, status)
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
