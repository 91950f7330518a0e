// Package document reads the Markdown of this repository as its tests do. Blocks of code are what people copy, so the tests
// run them, or check them, as they stand; docs/development.md has the rules for those who write them.
package document

import (
	"fmt"
	"os"
	"regexp"
	"strings"
)

// Block is a block of code: a fenced one, or one that is indented by four spaces.
type Block struct {
	// File and Line are where its first line is.
	File string
	Line int
	// Language is what stands behind the fence: sh, yaml, text and so on. Empty for an indented block.
	Language string
	Text     string
	// NotRun is why the block is not run, from a comment before it or one for the whole page; empty without one.
	NotRun string
}

var (
	// notRun may go on over several lines.
	notRun     = regexp.MustCompile(`(?s)^<!-- not run: (.+?) -->$`)
	pageNotRun = regexp.MustCompile(`(?s)<!-- not run on this page: (.+?) -->`)
	fileName   = regexp.MustCompile(`^(?:#|--) ([\w./-]+\.\w+)$`)
	continued  = regexp.MustCompile(`\\\n[ \t]*`)
)

// Read returns the blocks of a file in their order.
func Read(path string) ([]Block, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return parse(path, string(raw))
}

// parser goes through a page line by line.
type parser struct {
	file, page string   // page: the reason for all blocks
	lines      []string // of the file
	at         int      // the next one
	before     string   // the comment that stands before what comes next
	blocks     []Block
}

func parse(file, text string) ([]Block, error) {
	p := &parser{file: file, lines: strings.Split(strings.ReplaceAll(text, "\r\n", "\n"), "\n")}
	if m := pageNotRun.FindStringSubmatch(text); m != nil {
		p.page = m[1]
	}
	blank := true
	for p.at < len(p.lines) {
		line := p.lines[p.at]
		switch {
		case strings.HasPrefix(strings.TrimSpace(line), "```"):
			if err := p.fenced(); err != nil {
				return nil, err
			}
		case strings.HasPrefix(line, "<!--"):
			p.comment()
			continue // it holds for what follows, over a blank line
		case blank && strings.HasPrefix(line, "    "):
			p.indented()
		default:
			p.at++
			if strings.TrimSpace(line) != "" {
				p.before = ""
			}
		}
		blank = strings.TrimSpace(line) == ""
	}
	return p.blocks, nil
}

func (p *parser) add(line int, language string, lines []string) {
	b := Block{File: p.file, Line: line, Language: language, Text: strings.Join(lines, "\n") + "\n", NotRun: p.page}
	if m := notRun.FindStringSubmatch(p.before); m != nil {
		b.NotRun = m[1]
	}
	p.before = ""
	p.blocks = append(p.blocks, b)
}

func (p *parser) fenced() error {
	begin := p.at
	fence := strings.TrimSpace(p.lines[begin])
	indent := len(p.lines[begin]) - len(strings.TrimLeft(p.lines[begin], " "))
	var text []string
	for p.at++; p.at < len(p.lines); p.at++ {
		line := p.lines[p.at]
		if strings.TrimSpace(line) == "```" {
			p.at++
			p.add(begin+2, strings.TrimLeft(fence, "`"), text)
			return nil
		}
		text = append(text, line[min(indent, len(line)-len(strings.TrimLeft(line, " "))):])
	}
	return fmt.Errorf("%s:%d: a block that has no end", p.file, begin+1)
}

func (p *parser) comment() {
	var text []string
	for p.at < len(p.lines) {
		line := p.lines[p.at]
		text = append(text, line)
		p.at++
		if strings.HasSuffix(strings.TrimSpace(line), "-->") {
			break
		}
	}
	p.before = strings.TrimSpace(strings.Join(text, "\n"))
}

func (p *parser) indented() {
	begin := p.at
	var text []string
	for ; p.at < len(p.lines); p.at++ {
		rest, ok := strings.CutPrefix(p.lines[p.at], "    ")
		if !ok {
			break
		}
		text = append(text, rest)
	}
	p.add(begin+1, "", text)
}

// String is the place.
func (b Block) String() string { return fmt.Sprintf("%s:%d", b.File, b.Line) }

// FileName is the name in a comment that is the block's first line, as in `# weir.yaml` or `-- schema.sql`; empty without one.
func (b Block) FileName() string {
	first, _, _ := strings.Cut(b.Text, "\n")
	if m := fileName.FindStringSubmatch(first); m != nil {
		return m[1]
	}
	return ""
}

// Commands are the lines that somebody types: all of a sh block, those behind a $ of a console block, and those of an indented
// block that begin with one of the programs. What ends with a backslash goes on in the next line.
func (b Block) Commands(programs ...string) []string {
	var commands []string
	for line := range strings.Lines(continued.ReplaceAllString(b.Text, " ")) {
		line = strings.TrimSpace(line)
		switch b.Language {
		case "sh":
		case "console":
			rest, ok := strings.CutPrefix(line, "$ ")
			if !ok {
				continue
			}
			line = rest
		case "":
			word, _, _ := strings.Cut(line, " ")
			if !isOneOf(word, programs) {
				continue
			}
		default:
			return nil
		}
		if line != "" && !strings.HasPrefix(line, "#") {
			commands = append(commands, line)
		}
	}
	return commands
}

func isOneOf(word string, programs []string) bool {
	for _, program := range programs {
		if word == program || strings.HasSuffix(word, "/"+program) {
			return true
		}
	}
	return false
}
