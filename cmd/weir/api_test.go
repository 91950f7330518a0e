package main

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/fraiseql/weir/internal/capture"
	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/index"
	"github.com/fraiseql/weir/internal/jobs"
	"github.com/fraiseql/weir/internal/ops"
	"github.com/fraiseql/weir/internal/worker"
)

// apiShapes are what commands print with --format json.
var apiShapes = map[string]reflect.Type{
	"accept-gap":      reflect.TypeFor[ops.Gap](),
	"adopt":           reflect.TypeFor[ops.Adoption](),
	"attach":          reflect.TypeFor[capture.Attached](),
	"breaker close":   reflect.TypeFor[ops.Breakers](),
	"breaker list":    reflect.TypeFor[ops.Breakers](),
	"breaker open":    reflect.TypeFor[ops.Breakers](),
	"cache clear":     reflect.TypeFor[ops.Cleared](),
	"cache stats":     reflect.TypeFor[ops.ResultCache](),
	"debug-event":     reflect.TypeFor[eventReports](),
	"detach":          reflect.TypeFor[capture.Detached](),
	"dlq list":        reflect.TypeFor[ops.DeadLetterPage](),
	"dlq remove":      reflect.TypeFor[ops.Act](),
	"dlq retry":       reflect.TypeFor[ops.Act](),
	"dlq retry-all":   reflect.TypeFor[ops.Act](),
	"dlq show":        reflect.TypeFor[ops.DeadLetter](),
	"dlq stats":       reflect.TypeFor[ops.DeadLetterStats](),
	"doctor":          reflect.TypeFor[ops.Diagnosis](),
	"history forget":  reflect.TypeFor[forgotten](),
	"history reindex": reflect.TypeFor[index.Reindexed](),
	"metrics":         reflect.TypeFor[metricsReport](),
	"migrate down":    reflect.TypeFor[migrated](),
	"migrate status":  reflect.TypeFor[migrationList](),
	"migrate up":      reflect.TypeFor[migrated](),
	"pause":           reflect.TypeFor[ops.Pauses](),
	"replay":          reflect.TypeFor[ops.Replay](),
	"resume":          reflect.TypeFor[ops.Pauses](),
	"search":          reflect.TypeFor[ops.Found](),
	"status":          reflect.TypeFor[ops.Status](),
	"test":            reflect.TypeFor[rehearsal](),
	"validate-config": reflect.TypeFor[validation](),
	"version":         reflect.TypeFor[versionReport](),
}

// conforms holds what a command has printed against its shape in the reference.
func conforms(t *testing.T, command, document string) {
	t.Helper()
	shape, ok := apiShapes[command]
	if !ok {
		t.Fatalf("weir %s has no shape in apiShapes", command)
	}
	for _, bad := range deviations(decodeJSON(t, document), shape, command) {
		t.Errorf("docs/api.md: %s", bad)
	}
}

// TestAPIDocumentation: docs/api.md describes every command's JSON, from the structs and their comments, with an example of what
// the command printed (TestGolden). The prose is written by hand.
func TestAPIDocumentation(t *testing.T) {
	t.Parallel()
	comments := readComments(t, ".", "../../internal/ops", "../../internal/capture", "../../internal/index", "../../internal/cache",
		"../../internal/config", "../../internal/observer", "../../internal/action", "../../internal/event", "../../internal/jobs",
		"../../internal/worker")
	seen := map[reflect.Type]bool{}
	var commands, types strings.Builder
	for _, cmd := range allCommands() {
		name := strings.TrimPrefix(strings.TrimPrefix(cmd.CommandPath(), "weir"), " ")
		shape, ok := apiShapes[name]
		if _, excepted := unkept[name]; ok == (excepted || cmd.HasSubCommands()) {
			t.Errorf("weir %s: its JSON needs a line in apiShapes, or a reason in unkept", name)
		}
		if !ok {
			continue
		}
		fmt.Fprintf(&commands, "### weir %s\n\n%s. Prints [%s](#%s).\n\n", name, cmd.Short, shape.Name(), strings.ToLower(shape.Name()))
		commands.WriteString(example(t, name))
		types.WriteString(comments.tables(t, seen, shape))
	}
	page := readPage(t, "api.md")
	page = section(t, page, "commands", commands.String())
	page = section(t, page, "objects", types.String())
	page = section(t, page, "readiness", comments.table(t, reflect.TypeFor[worker.Readiness]()))
	page = section(t, page, "arguments", comments.table(t, reflect.TypeFor[jobs.Args]()))
	page = section(t, page, "event", comments.table(t, reflect.TypeFor[event.Event]()))
	compare(t, filepath.Join("..", "..", "docs", "api.md"), []byte(page))
}

// example is what a command has printed, of the first golden call with JSON.
func example(t *testing.T, command string) string {
	t.Helper()
	for _, scene := range goldenScenes {
		for _, g := range scene.calls {
			if !g.json || commandOf(g.args) != command || scene.name == "empty" && command != "migrate up" {
				continue
			}
			text, err := os.ReadFile(filepath.Join("testdata", "golden", g.file(scene.name)+".json"))
			check(t, err)
			return fmt.Sprintf("<details><summary>Example: <code>weir %s --format json</code></summary>\n\n```json\n%s```\n\n</details>\n\n", g.args, text)
		}
	}
	t.Errorf("weir %s has no golden call with JSON", command)
	return ""
}
