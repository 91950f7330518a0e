package sandbox

import (
	"errors"
	"fmt"
	"io"
	"os/exec"
)

// watchdogScript reads process ids; an empty line means that the last one has ended and was reaped. At the end of its
// input its owner has closed the pipe or is dead: it sends $1 to the process that still runs, after 5 s SIGKILL, and
// removes the folder $2. A process that ended but is not reaped by its new parent still answers kill -0, therefore the
// bound.
const watchdogScript = `
trap '' HUP INT TERM
while read -r line; do pid=$line; done
if [ -n "$pid" ]; then
	kill -s "$1" -- "$pid"
	i=0
	while kill -s 0 -- "$pid" && [ $i -lt 50 ]; do sleep 0.1; i=$((i + 1)); done
	kill -s KILL -- "$pid"
fi
if [ -n "$2" ]; then rm -rf "$2"; fi
exit 0
`

// watchdog ends one process, and removes its folder, when this process ends or calls close.
type watchdog struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
}

// startWatchdog starts the shell as the account. signal is the name for kill -s; folder may be empty.
func startWatchdog(as account, signal, folder string) (*watchdog, error) {
	cmd := exec.Command("/bin/sh", "-c", watchdogScript, "weir-watchdog", signal, folder)
	cmd.Dir = "/"
	cmd.SysProcAttr = as.attributes()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("watchdog: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("watchdog: %w", err), stdin.Close())
	}
	return &watchdog{cmd: cmd, stdin: stdin}, nil
}

// watch names the process to end, or with a minus sign its group. The error means that the watchdog itself is gone.
func (w *watchdog) watch(pid int) error {
	if _, err := fmt.Fprintln(w.stdin, pid); err != nil {
		return fmt.Errorf("watchdog: %w", err)
	}
	return nil
}

// reaped tells that the watched process is no more: its id may belong to somebody else from now on. A watchdog that
// is gone cannot mistake it, so there is no error to report.
func (w *watchdog) reaped() { _, _ = io.WriteString(w.stdin, "\n") }

// close makes the watchdog do its work and waits for it.
func (w *watchdog) close() error {
	if err := errors.Join(w.stdin.Close(), w.cmd.Wait()); err != nil {
		return fmt.Errorf("watchdog: %w", err)
	}
	return nil
}
