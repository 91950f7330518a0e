package console

import (
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/html"
)

func textOf(n *html.Node) string {
	var b strings.Builder
	for d := range n.Descendants() {
		if d.Type == html.TextNode && d.Parent.Data != "title" && d.Parent.Data != "script" {
			b.WriteString(d.Data + " ")
		}
	}
	return strings.Join(strings.Fields(b.String()), " ")
}

func attribute(n *html.Node, key string) string {
	for _, a := range n.Attr {
		if a.Key == key {
			return a.Val
		}
	}
	return ""
}

// checkMarkup finds what keeps people from using a page, and what its policy would not let through.
func checkMarkup(t *testing.T, path string, root *html.Node) {
	t.Helper()
	counts, ids, labels := map[string]int{}, map[string]bool{}, map[string]bool{}
	var nodes []*html.Node
	for n := range root.Descendants() {
		if n.Type != html.ElementNode {
			continue
		}
		nodes = append(nodes, n)
		counts[n.Data]++
		if id := attribute(n, "id"); id != "" {
			if ids[id] {
				t.Errorf("%s: two elements have the id %s", path, id)
			}
			ids[id] = true
		}
		if n.Data == "label" {
			labels[attribute(n, "for")] = true
		}
	}
	if counts["h1"] != 1 || counts["main"] != 1 || counts["title"] < 1 {
		t.Errorf("%s: %d h1, %d main", path, counts["h1"], counts["main"])
	}
	for _, n := range nodes {
		for _, a := range n.Attr {
			if a.Key == "style" || strings.HasPrefix(a.Key, "on") {
				t.Errorf("%s: <%s %s=%q>", path, n.Data, a.Key, a.Val)
			}
			if a.Key == "aria-labelledby" || a.Key == "aria-describedby" {
				for _, id := range strings.Fields(a.Val) {
					if !ids[id] {
						t.Errorf("%s: <%s> is labelled by %s, which is not there", path, n.Data, id)
					}
				}
			}
			if a.Key == "data-live" && attribute(n, "id") == "" {
				t.Errorf("%s: a live <%s> has no id", path, n.Data)
			}
		}
		checkElement(t, path, n, labels)
	}
}

func checkElement(t *testing.T, path string, n *html.Node, labels map[string]bool) {
	t.Helper()
	within := func(name string) bool {
		return slices.ContainsFunc(slices.Collect(n.Ancestors()), func(a *html.Node) bool { return a.Data == name })
	}
	switch n.Data {
	case "input", "select", "textarea":
		if attribute(n, "type") != "hidden" && attribute(n, "aria-label") == "" && !within("label") && !labels[attribute(n, "id")] {
			t.Errorf("%s: <%s name=%q> has no label", path, n.Data, attribute(n, "name"))
		}
	case "a", "button", "summary", "caption", "h1", "h2", "h3":
		if textOf(n) == "" && attribute(n, "aria-label") == "" {
			t.Errorf("%s: a <%s> without words", path, n.Data)
		}
	case "script":
		if attribute(n, "src") == "" || n.FirstChild != nil {
			t.Errorf("%s: an inline script", path)
		}
	case "style":
		t.Errorf("%s: an inline style", path)
	case "table":
		if !hasChild(n, "caption") {
			t.Errorf("%s: a table without a caption", path)
		}
	case "th":
		if attribute(n, "scope") == "" {
			t.Errorf("%s: <th> %q has no scope", path, textOf(n))
		}
	}
}

func hasChild(n *html.Node, name string) bool {
	for c := range n.ChildNodes() {
		if c.Data == name {
			return true
		}
	}
	return false
}
