package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// readyTimeout bounds crash recovery as well as a plain start.
	readyTimeout = 2 * time.Minute
	// portAttempts is how many ports are tried before it must be something else.
	portAttempts = 10
	logTail      = 8 << 10
)

// server is a postgres that this process has started.
type server struct {
	bin, dir, data string
	port           int
	settings       []string // -c name=value …, without the port
	as             account
	alive          *os.File // held open: its lock tells others that the folder is in use
	dog            *watchdog
	logger         *slog.Logger

	mu     sync.Mutex // guards what follows, and lets one start or stop at a time
	cmd    *exec.Cmd  // nil: not running by our will
	exited chan struct{}
	closed bool
}

// newServer prepares folder, data directory and watchdog; start starts it.
func newServer(ctx context.Context, o PostgresOptions) (*server, error) {
	as, err := serverAccount()
	if err != nil {
		return nil, err
	}
	c, err := openCache(as)
	if err != nil {
		return nil, err
	}
	b, err := newBinaries(c, o)
	if err != nil {
		return nil, err
	}
	lock, err := c.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	bin, err := b.find(ctx)
	if err != nil {
		return nil, err
	}
	dir, alive, err := c.runFolder("postgres")
	if err != nil {
		return nil, err
	}
	s := &server{
		bin: bin, dir: dir, data: filepath.Join(dir, "data"), settings: settings(o),
		as: as, alive: alive, logger: o.Logger,
	}
	if s.dog, err = startWatchdog(as, "QUIT", dir); err != nil {
		return nil, errors.Join(err, alive.Close(), os.RemoveAll(dir))
	}
	return s, nil
}

// settings are those that capture needs, then the caller's, which win.
//
// With fsync off a crash of the machine may lose data, a crash of processes may not: what was written is in the
// kernel's hands. synchronous_commit and full_page_writes stay on: a killed server would lose commits without the
// first and could tear pages without the second, and crash tests would report losses that are not Weir's.
func settings(o PostgresOptions) []string {
	all := map[string]string{
		"listen_addresses":        "127.0.0.1",
		"unix_socket_directories": "",
		"wal_level":               "logical",
		"max_replication_slots":   "100",
		"max_wal_senders":         "100",
		"max_connections":         "300",
		"timezone":                "UTC",
		"fsync":                   "off",
	}
	if o.Durable {
		all["fsync"] = "on"
	}
	for name, value := range o.Settings {
		all[name] = value
	}
	var args []string
	for name, value := range all {
		args = append(args, "-c", name+"="+value)
	}
	return args
}

// initialize runs initdb. Each server gets its own system identifier, which a copied data directory would not have.
func (s *server) initialize(ctx context.Context) error {
	cmd := s.command("initdb", "--pgdata="+s.data, "--username=postgres", "--auth=trust", "--encoding=UTF8",
		"--locale=C", "--no-sync", "--no-instructions")
	out, err := combinedOutput(ctx, cmd)
	if err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, out)
	}
	return nil
}

// copyFrom copies the data directory of a server that does not run.
func (s *server) copyFrom(ctx context.Context, original *server, standby bool) error {
	if original == nil {
		return errNotOurs
	}
	original.mu.Lock()
	defer original.mu.Unlock()
	if original.cmd != nil {
		return errors.New("copy the data directory: its server is running")
	}
	cp := s.command("cp", "-a", original.data, s.data)
	cp.Path, cp.Err = exec.LookPath("cp")
	if out, err := combinedOutput(ctx, cp); err != nil {
		return fmt.Errorf("copy the data directory: %w\n%s", err, out)
	}
	err := os.Remove(filepath.Join(s.data, "postmaster.pid"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if standby {
		return os.WriteFile(filepath.Join(s.data, "standby.signal"), nil, 0o600)
	}
	return nil
}

func combinedOutput(ctx context.Context, cmd *exec.Cmd) (string, error) {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		return "", err
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	defer stop()
	err := cmd.Wait()
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return out.String(), err
}

// command prepares a program of the installation: as the server's account, without our PG… variables.
func (s *server) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(s.bin, name), args...)
	cmd.Dir = s.dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.dir, "TMPDIR=" + s.dir, "LC_ALL=C", "TZ=UTC"}
	cmd.SysProcAttr = s.as.attributes()
	return cmd
}

// onFreePort starts a server on a free port, and on another one when it finds that taken.
func onFreePort(start func(port int) error) error {
	var err error
	for range portAttempts {
		port, noneFree := freePort()
		if noneFree != nil {
			return noneFree
		}
		if err = start(port); !errors.Is(err, errPortTaken) {
			return err
		}
	}
	return err
}

// freePort picks a port below the range from which the kernel takes those of outgoing connections: while a server
// restarts, a client that keeps dialing a port of that range ends up connected to itself, and holds the port.
func freePort() (int, error) {
	var err error
	for range portAttempts {
		port := 20000 + rand.IntN(12000)
		var l net.Listener
		if l, err = net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port))); err == nil {
			return port, l.Close()
		}
	}
	return 0, fmt.Errorf("find a free port: %w", err)
}

var (
	errPortTaken = errors.New("the port is taken")
	errInUse     = errors.New("a killed server's processes are still there")
)

// start starts postgres and returns when it accepts connections.
func (s *server) start(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errors.New("the server was stopped")
	}
	log, err := os.OpenFile(s.logFile(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	begin, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	cmd := s.command("postgres", slices.Concat([]string{"-D", s.data, "-p", strconv.Itoa(s.port)}, s.settings)...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start postgres: %w", err)
	}
	exited := make(chan struct{})
	s.cmd, s.exited = cmd, exited
	watched := s.dog.watch(cmd.Process.Pid)
	go func() {
		defer close(exited)
		_ = cmd.Wait() // the log tells why
		s.dog.reaped()
	}()
	if err := errors.Join(watched, s.awaitReady(ctx)); err != nil {
		_ = s.end(context.WithoutCancel(ctx), syscall.SIGQUIT)
		return fmt.Errorf("start postgres: %w", s.explain(err, begin))
	}
	return nil
}

// awaitReady reads postmaster.pid, as pg_ctl does: unlike a connection it cannot be answered by another server that
// took the port.
func (s *server) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyTimeout,
		fmt.Errorf("it does not accept connections after %s", readyTimeout))
	defer cancel()
	pid := strconv.Itoa(s.cmd.Process.Pid)
	for {
		raw, _ := os.ReadFile(filepath.Join(s.data, "postmaster.pid")) // not there yet: wait
		lines := strings.Split(string(raw), "\n")
		if len(lines) > 7 && lines[0] == pid && strings.TrimSpace(lines[7]) == "ready" {
			return nil
		}
		select {
		case <-s.exited:
			return errors.New("it ended")
		default:
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
}

// explain adds what the log says since the start, and recognizes the failures that another try mends.
func (s *server) explain(err error, begin int64) error {
	text := s.log(begin)
	switch {
	case strings.Contains(text, "could not bind"):
		err = errPortTaken
	case strings.Contains(text, "is still in use"), strings.Contains(text, "postmaster.pid\" already exists"):
		err = errInUse
	}
	return fmt.Errorf("%w; its log:\n%s", err, text)
}

// end sends the signal and waits. If ctx is done first, the server goes on stopping. The caller holds mu.
func (s *server) end(ctx context.Context, signal os.Signal) error {
	if s.cmd == nil {
		return nil
	}
	if err := s.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal postgres: %w", err)
	}
	select {
	case <-s.exited:
		s.cmd = nil
		return nil
	case <-ctx.Done():
		return fmt.Errorf("postgres has not stopped: %w", context.Cause(ctx))
	}
}

// restart ends the server and starts it on the same port, if need be again until the port and the memory of a killed
// one are free, or ctx ends.
func (s *server) restart(ctx context.Context, signal os.Signal) error {
	s.mu.Lock()
	err := s.end(ctx, signal)
	s.mu.Unlock()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for {
		err := s.start(ctx)
		if !errors.Is(err, errPortTaken) && !errors.Is(err, errInUse) {
			return err
		}
		if stop := pause(ctx, 50*time.Millisecond); stop != nil {
			return errors.Join(err, stop)
		}
	}
}

// kill is a crash: postmaster first, so that it cannot tidy up after its children.
func (s *server) kill() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		return nil
	}
	pids, err := children(s.cmd.Process.Pid)
	if err != nil {
		return fmt.Errorf("list the server's processes: %w", err)
	}
	if err := s.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill postgres: %w", err)
	}
	<-s.exited
	s.cmd = nil
	for _, pid := range pids {
		if process, err := os.FindProcess(pid); err == nil {
			_ = process.Kill() // gone already: so it shall be
		}
	}
	return nil
}

// children lists the processes whose parent is pid.
func children(pid int) ([]int, error) {
	out, err := exec.Command("ps", "-A", "-o", "pid=,ppid=").Output()
	if err != nil {
		return nil, fmt.Errorf("ps: %w", err)
	}
	var pids []int
	for line := range strings.Lines(string(out)) {
		var child, parent int
		if _, err := fmt.Sscan(line, &child, &parent); err == nil && parent == pid {
			pids = append(pids, child)
		}
	}
	return pids, nil
}

// keep moves the data directory, and the log into it, out of the folder that close removes.
func (s *server) keep(folder string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd != nil {
		return errors.New("keep the data directory: its server is running")
	}
	if err := os.Rename(s.data, folder); err != nil {
		return err
	}
	return os.Rename(s.logFile(), filepath.Join(folder, "server.log"))
}

// close ends the server for good and removes its folder. More calls do nothing.
func (s *server) close(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	// Immediately: nobody will read the data again, and a fast stop would wait for every walsender's client.
	err := s.end(ctx, syscall.SIGQUIT)
	return errors.Join(err, s.dog.close(), s.alive.Close(), os.RemoveAll(s.dir))
}

func (s *server) logFile() string { return filepath.Join(s.dir, "server.log") }

// log returns the end of the log, from begin at the earliest.
func (s *server) log(begin int64) string { return tail(s.logFile(), begin) }

func tail(file string, begin int64) string {
	f, err := os.Open(file)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil {
		begin = max(begin, info.Size()-logTail)
	}
	text, err := io.ReadAll(io.NewSectionReader(f, begin, logTail))
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(text))
}
