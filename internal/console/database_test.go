package console

import (
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
)

// relay passes connections on to a server until it is cut.
type relay struct {
	t        *testing.T
	addr, to string

	mu       sync.Mutex // guards the rest
	listener net.Listener
	conns    []net.Conn
	running  sync.WaitGroup
}

// open listens, at the same address as before.
func (r *relay) open() {
	r.t.Helper()
	listener, err := net.Listen("tcp", r.addr)
	check(r.t, err)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.addr, r.listener = listener.Addr().String(), listener
	r.running.Go(func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", r.to)
			if err != nil {
				_ = in.Close()
				continue
			}
			r.mu.Lock()
			late := r.listener != listener
			r.conns = append(r.conns, in, out)
			r.mu.Unlock()
			if late { // cut meanwhile
				_, _ = in.Close(), out.Close()
				return
			}
			r.running.Go(func() { _, _ = io.Copy(in, out); _ = in.Close() })
			r.running.Go(func() { _, _ = io.Copy(out, in); _ = out.Close() })
		}
	})
}

// cut ends all connections, and takes no more.
func (r *relay) cut() {
	r.mu.Lock()
	if r.listener != nil {
		_ = r.listener.Close()
		r.listener = nil
	}
	for _, c := range r.conns {
		_ = c.Close()
	}
	r.conns = nil
	r.mu.Unlock()
	r.running.Wait()
}

// A database that goes away takes the pages along and not the console, and they come back with it.
func TestDatabaseGoesAndComes(t *testing.T) {
	t.Parallel()
	u, err := url.Parse(postgres.Database(t))
	check(t, err)
	between := &relay{t: t, addr: "127.0.0.1:0", to: u.Host}
	between.open()
	t.Cleanup(between.cut)
	u.Host = between.addr
	r := newRigOn(t, u.String(), "read_only: true")
	answers := func(path string, want int) func() bool {
		return func() bool {
			status, text := r.get(path)
			return status == want && (want == http.StatusOK || strings.Contains(text, "cannot be reached"))
		}
	}
	r.await("River UI", answers("/river/api/jobs", http.StatusOK))
	between.cut()
	r.await("503", answers("/river/api/jobs", http.StatusServiceUnavailable))
	if status, _ := r.get("/healthz"); status != http.StatusOK {
		t.Errorf("/healthz: %d", status)
	}
	between.open()
	r.await("River UI again", answers("/river/api/jobs", http.StatusOK))
	if n := strings.Count(r.log.String(), "the database cannot be used"); n < 1 || n > 3 {
		t.Errorf("said %d times:\n%s", n, r.log)
	}
}
