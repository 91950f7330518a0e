package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"strings"
)

// writeYAML writes a JSON document as YAML: the same keys in the same order, every number digit by digit. A YAML library
// would go through float64.
func writeYAML(w io.Writer, document []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(document))
	decoder.UseNumber()
	y := yamlWriter{decoder: decoder}
	if err := y.value(0, false); err != nil {
		return err
	}
	_, err := w.Write(bytes.TrimLeft(y.out.Bytes(), " \n"))
	return err
}

type yamlWriter struct {
	decoder *json.Decoder
	out     bytes.Buffer
}

// value writes what comes next. Its own line begins at indent; inItem says that "- " has just been written, so that a
// mapping's first key goes on the same line.
func (y *yamlWriter) value(indent int, inItem bool) error {
	token, err := y.decoder.Token()
	if err != nil {
		return err
	}
	switch t := token.(type) {
	case json.Delim:
		return y.collection(t, indent, inItem)
	case string:
		fmt.Fprintf(&y.out, " %s\n", yamlString(t))
	case nil:
		y.out.WriteString(" null\n")
	default: // a number or a boolean, as it is written
		fmt.Fprintf(&y.out, " %v\n", t)
	}
	return nil
}

func (y *yamlWriter) collection(open json.Delim, indent int, inItem bool) error {
	if !y.decoder.More() {
		fmt.Fprintf(&y.out, " %s\n", map[json.Delim]string{'{': "{}", '[': "[]"}[open])
		_, err := y.decoder.Token()
		return err
	}
	if !inItem {
		y.out.WriteByte('\n')
	}
	margin := strings.Repeat("  ", indent)
	for first := true; y.decoder.More(); first = false {
		switch {
		case first && inItem:
			y.out.WriteByte(' ')
		default:
			y.out.WriteString(margin)
		}
		if open == '[' {
			y.out.WriteByte('-')
		} else if err := y.key(); err != nil {
			return err
		}
		if err := y.value(indent+1, open == '['); err != nil {
			return err
		}
	}
	_, err := y.decoder.Token()
	return err
}

func (y *yamlWriter) key() error {
	token, err := y.decoder.Token()
	if err != nil {
		return err
	}
	text, ok := token.(string)
	if !ok {
		return fmt.Errorf("%v is no key", token)
	}
	y.out.WriteString(yamlString(text) + ":")
	return nil
}

var (
	plainYAML = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_./-]*( [A-Za-z0-9_./-]+)*$`)
	yamlWord  = regexp.MustCompile(`(?i)^(true|false|yes|no|on|off|y|n|null|nan|inf)$`)
)

// yamlString quotes what could be read as something else. YAML's double quotes understand JSON's escapes.
func yamlString(s string) string {
	if plainYAML.MatchString(s) && !yamlWord.MatchString(s) {
		return s
	}
	var quoted bytes.Buffer
	encoder := json.NewEncoder(&quoted)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(s); err != nil {
		panic(err) // a string always has a JSON form
	}
	return strings.TrimSuffix(quoted.String(), "\n")
}
