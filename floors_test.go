package weir_test

import (
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/fraiseql/weir"

// floors is the order of the house: a package imports only packages on lower floors, so two on the same floor do
// not know each other and a cycle of meaning cannot grow. A new package needs a line here, which is the moment to
// ask where it belongs; docs/architecture.md tells what each one is for.
var floors = map[string]int{
	".": 10, // end-to-end tests may enter every room

	"deploy": 10, // tests of what is deployed beside the programs

	"internal/bench/run":       10,
	"internal/chaos/run":       9,
	"cmd/worker":               9,
	"cmd/weir":                 9,
	"cmd/riverui-proxy":        9,
	"examples/orders/receiver": 9,
	"examples/receiver":        9,
	"examples":                 9, // a test that runs the documents

	"internal/worker":  8,
	"internal/console": 8,
	"internal/chaos":   8,
	"internal/bench":   9,

	"internal/ops":      7,
	"internal/config":   6,
	"internal/jobs":     5,
	"internal/observer": 4,
	"internal/action":   3,

	"internal/capture": 2,
	"internal/rule":    2,
	"internal/dedup":   2,
	"internal/breaker": 2,
	"internal/index":   2,
	"internal/lease":   2,
	"internal/sandbox": 2,

	"internal/event": 1,
	"internal/store": 1,

	"internal/outbound":  1,
	"internal/cache":     1,
	"internal/telemetry": 1,
	"db/migrations":      1,

	"internal/document": 0,
	"internal/setting":  0,
	"examples/orders":   0,
}

// forTests are the packages that the tests of any package may import: the private servers, the schema in them, and
// the documents.
var forTests = map[string]bool{"internal/sandbox": true, "db/migrations": true, "internal/document": true}

// TestFloors holds every import of the module against the floors. It parses the files itself, whatever their build
// constraints: a test that asked the go command would pass from the test cache after a new import, since only files
// that a test opens are part of its cache key.
func TestFloors(t *testing.T) {
	t.Parallel()

	files := goFiles(t)
	if len(files) == 0 {
		t.Fatal("no Go files found: is the test run in the root of the module?")
	}
	missing := map[string]bool{}
	for _, file := range files {
		pkg := path.Dir(file)
		if _, ok := floors[pkg]; !ok && !missing[pkg] {
			missing[pkg] = true
			t.Errorf("%s: package %s has no floor; give it one in floors_test.go, above all that it imports "+
				"and below all that import it", file, pkg)
		}
		for _, imported := range moduleImports(t, file) {
			if why := forbidden(pkg, imported, strings.HasSuffix(file, "_test.go")); why != "" {
				t.Errorf("%s: %s", file, why)
			}
		}
	}
}

func TestForbidden(t *testing.T) {
	t.Parallel()

	for _, tt := range []struct {
		name     string
		importer string
		imported string
		inTest   bool
		want     string // a part of the reason; empty where the import is allowed
	}{
		{"down", "internal/rule", "internal/event", false, ""},
		{"up", "internal/rule", "internal/jobs", false, "floor 2 may not import internal/jobs on floor 5"},
		{"sideways", "internal/capture", "internal/rule", false, "floor 2 may not import internal/rule on floor 2"},
		{"up in a test", "internal/rule", "internal/jobs", true, "floor 2 may not import internal/jobs on floor 5"},
		{"own package from its external test", "internal/rule", "internal/rule", true, ""},
		{"sandbox sideways", "internal/capture", "internal/sandbox", false, "may not import internal/sandbox"},
		{"sandbox sideways in a test", "internal/capture", "internal/sandbox", true, ""},
		{"sandbox up in a test", "db/migrations", "internal/sandbox", true, ""},
		{"unknown room", "cmd/weir", "internal/attic", false, "internal/attic, which has no floor"},
		{"part of a room is not the room", "cmd/weir", "internal/rule/attic", false, "has no floor"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := forbidden(tt.importer, tt.imported, tt.inTest)
			if tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
				t.Errorf("forbidden(%q, %q, %t) = %q, want %q in it", tt.importer, tt.imported, tt.inTest, got, tt.want)
			}
		})
	}
}

// forbidden says why a file of importer may not import another package of the module, or "" when it may.
func forbidden(importer, imported string, inTest bool) string {
	if imported == importer || inTest && forTests[imported] {
		return ""
	}
	above, ok := floors[importer]
	if !ok {
		return "" // said once, of the package
	}
	below, ok := floors[imported]
	if !ok {
		return fmt.Sprintf("imports %s, which has no floor; see floors_test.go", imported)
	}
	if below < above {
		return ""
	}
	return fmt.Sprintf("%s on floor %d may not import %s on floor %d, only lower floors: move what is shared down, "+
		"or let a room above pass it in", importer, above, imported, below)
}

// goFiles lists the Go files of the module, with slashes and relative to its root. Modules inside it (tools) and
// what the go command ignores are left out.
func goFiles(t *testing.T) []string {
	t.Helper()
	var files []string
	err := fs.WalkDir(os.DirFS("."), ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case !entry.IsDir():
			if path.Ext(name) == ".go" {
				files = append(files, name)
			}
			return nil
		case name == ".":
			return nil
		case entry.Name() == "testdata" || strings.HasPrefix(entry.Name(), "_") || strings.HasPrefix(entry.Name(), "."):
			return fs.SkipDir
		}
		if _, err := os.Stat(filepath.Join(name, "go.mod")); err == nil {
			return fs.SkipDir
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// moduleImports returns the packages of this module that a file imports, relative to the module's root.
func moduleImports(t *testing.T, file string) []string {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
	if err != nil {
		t.Fatal(err)
	}
	var imports []string
	for _, spec := range parsed.Imports {
		name, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		if name == module {
			imports = append(imports, ".")
		} else if rest, ok := strings.CutPrefix(name, module+"/"); ok {
			imports = append(imports, rest)
		}
	}
	return imports
}
