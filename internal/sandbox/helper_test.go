package sandbox_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/fraiseql/weir/internal/sandbox"
)

// helperArgument makes the test binary the child of one of its tests: it does what the next argument says, prints one
// line about it and lives until its input ends, or until it is killed.
const helperArgument = "sandbox-helper"

func helper(task string) int {
	ctx := context.Background()
	var line string
	var err error
	switch task {
	case "server":
		var p *sandbox.Postgres
		if p, err = sandbox.StartPostgres(ctx, sandbox.PostgresOptions{}); err == nil {
			defer func() { _ = p.Stop(ctx) }()
			line = p.URL("postgres")
		}
	case "elasticsearch":
		var e *sandbox.Elasticsearch
		if e, err = sandbox.StartElasticsearch(ctx); err == nil {
			defer func() { _ = e.Stop() }()
			line = e.URL() + " " + e.Dir()
		}
	case "child":
		var p *sandbox.Process
		if p, err = sandbox.StartProcess(ctx, "sleep", []string{"600"}, nil, nil); err == nil {
			defer func() { _ = p.Kill() }()
			line = fmt.Sprint(p.PID())
		}
	}
	if err != nil {
		line = "error: " + strings.ReplaceAll(err.Error(), "\n", " ")
	}
	fmt.Fprintln(os.Stdout, line)
	if err == nil {
		time.Sleep(10 * time.Minute) // longer than any test; it is killed
	}
	return 0
}

// runHelper starts the helper and returns it with the line that it prints.
func runHelper(t *testing.T, task string, env ...string) (*sandbox.Process, string) {
	t.Helper()
	reader, writer := io.Pipe()
	p, err := sandbox.StartProcess(t.Context(), os.Args[0], []string{helperArgument, task}, env, writer)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Kill(); err != nil {
			t.Error(err)
		}
	})
	lines := bufio.NewScanner(reader)
	if !lines.Scan() {
		t.Fatalf("the helper printed nothing: %v", lines.Err())
	}
	go func() { _, _ = io.Copy(io.Discard, reader) }()
	return p, lines.Text()
}

// eventually waits for what no signal tells: the end of a process that is not our child.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for range 600 {
		if is() {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Errorf("still not after 30 s: %s", what)
}
