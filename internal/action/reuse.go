package action

import (
	"errors"
	"fmt"

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
