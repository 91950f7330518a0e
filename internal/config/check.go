package config

import (
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/goccy/go-yaml/ast"

	"github.com/fraiseql/weir/internal/observer"
	"github.com/fraiseql/weir/internal/setting"
)

// checker looks at what spans several sections, and at what is missing altogether.
type checker struct {
	*decoder
	root     ast.Node
	cfg      *Config
	opts     Options
	warnings []Warning
}

func (c *checker) check() {
	if kind := c.root.Type(); kind != ast.MappingType && kind != ast.NullType {
		return // reported
	}
	c.databaseURL()
	if node := entry(c.root, "installation"); node != nil && strings.ContainsFunc(c.cfg.Installation, unicode.IsControl) {
		c.fail(node, "a name is one line of text", "expected a name, as in production")
	}
	for _, pair := range pairsOf(entry(c.root, "observers")) {
		name, _ := keyText(pair.Key)
		if err := observer.CheckName(name); err != nil {
			c.fail(pair.Key, err.Error(), "")
		}
	}
	c.servers()
	c.refreshed()
	if c.opts.Console {
		c.console()
	}
	if len(c.errs) == 0 {
		c.warnActions()
		c.warnEndpoints()
		slices.SortStableFunc(c.warnings, func(a, b Warning) int { return Error(a).compare(Error(b)) })
	}
}

// databaseURL takes the environment's when the file has none.
func (c *checker) databaseURL() {
	section := entry(c.root, "database")
	if url := entry(section, "url"); url != nil && (url.Type() != ast.NullType || c.isUnknown(url)) {
		if text, ok := setting.Text(url); !ok || text != "" {
			return // decoded, reported, or not known
		}
	}
	if section == nil {
		section = c.root
	}
	value, _ := c.opts.Lookup("DATABASE_URL")
	if value == "" {
		if !c.opts.NoEnv {
			c.fail(section, "database.url is missing",
				"write it, as in url: postgres://weir@localhost:5432/app, or set the environment variable DATABASE_URL")
		}
		return
	}
	u, err := ParseURL(value)
	if err != nil {
		c.fail(section, "environment variable DATABASE_URL: "+err.Error(), "")
		return
	}
	c.cfg.Database.URL = u
}

// servers finds actions whose server has no section.
func (c *checker) servers() {
	for _, item := range c.actions() {
		kind := textOf(entry(item, "type"))
		if kind == "email" && c.cfg.SMTP == nil {
			c.fail(entry(item, "type"), "an email action needs a mail server, and there is no section smtp",
				"write one, as in smtp: {host: mail.example.org, from: weir@example.org}")
		}
		if c.cfg.Redis == nil {
			c.withoutRedis(item, kind)
		}
		if kind == "search" {
			c.needsElasticsearch(entry(item, "type"), "a search action")
		}
	}
	if c.cfg.History.InElasticsearch() {
		c.needsElasticsearch(entry(entry(c.root, "history"), "store"), "a history in Elasticsearch")
	}
}

func (c *checker) needsElasticsearch(at ast.Node, who string) {
	if c.cfg.Elasticsearch == nil {
		c.fail(at, who+" needs its servers, and there is no section elasticsearch",
			"write one, as in elasticsearch: {urls: [\"http://localhost:9200\"]}")
	}
}

func (c *checker) withoutRedis(item ast.Node, kind string) {
	const hint = "write one, as in redis: {url: \"redis://localhost:6379/0\"}"
	if kind == "cache" {
		c.fail(entry(item, "type"), "a cache action needs Redis, and there is no section redis", hint)
	} else if pair := pairOf(item, "cache"); pair != nil && pair.Value.Type() != ast.NullType {
		c.fail(pair.Key, "cache needs Redis, and there is no section redis", hint)
	}
}

// actions are all that the file has, of every observer.
func (c *checker) actions() (all []ast.Node) {
	for _, pair := range pairsOf(entry(c.root, "observers")) {
		all = append(all, items(entry(pair.Value, "actions"))...)
	}
	return all
}

// refreshed finds cache actions with refresh that name no action, or one that keeps no result.
func (c *checker) refreshed() {
	for _, pair := range pairsOf(entry(c.root, "observers")) {
		own, _ := keyText(pair.Key)
		for _, item := range items(entry(pair.Value, "actions")) {
			node := entry(item, "webhook")
			if textOf(entry(item, "type")) != "cache" || textOf(node) == "" || c.failedAt(node) {
				continue
			}
			name := textOf(node)
			if !strings.Contains(name, "/") {
				name = own + "/" + name
			}
			c.keepsResult(node, name)
		}
	}
}

// keepsResult says that an action, by its observer's name and its own, is one with cache:.
func (c *checker) keepsResult(node ast.Node, name string) {
	var keepers []string
	exists := false
	for _, pair := range pairsOf(entry(c.root, "observers")) {
		own, _ := keyText(pair.Key)
		for _, item := range items(entry(pair.Value, "actions")) {
			named := entry(item, "name")
			if named == nil {
				named = entry(item, "type")
			}
			if named == nil || c.isUnknown(named) {
				return // it may be this one
			}
			full := own + "/" + textOf(named)
			exists = exists || full == name
			if cache := entry(item, "cache"); cache != nil && cache.Type() != ast.NullType {
				keepers = append(keepers, full)
			}
		}
	}
	switch {
	case slices.Contains(keepers, name):
	case exists:
		c.fail(node, "the action "+name+" keeps no result that could be made anew", "add cache: to it")
	default:
		c.fail(node, "there is no action "+name, didYouMean(name, keepers)+"expected one with cache:, as ACTION or OBSERVER/ACTION")
	}
}

// warnActions puts the actions' own warnings at the key that they speak of.
func (c *checker) warnActions() {
	for _, pair := range pairsOf(entry(c.root, "observers")) {
		name, _ := keyText(pair.Key)
		for i, item := range items(entry(pair.Value, "actions")) {
			for _, message := range c.cfg.Observers[name].Actions[i].Warnings() {
				at, value := mentioned(item, message)
				if !c.isUnknown(value) { // else only the environment knows how it reads
					c.warn(at, message, "")
				}
			}
		}
	}
}

// mentioned is the key that stands in the text as a word, and its value; also one of a section, as in dedup.key. It is the
// mapping itself if there is none.
func mentioned(node ast.Node, text string) (at, value ast.Node) {
	at, value = node, node
	for _, word := range strings.FieldsFunc(text, func(r rune) bool { return r != '_' && !unicode.IsLetter(r) }) {
		pair := pairOf(value, word)
		switch {
		case pair != nil:
			at, value = pair.Key, pair.Value
		case at != node:
			return at, value
		}
	}
	return at, value
}

// warnEndpoints finds entries of `endpoints:` that no action goes to: a typing mistake, most likely. Where the
// environment would decide where an action goes, nothing can be said.
func (c *checker) warnEndpoints() {
	used := map[string]bool{}
	for _, o := range c.cfg.Observers {
		for _, a := range o.Actions {
			if a.Endpoint() == "" {
				return
			}
			used[a.Endpoint()] = true
		}
	}
	if c.opts.NoEnv && len(c.unknown) > 0 {
		return
	}
	for _, pair := range pairsOf(entry(c.root, "endpoints")) {
		if name, _ := keyText(pair.Key); !used[name] {
			c.warn(pair.Key, fmt.Sprintf("no action goes to the endpoint %q", name),
				"expected an action's host, host:port, or the name that it gives as its endpoint")
		}
	}
}

func (c *checker) warn(node ast.Node, message, hint string) {
	at := position(node)
	c.warnings = append(c.warnings, Warning(c.src.errorAt(at.Line, at.Column, message, hint)))
}

// textOf is what a scalar holds, "" of anything else.
func textOf(node ast.Node) string {
	if node == nil {
		return ""
	}
	t, _ := setting.Text(node)
	return t
}

// entry is the value of a key in a mapping, nil if there is none.
func entry(node ast.Node, key string) ast.Node {
	if pair := pairOf(node, key); pair != nil {
		return pair.Value
	}
	return nil
}

func pairOf(node ast.Node, key string) *ast.MappingValueNode {
	for _, pair := range pairsOf(node) {
		if k, _ := keyText(pair.Key); k == key {
			return pair
		}
	}
	return nil
}

func pairsOf(node ast.Node) []*ast.MappingValueNode {
	if n, ok := node.(*ast.MappingNode); ok {
		return n.Values
	}
	return nil
}

// items are a list's, none if the node is none.
func items(node ast.Node) []ast.Node {
	if n, ok := node.(*ast.SequenceNode); ok {
		return n.Values
	}
	return nil
}
