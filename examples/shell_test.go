package examples

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"
	"time"

	"github.com/fraiseql/weir/internal/document"
)

// shell is the one bash of a page. What it has exported and started stays from block to block.
type shell struct {
	dir   string // of the page
	files string // where blocks and the screen are
	stdin io.WriteCloser
	group int         // its process group
	done  chan string // exit codes of blocks; closed when bash has ended
	count int
}

// startShell starts a bash that reads what to do from a pipe. When that is closed, also by the death of this process, it kills
// its process group and with that whatever its blocks have started.
func startShell(t *testing.T, dir string, env []string) *shell {
	t.Helper()
	sh := &shell{dir: dir, files: t.TempDir(), done: make(chan string)}
	cmd := exec.Command("bash", "--noprofile", "--norc")
	cmd.Dir = dir
	cmd.Env = env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var err error
	if sh.stdin, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	sh.group = cmd.Process.Pid
	go func() {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			sh.done <- lines.Text()
		}
		_ = cmd.Wait() // killed, by itself
		close(sh.done)
	}()
	t.Cleanup(sh.stop)
	sh.send(t, "set -e; trap 'kill -KILL 0' EXIT")
	return sh
}

// stop ends the shell and all that it has started. More calls do nothing.
func (sh *shell) stop() {
	select {
	case <-sh.done: // it has ended, and its group with it
	default:
		_ = syscall.Kill(-sh.group, syscall.SIGKILL) // it may be waiting for a block that hangs
	}
	_ = sh.stdin.Close()
	for range sh.done { // until it is closed
	}
}

func (sh *shell) send(t *testing.T, line string) {
	t.Helper()
	if _, err := fmt.Fprintln(sh.stdin, line); err != nil {
		t.Fatalf("bash has ended: %v", err)
	}
}

// do runs a block and holds what is seen against what is said. A block of questions is asked until the answer is that; all
// others are done once, and what they print, or what has been started before prints, may come a little later.
func (sh *shell) do(t *testing.T, b document.Block, want *document.Block) {
	t.Helper()
	again := want != nil && asksOnly(b)
	deadline := time.Now().Add(patience)
	begin, code := len(sh.screen(t, 0)), ""
	for first := true; ; first = false {
		if first || again {
			sh.forget(t, begin)
			code = sh.source(t, b, again)
		}
		seen := sh.screen(t, begin)
		if code == "0" && (want == nil || inOrder(want.Text).MatchString(seen) || !again && inAnyOrder(want.Text, seen)) {
			return
		}
		if code != "0" && !again {
			t.Errorf("%s: exit code %s", b, code)
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("%s: exit code %s, it printed\n%s\nand %s says\n%s", b, code, seen, want, want.Text)
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// source runs a block in the shell, or one that may fail in a shell of its own. It returns the exit code.
func (sh *shell) source(t *testing.T, b document.Block, mayFail bool) (code string) {
	t.Helper()
	sh.count++
	file := filepath.Join(sh.files, fmt.Sprintf("block-%d.sh", sh.count))
	if err := os.WriteFile(file, []byte(b.Text), 0o600); err != nil {
		t.Fatal(err)
	}
	source := fmt.Sprintf("source %s </dev/null >>%s 2>&1", file, sh.screenFile())
	if mayFail {
		source = fmt.Sprintf("set +e; ( set -e; %s ); code=$?; set -e", source)
	} else {
		source += "; code=$?"
	}
	sh.send(t, source+`; echo "$code"`)
	select {
	case code, ok := <-sh.done:
		if !ok {
			code = "not 0"
		}
		return code
	case <-time.After(patience):
		t.Errorf("%s: not done after %s", b, patience)
		sh.tell(t)
		t.FailNow()
		return ""
	}
}

func (sh *shell) screenFile() string { return filepath.Join(sh.files, "screen") }

// screen is what has been printed, from a place on.
func (sh *shell) screen(t *testing.T, from int) string {
	t.Helper()
	raw, err := os.ReadFile(sh.screenFile())
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(raw[from:])
}

// forget takes the answer before from the screen.
func (sh *shell) forget(t *testing.T, from int) {
	t.Helper()
	if err := os.Truncate(sh.screenFile(), int64(from)); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
}

// tell shows all that was printed, and the logs of what was started.
func (sh *shell) tell(t *testing.T) {
	t.Helper()
	t.Logf("all that was printed:\n%s", sh.screen(t, 0))
	logs, _ := filepath.Glob(filepath.Join(sh.dir, "*.log")) // errs only for a malformed pattern
	for _, log := range logs {
		raw, err := os.ReadFile(log)
		t.Logf("%s:\n%s%v", log, raw, err)
	}
}

// questions are the commands that change nothing, so that they may be asked again.
var questions = regexp.MustCompile(`^(cat|tail|grep|curl|psql .*-c "SELECT|promtool|(bin/)?weir (status|search|debug-event|` +
	`doctor|test|validate-config|metrics|dlq (list|show|stats)|breaker list|cache stats|migrate status))\b`)

func asksOnly(b document.Block) bool {
	for _, command := range b.Commands() {
		if !questions.MatchString(command) {
			return false
		}
	}
	return true
}
