// Package outbound is the HTTP client for targets that observers name. It checks the address at the moment it is
// dialed, so that neither a name that changes its answer nor an odd spelling of an address reaches a private target that
// `outbound.allow` does not list. It limits size and time, follows no redirect, reads no proxy from the environment, and
// keeps URLs out of its errors.
package outbound

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// maxBody is how much of a response is read. What is longer is cut off by closing the connection.
	maxBody = 64 << 10
	// maxBodyTime is how long a response's body may take after its header: the status is known by then, and a receiver
	// that never ends its body must not hold a worker.
	maxBodyTime = 5 * time.Second
	// maxHeader is how long a response's header may be, in bytes.
	maxHeader = 64 << 10
	// dialTimeout covers the name's resolution and all its addresses.
	dialTimeout = 10 * time.Second
)

// Client sends requests to targets that observers name. It is safe for concurrent use and keeps connections open; a
// connection that is used again was checked when it was made.
type Client struct {
	transport *http.Transport
	policy    policy
	resolver  *net.Resolver
	proxied   bool
	bodyTime  time.Duration
}

// Response is what a target answered.
type Response struct {
	Status int
	Header http.Header
	// Body is the beginning of the body, at most 64 kB.
	Body []byte
	// Truncated says that Body is not all of it: it was too long, too slow, or the connection broke.
	Truncated bool
}

// New returns a client. Call CloseIdleConnections when it is replaced.
//
// With a proxy, the proxy's own address is trusted and the target's name is resolved here first: every address it has
// must be allowed. The proxy then resolves the name again, so against a name that changes its answer in between only the
// proxy's own rules help; and a name that only the proxy can resolve cannot be reached.
func New(cfg Config) *Client {
	return newClient(cfg, net.DefaultResolver)
}

func newClient(cfg Config, resolver *net.Resolver) *Client {
	c := &Client{policy: newPolicy(cfg.Allow), resolver: resolver, proxied: !cfg.Proxy.IsZero(), bodyTime: maxBodyTime}
	c.transport = &http.Transport{
		DialContext:            c.dialChecked,
		ForceAttemptHTTP2:      true, // a DialContext of one's own would turn it off
		TLSHandshakeTimeout:    10 * time.Second,
		MaxResponseHeaderBytes: maxHeader,
		DisableCompression:     true, // a body is only ever looked at by people, and its size stays honest
		MaxIdleConns:           512,
		MaxIdleConnsPerHost:    256, // above what people give an endpoint: a connection beyond it is opened for each request
		IdleConnTimeout:        60 * time.Second,
	}
	if c.proxied {
		c.transport.Proxy = http.ProxyURL(cfg.Proxy.url)
		c.transport.DialContext = c.dialer().DialContext
	}
	return c
}

// CloseIdleConnections closes the connections that are not in use. Requests under way go on.
func (c *Client) CloseIdleConnections() { c.transport.CloseIdleConnections() }

// Do sends the request and reads the response within the limits. A response with any status, redirects included, is no
// error. The error of a target that is refused is a *BlockedError; an error's text holds the URL's scheme and host only.
// A user and password in the URL are not sent. The request's context bounds the whole exchange; when it ends while the
// body is read, the response counts as truncated.
func (c *Client) Do(req *http.Request) (*Response, error) {
	ctx, cancel := context.WithCancel(req.Context())
	defer cancel()
	req = req.WithContext(ctx)
	if c.proxied {
		if err := c.checkTarget(ctx, req.URL.Hostname()); err != nil {
			return nil, describe(req, err)
		}
	}
	// The transport itself, not an http.Client: that would follow redirects, and put the URL into its errors.
	res, err := c.transport.RoundTrip(req)
	if err != nil {
		return nil, describe(req, err)
	}
	defer res.Body.Close()
	slow := time.AfterFunc(c.bodyTime, cancel)
	defer slow.Stop()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxBody+1))
	truncated := err != nil || len(body) > maxBody
	body = body[:min(len(body), maxBody)]
	return &Response{Status: res.StatusCode, Header: res.Header, Body: body, Truncated: truncated}, nil
}

func describe(req *http.Request, err error) error {
	return fmt.Errorf("%s %s: %w", req.Method, RedactURL(req.URL), err)
}

func (c *Client) dialer() *net.Dialer {
	return &net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second, Resolver: c.resolver}
}

// dialChecked dials like the standard dialer, happy eyeballs included. The check runs on each address after the name
// has been resolved and before its socket is connected, so what was checked is what is dialed.
func (c *Client) dialChecked(ctx context.Context, proto, target string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(target)
	if err != nil {
		return nil, err
	}
	var tried atomic.Bool
	d := c.dialer()
	d.ControlContext = func(_ context.Context, _, address string, _ syscall.RawConn) error {
		ap, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		if err := c.policy.check(host, ap.Addr()); err != nil {
			return err
		}
		tried.Store(true)
		return nil
	}
	conn, err := d.DialContext(ctx, proto, target)
	var blocked *BlockedError
	if tried.Load() && errors.As(err, &blocked) {
		// One address was refused, but another may answer next time: the target as a whole is not refused.
		return nil, fmt.Errorf("connect to %s: no address answers, and %s", host, blocked.Error())
	}
	return conn, err
}

// checkTarget resolves the host and checks all its addresses: a proxy may choose any.
func (c *Client) checkTarget(ctx context.Context, host string) error {
	if addr, err := netip.ParseAddr(host); err == nil {
		return c.policy.check(host, addr)
	}
	addrs, err := c.resolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return err
	}
	for _, addr := range addrs {
		if err := c.policy.check(host, addr); err != nil {
			return err
		}
	}
	return nil
}

// RedactURL is scheme and host of a URL: path, query and user often hold tokens.
func RedactURL(u *url.URL) string { return u.Scheme + "://" + u.Host }
