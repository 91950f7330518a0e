package console

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/fraiseql/weir/internal/config"
)

const (
	// bodySize is what a request may bring along: names and numbers.
	bodySize = 1 << 20
	// handlerTime is how long the database may be kept busy for one request.
	handlerTime = 30 * time.Second
)

const (
	// pagesPolicy is for Weir's own pages: nothing but files of the console itself.
	pagesPolicy = policyBase + "style-src 'self'"
	// riverUIPolicy is for River UI, whose libraries put style sheets of changing contents into the page. Its one inline script that
	// matters is data, which a policy is not about.
	riverUIPolicy = policyBase + "style-src 'self' 'unsafe-inline'"

	policyBase = "default-src 'none'; script-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; " +
		"base-uri 'none'; frame-ancestors 'none'; "
)

// guard is what every request goes through. It is safe for concurrent use.
type guard struct {
	cfg     config.Console
	log     *slog.Logger
	metrics *metrics
	known   *authenticator // nil: everybody may come in
	cross   *http.CrossOriginProtection
	first   handler
}

// visit is one request: its answer, and what the stages find out about it.
type visit struct {
	http.ResponseWriter
	id     string
	user   string // "": not known, or not asked for
	status int    // 0: nothing was answered yet
}

// handler is an http.Handler of the guard.
type handler func(v *visit, r *http.Request)

func newGuard(cfg config.Console, log *slog.Logger, m *metrics, routes http.Handler) *guard {
	g := &guard{cfg: cfg, log: log, metrics: m, cross: http.NewCrossOriginProtection()}
	if cfg.Authenticates() {
		g.known = newAuthenticator(cfg)
	}
	for _, origin := range cfg.Origins {
		if err := g.cross.AddTrustedOrigin(string(origin)); err != nil {
			panic("console: " + err.Error()) // an Origin that was parsed is one
		}
	}
	g.first = func(v *visit, r *http.Request) { routes.ServeHTTP(v, r) }
	for _, stage := range slices.Backward(g.stages()) {
		g.first = stage(g.first)
	}
	return g
}

// stages are in the order that a request meets them.
func (g *guard) stages() []func(next handler) handler {
	return []func(handler) handler{
		g.recoverPanic,
		g.identify,
		g.observe,
		g.limit,
		g.checkHost,
		g.secureHeaders,
		g.authenticate,
		g.checkOrigin,
		g.readOnly,
	}
}

// ServeHTTP answers a request, if it may be.
func (g *guard) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	g.first(&visit{ResponseWriter: rw}, r)
}

// WriteHeader notes the status.
func (v *visit) WriteHeader(status int) {
	if status >= http.StatusOK {
		v.status = cmp.Or(v.status, status)
	}
	v.ResponseWriter.WriteHeader(status)
}

// Write notes that the answer has begun.
func (v *visit) Write(p []byte) (int, error) {
	v.status = cmp.Or(v.status, http.StatusOK)
	return v.ResponseWriter.Write(p)
}

// Unwrap is for http.ResponseController.
func (v *visit) Unwrap() http.ResponseWriter { return v.ResponseWriter }

// recoverPanic keeps the console alive when a page fails.
func (g *guard) recoverPanic(next handler) handler {
	return func(v *visit, r *http.Request) {
		defer func() {
			switch problem := recover(); problem {
			case nil:
			case http.ErrAbortHandler:
				panic(problem)
			default:
				g.log.Error("a page panicked", "request_id", v.id, "panic", problem, "stack", string(debug.Stack()))
				if v.status == 0 {
					refuse(v, r, http.StatusInternalServerError, "this page has failed: the console's log says more, request "+v.id)
				}
			}
		}()
		next(v, r)
	}
}

// identify gives the request a name for log lines and answers. A client's own would be a way to write into the log.
func (g *guard) identify(next handler) handler {
	return func(v *visit, r *http.Request) {
		v.id = rand.Text()
		v.Header().Set("X-Request-Id", v.id)
		next(v, r)
	}
}

// observe counts and logs.
func (g *guard) observe(next handler) handler {
	return func(v *visit, r *http.Request) {
		began, status := time.Now(), http.StatusInternalServerError // unless it ends without a panic
		defer func() {
			took := time.Since(began)
			g.metrics.request(r.Method, status, g.area(r.URL.Path), took)
			g.logRequest(v, r, status, took)
		}()
		next(v, r)
		status = cmp.Or(v.status, http.StatusOK)
	}
}

// logRequest writes the line of the access log. What people search for is in the query, which only debugging shows.
func (g *guard) logRequest(v *visit, r *http.Request, status int, took time.Duration) {
	level := slog.LevelDebug
	if status >= http.StatusBadRequest && status != http.StatusNotFound || !readsOnly(r.Method) {
		level = slog.LevelInfo
	}
	attributes := []any{
		"request_id", v.id, "user", v.user, "remote", r.RemoteAddr, "method", r.Method, "path", r.URL.Path, "status", status,
		"duration", took,
	}
	if r.URL.RawQuery != "" && g.log.Enabled(r.Context(), slog.LevelDebug) {
		attributes = append(attributes, "query", r.URL.RawQuery)
	}
	g.log.Log(r.Context(), level, "request", attributes...)
}

// area is what a path belongs to: one of a few words, for a metric.
func (g *guard) area(path string) string {
	base := string(g.cfg.Prefix)
	below, ok := strings.CutPrefix(path, base+"/")
	first, _, _ := strings.Cut(below, "/")
	switch {
	case slices.Contains(healthPaths(base), path):
		return "health"
	case !ok:
		return "other"
	case first == "metrics", first == "river":
		return first
	default:
		return "pages"
	}
}

// limit bounds what one request may bring and take.
func (g *guard) limit(next handler) handler {
	return func(v *visit, r *http.Request) {
		r.Body = http.MaxBytesReader(v, r.Body, bodySize)
		ctx, cancel := context.WithTimeoutCause(r.Context(), handlerTime, errors.New("a request to the console takes too long"))
		defer cancel()
		next(v, r.WithContext(ctx))
	}
}

// checkHost is for a console that lets everybody on this machine in: a page elsewhere whose name is suddenly this machine's (DNS
// rebinding) would be same-origin, but for the name.
func (g *guard) checkHost(next handler) handler {
	return func(v *visit, r *http.Request) {
		if g.known == nil && !localName(r.Host) {
			refuse(v, r, http.StatusForbidden, "without authentication, the console answers only to localhost")
			return
		}
		next(v, r)
	}
}

// localName says that a Host header names this machine itself.
func localName(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return strings.EqualFold(host, "localhost") || err == nil && addr.Unmap().IsLoopback()
}

// secureHeaders tells the browser what no page of the console does. Handlers may replace one that is not for them.
func (g *guard) secureHeaders(next handler) handler {
	return func(v *visit, r *http.Request) {
		h := v.Header()
		h.Set("Content-Security-Policy", pagesPolicy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "same-origin") // with no-referrer, a form's Origin would be null
		h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		if r.TLS != nil {
			h.Set("Strict-Transport-Security", "max-age=31536000")
		}
		next(v, r)
	}
}

// checkOrigin refuses what another page's script or form sends: the browser would add the user's credentials to it.
func (g *guard) checkOrigin(next handler) handler {
	return func(v *visit, r *http.Request) {
		if g.foreign(r) || g.cross.Check(r) != nil {
			refuse(v, r, http.StatusForbidden, "this request comes from a page of another origin; "+
				"where a proxy in front has another name, list it in console.origins")
			return
		}
		next(v, r)
	}
}

// foreign says that a page of another origin has made the request, whatever its method.
func (g *guard) foreign(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" || r.Header.Get("Sec-Fetch-Site") == "same-origin" || slices.Contains(g.cfg.Origins, config.Origin(origin)) {
		return false
	}
	u, err := url.Parse(origin)
	return err != nil || u.Host == "" || u.Host != r.Host || r.TLS != nil && u.Scheme != "https"
}

// readOnly goes by the method, not by a list of paths: nothing that is added later can be forgotten.
func (g *guard) readOnly(next handler) handler {
	return func(v *visit, r *http.Request) {
		if g.cfg.ReadOnly && !readsOnly(r.Method) {
			refuse(v, r, http.StatusForbidden, "this console is read-only (console.read_only): nothing was changed")
			return
		}
		next(v, r)
	}
}

// readsOnly says that a method changes nothing. Headers that name another one are read nowhere.
func readsOnly(method string) bool {
	return method == http.MethodGet || method == http.MethodHead || method == http.MethodOptions
}

// healthPaths are for probes, which have no credentials: without the prefix, too, where a probe goes past the proxy that adds it.
func healthPaths(base string) []string {
	if base == "" {
		return []string{"/healthz"}
	}
	return []string{"/healthz", base + "/healthz"}
}
