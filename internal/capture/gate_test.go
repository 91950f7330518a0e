package capture_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/url"
	"sync"
	"testing"
)

// gate is a proxy before the server that a test can close at a certain message.
type gate struct {
	listener net.Listener

	mu     sync.Mutex // guards the rest
	server string
	at     func(fromClient []byte, cut func())
}

// newGate returns the URL of the same database through the gate. It lets everything through.
func newGate(t *testing.T, databaseURL string) (*gate, string) {
	t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{listener: listener, server: u.Host}
	var serving sync.WaitGroup
	serving.Go(func() { g.serve(context.WithoutCancel(t.Context()), &serving) })
	t.Cleanup(func() {
		_ = listener.Close()
		serving.Wait()
	})
	u.Host = listener.Addr().String()
	return g, u.String()
}

// before has each chunk of what clients send looked at before the server gets it. cut ends what the client hears: the
// server still gets the chunk, and the client a closed connection instead of the answer.
func (g *gate) before(look func(fromClient []byte, cut func())) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.at = look
}

// lead has later connections go to another server.
func (g *gate) lead(server string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.server = server
}

func (g *gate) serve(ctx context.Context, serving *sync.WaitGroup) {
	for {
		client, err := g.listener.Accept()
		if err != nil {
			return
		}
		g.mu.Lock()
		address := g.server
		g.mu.Unlock()
		server, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err != nil {
			_ = client.Close()
			continue
		}
		serving.Go(func() { g.forward(client, server) })
		serving.Go(func() {
			_, _ = io.Copy(client, server)
			_ = client.Close()
			_ = server.Close()
		})
	}
}

func (g *gate) forward(client, server net.Conn) {
	defer func() { _ = server.Close() }()
	buf := make([]byte, 64<<10)
	for {
		n, err := client.Read(buf)
		if n > 0 {
			g.mu.Lock()
			look := g.at
			g.mu.Unlock()
			if look != nil {
				look(buf[:n], func() { _ = client.Close() })
			}
			if _, err := server.Write(buf[:n]); err != nil {
				_ = client.Close()
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// says is for simple queries and the comments in statements.
func says(chunk []byte, word string) bool { return bytes.Contains(chunk, []byte(word)) }
