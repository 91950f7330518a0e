package sandbox_test

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/internal/sandbox"
)

func TestServerDiesWithItsOwner(t *testing.T) {
	t.Parallel()
	owner, databaseURL := runHelper(t, "server")
	conn := connect(t, databaseURL)
	folder := filepath.Dir(query(t, conn, "SHOW data_directory"))
	if err := owner.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the server is gone", func() bool {
		conn, err := pgx.Connect(t.Context(), databaseURL)
		if err == nil {
			_ = conn.Close(t.Context())
		}
		return err != nil
	})
	eventually(t, "the folder is gone", func() bool {
		_, err := os.Stat(folder)
		return os.IsNotExist(err)
	})
}

func TestProcessDiesWithItsOwner(t *testing.T) {
	t.Parallel()
	owner, line := runHelper(t, "child")
	pid, err := strconv.Atoi(line)
	if err != nil {
		t.Fatal(line)
	}
	if !running(t, pid) {
		t.Fatal("the grandchild does not run")
	}
	if err := owner.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the grandchild is gone", func() bool { return !running(t, pid) })
}

// running tells whether there is such a process that is more than an entry which nobody has reaped.
func running(t *testing.T, pid int) bool {
	t.Helper()
	out, err := exec.Command("ps", "-o", "stat=", "-p", strconv.Itoa(pid)).Output()
	return err == nil && !strings.HasPrefix(strings.TrimSpace(string(out)), "Z")
}

func TestProcess(t *testing.T) {
	t.Parallel()
	shell := func(t *testing.T, ctx context.Context, script string, out *strings.Builder) *sandbox.Process {
		t.Helper()
		p, err := sandbox.StartProcess(ctx, "sh", []string{"-c", script}, []string{"GREETING=hello"}, out)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	t.Run("environment, output and exit code", func(t *testing.T) {
		t.Parallel()
		var out strings.Builder
		err := shell(t, t.Context(), `echo "$GREETING"; echo there >&2; exit 3`, &out).Wait()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 3 || out.String() != "hello\nthere\n" {
			t.Errorf("err = %v, output %q", err, &out)
		}
	})
	t.Run("signal", func(t *testing.T) {
		t.Parallel()
		reader, writer := io.Pipe()
		script := `trap 'exit 0' TERM; echo ready; while :; do sleep 0.01; done`
		p, err := sandbox.StartProcess(t.Context(), "sh", []string{"-c", script}, nil, writer)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(reader, make([]byte, len("ready\n"))); err != nil {
			t.Fatal(err)
		}
		if err := p.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := p.Wait(); err != nil {
			t.Errorf("Wait: %v, want the trap's exit code 0", err)
		}
		if err := p.Signal(syscall.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
			t.Errorf("signal after the end: %v", err)
		}
	})
	t.Run("kill", func(t *testing.T) {
		t.Parallel()
		p := shell(t, t.Context(), `trap '' TERM; exec sleep 600`, new(strings.Builder))
		for range 2 { // the second time it is gone
			if err := p.Kill(); err != nil {
				t.Fatal(err)
			}
		}
		if err := p.Wait(); err == nil {
			t.Error("a killed process has no error")
		}
	})
	t.Run("context", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(t.Context())
		p := shell(t, ctx, `exec sleep 600`, new(strings.Builder))
		cancel()
		if err := p.Wait(); err == nil {
			t.Error("no error")
		}
	})
	t.Run("missing program", func(t *testing.T) {
		t.Parallel()
		if _, err := sandbox.StartProcess(t.Context(), "/no/such/program", nil, nil, nil); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("err = %v", err)
		}
	})
}
