package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
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
	// quoted text is not wrapped: it is to be copied.
	quoted style = "quoted"
)

// colored says whether colors are wanted: https://no-color.org.
func (a *app) colored() bool {
	noColor, _ := a.lookup("NO_COLOR")
	return a.terminal && !a.flags.noColor && noColor == ""
}

func (a *app) paint(s style, text string) string {
	if s == plain || s == quoted || text == "" || !a.colored() {
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

// table aligns columns; text/tabwriter would count the colors. The last cell of a row is wrapped at the terminal's width. A
// row of one cell goes across the table.
type table struct {
	header []string
	rows   [][]cell
}

func (t *table) add(cells ...cell) { t.rows = append(t.rows, cells) }

// detail adds a line that belongs to the row before.
func (t *table) detail(s style, text string) { t.add(cell{detailIndent + text, s}) }

const (
	detailIndent = "    "
	// narrow is how few columns are too few to wrap a cell in: it then goes below its row.
	narrow = 24
)

func (t *table) write(a *app, w io.Writer) {
	rows := t.rows
	if len(t.header) > 0 {
		header := make([]cell, len(t.header))
		for i, text := range t.header {
			header[i] = cell{text, bold}
		}
		rows = append([][]cell{header}, rows...)
	}
	widths := columnWidths(rows)
	for _, row := range rows {
		var line strings.Builder
		indent := 0
		for i, f := range row[:len(row)-1] {
			line.WriteString(a.paint(f.style, f.text))
			line.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(f.text)+2))
			indent += widths[i] + 2
		}
		a.writeLast(w, line.String(), indent, row[len(row)-1])
	}
}

// columnWidths are those of all cells but the last of each row, behind which nothing is aligned.
func columnWidths(rows [][]cell) []int {
	var widths []int
	for _, row := range rows {
		for i, f := range row[:len(row)-1] {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(f.text))
		}
	}
	return widths
}

// writeLast ends a line that has come as far as indent.
func (a *app) writeLast(w io.Writer, line string, indent int, last cell) {
	text := strings.TrimLeft(last.text, " ")
	lead := len(last.text) - len(text)
	line, indent = line+last.text[:lead], indent+lead
	if last.style == quoted {
		fmt.Fprintln(w, line+text)
		return
	}
	room := a.width() - indent
	if room < narrow && shownWidth(text) > room {
		fmt.Fprintln(w, strings.TrimRight(line, " "))
		line, indent = detailIndent, len(detailIndent)
		room = a.width() - indent
	}
	for i, part := range wrap(text, room) {
		if i > 0 {
			line = strings.Repeat(" ", indent)
		}
		fmt.Fprintln(w, strings.TrimRight(line+a.paint(last.style, part), " "))
	}
}

// defaultWidth is how many columns text has where there is no terminal.
const defaultWidth = 80

// width is how many columns a line of text has.
func (a *app) width() int {
	if a.columns == 0 {
		return defaultWidth
	}
	return max(a.columns, 2*narrow)
}

// sayf writes sentences, wrapped: further lines begin below the first one's text.
func (a *app) sayf(w io.Writer, format string, args ...any) {
	for line := range strings.Lines(fmt.Sprintf(format, args...)) {
		a.writeLast(w, "", 0, c(strings.TrimSuffix(line, "\n")))
	}
}

// wrap breaks a text at blanks into lines of a width. What has none stays whole: it may have to be copied.
func wrap(text string, width int) []string {
	var lines []string
	line, length := "", 0
	for i, word := range strings.Split(text, " ") {
		n := shownWidth(word)
		switch {
		case i == 0:
			line, length = word, n
		case length+1+n <= width:
			line, length = line+" "+word, length+1+n
		default:
			lines = append(lines, line)
			line, length = word, n
		}
	}
	return append(lines, line)
}

var escapes = regexp.MustCompile("\x1b\\[[0-9;]*m")

// shownWidth is how many columns a text takes on a terminal, without the colors.
func shownWidth(text string) int { return utf8.RuneCountInString(escapes.ReplaceAllString(text, "")) }
