package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// redisStart bounds how long the server may take to answer.
const redisStart = 10 * time.Second

// Redis is a private Redis server on 127.0.0.1 that keeps nothing on disk. Not for concurrent use, but its URL is.
type Redis struct {
	port    int
	dir     string
	args    []string
	process *Process
	out     bytes.Buffer
}

// StartRedis starts redis-server from the PATH on a free port, with further arguments as its command line takes them
// ("--requirepass", "secret"), and returns when it accepts connections. {port} in them is the port, for a server that offers
// nothing but TLS on it ("--port", "0", "--tls-port", "{port}"). Stop ends it, and the end of this process.
func StartRedis(ctx context.Context, args ...string) (*Redis, error) {
	if _, err := exec.LookPath("redis-server"); err != nil {
		return nil, fmt.Errorf("%w: install Redis, on Debian with apt-get install redis-server (make test as root does so)", err)
	}
	dir, err := os.MkdirTemp("", "weir-redis-")
	if err != nil {
		return nil, err
	}
	r := &Redis{dir: dir, args: args}
	err = onFreePort(func(port int) error { // with 10000 more for a node of a Cluster, which may be taken, too
		r.port = port
		return r.Start(ctx)
	})
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return r, nil
}

// Addr is the server's host:port.
func (r *Redis) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(r.port)) }

// URL is how to connect.
func (r *Redis) URL() string { return "redis://" + r.Addr() + "/0" }

// Dir is the server's folder, which Stop removes.
func (r *Redis) Dir() string { return r.dir }

// Start starts the server again after a Kill, on the same port and empty.
func (r *Redis) Start(ctx context.Context) error {
	r.out.Reset()
	log := filepath.Join(r.dir, "redis.log")
	if err := os.RemoveAll(log); err != nil { // of what was killed
		return err
	}
	args := []string{
		"--port", strconv.Itoa(r.port), "--bind", "127.0.0.1", "--dir", r.dir, "--save", "", "--appendonly", "no",
		"--cluster-config-file", filepath.Join(r.dir, "nodes.conf"), "--logfile", log,
	}
	for _, arg := range r.args {
		args = append(args, strings.ReplaceAll(arg, "{port}", strconv.Itoa(r.port)))
	}
	process, err := StartProcess(context.WithoutCancel(ctx), "redis-server", args, nil, &r.out)
	if err != nil {
		return err
	}
	r.process = process
	ctx, cancel := context.WithTimeout(ctx, redisStart)
	defer cancel()
	for {
		// A connection proves nothing: a node of a Cluster listens before it finds out that its second port is taken.
		said, err := os.ReadFile(log)
		if bytes.Contains(said, []byte("Ready to accept connections")) {
			return nil
		}
		select {
		case <-process.Exited():
			if said, _ = os.ReadFile(log); bytes.Contains(said, []byte("Address already in use")) {
				return fmt.Errorf("%w: %s", errPortTaken, said)
			}
			return fmt.Errorf("redis-server ended: %w\n%s%s", process.Wait(), r.out.String(), said)
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("redis-server is not ready, and says:\n%s", said), err, process.Kill())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Process is the server's, to be stopped and continued by signals.
func (r *Redis) Process() *Process { return r.process }

// Kill kills the server. What it held is gone.
func (r *Redis) Kill() error { return r.process.Kill() }

// Stop kills the server and removes its folder.
func (r *Redis) Stop() error { return errors.Join(r.Kill(), os.RemoveAll(r.dir)) }

// TestRedis is StartRedis for a test: stopped when it ends. A failure ends the test.
func TestRedis(t TB, args ...string) *Redis {
	t.Helper()
	r, err := StartRedis(context.WithoutCancel(t.Context()), args...)
	if err != nil {
		t.Fatalf("sandbox: %v", err)
	}
	t.Cleanup(func() {
		if err := r.Stop(); err != nil {
			t.Errorf("sandbox: %v", err)
		}
	})
	return r
}
