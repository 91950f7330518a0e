package worker_test

import (
	"context"
	"net"
	"net/url"
	"sync"
	"testing"
)

// relay stands between a worker and its server, and can go bad without closing a connection, as a network does.
type relay struct {
	listener net.Listener
	running  sync.WaitGroup

	mu     sync.Mutex // guards the rest
	server string     // where new connections lead; "": nowhere
	open   []net.Conn
	frozen chan struct{} // closed when the connections that exist are to carry nothing more
}

// newRelay returns the URL of the same database through a relay.
func newRelay(t *testing.T, databaseURL string) (rl *relay, throughURL string) {
	t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	rl = &relay{listener: listener, server: u.Host, frozen: make(chan struct{})}
	ctx := context.WithoutCancel(t.Context())
	rl.running.Go(func() { rl.serve(ctx) })
	t.Cleanup(func() {
		_ = listener.Close()
		rl.cut()
		rl.running.Wait()
	})
	u.Host = listener.Addr().String()
	return rl, u.String()
}

// freeze lets the connections that exist carry nothing more, for good, without closing them. New ones are accepted, and
// lead to a server, or nowhere ("").
func (rl *relay) freeze(server string) {
	rl.mu.Lock()
	defer rl.mu.Unlock()
	rl.server = server
	close(rl.frozen)
	rl.frozen = make(chan struct{})
}

// lead lets new connections lead to a server.
func (rl *relay) lead(server string) {
	rl.mu.Lock()
	defer rl.mu.Unlock()
	rl.server = server
}

// cut closes the connections that exist.
func (rl *relay) cut() {
	rl.mu.Lock()
	defer rl.mu.Unlock()
	for _, conn := range rl.open {
		_ = conn.Close()
	}
	rl.open = nil
}

func (rl *relay) serve(ctx context.Context) {
	for {
		client, err := rl.listener.Accept()
		if err != nil {
			return
		}
		rl.mu.Lock()
		address, frozen := rl.server, rl.frozen
		rl.open = append(rl.open, client)
		rl.mu.Unlock()
		if address == "" {
			continue
		}
		server, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err != nil {
			_ = client.Close()
			continue
		}
		rl.mu.Lock()
		rl.open = append(rl.open, server)
		rl.mu.Unlock()
		rl.running.Go(func() { carry(server, client, frozen) })
		rl.running.Go(func() { carry(client, server, frozen) })
	}
}

// carry copies until one side ends, which ends the other, or the connection is frozen, which ends neither.
func carry(to, from net.Conn, frozen <-chan struct{}) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		select {
		case <-frozen:
			return
		default:
		}
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

// host is where a database's server is.
func host(t *testing.T, databaseURL string) string {
	t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	return u.Host
}
