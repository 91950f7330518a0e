package examples

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

// anything stands for what differs each time: in a line, or for any number of lines where it is alone in one.
const anything = "…"

// inOrder is what should be seen, line by line. Blanks are as many as the columns of a table need.
func inOrder(want string) *regexp.Regexp {
	var all strings.Builder
	for line := range strings.Lines(want) {
		if strings.TrimSpace(line) == anything {
			all.WriteString(`(?:.*\n)*?`)
		} else {
			all.WriteString(oneLine(line))
		}
	}
	return regexp.MustCompile(`^` + all.String() + `$`)
}

// inAnyOrder is for what a command prints while something in the background prints, too.
func inAnyOrder(want, seen string) bool {
	left := slices.Collect(strings.Lines(seen))
	more := false
	for line := range strings.Lines(want) {
		if strings.TrimSpace(line) == anything {
			more = true
			continue
		}
		at := slices.IndexFunc(left, regexp.MustCompile(`^`+oneLine(line)+`$`).MatchString)
		if at < 0 {
			return false
		}
		left = slices.Delete(left, at, at+1)
	}
	return more || len(left) == 0
}

var blanks = regexp.MustCompile(`[ \t]+`)

func oneLine(line string) string {
	parts := strings.Split(strings.TrimSpace(line), anything)
	for i, part := range parts {
		parts[i] = blanks.ReplaceAllString(regexp.QuoteMeta(part), `[ \t]+`)
	}
	return `[ \t]*` + strings.Join(parts, `.*`) + `[ \t]*\n`
}

func TestExpectations(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, want, seen  string
		ordered, anyOrder bool
	}{
		{"the same", "a b\nc\n", "a b\nc\n", true, true},
		{"columns", "a b\n", "  a      b   \n", true, true},
		{"less", "a\nb\n", "a\n", false, false},
		{"more", "a\n", "a\nb\n", false, false},
		{"twice", "a\n", "a\na\n", false, false},
		{"part of a line", "a\n", "ab\n", false, false},
		{"other order", "a\nb\n", "b\na\n", false, true},
		{"anything in a line", "id …, total 1.0\n", "id 4711, total 1.0\n", true, true},
		{"a pattern's sign is itself", "total 1.0\n", "total 110\n", false, false},
		{"nothing is anything, too", "a…\n", "a\n", true, true},
		{"any lines", "a\n…\nd\n", "a\nb\nc\nd\n", true, true},
		{"no lines are any, too", "a\n…\n", "a\n", true, true},
		{"not over lines", "a … d\n", "a b\nc d\n", false, false},
	} {
		if got := inOrder(tt.want).MatchString(tt.seen); got != tt.ordered {
			t.Errorf("%s: in order %t, want %t", tt.name, got, tt.ordered)
		}
		if got := inAnyOrder(tt.want, tt.seen); got != tt.anyOrder {
			t.Errorf("%s: in any order %t, want %t", tt.name, got, tt.anyOrder)
		}
	}
}
