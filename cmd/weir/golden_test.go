package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/spf13/cobra"
)

// The files in testdata/golden are what the commands print, to be read by those who change them.
//go:generate go test -run TestGolden -count=1 -update .

var update = flag.Bool("update", false, "write the golden files and the generated pages of docs/ again")

// goldenCall is a call of the program whose output is kept.
type goldenCall struct {
	name string // of the file; default: the command and what state it is in
	args string // separated by blanks
	call call   // the rest of it
	code int
	json bool // the same with --format json is kept, too
	// wide says why lines may be longer than defaultWidth; "" where none is.
	wide string
}

// goldenScene is a database in a state, and the calls that look at it, in their order.
type goldenScene struct {
	name  string
	set   func(t *testing.T) (env map[string]string)
	calls []goldenCall
}

func TestGolden(t *testing.T) {
	t.Parallel()
	for _, scene := range goldenScenes {
		t.Run(scene.name, func(t *testing.T) {
			t.Parallel()
			kept := map[string]bool{}
			env := scene.set(t)
			for _, g := range scene.calls {
				if name := g.file(scene.name); kept[name] {
					t.Fatalf("two calls are kept in %s: name one of them", name)
				}
				kept[g.file(scene.name)] = true
				g.call.env = env
				t.Run(g.file(scene.name), func(t *testing.T) { g.check(t, scene.name) })
			}
		})
	}
}

// file is the name of the golden file, without its ending.
func (g goldenCall) file(scene string) string {
	name := g.name
	if name == "" {
		name = strings.ReplaceAll(commandOf(g.args), " ", "-")
	}
	if scene != "shop" {
		name += "." + scene
	}
	if g.call.color {
		name += ".terminal"
	}
	return name
}

// commandOf is the command that a command line calls, without the root.
func commandOf(line string) string {
	cmd, _, err := newRoot(&app{}).Find(strings.Fields(line))
	if err != nil {
		return line
	}
	return strings.TrimPrefix(strings.TrimPrefix(cmd.CommandPath(), "weir"), " ")
}

func (g goldenCall) check(t *testing.T, scene string) {
	g.call.args = strings.Fields(g.args)
	r := g.call.run(t)
	if r.code != g.code {
		t.Errorf("exit code %d, want %d", r.code, g.code)
	}
	text := "$ weir " + g.args + "\n" + r.stdout
	if r.stderr != "" {
		text += "--- stderr\n" + r.stderr
	}
	if r.code != 0 {
		text += fmt.Sprintf("--- exit code %d\n", r.code)
	}
	text = steady(text)
	g.checkWidth(t, r.stdout)
	path := filepath.Join("testdata", "golden", g.file(scene))
	compare(t, path+".txt", []byte(strings.ReplaceAll(text, "\x1b", "␛")))
	if g.json {
		g.call.args = append(g.call.args, "--format", "json")
		document := g.call.run(t).exits(g.code).stdout
		conforms(t, commandOf(g.args), document)
		compare(t, path+".json", steadyJSON(t, document))
	}
}

func (g goldenCall) checkWidth(t *testing.T, stdout string) {
	wide := false
	for line := range strings.Lines(stdout) {
		if shownWidth(strings.TrimSuffix(line, "\n")) <= defaultWidth {
			continue
		}
		if wide = true; g.wide == "" {
			t.Errorf("wider than %d columns: %s", defaultWidth, line)
		}
	}
	if g.wide != "" && !wide {
		t.Errorf("no line is wide: there is no need for the exception %q", g.wide)
	}
}

// compare holds what was made against a file, or writes the file.
func compare(t *testing.T, path string, got []byte) {
	t.Helper()
	if *update {
		check(t, os.WriteFile(path, got, 0o644))
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v\nwrite it with: go test ./cmd/weir -run '^%s$' -update", err, strings.Split(t.Name(), "/")[0])
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs; if that is meant: go test ./cmd/weir -run '^%s$' -update\ngot:\n%s\nwant:\n%s", path,
			strings.Split(t.Name(), "/")[0], got, want)
	}
}

// varying is what differs from run to run, with what stands for it: as wide, where something is aligned behind it.
var varying = []struct {
	what *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`), "2026-01-31T12:00:00Z"},
	{regexp.MustCompile(`\b[0-9A-F]{1,8}/[0-9A-F]{5,8}\b`), "0/1A2B3C4"},
	{regexp.MustCompile(`(127\.0\.0\.1:\d+)/\w+`), "$1/shop"},
	{regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}`), "0190a0c2-7f0e-4c3a-8a52-3f2d1f0c9b11"}, // random ones
	{regexp.MustCompile(`127\.0\.0\.1:\d{2,5}`), "127.0.0.1:9464"},
	{regexp.MustCompile(`(PostgreSQL) \d+\.\d+`), "$1 18.1"},
	{regexp.MustCompile(`(?m)^weir dev, .*$`), "weir dev, schema version 13, go1.26.0, linux/amd64"},
	{regexp.MustCompile(`schema \d+, `), "schema 13, "},
	{regexp.MustCompile(`at version \d+`), "at version 13"},
	{regexp.MustCompile(`(?m)^slot( +)\w+, confirmed.*\n(               .*\n)*`), "slot${1}… (how far behind it is)\n"},
	{regexp.MustCompile(`(?m)^\d+ +000(0[3-9]|[1-9]\d)_.*\n`), ""}, // so that a new migration changes nothing here
	{regexp.MustCompile(`(?m)^(applied|reverted) 000(0[3-9]|[1-9]\d)_.*\n`), ""},
	{regexp.MustCompile(`(?s),\n    \{\n      "version": ([3-9]|\d\d),.*?\n    \}`), ""},
	{regexp.MustCompile(`(\.sql) \(\d+ ms\)`), "$1 (5 ms)"},
	{regexp.MustCompile(`(\.sql +)(now|\d+ m?s|\d+ min \d+ s)( ago)? \(`), "${1}5 s ago ("},
	{regexp.MustCompile(`(?m)^(position +)\S+ +`), "${1}0/1A2B3C4+0          "},
	{regexp.MustCompile(`moved (now|\d+ s ago)`), "moved now"},
	{regexp.MustCompile(`port \d+, data directory\s+\S+/data`), "port 5432, data directory /data"},
	{regexp.MustCompile(`\b7[4-9]\d{17}\b`), "7400000000000000000"},
	{regexp.MustCompile(`database \d+`), "database 16384"},
	{regexp.MustCompile(`holds [\d.]+ [kM]?B already`), "holds 197.0 kB already"},
	{regexp.MustCompile(`paused \d+ s ago`), "paused now"},
	{regexp.MustCompile(`by \S+@\S+(: |\n)`), "by anna@db-1$1"},
}

func steady(text string) string {
	for _, v := range varying {
		text = v.what.ReplaceAllString(text, v.with)
	}
	return text
}

// varyingKeys are keys of the JSON whose values differ from run to run.
var varyingKeys = map[string]any{
	"lag_bytes": 0, "retained_bytes": 0, "lag_seconds": 0, "age_seconds": 0, "server_version": "18.1", "go": "go1.26.0",
	"os": "linux", "arch": "amd64", "schema_version": 13, "schema_needed": 13, "system_identifier": "7300000000000000000", "by": "anna@db-1",
	"database_system": "7300000000000000000",
}

// steadyJSON is a document with its keys in their order, and without what varies.
func steadyJSON(t *testing.T, document string) []byte {
	t.Helper()
	lines := strings.SplitAfter(document, "\n")
	for i, line := range lines {
		key, value, ok := strings.Cut(strings.TrimSpace(line), `": `)
		with, varies := varyingKeys[strings.TrimPrefix(key, `"`)]
		if !ok || !varies || strings.HasPrefix(value, "null") || strings.HasPrefix(value, `""`) {
			continue
		}
		raw, err := json.Marshal(with)
		check(t, err)
		comma := ""
		if strings.HasSuffix(value, ",") {
			comma = ","
		}
		indent := len(line) - len(strings.TrimLeft(line, " "))
		lines[i] = line[:indent] + key + `": ` + string(raw) + comma + "\n"
	}
	return []byte(steady(strings.Join(lines, "")))
}

// unkept are commands without a golden file, and why.
var unkept = map[string]string{
	"completion bash": "cobra's", "completion fish": "cobra's", "completion powershell": "cobra's",
	"completion zsh": "cobra's", "help": "the same as --help, which docs/cli.md has",
	"demo": "it tells what happens as it happens: demo_test.go",
}

// TestEveryCommandIsGolden: who adds a command adds what it prints.
func TestEveryCommandIsGolden(t *testing.T) {
	t.Parallel()
	kept := map[string]bool{}
	for _, scene := range goldenScenes {
		for _, g := range scene.calls {
			kept[commandOf(g.args)] = true
		}
	}
	for _, cmd := range allCommands() {
		path := strings.TrimPrefix(strings.TrimPrefix(cmd.CommandPath(), "weir"), " ")
		_, excepted := unkept[path]
		if cmd.HasSubCommands() && cmd.HasParent() {
			continue // the commands of a group print, it does not
		}
		if kept[path] == excepted {
			t.Errorf("weir %s: it needs a call in goldenScenes, or a reason in unkept why there is none", path)
		}
	}
}

// allCommands are those that people see, the root first.
func allCommands() []*cobra.Command {
	root := newRoot(&app{})
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	return below(root)
}

func below(cmd *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{cmd}
	for _, one := range cmd.Commands() {
		if !one.Hidden {
			all = append(all, below(one)...)
		}
	}
	return all
}

// TestHelpFits: the help of every command has an example or needs none, and lines that a terminal shows.
func TestHelpFits(t *testing.T) {
	t.Parallel()
	for _, cmd := range allCommands() {
		if slices.Contains(strings.Fields(cmd.CommandPath()), "completion") {
			continue // cobra's
		}
		args := slices.Concat(strings.Fields(cmd.CommandPath())[1:], []string{"--help"})
		for line := range strings.Lines(weir(t, args...).exits(0).stdout) {
			if utf8.RuneCountInString(line) > defaultWidth+1 {
				t.Errorf("weir %s: wider than %d columns: %s", strings.Join(args, " "), defaultWidth, line)
			}
		}
	}
}
