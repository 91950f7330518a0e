package index

import (
	"cmp"
	"context"
	"errors"
	"net/url"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
	"github.com/invopop/jsonschema"

	"github.com/fraiseql/weir/internal/setting"
)

// ElasticsearchConfig is the section `elasticsearch:` of weir.yaml: the servers that the history and the search actions use.
// They connect with an API key, with a name and a password, or with neither.
type ElasticsearchConfig struct {
	// URLs are the nodes of one cluster, as in [https://es-1.example.org:9200]. One is needed. Default: none.
	URLs []ServerURL `yaml:"urls,omitempty"`
	// APIKeyEnv names the environment variable with an API key, encoded as Elasticsearch gives it out. Default: none.
	APIKeyEnv setting.Secret `yaml:"api_key_env,omitempty"`
	// UsernameEnv names the environment variable with the user's name, in place of api_key_env. Default: none.
	UsernameEnv setting.Secret `yaml:"username_env,omitempty"`
	// PasswordEnv names the environment variable with the password. Default: none.
	PasswordEnv setting.Secret `yaml:"password_env,omitempty"`
	// CAFile names the authorities that the servers' certificates may come from. Default: the system's.
	CAFile setting.CAFile `yaml:"ca_file,omitempty"`
	// Timeout is how long a request may take. Default: 30s.
	Timeout setting.Duration `yaml:"timeout,omitempty"`
}

const defaultTimeout = setting.Duration(30 * time.Second)

// WithDefaults fills in what is not set.
func (c ElasticsearchConfig) WithDefaults() ElasticsearchConfig {
	c.Timeout = cmp.Or(c.Timeout, defaultTimeout)
	return c
}

var errNoServers = errors.New("elasticsearch needs urls: add them, as in urls: [\"http://localhost:9200\"]")

// Check looks at what spans several keys.
func (c ElasticsearchConfig) Check(value func(key string) ast.Node) error {
	written := setting.Written(value)
	var errs []error
	switch n := written("urls"); {
	case n == nil:
		errs = append(errs, errNoServers) // without a place of its own it is the section's
	case len(c.URLs) == 0:
		errs = append(errs, setting.ErrorAt(n, "urls is empty: expected a list, as in [\"http://localhost:9200\"]"))
	}
	key, user, password := written("api_key_env"), written("username_env"), written("password_env")
	switch {
	case key != nil && (user != nil || password != nil):
		errs = append(errs, setting.ErrorAt(key,
			"a request carries an API key, or a name and a password: remove api_key_env, or username_env and password_env"))
	case user != nil && password == nil:
		errs = append(errs, setting.ErrorAt(user, "username_env goes with password_env: write both"))
	case password != nil && user == nil:
		errs = append(errs, setting.ErrorAt(password, "password_env goes with username_env: write both"))
	}
	if n := written("ca_file"); n != nil && len(c.URLs) > 0 && !c.encrypted() {
		errs = append(errs, setting.ErrorAt(n, "without TLS nobody looks at a certificate: remove ca_file, or write https://"))
	}
	return errors.Join(errs...)
}

func (c ElasticsearchConfig) encrypted() bool {
	for _, u := range c.URLs {
		if u.parsed == nil || u.parsed.Scheme == "https" { // nil: refused, or not known
			return true
		}
	}
	return false
}

// String names the servers, for people.
func (c ElasticsearchConfig) String() string {
	all := make([]string, len(c.URLs))
	for i, u := range c.URLs {
		all[i] = u.String()
	}
	return strings.Join(all, ", ")
}

func (c ElasticsearchConfig) servers() []*url.URL {
	all := make([]*url.URL, len(c.URLs))
	for i, u := range c.URLs {
		all[i] = u.parsed
	}
	return all
}

// ServerURL is where a server is. It holds no password.
type ServerURL struct{ parsed *url.URL }

// ParseServerURL reads http:// and https://. The error repeats nothing of it.
func ParseServerURL(s string) (ServerURL, error) {
	const want = "expected http://host:9200, or https:// for TLS"
	u, err := url.Parse(strings.TrimRight(s, "/"))
	switch {
	case err != nil, u.Scheme != "http" && u.Scheme != "https", u.Hostname() == "":
		return ServerURL{}, errors.New("this is no URL of Elasticsearch: " + want)
	case u.User != nil:
		return ServerURL{}, errors.New(
			"a URL with a user or a password shows in logs: leave them out, and write username_env and password_env")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return ServerURL{}, errors.New("a URL of Elasticsearch takes no parameters: " + want)
	}
	return ServerURL{parsed: u}, nil
}

// String is the URL, "" where there is none.
func (u ServerURL) String() string {
	if u.parsed == nil {
		return ""
	}
	return u.parsed.String()
}

// MarshalText is String.
func (u ServerURL) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// UnmarshalYAML reads a URL at a node of the file.
func (u *ServerURL) UnmarshalYAML(_ context.Context, node ast.Node) error {
	return setting.Parsed(node, u, ParseServerURL)
}

// JSONSchema describes a URL to editors.
func (ServerURL) JSONSchema() *jsonschema.Schema {
	return &jsonschema.Schema{Type: "string", Pattern: `^(https?://|.*\$\{)`}
}
