package main

import (
	"encoding/json"
	"fmt"

	"github.com/fraiseql/weir/internal/ops"
)

// screen writes the demo's lines as things happen: a label, a subject and text, aligned.
type screen struct {
	*app
	last string // label of the setup line before
}

// setup is a line about something that was started. A label is written once.
func (s *screen) setup(label, text string) {
	shown := label
	if label == s.last {
		shown = ""
	}
	s.last = label
	fmt.Fprintf(s.stdout, "%s  %s\n", s.paint(bold, fmt.Sprintf("%-10s", shown)), text)
}

// heading begins a part.
func (s *screen) heading(text string) { fmt.Fprintf(s.stdout, "\n%s\n\n", s.paint(bold, text)) }

// line is one thing that happened.
func (s *screen) line(look style, label, subject, format string, args ...any) {
	fmt.Fprintf(s.stdout, "  %s  %-8s  %s\n", s.paint(look, fmt.Sprintf("%-8s", label)), subject, fmt.Sprintf(format, args...))
}

// detail belongs to the line before.
func (s *screen) detail(text string) {
	fmt.Fprintf(s.stdout, "  %-8s  %-8s  %s\n", "", "", s.paint(dim, ops.Short(text, 130)))
}

// gist is what a webhook's body says: the data of a whole event, else all of it.
func gist(body []byte) string {
	var event struct {
		Data json.RawMessage `json:"data"`
	}
	if json.Unmarshal(body, &event) == nil && event.Data != nil {
		body = event.Data
	}
	return string(body)
}
