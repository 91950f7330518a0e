package main

import (
	"bytes"
	"context"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/internal/sandbox"
)

// demoRun is `weir demo` in this process.
func demoRun(ctx context.Context, stdout io.Writer, args ...string) (code int, stderr string) {
	var said bytes.Buffer
	code = run(ctx, append([]string{"demo"}, args...), environment{
		stdin: strings.NewReader(""), stdout: stdout, stderr: &said, lookup: func(string) (string, bool) { return "", false },
	})
	return code, said.String()
}

func TestDemoOnce(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	code, stderr := demoRun(t.Context(), &out, "--once")
	if code != exitDone {
		t.Fatalf("exit %d, want 0\n%s\n%s", code, out.String(), stderr)
	}
	for _, want := range []string{
		"order-created/webhook          204, both signatures valid",
		`"total":100.10`, `"customer":"Cleo \"{{ total }}\""`,
		"order-shipped/webhook          204, both signatures valid",
		"order-shipped: total > 100 is false",
		"500, both signatures valid, attempt 1 of 3", "attempt 2 of 3", "attempt 3 of 3",
		"dead      order 4   order-canceled/tell-warehouse",
		"streaming: read by ",
		"complete: 4 webhooks with valid signatures, 1 dead letter",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the output lacks %q", want)
		}
	}
	if strings.Contains(out.String(), "\x1b") {
		t.Error("colors, though this is no terminal")
	}
	if t.Failed() {
		t.Log(out.String())
	}
}

// A receiver that loses one delivery must be noticed, and the delivery named.
func TestDemoNoticesAMissingDelivery(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	// With -v the worker's log goes to stderr: a failed demo keeps its file.
	code, stderr := demoRun(t.Context(), &out, "--once", "--drop", "2", "-v")
	if code != exitFailed {
		t.Errorf("exit %d, want 1\n%s\n%s", code, out.String(), stderr)
	}
	_, result, _ := strings.Cut(out.String(), "\nResult\n")
	if n := strings.Count(result, "problem:"); n != 1 || !strings.Contains(result, "order-created/webhook of order 2 ") ||
		!strings.Contains(result, "is missing") {
		t.Errorf("the result does not name the second delivery, and it alone:\n%s", result)
	}
}

// watched keeps what is written and tells when a text has come.
type watched struct {
	mu   sync.Mutex // guards buf
	buf  bytes.Buffer
	text string
	come chan struct{}
	once sync.Once
}

func (w *watched) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n, err := w.buf.Write(p)
	if strings.Contains(w.buf.String(), w.text) {
		w.once.Do(func() { close(w.come) })
	}
	return n, err
}

func (w *watched) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.String()
}

// Without --once it goes on until it is interrupted, which is no failure. On somebody's server it leaves nothing behind.
func TestDemoGoesOnAndLeavesNothing(t *testing.T) { //nolint:paralleltest // sets DATABASE_URL
	server, err := sandbox.StartPostgres(t.Context(), sandbox.PostgresOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Stop(context.WithoutCancel(t.Context())) })
	t.Setenv(sandbox.DatabaseURLVariable, server.URL("postgres"))

	ctx, interrupt := context.WithTimeout(t.Context(), 2*time.Minute)
	defer interrupt()
	out := &watched{text: "order 5   order-created/webhook", come: make(chan struct{})}
	type result struct {
		code   int
		stderr string
	}
	ended := make(chan result, 1)
	go func() {
		code, stderr := demoRun(ctx, out)
		ended <- result{code, stderr}
	}()
	select {
	case <-out.come: // the first order after the story
		interrupt()
	case <-ctx.Done():
	}
	if r := <-ended; r.code != exitDone || !strings.Contains(out.String(), "Stopping") {
		t.Errorf("exit %d, want 0\n%s\n%s", r.code, out.String(), r.stderr)
	}
	if !strings.Contains(out.String(), "dlq list --database-url 'postgres://") {
		t.Errorf("it does not say what to look at:\n%s", out.String())
	}

	conn, err := pgx.Connect(t.Context(), server.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	var databases, slots int
	err = conn.QueryRow(t.Context(), `SELECT (SELECT count(*) FROM pg_database WHERE datname NOT IN ('postgres', 'template0', 'template1')),
		(SELECT count(*) FROM pg_replication_slots)`).Scan(&databases, &slots)
	if err != nil || databases != 0 || slots != 0 {
		t.Errorf("left behind: %d databases, %d slots (%v)", databases, slots, err)
	}
}

func TestDemoRefusesADatabaseOfOnesOwn(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"--database-url", "postgres://db/app"}, {"--config", "weir.yaml"}} {
		if code, stderr := demoRun(t.Context(), io.Discard, args...); code != exitUsage || !strings.Contains(stderr, "DATABASE_URL") {
			t.Errorf("%v: exit %d, %s", args, code, stderr)
		}
	}
}
