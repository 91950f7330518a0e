package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// TestCommandLineDocumentation: docs/cli.md is what the commands say of themselves. cobra/doc would write a page for each.
func TestCommandLineDocumentation(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString(`# The command line

<!-- not run on this page: it says how to call each command; what they print is in cmd/weir/testdata/golden -->

What ` + "`weir --help`" + ` says, of all commands. What they print with ` + "`--format json`" + ` is in [api.md](api.md).

Text is wrapped at the terminal's width, at 80 columns where there is none; what is to be copied is not. Colours are for terminals
only. Nothing is paged: long lists come in pages (` + "`--limit`, `--after`" + `), and ` + "`weir search … | less`" + ` works as everywhere.
Errors and notes go to stderr. ` + "`weir completion bash|zsh|fish|powershell`" + ` prints what completes commands, flags and the names of
observers, actions and endpoints.

This page is written by a test from the commands: ` + "`go test ./cmd/weir -run TestCommandLineDocumentation -update`" + `.

`)
	for _, cmd := range allCommands() {
		if cmd.HasParent() {
			path := cmd.CommandPath()
			fmt.Fprintf(&b, "* [%s](#%s): %s\n", path, strings.ReplaceAll(path, " ", "-"), cmd.Short)
		}
	}
	for _, cmd := range allCommands() {
		writeCommand(t, &b, cmd)
	}
	compare(t, filepath.Join("..", "..", "docs", "cli.md"), []byte(b.String()))
}

func writeCommand(t *testing.T, b *strings.Builder, cmd *cobra.Command) {
	t.Helper()
	if cmd.Short == "" {
		t.Errorf("%s does not say what it does", cmd.CommandPath())
	}
	ours := !strings.Contains(cmd.CommandPath(), " completion")
	if ours && cmd.HasParent() && cmd.Runnable() && cmd.HasAvailableLocalFlags() && !cmd.HasExample() && cmd.NonInheritedFlags().HasAvailableFlags() {
		t.Errorf("%s has flags and no example", cmd.CommandPath())
	}
	about := cmd.Short + "." // of cobra's completions, which say how to install them: weir completion bash --help
	if ours {
		about = strings.TrimSpace(markdown(orShort(cmd)))
	}
	fmt.Fprintf(b, "\n## %s\n\n%s\n", cmd.CommandPath(), about)
	if cmd.Runnable() && !cmd.HasSubCommands() {
		fmt.Fprintf(b, "\n```text\n%s\n```\n", cmd.UseLine())
	}
	if cmd.HasExample() {
		fmt.Fprintf(b, "\nExamples:\n\n```sh\n%s\n```\n", unindented(cmd.Example))
	}
	flags, what := cmd.NonInheritedFlags(), "Flags"
	if !cmd.HasParent() {
		flags, what = cmd.PersistentFlags(), "Flags of all commands"
	}
	if text := flags.FlagUsagesWrapped(100); strings.TrimSpace(text) != "" {
		fmt.Fprintf(b, "\n%s:\n\n```\n%s```\n", what, text)
	}
}

func orShort(cmd *cobra.Command) string {
	if cmd.Long == "" {
		return cmd.Short + "."
	}
	return cmd.Long
}

// markdown puts indented paragraphs into fences.
func markdown(text string) string {
	paragraphs := strings.Split(text, "\n\n")
	for i, p := range paragraphs {
		if strings.HasPrefix(p, " ") || strings.HasPrefix(p, "\t") {
			paragraphs[i] = "```\n" + p + "\n```"
		}
	}
	return strings.Join(paragraphs, "\n\n")
}

func unindented(text string) string {
	lines := strings.Split(strings.Trim(text, "\n"), "\n")
	for i, line := range lines {
		lines[i] = strings.TrimPrefix(line, "  ")
	}
	return strings.Join(lines, "\n")
}
