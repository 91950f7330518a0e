package cache

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"time"

	"github.com/goccy/go-yaml/ast"
	"github.com/invopop/jsonschema"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/fraiseql/weir/internal/setting"
)

// Config is the section `redis:` of weir.yaml: where deduplication and the result cache are kept. One server is named by its
// url; several addrs are a Cluster, or with master_name the Sentinels of a server.
type Config struct {
	// URL is one server, as in redis://user:password@localhost:6379/0, or rediss:// for TLS. This or addrs is needed.
	// Default: none.
	URL URL `yaml:"url,omitempty"`
	// Addrs are the host:port of a Cluster's nodes or, with master_name, of the Sentinels, in place of url.
	// Default: none.
	Addrs []string `yaml:"addrs,omitempty"`
	// MasterName is the name by which the Sentinels know the server. Default: none.
	MasterName string `yaml:"master_name,omitempty"`
	// DB is the database's number, with addrs and master_name. Default: 0.
	DB int `yaml:"db,omitempty" jsonschema:"minimum=0"`
	// UsernameEnv names the environment variable with the user's name, where it does not stand in the url.
	// Default: none.
	UsernameEnv setting.Secret `yaml:"username_env,omitempty"`
	// PasswordEnv names the environment variable with the password, where it does not stand in the url.
	// Default: none.
	PasswordEnv setting.Secret `yaml:"password_env,omitempty"`
	// TLS encrypts connections to addrs; for a url, write rediss://. Default: false.
	TLS bool `yaml:"tls,omitempty"`
	// CAFile names the authorities that the server's certificate may come from. Default: the system's.
	CAFile setting.CAFile `yaml:"ca_file,omitempty"`
	// Timeout is how long a command may take, connection and repetitions included, at most 30s. Default: 100ms.
	Timeout setting.Duration `yaml:"timeout,omitempty"`
	// PoolSize is how many connections each worker process holds at most, for each server. Default: 20.
	PoolSize int `yaml:"pool_size,omitempty" jsonschema:"minimum=1,maximum=10000"`
	// MaxRetries is how often a command is repeated whose connection broke, within its timeout; 0: never. Default: 1.
	MaxRetries *int `yaml:"max_retries,omitempty" jsonschema:"minimum=0,maximum=10"`
}

const (
	defaultTimeout  = setting.Duration(100 * time.Millisecond)
	maxTimeout      = setting.Duration(indexSlack / 2) // two commands later a result is still in its indexes
	defaultPoolSize = 20
	defaultRetries  = 1
)

// WithDefaults fills in what is not set.
func (c Config) WithDefaults() Config {
	c.Timeout = cmp.Or(c.Timeout, defaultTimeout)
	c.PoolSize = cmp.Or(c.PoolSize, defaultPoolSize)
	if c.MaxRetries == nil {
		retries := defaultRetries
		c.MaxRetries = &retries
	}
	return c
}

var errNowhere = errors.New("redis needs url or addrs: add one, as in url: redis://localhost:6379/0")

// Check looks at what spans several keys.
func (c Config) Check(value func(key string) ast.Node) error {
	written := setting.Written(value)
	var errs []error
	misplaced := func(key, other string) {
		if n := written(key); n != nil {
			errs = append(errs, setting.ErrorAt(n, "%s goes with %s: remove it, or write %s", key, other, other))
		}
	}
	switch {
	case written("url") != nil && written("addrs") != nil:
		errs = append(errs, setting.ErrorAt(written("addrs"), "redis has both url and addrs: remove one"))
	case written("url") != nil:
		misplaced("master_name", "addrs")
		if n := written("db"); n != nil {
			errs = append(errs, setting.ErrorAt(n,
				"with url, the number of the database stands in it, as in redis://localhost:6379/2: remove db"))
		}
		if n := written("tls"); n != nil {
			errs = append(errs, setting.ErrorAt(n, "with url, TLS is rediss:// in place of redis://: remove tls"))
		}
		if n := written("ca_file"); n != nil && c.URL.options != nil && c.URL.options.TLSConfig == nil {
			errs = append(errs, setting.ErrorAt(n, "without TLS nobody looks at a certificate: remove ca_file, or write rediss://"))
		}
	case written("addrs") != nil:
		errs = append(errs, c.checkAddrs(written)...)
	default:
		errs = append(errs, errNowhere) // without a place of its own it is the section's
	}
	if n := written("timeout"); n != nil && c.Timeout > maxTimeout {
		errs = append(errs, setting.ErrorAt(n,
			"each delivery would wait so long for a Redis that hangs: expected %s at most", maxTimeout))
	}
	if u, p := written("username_env"), written("password_env"); u != nil && p == nil {
		errs = append(errs, setting.ErrorAt(u, "username_env goes with password_env: write both"))
	}
	return errors.Join(errs...)
}

func (c Config) checkAddrs(written func(key string) ast.Node) []error {
	var errs []error
	if len(c.Addrs) == 0 {
		errs = append(errs, setting.ErrorAt(written("addrs"), "addrs is empty: expected a list, as in [redis-1:6379, redis-2:6379]"))
	}
	for _, addr := range c.Addrs {
		host, port, err := net.SplitHostPort(addr)
		if _, noNumber := strconv.ParseUint(port, 10, 16); err != nil || host == "" || noNumber != nil {
			errs = append(errs, setting.ErrorAt(written("addrs"), "%q is no address: expected host:port, as in redis-1:6379", addr))
		}
	}
	if n := written("db"); n != nil && c.MasterName == "" {
		errs = append(errs, setting.ErrorAt(n, "a Cluster has one database alone: remove db, or write master_name"))
	}
	if n := written("ca_file"); n != nil && !c.TLS {
		errs = append(errs, setting.ErrorAt(n, "without TLS nobody looks at a certificate: remove ca_file, or write tls: true"))
	}
	return errs
}

// options are those of go-redis' universal client.
func (c Config) options() *redis.UniversalOptions {
	o := &redis.UniversalOptions{
		Addrs: c.Addrs, MasterName: c.MasterName, DB: c.DB, IsClusterMode: c.URL.options == nil && c.MasterName == "",
		Username: c.UsernameEnv.Value(), Password: c.PasswordEnv.Value(),
		DialTimeout: c.Timeout.Std(), ReadTimeout: c.Timeout.Std(), WriteTimeout: c.Timeout.Std(), PoolTimeout: c.Timeout.Std(),
		ContextTimeoutEnabled: true, PoolSize: c.PoolSize, MaxRetries: *c.MaxRetries,
		// A dial that fails is not repeated after a pause: the command's timeout would be over.
		DialerRetries: 1, DisableIdentity: true,
		// The connection of the subscription must not be replaced behind its back.
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
	if o.MaxRetries == 0 {
		o.MaxRetries = -1 // 0 is three
	}
	encrypted := c.TLS
	if one := c.URL.options; one != nil {
		o.Addrs, o.DB, encrypted = []string{one.Addr}, one.DB, one.TLSConfig != nil
		o.Username, o.Password = cmp.Or(o.Username, one.Username), cmp.Or(o.Password, one.Password)
	}
	if encrypted {
		o.TLSConfig = &tls.Config{RootCAs: c.CAFile.Pool(), MinVersion: tls.VersionTLS12}
	}
	return o
}

// String names the servers, for people.
func (c Config) String() string {
	if c.URL.options != nil {
		return c.URL.options.Addr
	}
	return fmt.Sprint(c.Addrs)
}

// URL is how to connect to one server. Its password never shows.
type URL struct {
	value   string
	options *redis.Options // and what go-redis reads in it
}

// ParseURL reads redis:// and rediss://. The error repeats nothing of it.
func ParseURL(s string) (URL, error) {
	const want = "expected redis://user:password@host:6379/0, or rediss:// for TLS"
	u, err := url.Parse(s)
	if err != nil || (u.Scheme != "redis" && u.Scheme != "rediss") || u.Hostname() == "" {
		return URL{}, errors.New("this is no URL of Redis: " + want)
	}
	if u.RawQuery != "" || u.Fragment != "" {
		return URL{}, errors.New("a URL of Redis takes no parameters here, they are keys of the section redis: " + want)
	}
	options, err := redis.ParseURL(s)
	if err != nil {
		return URL{}, errors.New("this is no URL of Redis: " + want)
	}
	return URL{value: s, options: options}, nil
}

// Value is the URL itself, password included. Keep it out of logs and errors.
func (u URL) Value() string { return u.value }

// String is the URL without its password.
func (u URL) String() string {
	parsed, err := url.Parse(u.value)
	if err != nil || u.value == "" {
		return ""
	}
	if parsed.User != nil {
		parsed.User = url.User(parsed.User.Username())
	}
	return parsed.String()
}

// Format is String for every verb: %d of a struct would otherwise print its fields.
func (u URL) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, u.String()) }

// MarshalText is String, so that no encoder writes the password.
func (u URL) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// UnmarshalYAML reads a URL at a node of the file.
func (u *URL) UnmarshalYAML(_ context.Context, node ast.Node) error {
	return setting.Parsed(node, u, ParseURL)
}

// JSONSchema describes a URL to editors.
func (URL) JSONSchema() *jsonschema.Schema {
	return &jsonschema.Schema{Type: "string", Pattern: `^(rediss?://|.*\$\{)`}
}
