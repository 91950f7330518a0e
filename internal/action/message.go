package action

import (
	"fmt"

	"github.com/fraiseql/weir/internal/rule"
	"github.com/fraiseql/weir/internal/setting"
)

// defaultMessage is FraiseQL's.
const defaultMessage = "Event: {{ event_type }} on {{ entity_type }} (ID: {{ entity_id }})"

// messageOf is a message_template, or the default one.
func messageOf(f fields, written *rule.Template) (*rule.Template, []error) {
	if written != nil {
		return written, notEmpty(f, "message_template", written)
	}
	message, err := rule.CompileTemplate(defaultMessage)
	if err != nil {
		return nil, []error{f.errorAt("message_template", "%s", err)}
	}
	return message, nil
}

// part is a piece of a message: the template of a key, how it is rendered, and what takes it.
type part struct {
	key    string
	of     *rule.Template // nil: the key is not written
	render func(rule.Template, *rule.Env) (string, error)
	into   *string
}

// renderParts renders the pieces. What fails is final: it would fail again.
func renderParts(env *rule.Env, parts ...part) (err error) {
	for _, p := range parts {
		if p.of == nil {
			continue
		}
		if *p.into, err = p.render(*p.of, env); err != nil {
			return Final(codeTemplate, fmt.Errorf("%s: %w", p.key, err))
		}
	}
	return nil
}

// needs names the keys that are missing.
func needs(f fields, keys ...string) (errs []error) {
	kind, _ := setting.Text(f.values["type"])
	for _, key := range keys {
		if !f.has(key) {
			errs = append(errs, f.errorAt(key, "%s needs the key %s: add it", kind, key))
		}
	}
	return errs
}

// notEmpty refuses a template that is empty for every event. One that is missing is somebody else's to report.
func notEmpty(f fields, key string, tmpl *rule.Template) []error {
	if tmpl != nil && isEmpty(tmpl) {
		return []error{f.errorAt(key, "%s is empty: write a text or a template, or remove it", key)}
	}
	return nil
}
