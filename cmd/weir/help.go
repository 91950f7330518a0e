package main

import (
	"regexp"
	"strings"

	"github.com/spf13/cobra"
)

// fitHelp wraps the help of a command and of those below it at defaultWidth: in the source, lines are as long as code is.
func fitHelp(cmd *cobra.Command) {
	cmd.Long = reflow(cmd.Long, defaultWidth)
	for _, one := range cmd.Commands() {
		fitHelp(one)
	}
}

// usageTemplate is cobra's with flags that are wrapped.
func usageTemplate(cmd *cobra.Command) string {
	return strings.NewReplacer("LocalFlags.FlagUsages", "LocalFlags.FlagUsagesWrapped 80",
		"InheritedFlags.FlagUsages", "InheritedFlags.FlagUsagesWrapped 80").Replace(cmd.UsageTemplate())
}

// reflow wraps the paragraphs of a text. In one that is indented, a line is a term and, two blanks behind it, what is said of it;
// lines below the latter belong to it.
func reflow(text string, width int) string {
	paragraphs := strings.Split(text, "\n\n")
	for i, p := range paragraphs {
		if strings.HasPrefix(p, " ") {
			paragraphs[i] = reflowTerms(p, width)
		} else {
			paragraphs[i] = strings.Join(wrap(strings.ReplaceAll(p, "\n", " "), width), "\n")
		}
	}
	return strings.Join(paragraphs, "\n\n")
}

var helpTerm = regexp.MustCompile(`^ {1,4}\S.*?  +`)

func reflowTerms(paragraph string, width int) string {
	var lines []string
	begin, said := "", ""
	end := func() {
		for i, part := range wrap(said, width-len(begin)) {
			if i > 0 {
				begin = strings.Repeat(" ", len(begin))
			}
			lines = append(lines, begin+part)
		}
	}
	for line := range strings.Lines(paragraph) {
		line = strings.TrimRight(line, "\n")
		if lead := helpTerm.FindString(line); lead != "" {
			if begin != "" {
				end()
			}
			begin, said = lead, line[len(lead):]
			continue
		}
		said += " " + strings.TrimLeft(line, " ")
	}
	end()
	return strings.Join(lines, "\n")
}
