package bench

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/perf/benchmath"
)

// The parts of docs/performance.md that are written from the results lie between such lines; what is around them, people write.
const (
	beginMark = "<!-- results: %s -->\n"
	endMark   = "<!-- end of results -->\n"
	overview  = "overview"
)

// Report returns the document with its results written anew from the files in a folder. What was not measured stays as it was.
func Report(document, folder string) (string, error) {
	var lines strings.Builder
	lines.WriteString("| what | case | Weir | limit | of the limit | goal | reached |\n|---|---|--:|--:|--:|---|---|\n")
	for _, row := range Rows() {
		found, err := readResults(filepath.Join(folder, row.Name+".txt"))
		if errors.Is(err, fs.ErrNotExist) {
			fmt.Fprintf(&lines, "| [%s](#%s) | | | | | | not measured |\n", row.Title, row.Name)
			continue
		}
		if err != nil {
			return "", err
		}
		section, err := row.section(found)
		if err != nil {
			return "", err
		}
		if document, err = replaced(document, row.Name, section); err != nil {
			return "", err
		}
		summary, err := row.overview(found)
		if err != nil {
			return "", err
		}
		lines.WriteString(summary)
	}
	return replaced(document, overview, lines.String())
}

func readResults(path string) (results, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return results{}, err
	}
	return parseResults(string(text), path)
}

// replaced puts a text between the marks of a name.
func replaced(document, name, text string) (string, error) {
	begin := fmt.Sprintf(beginMark, name)
	before, rest, ok := strings.Cut(document, begin)
	if !ok {
		return "", fmt.Errorf("the document has no line %q", strings.TrimSpace(begin))
	}
	_, after, ok := strings.Cut(rest, endMark)
	if !ok {
		return "", fmt.Errorf("the document has no line %q after %q", strings.TrimSpace(endMark), strings.TrimSpace(begin))
	}
	return before + begin + text + endMark + after, nil
}

// section is what the document has of a row.
func (row Row) section(found results) (string, error) {
	var s strings.Builder
	fmt.Fprintf(&s, "%s\n\n", row.How)
	pairs, err := found.pairs(row.Compare)
	if err != nil {
		return "", err
	}
	if len(pairs) > 0 {
		s.WriteString("| case | unit | Weir | limit | | Weir : limit | confidence interval |\n|---|---|--:|---|--:|--:|--:|\n")
		for _, p := range pairs {
			fmt.Fprintf(&s, "| %s | %s | %s | %s | %s | **%s** | %s |\n", cmp.Or(p.setting, "–"), p.unit,
				figure(p.weir.Center), p.limit, figure(p.other.Center),
				figure(p.ratio.Center), interval(p.ratio))
		}
		s.WriteString("\n")
	}
	s.WriteString(row.stated(found))
	fmt.Fprintf(&s, "Measured in %d runs, %s.\n", found.runs(), found.note("measured: "))
	return s.String(), nil
}

// interval is where the median lies, and how sure that is. It has digits more than other figures: the ends may be close together.
func interval(s benchmath.Summary) string {
	digits := func(x float64) string {
		if x >= 0.1 && x < 10 {
			return strconv.FormatFloat(x, 'f', 3, 64)
		}
		return figure(x)
	}
	return fmt.Sprintf("%s to %s (%.0f %%)", digits(s.Lo), digits(s.Hi), 100*s.Confidence)
}

// stated is the table of figures that stand for themselves.
func (row Row) stated(found results) string {
	if len(row.State) == 0 {
		return ""
	}
	var s strings.Builder
	fmt.Fprintf(&s, "| case | of | %s |\n|---|---|%s\n", strings.Join(row.State, " | "), strings.Repeat("--:|", len(row.State)))
	for _, name := range found.names {
		setting, by := parts(name)
		cells, some := make([]string, len(row.State)), false
		for i, unit := range row.State {
			cells[i] = "–"
			if values := found.values[name][unit]; len(values) > 0 {
				cells[i], some = figure(summary(values).Center), true
			}
		}
		if some {
			fmt.Fprintf(&s, "| %s | %s | %s |\n", cmp.Or(setting, "–"), cmp.Or(by, weir), strings.Join(cells, " | "))
		}
	}
	return s.String() + "\n"
}

// overview is the row's part of the table at the top.
func (row Row) overview(found results) (string, error) {
	var s strings.Builder
	line := func(setting, ours, limit, ratio, goal, reached string) {
		fmt.Fprintf(&s, "| [%s](#%s) | %s | %s | %s | %s | %s | %s |\n",
			row.Title, row.Name, setting, ours, limit, ratio, goal, reached)
	}
	pairs, err := found.pairs(row.Compare)
	if err != nil {
		return "", err
	}
	for _, g := range row.Goals {
		for _, p := range pairs {
			if g.Ratio && p.unit == g.Unit && strings.Contains(p.setting, g.Case) && p.limit != peer {
				line(p.setting, figure(p.weir.Center)+" "+p.unit, figure(p.other.Center)+" ("+p.limit+")", figure(p.ratio.Center), g.String(),
					yes(g.met(p.ratio.Center)))
			}
		}
		for _, name := range found.names {
			setting, by := parts(name)
			values := found.values[name][g.Unit]
			if !g.Ratio && len(values) > 0 && strings.Contains(setting, g.Case) && (by == "" || by == weir) {
				x := summary(values).Center
				line(setting, figure(x)+" "+g.Unit, "", "", g.String(), yes(g.met(x)))
			}
		}
	}
	if len(row.Goals) == 0 {
		line("", "", "", "", "stated", "")
	}
	return s.String(), nil
}

// peer is what by= says of a program whose path was given.
const peer = "peer"

func yes(met bool) string {
	if met {
		return "yes"
	}
	return "**no**"
}

// figure writes a number with three digits that count, and thousands apart.
func figure(x float64) string {
	switch {
	case x < 0:
		return "-" + figure(-x)
	case x < 100:
		return strconv.FormatFloat(x, 'g', 3, 64)
	}
	s := strconv.FormatFloat(x, 'f', 0, 64)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
