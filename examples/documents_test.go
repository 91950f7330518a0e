package examples

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fraiseql/weir/internal/document"
)

// patience is how long a block may take, and how long what it should print may take to appear.
const patience = 60 * time.Second

// TestDocuments runs the blocks of every page that has some to run, from the first to the last, as a reader would: in one shell,
// on a server without databases. A page after another, since they name the same ports, databases and slots.
func TestDocuments(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	ran := map[string]bool{}
	for _, page := range pages(t) {
		blocks, err := document.Read(filepath.Join("..", page))
		if err != nil {
			t.Fatal(err)
		}
		if !toRun(blocks) {
			continue
		}
		ran[page] = true
		t.Run(page, func(t *testing.T) { s.run(t, page, blocks) })
	}
	for _, page := range []string{"README.md", "docs/tutorial.md", "examples/orders/README.md"} {
		if !ran[page] {
			t.Errorf("%s has no block to run", page)
		}
	}
}

// pages are all that may have blocks, relative to the root.
func pages(t *testing.T) []string {
	t.Helper()
	var pages []string
	for _, pattern := range []string{"README.md", "docs/*.md", "examples/README.md", "examples/*/README.md"} {
		found, err := filepath.Glob(filepath.Join("..", pattern))
		if err != nil || len(found) == 0 {
			t.Fatalf("%s: %d files, %v", pattern, len(found), err)
		}
		for _, page := range found {
			pages = append(pages, filepath.ToSlash(strings.TrimPrefix(page, ".."+string(filepath.Separator))))
		}
	}
	return pages
}

func toRun(blocks []document.Block) bool {
	for _, b := range blocks {
		if b.Language == "sh" && b.NotRun == "" {
			return true
		}
	}
	return false
}

// run runs a page. An example is run in its folder, any other page in the root.
func (s *stage) run(t *testing.T, page string, blocks []document.Block) {
	s.clear(t)
	dir := s.checkout
	if strings.HasPrefix(page, "examples/") {
		dir = filepath.Join(dir, filepath.Dir(page))
	}
	sh := startShell(t, dir, s.env)
	begin := time.Now()
	for i, b := range blocks {
		var want *document.Block // what the block prints stands right behind it
		if i+1 < len(blocks) && (blocks[i+1].Language == "text" || blocks[i+1].Language == "json") {
			want = &blocks[i+1]
		}
		switch {
		case b.NotRun != "":
		case b.Language == "sh":
			sh.do(t, b, want)
		case b.FileName() != "":
			if err := os.WriteFile(filepath.Join(dir, b.FileName()), []byte(b.Text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if t.Failed() {
			break
		}
	}
	t.Logf("%s took %s", page, time.Since(begin).Round(100*time.Millisecond))
	sh.tell(t)
	sh.stop()
}
