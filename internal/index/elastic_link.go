package index

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// link is the transport of the client. It gives each request its time, and remembers whether the last one was answered.
type link struct {
	base    *http.Transport
	timeout time.Duration
	late    error // that a request took too long
	servers string
	log     *slog.Logger
	metrics *elasticMetrics

	mu      sync.Mutex // guards the rest
	trouble string     // why the last request was not answered, "" after one that was
}

func newLink(c ElasticsearchConfig, log *slog.Logger, m *elasticMetrics) *link {
	return &link{
		base: newTransport(c), timeout: c.Timeout.Std(), late: fmt.Errorf("no answer within %s", c.Timeout),
		servers: c.String(), log: log, metrics: m,
	}
}

// RoundTrip makes one request.
func (l *link) RoundTrip(req *http.Request) (*http.Response, error) {
	asked := req.Context()
	ctx, cancel := context.WithTimeoutCause(asked, l.timeout, l.late)
	res, err := l.base.RoundTrip(escaped(req.WithContext(ctx)))
	if err != nil {
		err = because(ctx, err)
		cancel()
		l.failed(asked, err)
		return nil, err
	}
	l.answered(res.StatusCode)
	res.Body = &answer{ReadCloser: res.Body, asked: asked, ctx: ctx, cancel: cancel, link: l}
	return res, nil
}

// escaped mends a request whose path the client has put behind that of the server's URL: it leaves the escaped form as it was,
// which then is none of the path, and a slash in a document's id would separate.
func escaped(req *http.Request) *http.Request {
	behind, err := url.PathUnescape(req.URL.RawPath)
	if req.URL.RawPath == "" || err != nil || behind == req.URL.Path {
		return req
	}
	u := *req.URL
	before := url.URL{Path: strings.TrimSuffix(u.Path, behind)}
	u.RawPath = before.EscapedPath() + u.RawPath
	req.URL = &u // req is a copy: its caller's stays as it is
	return req
}

// because puts the timeout's own reason in place of the context's.
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && errors.Is(err, ctx.Err()) {
		return cause
	}
	return err
}

// answer is the body of an answer: the request's time runs until it is read.
type answer struct {
	io.ReadCloser

	asked, ctx context.Context //nolint:containedctx // a body lives as long as its request
	cancel     context.CancelFunc
	link       *link
}

// Read reads.
func (a *answer) Read(p []byte) (int, error) {
	n, err := a.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = because(a.ctx, err)
		a.link.failed(a.asked, err)
	}
	return n, err
}

// Close ends the request.
func (a *answer) Close() error {
	defer a.cancel()
	return a.ReadCloser.Close()
}

func (l *link) answered(status int) {
	result := resultOK
	switch {
	case status == http.StatusTooManyRequests || status >= 500:
		result = resultBusy
	case status >= 400:
		result = resultRefused
	}
	l.metrics.requests.WithLabelValues(result).Inc()
	if status == http.StatusUnauthorized || status >= 500 {
		l.set(fmt.Sprintf("it answers %d %s", status, http.StatusText(status)))
		return
	}
	l.set("")
}

// failed counts a request without an answer. One that its caller waits for no more says nothing of the server.
func (l *link) failed(asked context.Context, err error) {
	if asked.Err() != nil {
		return
	}
	l.metrics.requests.WithLabelValues(resultUnanswered).Inc()
	l.set(strings.ReplaceAll(err.Error(), "\n", ": "))
}

func (l *link) set(trouble string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case trouble != "" && l.trouble == "":
		l.metrics.up.Set(0)
		l.log.Warn("Elasticsearch does not serve", "servers", l.servers, "error", trouble)
	case trouble == "" && l.trouble != "":
		l.metrics.up.Set(1)
		l.log.Info("Elasticsearch serves again", "servers", l.servers)
	}
	l.trouble = trouble
}

func (l *link) said() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.trouble
}
