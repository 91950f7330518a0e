package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"github.com/fraiseql/weir/internal/config"
	"github.com/fraiseql/weir/internal/document"
)

// programs are those whose command lines are run by a test, or say why not.
var programs = []string{"weir", "worker", "riverui-proxy", "make", "psql"}

// TestDocuments checks what the pages of the documentation say and no test runs: that the command lines of weir exist, and that
// configurations are valid. The pages are run by the test of package examples.
func TestDocuments(t *testing.T) {
	t.Parallel()
	lines, configurations := 0, 0
	for _, pattern := range []string{"README.md", "docs/*.md", "examples/README.md", "examples/*/README.md"} {
		pages, err := filepath.Glob(filepath.Join("..", "..", pattern))
		if err != nil || len(pages) == 0 {
			t.Fatalf("%s: %d files, %v", pattern, len(pages), err)
		}
		for _, page := range pages {
			blocks, err := document.Read(page)
			check(t, err)
			for _, b := range blocks {
				lines += checkCommands(t, b)
				if isConfiguration(b) {
					checkConfiguration(t, b)
					configurations++
				}
			}
			checkMentions(t, page)
		}
	}
	if lines < 50 || configurations < 10 {
		t.Errorf("%d command lines and %d configurations: are there no more?", lines, configurations)
	}
}

// checkCommands returns how many command lines of weir a block has.
func checkCommands(t *testing.T, b document.Block) (n int) {
	t.Helper()
	commands := b.Commands(programs...)
	if b.Language != "sh" && b.NotRun == "" && len(commands) > 0 {
		t.Errorf("%s: nobody runs %q: make it a ```sh block, or say why not in <!-- not run: … --> before it", b, commands[0])
	}
	for _, command := range commands {
		for _, args := range weirCalls(command) {
			n++
			if err := understood(args); err != nil {
				t.Errorf("%s: %s: %v", b, command, err)
			}
		}
	}
	return n
}

// understood holds a command line against the command tree.
func understood(args []string) error {
	cmd, rest, err := findCommand(args)
	if err != nil {
		return err
	}
	if err := cmd.ParseFlags(rest); err != nil {
		return err
	}
	positional := cmd.Flags().Args()
	if help, _ := cmd.Flags().GetBool("help"); help || slices.Contains(positional, "…") {
		return nil
	}
	if cmd.HasSubCommands() && len(positional) > 0 {
		return fmt.Errorf("%s has no command %s", cmd.CommandPath(), positional[0])
	}
	return cmd.ValidateArgs(positional)
}

func findCommand(args []string) (cmd *cobra.Command, rest []string, err error) {
	root := newRoot(&app{flags: globalFlags{format: formatText}})
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd(args...)
	cmd, rest, err = root.Find(args)
	if err != nil {
		return nil, nil, err
	}
	cmd.InitDefaultHelpFlag()
	return cmd, rest, nil
}

// mention is a command in the text, as in `weir dlq retry ID`.
var mention = regexp.MustCompile("`(?:bin/)?weir ([^`\n]*)`")

// checkMentions holds what the text calls commands and flags against the command tree. It may leave out arguments.
func checkMentions(t *testing.T, page string) {
	t.Helper()
	raw, err := os.ReadFile(page)
	check(t, err)
	for _, m := range mention.FindAllStringSubmatch(string(raw), -1) {
		words, _, _ := strings.Cut(strings.ReplaceAll(m[1], `\|`, "|"), "|") // the first of several
		args := split(words)[0]
		cmd, rest, err := findCommand(args)
		switch {
		case err != nil:
		case cmd.HasSubCommands() && len(rest) > 0 && !strings.HasPrefix(rest[0], "-") && rest[0] != "…":
			err = fmt.Errorf("%s has no command %s", cmd.CommandPath(), rest[0])
		default:
			err = flagsExist(cmd, rest)
		}
		if err != nil {
			t.Errorf("%s: `weir %s`: %v", page, m[1], err)
		}
	}
}

func flagsExist(cmd *cobra.Command, words []string) error {
	for _, word := range words {
		name, isFlag := strings.CutPrefix(word, "--")
		name, _, _ = strings.Cut(name, "=")
		if !isFlag || name == "" {
			continue
		}
		if cmd.Flags().Lookup(name) == nil && cmd.InheritedFlags().Lookup(name) == nil {
			return fmt.Errorf("%s has no flag --%s", cmd.CommandPath(), name)
		}
	}
	return nil
}

// weirCalls are the arguments of weir in a command line, wherever it stands: also behind sudo, or in a container.
func weirCalls(line string) (calls [][]string) {
	for _, words := range split(line) {
		isWeir := func(word string) bool { return word == "weir" || strings.HasSuffix(word, "/weir") }
		at := slices.IndexFunc(words, isWeir)
		if at < 0 || at > 0 && !runsAnother(words[0]) {
			continue
		}
		if slices.Contains(containers, words[0]) { // images, namespaces and entrypoints have names, too
			if !slices.Contains(words, "run") && !slices.Contains(words, "exec") {
				continue
			}
			for i := at; i < len(words); i++ {
				if isWeir(words[i]) {
					at = i
				}
			}
		}
		calls = append(calls, words[at+1:])
	}
	return calls
}

// containers run a program of an image.
var containers = []string{"docker", "podman", "kubectl"}

// runsAnother says that a program runs what comes behind it.
func runsAnother(word string) bool {
	return strings.Contains(word, "=") ||
		slices.Contains([]string{"sudo", "runuser", "env", "docker", "podman", "kubectl", "watch", "time", "while", "until", "if"}, word)
}

// split cuts a line into commands and these into words, as a shell does, as far as the documentation needs it: $(…) is a word,
// redirections and comments are left out, and so are the brackets of what may be left out.
func split(line string) (commands [][]string) {
	var words []string
	end := func() {
		commands = append(commands, words)
		words = nil
	}
	for _, token := range tokens.FindAllString(line, -1) {
		switch {
		case strings.HasPrefix(token, "#"):
			end()
			return commands
		case strings.Trim(token, "|&;") == "":
			end()
		case redirection.MatchString(token):
		default:
			words = append(words, unquoted.ReplaceAllString(strings.Trim(token, "[]"), ""))
		}
	}
	end()
	return commands
}

var (
	tokens      = regexp.MustCompile(`#.*|\|\|?|&&|;|\d?>>?&?\s?[\w./-]+|&|(?:\$\([^)]*\)|'[^']*'|"(?:\\.|\$\([^)]*\)|[^"])*"|<[^>]*>|[^\s'"|&;<>])+|<`)
	redirection = regexp.MustCompile(`^(\d?>|<$)`)
	unquoted    = regexp.MustCompile(`['"]`)
)

// isConfiguration says that a block is a weir.yaml, or a part of one. One that is of another program begins with its name, as in
// `# prometheus.yml`.
func isConfiguration(b document.Block) bool {
	return b.Language == "yaml" && (b.FileName() == "" || b.FileName() == "weir.yaml")
}

// checkConfiguration checks a configuration as far as the block goes: what it hangs on, and sections that it needs, are added.
func checkConfiguration(t *testing.T, b document.Block) {
	t.Helper()
	text := whole(b.Text)
	if b.FileName() == "" {
		text += sections(text)
	}
	path := file(t, text)
	for _, m := range templateFile.FindAllStringSubmatch(text, -1) {
		named := filepath.Join(filepath.Dir(path), filepath.FromSlash(m[1]))
		check(t, os.MkdirAll(filepath.Dir(named), 0o750))
		check(t, os.WriteFile(named, []byte("Hello\n"), 0o600))
	}
	_, err := config.Load(t.Context(), config.Options{Path: path, NoEnv: true})
	if err != nil {
		t.Errorf("%s is no valid weir.yaml:\n%v\nIf it is no weir.yaml at all, its first line names the file, as in # prometheus.yml", b, err)
	}
}

// whole makes a weir.yaml of a part of one: of an observer, or of actions.
func whole(text string) string {
	var top map[string]any
	var list []any
	switch {
	case yaml.Unmarshal([]byte(text), &list) == nil:
		return "observers:\n  documented:\n    entity: Order\n    actions:\n" + indent(text, "      ")
	case yaml.Unmarshal([]byte(text), &top) != nil:
		return text // the error says why
	case top["type"] != nil:
		return "observers:\n  documented:\n    entity: Order\n    actions:\n" + indent("- \n"+indent(text, "  "), "      ")
	case top["actions"] != nil && top["entity"] != nil:
		return "observers:\n  documented:\n" + indent(text, "    ")
	case top["actions"] != nil:
		return "observers:\n  documented:\n    entity: Order\n" + indent(text, "    ")
	}
	return text
}

// templateFile is a template in a file of its own.
var templateFile = regexp.MustCompile(`\{file: ([\w./-]+)\}`)

// sections are those that actions may need, as far as a text lacks them.
func sections(text string) (missing string) {
	for name, section := range map[string]string{
		"redis":         `{url: "redis://localhost:6379/0"}`,
		"elasticsearch": `{urls: ["http://localhost:9200"]}`,
		"smtp":          `{host: localhost, from: weir@example.org}`,
	} {
		if !strings.Contains("\n"+text, "\n"+name+":") {
			missing += name + ": " + section + "\n"
		}
	}
	return missing
}

func indent(text, by string) string {
	var all strings.Builder
	for line := range strings.Lines(text) {
		all.WriteString(by + line)
	}
	return all.String()
}

func TestWeirCalls(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		`weir status`: `[[status]]`,
		`bin/weir status --format json | jq .stream # how`:  `[[status --format json]]`,
		`weir migrate up && weir attach "my table" &`:       `[[migrate up] [attach my table]]`,
		`weir search status:shipped '"acme corp"' 2>&1`:     `[[search status:shipped acme corp]]`,
		`weir forget --id $(psql shop -c "SELECT 1") --yes`: `[[forget --id $(psql shop -c SELECT 1) --yes]]`,
		`kubectl exec deploy/weir -- weir status`:           `[[status]]`,
		`psql shop -c "SELECT weir"; cd weir`:               `[]`,
		`weir accept-gap [--dry-run]`:                       `[[accept-gap --dry-run]]`,
		`weir doctor | grep -v '^ok'`:                       `[[doctor]]`,
	} {
		if got := fmt.Sprint(weirCalls(line)); got != want {
			t.Errorf("%s: %s, want %s", line, got, want)
		}
	}
}

func TestUnderstood(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"status --format json": "", "dlq retry 7 8": "", "migrate up --help": "", "attach …": "", "help dlq": "", "completion bash": "",
		"statsu": "statsu", "dlq retyr 7": "retyr", "status --fromat json": "fromat", "dlq show": "arg", "status now": "now",
		"dlq list --limit few": "few", "migrate": "",
	} {
		err := understood(strings.Fields(line))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("weir %s: %v, want %q", line, err, want)
		}
	}
}
