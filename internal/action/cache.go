package action

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/invopop/jsonschema"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/fraiseql/weir/internal/cache"
	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/rule"
)

// Cache removes what an event has made stale: keys of the application's Redis, which is the one of the section redis, and
// results that Weir keeps. Or it has a result of Weir's made anew.
type Cache struct { //nolint:recvcheck // jsonschema asks the value for JSONSchemaExtend
	Common `yaml:",inline"`

	// Verb is "invalidate", the default, or "refresh".
	Verb string `yaml:"action,omitempty" jsonschema:"enum=invalidate,enum=refresh"`
	// Keys are removed from the application's Redis, and so are Weir's results with these keys.
	Keys []*rule.Template `yaml:"keys,omitempty"`
	// KeyPattern is the same for all keys that match. Glob characters are those of the literal text alone.
	KeyPattern *rule.Template `yaml:"key_pattern,omitempty"`
	// Tags are those of Weir's results.
	Tags []*rule.Template `yaml:"tags,omitempty"`
	// Webhook names the action whose result is made anew: one with `cache:`, of this observer or as observer/action.
	Webhook string `yaml:"webhook,omitempty"`

	redis   *cache.Redis
	results *cache.Results
}

const (
	cacheType     = "cache"
	cacheEndpoint = "redis"
	invalidate    = "invalidate"
	refresh       = "refresh"
	// codeRedisAway is the Code of what Redis has not done.
	codeRedisAway = "redis_away"
)

// errNoRedis is of a section redis that came with a reload, which does not connect.
var errNoRedis = errors.New("the worker was started without a section redis: restart it")

var webhookPattern = regexp.MustCompile(`^([a-zA-Z0-9][a-zA-Z0-9_.-]*/)?[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)

func (c *Cache) check(f fields) []error {
	switch c.Verb = cmp.Or(c.Verb, invalidate); c.Verb {
	case invalidate:
		return c.checkInvalidate(f)
	case refresh:
		return c.checkRefresh(f)
	default:
		return []error{f.errorAt("action", "%q is nothing that a cache action does: expected invalidate or refresh", c.Verb)}
	}
}

func (c *Cache) checkInvalidate(f fields) []error {
	var errs []error
	if !f.has("keys") && !f.has("key_pattern") && !f.has("tags") {
		errs = append(errs, f.errorAt("keys", "cache needs keys, key_pattern or tags: add at least one of them"))
	}
	if f.has("webhook") {
		errs = append(errs, f.errorAt("webhook", "webhook goes with action: refresh: write that, or remove webhook"))
	}
	errs = append(errs, f.checkList("keys", c.Keys)...)
	errs = append(errs, f.checkList("tags", c.Tags)...)
	if f.has("key_pattern") {
		errs = append(errs, checkPattern(f, c.KeyPattern)...)
	}
	return errs
}

func checkPattern(f fields, pattern *rule.Template) []error {
	if isEmpty(pattern) {
		return notEmpty(f, "key_pattern", pattern)
	}
	if text, static := pattern.Static(); static && matchesAll(text) {
		return []error{f.errorAt("key_pattern",
			"%s would remove every key: begin it with what your keys begin with, as in order:*", text)}
	}
	return nil
}

func (c *Cache) checkRefresh(f fields) (errs []error) {
	for _, key := range []string{"keys", "key_pattern", "tags"} {
		if f.has(key) {
			errs = append(errs, f.errorAt(key, "%s goes with action: invalidate, refresh makes one result anew: remove %s", key, key))
		}
	}
	switch {
	case !f.has("webhook"):
		errs = append(errs, f.errorAt("webhook", "refresh needs webhook: add the name of an action with cache:, as in get-customer"))
	case !webhookPattern.MatchString(c.Webhook):
		errs = append(errs, f.errorAt("webhook", "%q is no name of an action: expected one, or that of an observer before it, "+
			"as in get-customer or customers/get-customer", c.Webhook))
	}
	return errs
}

// matchesAll says that a pattern has no literal character: it is for any key, or for any of a length.
func matchesAll(pattern string) bool {
	for i := 0; i < len(pattern); i++ {
		switch pattern[i] {
		case '*', '?':
		case '[': // a class, to its end or to the pattern's
			for i++; i < len(pattern) && pattern[i] != ']'; i++ {
				if pattern[i] == '\\' {
					i++
				}
			}
		default:
			return false
		}
	}
	return true
}

func (c *Cache) warnings() []string { return nil }

// Endpoint is "redis" unless the action names another.
func (c *Cache) Endpoint() string { return cmp.Or(c.EndpointName, cacheEndpoint) }

func (c *Cache) bind(d Deps) Action {
	bound := *c
	bound.redis, bound.results = d.Redis, d.Results
	return &bound
}

// Do removes, or has a result made anew.
func (c *Cache) Do(ctx context.Context, call Call) (event.Outcome, error) {
	if c.Verb == refresh {
		return c.refresh(ctx, call)
	}
	start := time.Now()
	stale, err := c.stale(call)
	if err != nil {
		return event.Outcome{}, err
	}
	if c.redis == nil || c.results == nil {
		return event.Outcome{}, sick(Retry(codeRedisAway, errNoRedis))
	}
	if span := recording(ctx); span != nil {
		span.SetName("invalidate")
		span.SetAttributes(semconv.DBSystemNameRedis)
	}
	keys, results, err := c.remove(ctx, stale)
	out := event.Outcome{DurationMS: time.Since(start).Milliseconds()}
	if err != nil {
		return out, RedisAway(ctx, err)
	}
	out.ResponseBody = fmt.Sprintf("%s and %s removed", count(keys, "key"), count(int64(results), "result"))
	return out, nil
}

// stale is what an event makes so. Its errors are final: the same event renders the same way again.
func (c *Cache) stale(call Call) (s cache.Selection, err error) {
	if s.Keys, err = renderList("keys", c.Keys, call.Env); err != nil {
		return s, err
	}
	if s.Tags, err = renderList("tags", c.Tags, call.Env); err != nil {
		return s, err
	}
	if c.KeyPattern == nil {
		return s, nil
	}
	pattern, err := c.KeyPattern.Escaped(call.Env, cache.EscapeGlob)
	if err == nil && matchesAll(pattern) {
		err = fmt.Errorf("it renders to %q, which would remove every key", pattern)
	}
	if err != nil {
		return s, Final(codeTemplate, fmt.Errorf("key_pattern: %w", err))
	}
	s.Patterns = []string{pattern}
	return s, nil
}

// renderList renders a list of which no entry may be empty.
func renderList(key string, list []*rule.Template, env *rule.Env) (texts []string, err error) {
	for _, t := range list {
		text, err := t.Text(env)
		if err == nil && text == "" {
			err = fmt.Errorf("%q renders to an empty text", t.String())
		}
		if err != nil {
			return nil, Final(codeTemplate, fmt.Errorf("%s: %w", key, err))
		}
		texts = append(texts, text)
	}
	return texts, nil
}

// remove does it all again when it is repeated, which does no harm. The application's keys go first: what makes a result anew
// may read them.
func (c *Cache) remove(ctx context.Context, s cache.Selection) (keys int64, results int, err error) {
	if len(s.Keys) > 0 {
		if keys, err = c.redis.Unlink(ctx, s.Keys); err != nil {
			return keys, 0, err
		}
	}
	for _, pattern := range s.Patterns {
		n, err := c.redis.UnlinkPattern(ctx, pattern)
		if keys += n; err != nil {
			return keys, 0, err
		}
	}
	results, err = c.results.Invalidate(ctx, s)
	return keys, results, err
}

// RedisAway is the error of what Redis has not done. Where the worker cuts it off, Redis is not to blame.
func RedisAway(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return sick(Retry(codeRedisAway, err))
	}
	err = Retry(codeRedisAway, fmt.Errorf("%w (%w)", context.Cause(ctx), err))
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return sick(err)
	}
	return err
}

func count(n int64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// refresh makes a result anew.
func (c *Cache) refresh(ctx context.Context, call Call) (event.Outcome, error) {
	observer, action := c.target(call.Observer)
	return call.Refresh(ctx, observer, action)
}

// target is the action whose result is made anew.
func (c *Cache) target(own string) (observer, action string) {
	if observer, action, found := strings.Cut(c.Webhook, "/"); found {
		return observer, action
	}
	return own, c.Webhook
}

// Preview is what would be removed or made anew.
func (c *Cache) Preview(call Call) (Preview, error) {
	p := Preview{{"action", c.Verb}}
	if c.Verb == refresh {
		observer, action := c.target(call.Observer)
		return append(p, Part{"webhook", observer + "/" + action}), nil
	}
	s, err := c.stale(call)
	if err != nil {
		return nil, err
	}
	for _, part := range []struct {
		name  string
		texts []string
	}{{"keys", s.Keys}, {"pattern", s.Patterns}, {"tags", s.Tags}} {
		if len(part.texts) > 0 {
			p = append(p, Part{part.name, strings.Join(part.texts, ", ")})
		}
	}
	return p, nil
}

// JSONSchemaExtend says which keys go together.
func (Cache) JSONSchemaExtend(s *jsonschema.Schema) {
	for _, key := range []string{"keys", "key_pattern", "tags", "webhook"} {
		s.AnyOf = append(s.AnyOf, &jsonschema.Schema{Required: []string{key}})
	}
}
