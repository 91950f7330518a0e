package document

import (
	"slices"
	"strings"
	"testing"
)

const page = "# Title\n" +
	"\n" +
	"```yaml\n# weir.yaml\nobservers: {}\n```\n" +
	"\n" +
	"<!-- not run: needs Docker,\nand time -->\n" +
	"\n" +
	"```sh\ndocker run \\\n  weir  # what\n# a comment\n\nweir status\n```\n" +
	"text\n" +
	"    no block: it goes on with the text\n" +
	"\n" +
	"    weir doctor\n    said: fine\n" +
	"\n" +
	"* a list\n" +
	"  ```console\n  $ weir status\n    all is well\n  ```\n" +
	"<!-- not run: this is for the text -->\n" +
	"text\n" +
	"```sql\nSELECT 1\n```\n"

func TestRead(t *testing.T) {
	t.Parallel()
	blocks, err := parse("page.md", page)
	if err != nil {
		t.Fatal(err)
	}
	want := []struct {
		place, language, notRun, file string
		text                          string
		commands                      []string
	}{
		{"page.md:4", "yaml", "", "weir.yaml", "# weir.yaml\nobservers: {}\n", nil},
		{
			"page.md:12", "sh", "needs Docker,\nand time", "", "docker run \\\n  weir  # what\n# a comment\n\nweir status\n",
			[]string{"docker run  weir  # what", "weir status"},
		},
		{"page.md:21", "", "", "", "weir doctor\nsaid: fine\n", []string{"weir doctor"}},
		{"page.md:26", "console", "", "", "$ weir status\n  all is well\n", []string{"weir status"}},
		{"page.md:32", "sql", "", "", "SELECT 1\n", nil},
	}
	if len(blocks) != len(want) {
		t.Fatalf("%d blocks, want %d: %q", len(blocks), len(want), blocks)
	}
	for i, w := range want {
		b := blocks[i]
		if b.String() != w.place || b.Language != w.language || b.NotRun != w.notRun || b.FileName() != w.file || b.Text != w.text {
			t.Errorf("%s %+v of file %q, want %+v", b, b, b.FileName(), w)
		}
		if got := b.Commands("weir"); !slices.Equal(got, w.commands) {
			t.Errorf("%s: commands %q, want %q", b, got, w.commands)
		}
	}
}

func TestNotRunOnThisPage(t *testing.T) {
	t.Parallel()
	blocks, err := parse("page.md", "<!-- not run on this page: it is about a cluster -->\n"+page)
	if err != nil {
		t.Fatal(err)
	}
	for i, b := range blocks {
		if want := "it is about a cluster"; i != 1 && b.NotRun != want || i == 1 && !strings.HasPrefix(b.NotRun, "needs Docker") {
			t.Errorf("%s: %q", b, b.NotRun)
		}
	}
}

func TestABlockHasAnEnd(t *testing.T) {
	t.Parallel()
	if _, err := parse("page.md", "text\n```sh\nweir status\n"); err == nil || !strings.Contains(err.Error(), "page.md:2") {
		t.Errorf("%v, want the place", err)
	}
}
