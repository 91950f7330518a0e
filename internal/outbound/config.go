package outbound

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/invopop/jsonschema"

	"github.com/fraiseql/weir/internal/setting"
)

// Config is the `outbound` section of weir.yaml. Its zero value refuses every target that is not on the public
// internet and dials without a proxy.
type Config struct {
	// Allow lists the private targets that observers may reach. Default: none.
	Allow []Target `yaml:"allow" json:"allow,omitempty"`
	// Proxy is the proxy of all outbound requests. The environment's HTTP_PROXY is not read. Default: none.
	Proxy Proxy `yaml:"proxy" json:"proxy,omitzero"`
}

// Target is one entry of `outbound.allow`: a network, an address or a host name. A Target that was parsed is valid.
//
// A network or address allows exactly these addresses. A name allows the loopback and private addresses that it resolves
// to, but never a link-local one: who controls the name's DNS must not reach a cloud's metadata service.
type Target struct {
	prefix netip.Prefix // invalid for a name
	name   string       // lower case, without the final dot
}

var hostName = regexp.MustCompile(`^([a-z0-9_]([a-z0-9_-]*[a-z0-9_])?\.)*[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?$`)

// lastLabelNumeric finds "10.1.0" and the like: an address with a typing mistake rather than a name.
var lastLabelNumeric = regexp.MustCompile(`(^|\.)[0-9]+$`)

// ParseTarget reads a network ("10.1.0.0/16"), an address ("10.1.0.7", "::1") or a host name ("hooks.internal").
func ParseTarget(s string) (Target, error) {
	if strings.Contains(s, "/") {
		return parseNetwork(s)
	}
	if addr, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		addr = addr.WithZone("").Unmap()
		return Target{prefix: netip.PrefixFrom(addr, addr.BitLen())}, nil
	}
	name := canonicalHost(s)
	if !hostName.MatchString(name) || lastLabelNumeric.MatchString(name) {
		return Target{}, fmt.Errorf("%q is no target: write a network (10.1.0.0/16), an address (10.1.0.7) "+
			"or a host name (hooks.internal), without scheme and port", s)
	}
	return Target{name: name}, nil
}

func parseNetwork(s string) (Target, error) {
	prefix, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return Target{}, fmt.Errorf("%q is no network: write it as in 10.1.0.0/16 or fd00::/8", s)
	case prefix.Addr().Is4In6():
		return Target{}, fmt.Errorf("%q is an IPv4 network in IPv6 form: write it as IPv4, as in 10.1.0.0/16", s)
	case prefix != prefix.Masked():
		return Target{}, fmt.Errorf("%q has bits set behind the mask: write %s", s, prefix.Masked())
	}
	return Target{prefix: prefix}, nil
}

func canonicalHost(host string) string { return strings.TrimSuffix(strings.ToLower(host), ".") }

// String is the form that ParseTarget reads.
func (t Target) String() string {
	switch {
	case t.name != "":
		return t.name
	case t.prefix.IsSingleIP():
		return t.prefix.Addr().String()
	default:
		return t.prefix.String()
	}
}

// MarshalText writes the form that ParseTarget reads.
func (t Target) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalYAML reads a target at a node of the file.
func (t *Target) UnmarshalYAML(_ context.Context, node ast.Node) error {
	text, ok := setting.Text(node)
	if !ok {
		return setting.ErrorAt(node, "expected a network, an address or a host name, in quotes")
	}
	v, err := ParseTarget(text)
	if err != nil {
		return setting.ErrorAt(node, "%s", err)
	}
	*t = v
	return nil
}

// JSONSchema describes a target to editors.
func (Target) JSONSchema() *jsonschema.Schema {
	return &jsonschema.Schema{
		Type:        "string",
		Description: "A network (10.1.0.0/16), an address (10.1.0.7) or a host name (hooks.internal).",
	}
}

// Proxy is the URL of an HTTP, HTTPS or SOCKS5 proxy. It may hold a password, so it prints only scheme and host. The
// zero value is no proxy.
type Proxy struct{ url *url.URL }

// ParseProxy reads a proxy's URL; "" is no proxy. The error does not repeat the URL.
func ParseProxy(s string) (Proxy, error) {
	if s == "" {
		return Proxy{}, nil
	}
	u, err := url.Parse(s)
	if err != nil || u.Hostname() == "" {
		return Proxy{}, errors.New("the proxy is no URL: write it as in http://proxy.internal:3128")
	}
	switch u.Scheme {
	case "http", "https", "socks5", "socks5h":
		return Proxy{url: u}, nil
	default:
		return Proxy{}, errors.New("the proxy's scheme is unknown: write http, https or socks5")
	}
}

// IsZero says that there is no proxy.
func (p Proxy) IsZero() bool { return p.url == nil }

// String is scheme and host, never the password.
func (p Proxy) String() string {
	if p.url == nil {
		return ""
	}
	return RedactURL(p.url)
}

// GoString is String, for %#v.
func (p Proxy) GoString() string { return p.String() }

// MarshalJSON writes String.
func (p Proxy) MarshalJSON() ([]byte, error) { return json.Marshal(p.String()) }

// UnmarshalYAML reads a proxy's URL at a node of the file.
func (p *Proxy) UnmarshalYAML(_ context.Context, node ast.Node) error {
	text, ok := setting.Text(node)
	if !ok {
		return setting.ErrorAt(node, `expected the proxy's URL, as in "http://proxy.internal:3128"`)
	}
	v, err := ParseProxy(text)
	if err != nil {
		return setting.ErrorAt(node, "%s", err)
	}
	*p = v
	return nil
}

// JSONSchema describes a proxy to editors.
func (Proxy) JSONSchema() *jsonschema.Schema {
	return &jsonschema.Schema{
		Type:        "string",
		Description: `The proxy of all outbound requests, as in "http://proxy.internal:3128"; "" for none.`,
	}
}
