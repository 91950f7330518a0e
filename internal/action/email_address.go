package action

import (
	"context"
	"errors"
	"fmt"
	"net/mail"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/invopop/jsonschema"
	"golang.org/x/net/idna"

	"github.com/fraiseql/weir/internal/rule"
	"github.com/fraiseql/weir/internal/setting"
)

// addresses are templates of mail addresses. How many there are is decided by the file: each renders as one address, or as
// nothing, whatever the values hold.
type addresses []address

// address is the template of one address. With a name it is `name <address>`, and then both are values of their own: what the
// name holds cannot become an address.
type address struct {
	name *rule.Template
	addr rule.Template
}

// longestName is how long a name before an address may be, in characters.
const longestName = 200

var errNotOne = errors.New("expected exactly one address: each recipient is an entry of its own, and a value adds none")

// UnmarshalYAML reads a list, or a text with commas, which are looked for before any template is rendered.
func (a *addresses) UnmarshalYAML(ctx context.Context, node ast.Node) error {
	*a = nil
	nodes := []ast.Node{node}
	list, isList := node.(*ast.SequenceNode)
	if isList {
		nodes = list.Values
	}
	var errs []error
	for _, node := range nodes {
		var t rule.Template
		if err := t.UnmarshalYAML(ctx, node); err != nil {
			errs = append(errs, err)
			continue
		}
		entries := []rule.Template{t}
		if !isList {
			entries = t.Split(',')
		}
		for _, entry := range entries {
			if text, ok := entry.Static(); ok && strings.TrimSpace(text) == "" {
				continue
			}
			one, err := newAddress(entry)
			if err != nil {
				errs = append(errs, setting.ErrorAt(node, "%q is no mail address: expected one as in jane@example.org or "+
					"Jane Doe <jane@example.org>, several as a list or with commas between", strings.TrimSpace(entry.String())))
				continue
			}
			*a = append(*a, one)
		}
	}
	return errors.Join(errs...)
}

// newAddress reads a template. One without values is checked at once.
func newAddress(t rule.Template) (address, error) {
	a, err := cutAddress(t)
	if _, static := t.Static(); static && err == nil {
		_, err = a.render(nil)
	}
	return a, err
}

func cutAddress(t rule.Template) (address, error) {
	halves := t.Split('<')
	if len(halves) == 1 {
		return address{addr: t}, nil
	}
	inner := halves[1].Split('>')
	if len(halves) > 2 || len(inner) != 2 {
		return address{}, errNotOne
	}
	if rest, ok := inner[1].Static(); !ok || strings.TrimSpace(rest) != "" {
		return address{}, errNotOne
	}
	return address{name: &halves[0], addr: inner[0]}, nil
}

// render renders them all. An entry that is empty is left out, for a value may be null.
func (a addresses) render(env *rule.Env) ([]*mail.Address, error) {
	var all []*mail.Address
	for _, one := range a {
		rendered, err := one.render(env)
		if err != nil {
			return nil, err
		}
		if rendered != nil {
			all = append(all, rendered)
		}
	}
	return all, nil
}

// render is nil for an entry without an address.
func (a address) render(env *rule.Env) (*mail.Address, error) {
	text, err := a.addr.Header(env)
	if err != nil {
		return nil, err
	}
	if text = strings.TrimSpace(text); text == "" {
		return nil, nil //nolint:nilnil // no address, and nothing wrong with that
	}
	if a.name == nil {
		return parseAddress(text)
	}
	name, err := a.name.Header(env)
	if err != nil {
		return nil, err
	}
	parsed, err := parseAddress("<" + text + ">")
	if err != nil {
		return nil, err
	}
	name = strings.TrimSpace(name)
	if n := len(name); n > 1 && name[0] == '"' && name[n-1] == '"' {
		name = name[1 : n-1] // it is quoted again where it needs that
	}
	parsed.Name = displayName(name)
	return parsed, nil
}

// displayName is a name that leaves the header's lines alone, see setSubject: with single spaces, and cut where it is longer than
// any name.
func displayName(name string) string {
	name = strings.Join(strings.Fields(name), " ")
	if runes := []rune(name); len(runes) > longestName {
		name = string(runes[:longestName]) + "…"
	}
	return name
}

// parseAddress reads one address. A domain in other letters gets the form that every server takes.
func parseAddress(text string) (*mail.Address, error) {
	parsed, err := mail.ParseAddress(text)
	if err != nil {
		return nil, errNotOne // its text would repeat the value
	}
	if at := strings.LastIndex(parsed.Address, "@"); notASCII(parsed.Address[at:]) {
		domain, err := idna.Lookup.ToASCII(parsed.Address[at+1:])
		if err != nil {
			return nil, errNotOne
		}
		parsed.Address = parsed.Address[:at+1] + domain
	}
	return parsed, nil
}

// envelope is an address as SMTP's commands have it.
func envelope(a *mail.Address) string { return (&mail.Address{Address: a.Address}).String() }

// readable is addresses as people read them.
func readable(all ...*mail.Address) string {
	var texts []string
	for _, a := range all {
		switch {
		case a == nil:
		case a.Name == "":
			texts = append(texts, a.Address)
		default:
			texts = append(texts, fmt.Sprintf("%q <%s>", a.Name, a.Address))
		}
	}
	return strings.Join(texts, ", ")
}

func notASCII(s string) bool { return strings.ContainsFunc(s, func(r rune) bool { return r > 0x7f }) }

// JSONSchema describes addresses to editors.
func (addresses) JSONSchema() *jsonschema.Schema {
	minItems := uint64(1)
	one := rule.Template{}.JSONSchema()
	list := &jsonschema.Schema{Type: "array", Items: rule.Template{}.JSONSchema(), MinItems: &minItems}
	return &jsonschema.Schema{OneOf: append(one.OneOf, list)}
}
