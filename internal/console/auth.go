package console

import (
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/fraiseql/weir/internal/config"
)

const (
	// guessLimit is how many wrong passwords an address may send in guessWindow.
	guessLimit  = 10
	guessWindow = time.Minute
	// guessers bounds the addresses that are remembered.
	guessers = 4096
	// userLength bounds a name that a proxy gives.
	userLength = 256
)

// authenticator says who somebody is. It is safe for concurrent use.
type authenticator struct {
	basic   *config.BasicAuth     // nil: none
	header  *config.TrustedHeader // nil: none
	guesses guesses
}

func newAuthenticator(cfg config.Console) *authenticator {
	lru, err := simplelru.NewLRU[netip.Prefix, guessed](guessers, nil)
	if err != nil {
		panic("console: " + err.Error()) // of a size that is not positive
	}
	return &authenticator{basic: cfg.BasicAuth, header: cfg.TrustedHeader, guesses: guesses{byAddr: lru}}
}

// authenticate lets in who is known, and anybody to the probes' paths. The credentials end here: what comes behind has no use
// for them.
func (g *guard) authenticate(next handler) handler {
	return func(v *visit, r *http.Request) {
		if g.known == nil {
			next(v, r)
			return
		}
		user, failure := g.known.who(r)
		r.Header.Del("Authorization")
		if slices.Contains(healthPaths(string(g.cfg.Prefix)), r.URL.Path) && readsOnly(r.Method) {
			next(v, r)
			return
		}
		if failure != "" {
			g.metrics.failures.WithLabelValues(failure).Inc()
			g.known.challenge(v, r, failure)
			return
		}
		v.user = user
		next(v, r)
	}
}

// who is the user, or why that is not known. It takes the trusted header from everybody but the proxies.
func (a *authenticator) who(r *http.Request) (user, failure string) {
	from := remote(r)
	if a.header != nil {
		values := r.Header.Values(a.header.Name)
		switch {
		case !a.isProxy(from):
			r.Header.Del(a.header.Name)
		case len(values) == 1 && printable(values[0]):
			return values[0], ""
		case len(values) > 0:
			return "", authHeader
		}
	}
	name, password, ok := r.BasicAuth()
	if a.basic == nil || !ok {
		return "", authMissing
	}
	limited := !from.IsLoopback() && !a.isProxy(from) // behind those are many, and one could shut out the others
	if limited && a.guesses.exceeded(from) {
		return "", authLimited
	}
	// Both, and whatever their lengths: the time taken says nothing about what was right.
	if same(name, a.basic.User)&same(password, a.basic.Password.Value()) == 1 {
		return name, ""
	}
	if limited {
		a.guesses.add(from)
	}
	return "", authWrong
}

// challenge answers somebody who is not known.
func (a *authenticator) challenge(rw http.ResponseWriter, r *http.Request, failure string) {
	if failure == authLimited {
		rw.Header().Set("Retry-After", "60")
		refuse(rw, r, http.StatusTooManyRequests, "too many wrong passwords from this address: wait a minute")
		return
	}
	if a.basic != nil { // else there is nothing that a browser could ask its user for
		rw.Header().Set("WWW-Authenticate", `Basic realm="Weir", charset="UTF-8"`)
	}
	refuse(rw, r, http.StatusUnauthorized, "the console wants to know who you are")
}

func (a *authenticator) isProxy(addr netip.Addr) bool {
	return a.header != nil && slices.ContainsFunc(a.header.Proxies, func(n config.Network) bool { return n.Contains(addr) })
}

// remote is the address at the other end of the connection, not what a header says.
func remote(r *http.Request) netip.Addr {
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return from.Addr().Unmap().WithZone("")
}

// same is 1 if both are, in constant time.
func same(a, b string) int {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:])
}

func printable(name string) bool {
	return name != "" && len(name) <= userLength && strings.TrimSpace(name) == name && !strings.ContainsFunc(name, unicode.IsControl)
}

// guesses counts wrong passwords by address, or by network of IPv6, of which one customer has a whole one.
type guesses struct {
	mu     sync.Mutex // guards byAddr
	byAddr *simplelru.LRU[netip.Prefix, guessed]
}

type guessed struct {
	count int
	since time.Time
}

func (g *guesses) exceeded(addr netip.Addr) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	past, _ := g.byAddr.Get(guesser(addr))
	return past.count >= guessLimit && time.Since(past.since) < guessWindow
}

func (g *guesses) add(addr netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	past, _ := g.byAddr.Get(guesser(addr))
	if time.Since(past.since) >= guessWindow {
		past = guessed{since: time.Now()}
	}
	past.count++
	g.byAddr.Add(guesser(addr), past)
}

func guesser(addr netip.Addr) netip.Prefix {
	bits := addr.BitLen()
	if addr.Is6() {
		bits = 64
	}
	prefix, _ := addr.Prefix(bits) // fails for no address only, which all share
	return prefix
}
