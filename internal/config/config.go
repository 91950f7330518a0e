// Package config reads weir.yaml: strictly, with file, line, column and the offending line in every error. The rooms'
// own Config structs are put together here; each room keeps its keys, defaults and checks beside the code that reads
// them, and their struct tags are the rules for the decoder and for the JSON Schema alike.
//
// A file goes through four steps, each of which may end with errors: parse (goccy/go-yaml's syntax tree), resolve
// (anchors, duplicate keys, ${NAME}), decode (into the structs) and check (what spans several keys). Load has no state:
// a reload calls it again and swaps the result.
package config

import (
	"context"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"time"

	"github.com/goccy/go-yaml/ast"

	"github.com/fraiseql/weir/internal/action"
	"github.com/fraiseql/weir/internal/cache"
	"github.com/fraiseql/weir/internal/capture"
	"github.com/fraiseql/weir/internal/index"
	"github.com/fraiseql/weir/internal/jobs"
	"github.com/fraiseql/weir/internal/observer"
	"github.com/fraiseql/weir/internal/outbound"
	"github.com/fraiseql/weir/internal/setting"
)

// Config is weir.yaml, checked, with every default filled in. It prints no secret.
type Config struct {
	// Installation is a free name. A worker that finds another one in its database refuses to start. Default: "".
	Installation string `yaml:"installation,omitempty"`
	// Database is where River, the checkpoint and the events are.
	Database Database `yaml:"database,omitempty"`
	// Source is where the change log is.
	Source Source `yaml:"source,omitempty"`
	// Outbound says which private targets observers may reach.
	Outbound outbound.Config `yaml:"outbound,omitempty"`
	// SMTP is the mail server of the email actions. Default: none.
	SMTP *action.SMTP `yaml:"smtp,omitempty"`
	// Redis is for deduplication and the result cache. Default: none.
	Redis *cache.Config `yaml:"redis,omitempty"`
	// Elasticsearch is for the history (history.store) and the search actions. Default: none.
	Elasticsearch *index.ElasticsearchConfig `yaml:"elasticsearch,omitempty"`
	// HTTP is where the worker serves /metrics, /healthz and /readyz.
	HTTP HTTP `yaml:"http,omitempty"`
	// Console is where and to whom riverui-proxy shows River UI and Weir's own pages.
	Console Console `yaml:"console,omitempty"`
	// History says where and how long events and outcomes are kept.
	History index.Config `yaml:"history,omitempty"`
	// Log is the worker's log.
	Log Log `yaml:"log,omitempty"`
	// Telemetry is where traces go.
	Telemetry Telemetry `yaml:"telemetry,omitempty"`
	// ShutdownTimeout is how long running deliveries may go on after SIGTERM. Default: 30s.
	ShutdownTimeout setting.Duration `yaml:"shutdown_timeout,omitempty"`
	// Endpoints are settings of a place, for all actions that go there. The key is host[:port], or the name that an
	// action gives. Default: none.
	Endpoints map[string]jobs.EndpointConfig `yaml:"endpoints,omitempty"`
	// Observers say which events lead to which actions, by name. Without any, events are recorded all the same. Default: none.
	Observers map[string]observer.Config `yaml:"observers,omitempty"`

	// Files are those that were read, as they were: the configuration itself, and what it names.
	Files []setting.File `yaml:"-"`
	// Warnings are what is allowed but probably not meant, in the order of the file.
	Warnings []Warning `yaml:"-"`
	// Unset are the variables that Incomplete has missed, sorted.
	Unset []string `yaml:"-"`
	// Mistakes are what OnlyPlaces has passed over.
	Mistakes Errors `yaml:"-"`
}

// Database is the section `database:`.
type Database struct {
	// URL is how to connect. Default: the environment's DATABASE_URL.
	URL URL `yaml:"url,omitempty"`
}

// Source is the section `source:`.
type Source struct {
	// URL is how to connect to the database with the change log. Default: database.url.
	URL            URL `yaml:"url,omitempty"`
	capture.Config `yaml:",inline"`
}

// HTTP is the section `http:`.
type HTTP struct {
	// Listen is the address, as in 127.0.0.1:9464; "" turns the server off. Default: 127.0.0.1:9464.
	Listen Listen `yaml:"listen,omitempty"`
}

// Telemetry is the section `telemetry:`.
type Telemetry struct {
	// OTLPEndpoint is the collector's address for OTLP over HTTP, as in http://localhost:4318; /v1/traces is put behind it. Its
	// credentials are the environment's OTEL_EXPORTER_OTLP_HEADERS. Default: "", no traces.
	OTLPEndpoint Collector `yaml:"otlp_endpoint,omitempty"`
}

// Options say what to load.
type Options struct {
	// Path is the file. Find finds it.
	Path string
	// Lookup finds an environment variable; os.LookupEnv in production. nil: nothing is set.
	Lookup func(name string) (string, bool)
	// NoEnv checks all but what only the environment knows: secrets are not looked up, and an unset ${NAME} is no
	// error, nor is what its value would decide. The result then lacks these values.
	NoEnv bool
	// Incomplete is NoEnv, but what the environment has is used. What it lacks is in Config.Unset.
	Incomplete bool
	// Console is for the console: what its own section needs of the environment and of files must be there.
	Console bool
	// OnlyPlaces is for tools beside the worker: of the file only what says where things are is kept (installation,
	// database, source), and mistakes elsewhere are no errors but in Config.Mistakes.
	OnlyPlaces bool
}

// places are the top-level keys that OnlyPlaces keeps.
var places = []string{"installation", "database", "source"}

// Load reads and checks a file. An error about its contents is of type Errors and holds as many as could be found; the
// caller prints it as it is. Load keeps nothing and may run at any time.
func Load(ctx context.Context, opts Options) (*Config, error) {
	raw, file, err := setting.ReadFile(opts.Path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	cfg, err := load(ctx, raw, opts)
	if err != nil {
		return nil, err
	}
	cfg.Files = append([]setting.File{file}, cfg.Files...)
	return cfg, nil
}

func load(ctx context.Context, raw []byte, opts Options) (*Config, error) {
	if opts.Lookup == nil {
		opts.Lookup = func(string) (string, bool) { return "", false }
	}
	src := newSource(opts.Path, raw)
	root, err := src.parse()
	if err != nil {
		return nil, err
	}
	opts.NoEnv = opts.NoEnv || opts.Incomplete
	r := resolver{src: src, lookup: opts.Lookup, noEnv: opts.NoEnv}
	root = r.document(root)
	if r.stop {
		return nil, r.errs.sorted()
	}

	var files []setting.File
	surroundings := setting.Surroundings{
		Lookup: opts.Lookup, Dir: filepath.Dir(opts.Path), Opened: func(f setting.File) { files = append(files, f) },
	}
	switch {
	case opts.Incomplete:
		surroundings.Unset = func(name string) { r.unset = append(r.unset, name) }
	case opts.NoEnv:
		surroundings.Lookup = nil
	}
	d := decoder{src: src, unknown: r.unknown, errs: r.errs}
	if root.Type() == ast.NullType && !opts.OnlyPlaces {
		return nil, Errors{src.errorAt(1, 1, "the file is empty", "expected keys with values; without any observer, observers: {}")}
	}
	cfg := defaults()
	d.value(setting.NewContext(ctx, surroundings), root, reflect.ValueOf(cfg).Elem(), "")
	c := checker{decoder: &d, root: root, cfg: cfg, opts: opts}
	c.check()
	var mistakes Errors
	if opts.OnlyPlaces {
		mistakes, d.errs = d.elsewhere(root)
		cfg = &Config{Installation: cfg.Installation, Database: cfg.Database, Source: cfg.Source, Mistakes: mistakes}
	}
	if len(d.errs) > 0 {
		return nil, d.errs.sorted()
	}
	cfg.fillIn()
	cfg.Files, cfg.Warnings = files, c.warnings
	if opts.Incomplete {
		slices.Sort(r.unset)
		cfg.Unset = slices.Compact(r.unset)
	}
	return cfg, nil
}

// elsewhere parts the errors into those that lie in top-level entries other than places, and the rest.
func (d *decoder) elsewhere(root ast.Node) (elsewhere, rest Errors) {
	for _, e := range d.errs.sorted() {
		key := ""
		for _, pair := range pairsOf(root) {
			at := position(pair.Key)
			if at.Line < e.Line || (at.Line == e.Line && at.Column <= e.Column) {
				key, _ = keyText(pair.Key)
			}
		}
		if key == "" || slices.Contains(places, key) {
			rest = append(rest, e)
		} else {
			elsewhere = append(elsewhere, e)
		}
	}
	return elsewhere, rest
}

// Default is what an empty file would be: everything in one database, no observers.
func Default(database URL) *Config {
	cfg := defaults()
	cfg.Database.URL = database
	cfg.fillIn()
	return cfg
}

// defaults are those of this package's own keys; the rooms fill in theirs.
func defaults() *Config {
	return &Config{
		HTTP:            HTTP{Listen: "127.0.0.1:9464"},
		Console:         Console{Listen: "127.0.0.1:8080"},
		Log:             Log{Level: "info", Format: "text"},
		ShutdownTimeout: setting.Duration(30 * time.Second),
	}
}

func (c *Config) fillIn() {
	if c.Source.URL.IsZero() {
		c.Source.URL = c.Database.URL
	}
	c.Source.Config = c.Source.Config.WithDefaults()
	if c.SMTP != nil {
		*c.SMTP = c.SMTP.WithDefaults()
	}
	if c.Redis != nil {
		*c.Redis = c.Redis.WithDefaults()
	}
	if c.Elasticsearch != nil {
		*c.Elasticsearch = c.Elasticsearch.WithDefaults()
	}
	c.History = c.History.WithDefaults()
	for name, e := range c.Endpoints {
		c.Endpoints[name] = e.WithDefaults(name)
	}
	for name, o := range c.Observers {
		c.Observers[name] = o.WithDefaults()
	}
}
