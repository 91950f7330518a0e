package index

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/fraiseql/weir/internal/event"
)

// redacted is an event's JSON without the fields that paths name, in data and in changes. some is false, and nothing returned,
// when no path is about an event like this one.
func redacted(e *event.Event, paths []Redact) (payload []byte, some bool, err error) {
	shown := *e
	for _, p := range paths {
		if !p.Concerns(e.EntityType) {
			continue
		}
		some = true
		if shown.Data, err = without(shown.Data, p.path); err != nil {
			return nil, false, fmt.Errorf("redact data of event %s: %w", e.ID, err)
		}
		if shown.Changes, err = withoutChange(shown.Changes, p.path); err != nil {
			return nil, false, fmt.Errorf("redact changes of event %s: %w", e.ID, err)
		}
	}
	if !some {
		return nil, false, nil
	}
	payload, err = shown.JSON()
	return payload, true, err
}

// withoutChange removes what a path names from {field: {old, new}}.
func withoutChange(raw json.RawMessage, path []string) (json.RawMessage, error) {
	if len(path) == 1 {
		return without(raw, path)
	}
	for _, side := range []string{"old", "new"} {
		var err error
		if raw, err = without(raw, append([]string{path[0], side}, path[1:]...)); err != nil {
			return nil, err
		}
	}
	return raw, nil
}

// without removes what a path names from a JSON text; the path goes through the elements of lists. What is kept keeps its digits.
func without(raw json.RawMessage, path []string) (json.RawMessage, error) {
	switch start := bytes.TrimLeft(raw, " \t\r\n"); {
	case len(start) > 0 && start[0] == '[':
		var list []json.RawMessage
		if err := json.Unmarshal(raw, &list); err != nil {
			return nil, err
		}
		for i := range list {
			var err error
			if list[i], err = without(list[i], path); err != nil {
				return nil, err
			}
		}
		return plainJSON(list)
	case len(start) > 0 && start[0] == '{':
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(raw, &fields); err != nil {
			return nil, err
		}
		inner, ok := fields[path[0]]
		switch {
		case !ok:
			return raw, nil
		case len(path) == 1:
			delete(fields, path[0])
		default:
			var err error
			if fields[path[0]], err = without(inner, path[1:]); err != nil {
				return nil, err
			}
		}
		return plainJSON(fields)
	}
	return raw, nil
}

// plainJSON leaves the characters of HTML as they are.
func plainJSON(v any) (json.RawMessage, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return bytes.TrimRight(buf.Bytes(), "\n"), err
}
