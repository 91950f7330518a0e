package chaos

import (
	"context"
	"net"
	"sync"
	"time"
)

// relay stands between a worker and a server and does what networks do. A library (toxiproxy) would bring a web server, a
// logger and a metrics registry for these hundred lines, and has no silence that ends with the connections still there, as a
// cable has that is plugged in again.
type relay struct {
	listener net.Listener
	server   string
	running  sync.WaitGroup

	mu      sync.Mutex // guards the rest
	open    map[net.Conn]struct{}
	refuses bool
	latency time.Duration
	silent  chan struct{} // closed at the end of the silence; nil: none
	closed  chan struct{}
}

func newRelay(ctx context.Context, server string) (*relay, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &relay{listener: listener, server: server, open: map[net.Conn]struct{}{}, closed: make(chan struct{})}
	ctx = context.WithoutCancel(ctx)
	r.running.Go(func() { r.serve(ctx) })
	return r, nil
}

// addr is where to connect instead of the server.
func (r *relay) addr() string { return r.listener.Addr().String() }

// cut closes the connections and refuses new ones until mend.
func (r *relay) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refuses = true
	for conn := range r.open {
		_ = conn.Close()
	}
}

// silence lets connections, new ones too, carry nothing until mend. They stay open.
func (r *relay) silence() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.silent == nil {
		r.silent = make(chan struct{})
	}
}

// delay lets each piece of data wait until mend.
func (r *relay) delay(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.latency = d
}

func (r *relay) mend() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refuses, r.latency = false, 0
	if r.silent != nil {
		close(r.silent)
		r.silent = nil
	}
}

func (r *relay) close() {
	_ = r.listener.Close()
	r.mend()
	close(r.closed)
	r.cut()
	r.running.Wait()
}

func (r *relay) serve(ctx context.Context) {
	for {
		client, err := r.listener.Accept()
		if err != nil {
			return
		}
		r.running.Go(func() { r.connect(ctx, client) })
	}
}

// connect carries between a client and the server until one of them ends.
func (r *relay) connect(ctx context.Context, client net.Conn) {
	defer func() { _ = client.Close() }()
	if !r.remember(client) {
		return
	}
	defer r.forget(client)
	r.hold()
	server, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", r.server)
	if err != nil {
		return
	}
	defer func() { _ = server.Close() }()
	if !r.remember(server) {
		return
	}
	defer r.forget(server)
	var back sync.WaitGroup
	back.Go(func() { r.carry(client, server) })
	r.carry(server, client)
	back.Wait()
}

// remember returns false when connections are refused.
func (r *relay) remember(conn net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refuses {
		return false
	}
	r.open[conn] = struct{}{}
	return true
}

func (r *relay) forget(conn net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, conn)
}

// hold waits as long as the network makes everything wait.
func (r *relay) hold() {
	r.mu.Lock()
	silent, latency := r.silent, r.latency
	r.mu.Unlock()
	if silent != nil {
		<-silent
	}
	if latency > 0 {
		select {
		case <-time.After(latency):
		case <-r.closed:
		}
	}
}

// carry copies until one side ends, which ends the other: also that waits for the end of a silence.
func (r *relay) carry(to, from net.Conn) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		r.hold()
		if n > 0 {
			if _, writeErr := to.Write(buf[:n]); writeErr != nil {
				err = writeErr
			}
		}
		if err != nil {
			_, _ = to.Close(), from.Close()
			return
		}
	}
}
