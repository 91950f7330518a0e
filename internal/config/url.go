package config

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/invopop/jsonschema"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fraiseql/weir/internal/setting"
)

// URL is how to connect to a PostgreSQL database: a URL or libpq's keywords and values. It may hold a password, so it
// never prints itself whole. The zero value is no URL.
type URL struct{ value string }

// ParseURL reads what libpq reads. The error repeats nothing of it.
func ParseURL(s string) (URL, error) {
	const want = "expected postgres://user:password@host:5432/database"
	if scheme, _, ok := strings.Cut(s, "://"); ok && scheme != "postgres" && scheme != "postgresql" {
		return URL{}, errors.New("this is no PostgreSQL URL: " + want)
	}
	if !strings.Contains(s, "://") && !strings.Contains(s, "=") {
		return URL{}, errors.New("this is no PostgreSQL URL: " + want)
	}
	if _, err := pgxpool.ParseConfig(s); err != nil {
		// pgx repeats what it was given before the reason, and what stands behind the reason may, too.
		reason := "it cannot be parsed"
		if _, after, ok := strings.Cut(err.Error(), "`: "); ok {
			reason, _, _ = strings.Cut(after, " (")
		}
		return URL{}, fmt.Errorf("this is no PostgreSQL URL (%s): %s", reason, want)
	}
	return URL{value: s}, nil
}

// Value is the URL itself, password included. Keep it out of logs and errors.
func (u URL) Value() string { return u.value }

// IsZero says that no URL was given.
func (u URL) IsZero() bool { return u.value == "" }

// String is scheme, user, host and path, or "[redacted]" for keywords and values.
func (u URL) String() string {
	if u.value == "" {
		return ""
	}
	parsed, err := url.Parse(u.value)
	if err != nil || parsed.Host == "" {
		return "[redacted]"
	}
	safe := url.URL{Scheme: parsed.Scheme, Host: parsed.Host, Path: parsed.Path}
	if parsed.User != nil {
		safe.User = url.User(parsed.User.Username())
	}
	return safe.String()
}

// Format is String for every verb: %d of a struct would otherwise print its fields.
func (u URL) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, u.String()) }

// MarshalText is String, so that no encoder writes the password.
func (u URL) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// UnmarshalYAML reads a URL at a node of the file.
func (u *URL) UnmarshalYAML(_ context.Context, node ast.Node) error {
	text, ok := setting.Text(node)
	if !ok {
		return setting.ErrorAt(node, "expected a PostgreSQL URL, as in ${DATABASE_URL}")
	}
	if text == "" {
		return nil
	}
	v, err := ParseURL(text)
	if err != nil {
		return setting.ErrorAt(node, "%s", err)
	}
	*u = v
	return nil
}

// JSONSchema describes a URL to editors.
func (URL) JSONSchema() *jsonschema.Schema {
	return &jsonschema.Schema{Type: "string"}
}

// Listen is an address to listen on: host:port, :port for every interface, "" for none.
type Listen string

// Local is where a program on this machine reaches what listens there, as host:port. false: nothing does, or it is not known on
// which port.
func (l Listen) Local() (address string, ok bool) {
	host, port, err := net.SplitHostPort(string(l))
	if err != nil || port == "0" {
		return "", false
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port), true
}

// UnmarshalYAML reads an address at a node of the file.
func (l *Listen) UnmarshalYAML(_ context.Context, node ast.Node) error {
	const want = `expected host:port, as in 127.0.0.1:9464, or "" to turn it off`
	text, ok := setting.Text(node)
	if !ok {
		return setting.ErrorAt(node, "%s", want)
	}
	if text != "" {
		_, port, err := net.SplitHostPort(text)
		if err != nil {
			return setting.ErrorAt(node, "%q is no address: %s", text, want)
		}
		if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
			return setting.ErrorAt(node, "%q is no port: expected a number up to 65535", port)
		}
	}
	*l = Listen(text)
	return nil
}

// JSONSchema describes an address to editors.
func (Listen) JSONSchema() *jsonschema.Schema {
	return &jsonschema.Schema{Type: "string"}
}

// Collector is the http or https URL of what takes traces, "" for none. It holds no credentials, so it may be printed.
type Collector string

// UnmarshalYAML reads a URL at a node of the file.
func (c *Collector) UnmarshalYAML(_ context.Context, node ast.Node) error {
	const want = `expected an http or https URL, as in http://localhost:4318, or "" for no traces`
	text, ok := setting.Text(node)
	if !ok {
		return setting.ErrorAt(node, "%s", want)
	}
	if text == "" {
		*c = ""
		return nil
	}
	u, err := url.Parse(text)
	switch {
	case err != nil, u.Scheme != "http" && u.Scheme != "https", u.Hostname() == "":
		return setting.ErrorAt(node, "this is no collector's URL: %s", want)
	case u.User != nil, u.RawQuery != "", u.Fragment != "":
		return setting.ErrorAt(node, "a collector's URL has neither user, password, ? nor #: "+
			"put credentials into the environment variable OTEL_EXPORTER_OTLP_HEADERS")
	}
	*c = Collector(text)
	return nil
}

// JSONSchema describes a URL to editors.
func (Collector) JSONSchema() *jsonschema.Schema {
	return &jsonschema.Schema{Type: "string"}
}
