package breaker

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"math"
	"strconv"
	"time"

	"github.com/goccy/go-yaml/ast"
	"github.com/invopop/jsonschema"

	"github.com/fraiseql/weir/internal/setting"
)

// Config is `breaker:` of an endpoint in weir.yaml: keys with values, or off. Its zero value stands for the default, which
// differs by what goes to the endpoint.
type Config struct { //nolint:recvcheck // the decoder fills it, all else reads it
	// Off turns the breaker off. A person's `weir breaker open` holds all the same.
	Off bool
	// FailureRatio is which part of the calls in the window has to fail: 0.01 to 1. Default: 0.5.
	FailureRatio float64
	// MinRequests is how many calls the window has to hold before it says anything. Default: 20.
	MinRequests int
	// Window is how far back calls count. Default: 30s.
	Window time.Duration
	// OpenFor is how long an open breaker waits before it lets probes through. Default: 30s.
	OpenFor time.Duration
	// Probes is how many calls a half-open breaker lets through at once, and how many have to succeed. Default: 3.
	Probes int
}

const (
	defaultRatio       = 0.5
	defaultMinRequests = 20
	defaultWindow      = 30 * time.Second
	defaultOpenFor     = 30 * time.Second
	defaultProbes      = 3

	minRatio    = 0.01 // the library rounds to hundredths
	maxRequests = 100_000
	maxProbes   = 100
)

// IsZero says that nothing is written.
func (c Config) IsZero() bool { return c == Config{} }

// WithDefaults fills in what is not set.
func (c Config) WithDefaults() Config {
	c.FailureRatio = cmp.Or(c.FailureRatio, defaultRatio)
	c.MinRequests = cmp.Or(c.MinRequests, defaultMinRequests)
	c.Window = cmp.Or(c.Window, defaultWindow)
	c.OpenFor = cmp.Or(c.OpenFor, defaultOpenFor)
	c.Probes = cmp.Or(c.Probes, defaultProbes)
	return c
}

const expected = "expected off, or keys with values, as in " +
	"{failure_ratio: 0.5, min_requests: 20, window: 30s, open_for: 30s, probes: 3}"

// UnmarshalYAML reads a breaker at a node of the file, and reports every error that it finds.
func (c *Config) UnmarshalYAML(ctx context.Context, node ast.Node) error {
	pairs, ok := node.(ast.MapNode)
	if !ok {
		if node.GetToken().Value != "off" {
			return setting.ErrorAt(node, "%s", expected)
		}
		c.Off = true
		return nil
	}
	var errs []error
	for iter := pairs.MapRange(); iter.Next(); {
		errs = append(errs, c.key(ctx, iter.KeyValue()))
	}
	return errors.Join(errs...)
}

func (c *Config) key(ctx context.Context, pair *ast.MappingValueNode) (err error) {
	if pair.Value.Type() == ast.NullType {
		return nil // as if it were not written
	}
	switch key := pair.Key.GetToken().Value; key {
	case "failure_ratio":
		c.FailureRatio, err = ratio(pair.Value)
	case "min_requests":
		c.MinRequests, err = whole(key, pair.Value, maxRequests)
	case "window":
		c.Window, err = duration(ctx, key, pair.Value)
	case "open_for":
		c.OpenFor, err = duration(ctx, key, pair.Value)
	case "probes":
		c.Probes, err = whole(key, pair.Value, maxProbes)
	default:
		err = setting.ErrorAt(pair.Key,
			"unknown key %q in breaker: expected one of failure_ratio, min_requests, open_for, probes, window", key)
	}
	return err
}

func ratio(node ast.Node) (float64, error) {
	text, _ := setting.Text(node)
	r, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(r) || r < minRatio || r > 1 {
		return 0, setting.ErrorAt(node,
			"failure_ratio is the part of the calls that has to fail: expected %v to 1, as in 0.5", minRatio)
	}
	return r, nil
}

func whole(key string, node ast.Node, highest int) (int, error) {
	text, _ := setting.Text(node)
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > highest {
		return 0, setting.ErrorAt(node, "%s: expected a whole number from 1 to %d", key, highest)
	}
	return n, nil
}

func duration(ctx context.Context, key string, node ast.Node) (time.Duration, error) {
	var d setting.Duration
	if err := d.UnmarshalYAML(ctx, node); err != nil {
		return 0, err
	}
	if d <= 0 {
		return 0, setting.ErrorAt(node, "%s is 0: expected more, as in 30s", key)
	}
	return d.Std(), nil
}

// JSONSchema describes a breaker to editors.
func (Config) JSONSchema() *jsonschema.Schema {
	keys := jsonschema.NewProperties()
	number := func(name, kind, description, low, high string) {
		keys.Set(name, &jsonschema.Schema{
			Type: kind, Description: description, Minimum: json.Number(low), Maximum: json.Number(high),
		})
	}
	span := func(name, description string) {
		s := setting.Duration(0).JSONSchema()
		s.Description = description
		keys.Set(name, s)
	}
	number("failure_ratio", "number", "Which part of the calls in the window has to fail. Default: 0.5.", "0.01", "1")
	number("min_requests", "integer", "How many calls the window has to hold before it says anything. Default: 20.", "1",
		strconv.Itoa(maxRequests))
	span("window", "How far back calls count. Default: 30s.")
	span("open_for", "How long an open breaker waits before it lets probes through. Default: 30s.")
	number("probes", "integer",
		"How many calls a half-open breaker lets through at once, and how many have to succeed. Default: 3.", "1",
		strconv.Itoa(maxProbes))
	return &jsonschema.Schema{
		OneOf: []*jsonschema.Schema{
			{Type: "string", Enum: []any{"off"}},
			{Type: "object", Properties: keys, AdditionalProperties: jsonschema.FalseSchema},
		},
	}
}
