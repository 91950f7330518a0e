package config

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/invopop/jsonschema"
	"golang.org/x/net/http/httpguts"

	"github.com/fraiseql/weir/internal/setting"
)

// Console is the section `console:`, which riverui-proxy reads. Workers only check that it is well-formed.
type Console struct {
	// Listen is the address. One that is not a loopback address needs basic_auth or trusted_header. Default:
	// 127.0.0.1:8080.
	Listen Listen `yaml:"listen,omitempty"`
	// Prefix is the path under which all pages are, as in /weir. Default: "", the root.
	Prefix PathPrefix `yaml:"prefix,omitempty"`
	// ReadOnly refuses every request that would change something. Default: false.
	ReadOnly bool `yaml:"read_only,omitempty"`
	// BasicAuth asks for a user and a password. Default: none.
	BasicAuth *BasicAuth `yaml:"basic_auth,omitempty"`
	// TrustedHeader believes a proxy in front that has authenticated the user. Default: none.
	TrustedHeader *TrustedHeader `yaml:"trusted_header,omitempty"`
	// TLS is the certificate to serve HTTPS with. Default: none, plain HTTP.
	TLS TLS `yaml:"tls,omitempty"`
	// Origins are those, beside the console's own, whose pages may send it changes: that of a proxy in front that does not pass
	// on the Host header, as in https://ops.example.org. Default: none.
	Origins []Origin `yaml:"origins,omitempty"`
}

// BasicAuth is `basic_auth:` of the console.
type BasicAuth struct {
	// User is the name to give.
	User string `yaml:"user,omitempty" jsonschema:"required"`
	// Password is the name of the console's environment variable that holds the password.
	Password Password `yaml:"password_env,omitempty" jsonschema:"required"`
}

// TrustedHeader is `trusted_header:` of the console.
type TrustedHeader struct {
	// Name is the header that names the user. Default: X-Forwarded-User.
	Name string `yaml:"name,omitempty"`
	// Proxies are the addresses and networks from which the header is believed.
	Proxies []Network `yaml:"proxies,omitempty" jsonschema:"required,minItems=1"`
}

// TLS is `tls:` of the console. The files are read again when they change.
type TLS struct {
	// Cert is a file with the certificate and those of the authorities between, in PEM form. Default: none.
	Cert Path `yaml:"cert,omitempty"`
	// Key is a file with its private key, in PEM form. Default: none.
	Key Path `yaml:"key,omitempty"`
}

// IsZero says that there is no certificate.
func (t TLS) IsZero() bool { return t.Cert == "" && t.Key == "" }

// Password is a secret that only the console's environment has to hold: workers read the same file.
type Password struct{ setting.Secret }

// UnmarshalYAML reads the variable's name, and its value where there is one.
func (p *Password) UnmarshalYAML(ctx context.Context, node ast.Node) error {
	around := setting.FromContext(ctx)
	if around.Unset == nil {
		around.Unset = func(string) {}
	}
	return p.Secret.UnmarshalYAML(setting.NewContext(ctx, around), node)
}

// PathPrefix is "" or a path as in /weir, without a slash at its end.
type PathPrefix string

var pathPrefix = regexp.MustCompile(`^(/[A-Za-z0-9._~-]+)+$`)

// UnmarshalYAML reads a prefix at a node of the file.
func (p *PathPrefix) UnmarshalYAML(_ context.Context, node ast.Node) error {
	text, ok := setting.Text(node)
	if !ok || text != "" && (!pathPrefix.MatchString(text) || path.Clean(text) != text) {
		return setting.ErrorAt(node, `expected a path as in /weir: it begins with a slash and does not end with one, `+
			`of letters, digits and . _ ~ -; "" for none`)
	}
	*p = PathPrefix(text)
	return nil
}

// JSONSchema describes a prefix to editors.
func (PathPrefix) JSONSchema() *jsonschema.Schema {
	return &jsonschema.Schema{Type: "string", Pattern: `^((/[A-Za-z0-9._~-]+)+)?$`}
}

// Path is where a file is; it was relative to the configuration's folder.
type Path string

// UnmarshalYAML reads a path at a node of the file; "" is none.
func (p *Path) UnmarshalYAML(ctx context.Context, node ast.Node) error {
	text, ok := setting.Text(node)
	if !ok {
		return setting.ErrorAt(node, "expected the path of a file")
	}
	if text != "" && !filepath.IsAbs(text) {
		text = filepath.Join(setting.FromContext(ctx).Dir, text)
	}
	*p = Path(text)
	return nil
}

// JSONSchema describes a path to editors.
func (Path) JSONSchema() *jsonschema.Schema {
	return &jsonschema.Schema{Type: "string", Description: "A file, relative to the folder of this file."}
}

// Network is a range of addresses, or one.
type Network struct{ netip.Prefix }

// ParseNetwork reads a network ("10.1.0.0/16") or an address ("10.1.0.7", "::1").
func ParseNetwork(s string) (Network, error) {
	if addr, err := netip.ParseAddr(s); err == nil && addr.Zone() == "" {
		addr = addr.Unmap()
		return Network{netip.PrefixFrom(addr, addr.BitLen())}, nil
	}
	prefix, err := netip.ParsePrefix(s)
	switch {
	case err != nil || prefix.Addr().Is4In6():
		return Network{}, fmt.Errorf("%q is no network: write an address or a network, as in 10.1.0.7 or 10.1.0.0/16", s)
	case prefix.Bits() == 0:
		return Network{}, fmt.Errorf("%q is every address: anybody could name himself; write the proxies' own", s)
	case prefix != prefix.Masked():
		return Network{}, fmt.Errorf("%q has bits set behind the mask: write %s", s, prefix.Masked())
	}
	return Network{prefix}, nil
}

// UnmarshalYAML reads a network at a node of the file.
func (n *Network) UnmarshalYAML(_ context.Context, node ast.Node) error {
	if _, ok := setting.Text(node); !ok {
		return setting.ErrorAt(node, "expected a network or an address, in quotes")
	}
	return setting.Parsed(node, n, ParseNetwork)
}

// JSONSchema describes a network to editors.
func (Network) JSONSchema() *jsonschema.Schema {
	return &jsonschema.Schema{Type: "string", Description: "A network (10.1.0.0/16) or an address (10.1.0.7)."}
}

// Origin is scheme, host and port of a page, as browsers send it.
type Origin string

// ParseOrigin reads an origin.
func ParseOrigin(s string) (Origin, error) {
	u, err := url.Parse(s)
	known := err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != ""
	if !known || u.Scheme+"://"+u.Host != s || strings.ToLower(s) != s {
		return "", errors.New("expected an origin as browsers send it, in small letters and without a path: https://ops.example.org")
	}
	return Origin(s), nil
}

// UnmarshalYAML reads an origin at a node of the file.
func (o *Origin) UnmarshalYAML(_ context.Context, node ast.Node) error {
	return setting.Parsed(node, o, ParseOrigin)
}

// JSONSchema describes an origin to editors.
func (Origin) JSONSchema() *jsonschema.Schema {
	return &jsonschema.Schema{Type: "string", Pattern: `^https?://[^/]+$`}
}

// Authenticates says that nobody comes in without being known.
func (c Console) Authenticates() bool { return c.BasicAuth != nil || c.TrustedHeader != nil }

// CheckPublic refuses an address that others than this machine can reach where anybody would be let in.
func (c Console) CheckPublic() error {
	if c.Authenticates() || loopback(string(c.Listen)) {
		return nil
	}
	return fmt.Errorf("%s can be reached from other machines, and anybody would be let in: "+
		"set basic_auth or trusted_header, or listen on 127.0.0.1", c.Listen)
}

// loopback says that only this machine reaches an address. No name is looked up: another answer later would open the door.
func loopback(listen string) bool {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return false
	}
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.Unmap().IsLoopback()
}

// Check looks at what spans several keys.
func (c Console) Check(value func(key string) ast.Node) error {
	value = setting.Written(value)
	node := value("listen")
	if node == nil {
		return nil
	}
	if c.Listen == "" {
		return setting.ErrorAt(node, "expected host:port, as in 127.0.0.1:8080: the console is a program of its own, "+
			"and there is nothing to turn off")
	}
	if err := c.CheckPublic(); err != nil {
		return setting.ErrorAt(node, "%s", err)
	}
	return nil
}

// Check says that half a certificate is none.
func (t TLS) Check(value func(key string) ast.Node) error {
	switch {
	case t.Cert != "" && t.Key == "":
		return setting.ErrorAt(value("cert"), "a certificate needs its private key: write key, too")
	case t.Cert == "" && t.Key != "":
		return setting.ErrorAt(value("key"), "a private key needs its certificate: write cert, too")
	}
	return nil
}

// Check refuses a name that is no header, or one whose meaning is another.
func (h *TrustedHeader) Check(value func(key string) ast.Node) error {
	node := setting.Written(value)("name")
	if node == nil {
		h.Name = "X-Forwarded-User"
		return nil
	}
	if !httpguts.ValidHeaderFieldName(h.Name) {
		return setting.ErrorAt(node, "%q is no name of a header: write one as in X-Forwarded-User", h.Name)
	}
	switch strings.ToLower(h.Name) {
	case "authorization", "cookie", "host", "origin", "referer", "user-agent", "sec-fetch-site", "x-forwarded-for":
		return setting.ErrorAt(node, "%s does not name a user that a proxy has authenticated: write one as in X-Forwarded-User", h.Name)
	}
	return nil
}

// console looks at what only the console needs to have: its password, its certificate, and whatever else its section takes from
// the environment. Workers, which read the same file, do without.
func (c *checker) console() {
	section := entry(c.root, "console")
	if c.opts.NoEnv { // else reported
		c.known(section)
	}
	if auth := c.cfg.Console.BasicAuth; auth != nil && auth.Password.Value() == "" && auth.Password.Env() != "" {
		at := position(entry(entry(section, "basic_auth"), "password_env"))
		c.errs = append(c.errs, c.src.errorAt(at.Line, at.Column,
			fmt.Sprintf("environment variable %s is not set", auth.Password.Env()), "set it to the console's password"))
	}
	if t := c.cfg.Console.TLS; t.Cert != "" && t.Key != "" {
		if _, err := tls.LoadX509KeyPair(string(t.Cert), string(t.Key)); err != nil {
			c.fail(entry(entry(section, "tls"), "cert"), "the certificate cannot be used: "+err.Error(),
				"expected two files in PEM form that the console may read, the certificate's and its key's")
		}
	}
}

// known refuses values that the environment does not have: read_only: ${NAME} must not silently be false.
func (c *checker) known(node ast.Node) {
	for _, pair := range pairsOf(node) {
		c.known(pair.Value)
	}
	for _, item := range items(node) {
		c.known(item)
	}
	for _, name := range expand(textOf(node), c.opts.Lookup).unset {
		at := position(node)
		c.errs = append(c.errs, c.src.errorAt(at.Line, at.Column, fmt.Sprintf("environment variable %s is not set", name),
			fmt.Sprintf("set it, or write a default as in ${%s:-…}", name)))
	}
}
