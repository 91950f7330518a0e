package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"
)

// outputDelay is how long Wait waits for output that a process's own children still hold open.
const outputDelay = 5 * time.Second

// Process is a child for crash tests. It is killed when ctx of its start ends, and when this process dies.
type Process struct {
	cmd    *exec.Cmd
	group  bool // what is meant for it is meant for its children, too
	exited chan struct{}
	err    error // of cmd.Wait; valid once exited is closed
}

// StartProcess runs the program with env added to our environment. Both its outputs go to out, which is written by one
// goroutine at a time; nil discards them.
func StartProcess(ctx context.Context, name string, args, env []string, out io.Writer) (*Process, error) {
	as := account{uid: os.Geteuid()}
	dog, err := startWatchdog(as, "KILL", "")
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = as.attributes()
	return startWatched(cmd, dog, false, dog.close)
}

// startWatched starts a command that the watchdog ends; with group, as the leader of a group that gets all signals. ended is
// called when it has ended, also if it could not be started.
func startWatched(cmd *exec.Cmd, dog *watchdog, group bool, ended func() error) (*Process, error) {
	cmd.WaitDelay = outputDelay
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", cmd.Path, err), ended())
	}
	p := &Process{cmd: cmd, group: group, exited: make(chan struct{})}
	target := p.PID()
	if group {
		target = -target
	}
	watched := dog.watch(target)
	go func() {
		defer close(p.exited)
		p.err = cmd.Wait()
		dog.reaped()
		p.err = errors.Join(p.err, ended())
	}()
	if watched != nil {
		return nil, errors.Join(watched, p.Kill())
	}
	return p, nil
}

// PID is the process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Signal sends a signal, SIGTERM for a soft stop. A process that has ended is os.ErrProcessDone.
func (p *Process) Signal(signal os.Signal) error {
	if !p.group {
		return p.cmd.Process.Signal(signal)
	}
	select {
	case <-p.exited:
		return os.ErrProcessDone
	default:
		return signalGroup(p.PID(), signal)
	}
}

// Kill sends SIGKILL and waits for the end. It is no error if the process has ended before.
func (p *Process) Kill() error {
	if err := p.Signal(os.Kill); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill process %d: %w", p.PID(), err)
	}
	<-p.exited
	return nil
}

// Exited is closed when the process has ended and all its output is written.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Wait waits for the end and returns nil for exit code 0, else an *exec.ExitError in the chain. Any number of callers
// may wait.
func (p *Process) Wait() error {
	<-p.exited
	return p.err
}
