package action

import (
	"context"
	"errors"
	"fmt"

	"github.com/goccy/go-yaml/ast"

	"github.com/fraiseql/weir/internal/rule"
	"github.com/fraiseql/weir/internal/setting"
)

// Dedup is `dedup:` of an action: of the events with the same key, one within the window leads to a call.
type Dedup struct {
	// Key is a template: events for which it renders to the same text lead to one call.
	Key *rule.Template `yaml:"key" jsonschema:"required"`
	// Window is for how long after a successful call others with its key are dropped.
	Window setting.Duration `yaml:"window" jsonschema:"required"`
	// Required says that deliveries wait while Redis is away; without it they go on without dedup. Default: false.
	Required bool `yaml:"required,omitempty"`
}

// ResultCache is `cache:` of an action: its successful result stands for those with the same key, which send nothing.
type ResultCache struct {
	// Key is a template: events for which it renders to the same text have the same result.
	Key *rule.Template `yaml:"key" jsonschema:"required"`
	// TTL is for how long a result is kept.
	TTL setting.Duration `yaml:"ttl" jsonschema:"required"`
	// Tags are templates: names by which results are invalidated together.
	Tags []*rule.Template `yaml:"tags,omitempty"`
}

// noResult are the types of actions whose results cannot stand for others, and why.
var noResult = map[string]string{
	databaseType: "a database action has nothing that could be kept: what its function does is done in the database",
	"log":        "a log action has nothing that could be kept",
	searchType:   "a search action has nothing that could be kept",
	cacheType:    "a cache action has nothing that could be kept",
}

// UnmarshalYAML reads the section at a node of the file, strictly.
func (d *Dedup) UnmarshalYAML(ctx context.Context, node ast.Node) error {
	type plain Dedup // which does not decode itself
	f, err := section(ctx, node, "dedup", "{key: \"{{ entity_id }}\", window: 5m}", (*plain)(d))
	if err != nil {
		return err
	}
	errs := f.checkKey("dedup", d.Key)
	if f.has("window") && d.Window <= 0 {
		errs = append(errs, f.errorAt("window", "a window of 0 would drop nothing: expected more, as in 5m"))
	}
	return errors.Join(append(errs, f.missing("dedup", "window", "5m")...)...)
}

// UnmarshalYAML reads the section at a node of the file, strictly.
func (c *ResultCache) UnmarshalYAML(ctx context.Context, node ast.Node) error {
	type plain ResultCache // which does not decode itself
	f, err := section(ctx, node, "cache", "{key: \"{{ data.customer_id }}\", ttl: 10m}", (*plain)(c))
	if err != nil {
		return err
	}
	errs := f.checkKey("cache", c.Key)
	if f.has("ttl") && c.TTL <= 0 {
		errs = append(errs, f.errorAt("ttl", "a ttl of 0 would keep nothing: expected more, as in 10m"))
	}
	errs = append(errs, f.missing("cache", "ttl", "10m")...)
	return errors.Join(append(errs, f.checkList("tags", c.Tags)...)...)
}

// section fills a section's struct from a node of the file.
func section(ctx context.Context, node ast.Node, name, example string, into any) (fields, error) {
	f, err := fieldsOf(node, "keys with values, as in "+name+": "+example)
	if err != nil {
		return f, err
	}
	errs, _ := f.decode(ctx, into, "in "+name)
	return f, errors.Join(errs...)
}

// checkKey looks at a section's key.
func (f fields) checkKey(section string, key *rule.Template) []error {
	return append(f.missing(section, "key", `"{{ entity_id }}"`), notEmpty(f, "key", key)...)
}

// missing says that a section lacks a key.
func (f fields) missing(section, key, example string) []error {
	if f.has(key) {
		return nil
	}
	return []error{f.errorAt(key, "%s needs the key %s: add it, as in %s: %s", section, key, key, example)}
}

// checkList refuses entries of a list of templates that are empty for every event.
func (f fields) checkList(key string, list []*rule.Template) (errs []error) {
	if len(list) == 0 && f.has(key) {
		return []error{f.errorAt(key, "%s is empty: add an entry, or remove it", key)}
	}
	written, _ := f.values[key].(*ast.SequenceNode)
	for i, t := range list {
		if isEmpty(t) {
			errs = append(errs, setting.ErrorAt(written.Values[i],
				"an entry of %s is empty: write a text or a template, or remove it", key))
		}
	}
	return errs
}

// isEmpty says that a template is empty for every event.
func isEmpty(t *rule.Template) bool {
	if t == nil {
		return true
	}
	text, static := t.Static()
	return static && text == ""
}

// reuseWarnings are about keys that do not tell apart, or that tell everything apart.
func (c *Common) reuseWarnings() (warnings []string) {
	if c.Deduplication != nil {
		warnings = append(warnings, keyWarnings("dedup", c.Deduplication.Key)...)
	}
	if c.Caching != nil {
		warnings = append(warnings, keyWarnings("cache", c.Caching.Key)...)
	}
	return warnings
}

// identities are the fields of an event that no other event shares.
var identities = []string{"id", "seq"}

func keyWarnings(section string, key *rule.Template) []string {
	if _, static := key.Static(); static {
		return []string{section + ".key has no placeholder: every event shares it"}
	}
	for _, field := range identities {
		if key.Reads(field) {
			return []string{fmt.Sprintf("%s.key holds %s, which no other event has: nothing is ever saved by it", section, field)}
		}
	}
	return nil
}

// errNoKey refuses the key that every event without the value would share.
var errNoKey = errors.New("it renders to an empty text, which is no key")

// Render is the key for an event. An error is final.
func (d *Dedup) Render(env *rule.Env) (string, error) { return renderKey("dedup", d.Key, env) }

// Render is the key and the tags for an event. An error is final.
func (c *ResultCache) Render(env *rule.Env) (key string, tags []string, err error) {
	if key, err = renderKey("cache", c.Key, env); err != nil {
		return "", nil, err
	}
	for _, t := range c.Tags {
		tag, err := t.Text(env)
		if err != nil {
			return "", nil, Final(codeTemplate, fmt.Errorf("cache: tags: %w", err))
		}
		if tag != "" {
			tags = append(tags, tag)
		}
	}
	return key, tags, nil
}

func renderKey(section string, t *rule.Template, env *rule.Env) (string, error) {
	key, err := t.Text(env)
	if err == nil && key == "" {
		err = errNoKey
	}
	if err != nil {
		return "", Final(codeTemplate, fmt.Errorf("%s: key: %w", section, err))
	}
	return key, nil
}
