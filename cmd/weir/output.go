package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// format is the value of --format.
type format string

const (
	formatText format = "text"
	formatJSON format = "json"
	formatYAML format = "yaml"
)

func formats() []string { return []string{string(formatText), string(formatJSON), string(formatYAML)} }

// String is the flag's value.
func (f *format) String() string { return string(*f) }

// Set reads the flag's value.
func (f *format) Set(s string) error {
	if !slices.Contains(formats(), s) {
		return fmt.Errorf("expected %s", strings.Join(formats(), ", "))
	}
	*f = format(s)
	return nil
}

// Type is the flag's placeholder in the help.
func (f *format) Type() string { return "format" }

// print writes a result: as text for people by the function, or the value in the form that --format names.
func (a *app) print(value any, text func(w io.Writer)) error {
	var out bytes.Buffer
	switch a.flags.format {
	case formatJSON, formatYAML:
		encoder := json.NewEncoder(&out)
		encoder.SetEscapeHTML(false)
		encoder.SetIndent("", "  ")
		if err := encoder.Encode(value); err != nil {
			return fmt.Errorf("encode the output: %w", err)
		}
		if a.flags.format == formatYAML {
			raw := bytes.Clone(out.Bytes())
			out.Reset()
			if err := writeYAML(&out, raw); err != nil {
				return fmt.Errorf("encode the output: %w", err)
			}
		}
	default:
		text(&out)
	}
	if _, err := a.stdout.Write(out.Bytes()); err != nil {
		return fmt.Errorf("write the output: %w", err)
	}
	return nil
}

// style is how a piece of text looks on a terminal.
type style string

const (
	plain  style = ""
	bold   style = "1"
	dim    style = "2"
	red    style = "31"
	green  style = "32"
	yellow style = "33"
)

// colored says whether colors are wanted: https://no-color.org.
func (a *app) colored() bool {
	noColor, _ := a.lookup("NO_COLOR")
	return a.terminal && !a.flags.noColor && noColor == ""
}

func (a *app) paint(s style, text string) string {
	if s == plain || text == "" || !a.colored() {
		return text
	}
	return "\x1b[" + string(s) + "m" + text + "\x1b[0m"
}

// cell is one field of a table.
type cell struct {
	text  string
	style style
}

func c(text string) cell { return cell{text: text} }

// table aligns columns. text/tabwriter would count the colors.
type table struct {
	header []string
	rows   [][]cell
}

func (t *table) add(cells ...cell) { t.rows = append(t.rows, cells) }

func (t *table) write(a *app, w io.Writer) {
	rows := t.rows
	if len(t.header) > 0 {
		header := make([]cell, len(t.header))
		for i, text := range t.header {
			header[i] = cell{text, bold}
		}
		rows = append([][]cell{header}, rows...)
	}
	var widths []int
	for _, row := range rows {
		for i, f := range row {
			if i == len(row)-1 {
				break // nothing is aligned behind it
			}
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(f.text))
		}
	}
	for _, row := range rows {
		var line strings.Builder
		for i, f := range row {
			line.WriteString(a.paint(f.style, f.text))
			if i < len(row)-1 {
				line.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(f.text)+2))
			}
		}
		fmt.Fprintln(w, strings.TrimRight(line.String(), " "))
	}
}
