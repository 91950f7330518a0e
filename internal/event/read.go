package event

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
)

// Read reads an event that a person has written: one JSON object with the keys of an event. Keys that are missing get their
// zero values, but for event_type and entity_type, without which an event means nothing. Unknown are the other keys,
// sorted: receivers would never see them.
func Read(raw []byte) (e *Event, unknown []string, err error) {
	fields, err := readObject(raw)
	if err != nil {
		return nil, nil, err
	}
	e = &Event{}
	known := eventKeys()
	for key, value := range fields {
		if !slices.Contains(known, key) {
			unknown = append(unknown, key)
			continue
		}
		one, err := json.Marshal(map[string]json.RawMessage{key: value})
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", key, err)
		}
		if err := json.Unmarshal(one, e); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", key, plainly(err))
		}
	}
	if err := e.complete(); err != nil {
		return nil, nil, err
	}
	slices.Sort(unknown)
	return e, unknown, nil
}

// complete fills in what JSON would, and says what is missing.
func (e *Event) complete() error {
	e.Data, e.Changes = orDefault(e.Data, "{}"), orDefault(e.Changes, "null")
	e.TraceContext = orDefault(e.TraceContext, "null")
	if string(e.Data) == "null" {
		e.Data = json.RawMessage("{}")
	}
	switch {
	case !slices.Contains(Types(), e.Type):
		return fmt.Errorf("event_type is %q: expected INSERT, UPDATE, DELETE or CUSTOM", e.Type)
	case e.EntityType == "":
		return errors.New("entity_type is missing: add it, as in \"Order\"")
	case e.Data[0] != '{':
		return errors.New("data is no object: expected the entity's fields, as in {\"total\": 100.10}")
	case e.Changes[0] != '{' && string(e.Changes) != "null":
		return errors.New("changes is no object: expected null, or as in {\"status\": {\"old\": 1, \"new\": 2}}")
	}
	return nil
}

// readObject reads one JSON object and nothing behind it. A key that is written twice is a mistake, of which nobody knows
// what was meant.
func readObject(raw []byte) (map[string]json.RawMessage, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	if token, err := dec.Token(); err != nil || token != json.Delim('{') {
		if errors.Is(err, io.EOF) {
			return nil, errors.New("there is nothing: expected an event, one JSON object")
		}
		return nil, errors.New("expected an event, one JSON object")
	}
	fields := map[string]json.RawMessage{}
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return nil, malformed(dec, err)
		}
		key, _ := token.(string) // the decoder lets no other key pass
		if _, twice := fields[key]; twice {
			return nil, fmt.Errorf("%s is written twice: remove one", key)
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, malformed(dec, err)
		}
		fields[key] = value
	}
	if _, err := dec.Token(); err != nil {
		return nil, malformed(dec, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something stands behind the event: expected one JSON object")
	}
	return fields, nil
}

func malformed(dec *json.Decoder, err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("this is no JSON at byte %d: %w", dec.InputOffset(), err)
}

// eventKeys are the keys of an event.
func eventKeys() []string {
	var keys []string
	for _, field := range reflect.VisibleFields(reflect.TypeFor[Event]()) {
		if key, _, _ := strings.Cut(field.Tag.Get("json"), ","); key != "-" {
			keys = append(keys, key)
		}
	}
	return keys
}

// plainly says without Go's types what kind of value was expected.
func plainly(err error) error {
	var mismatch *json.UnmarshalTypeError
	if !errors.As(err, &mismatch) {
		return err
	}
	want := "text"
	switch mismatch.Type.Kind() {
	case reflect.Int64:
		want = "a whole number"
	case reflect.Slice:
		want = "a list"
	default:
	}
	return fmt.Errorf("expected %s, found %s", want, mismatch.Value)
}
