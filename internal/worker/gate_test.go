package worker_test

import (
	"bytes"
	"context"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
)

// place is where in a conversation with the server something is to happen.
type place struct {
	after   string // what the client has said on this connection before, "" for nothing
	says    string // what the client says now
	answers bool   // not before the server hears it, but before the client hears the answer
	always  bool   // on each connection, not only on the first that comes here
}

// gate is a proxy before the server that stops at a place: it calls reached, once, and then lets nothing more through on
// that connection before it is opened.
type gate struct {
	server  string
	place   place
	reached func()
	passed  atomic.Bool // somebody has been stopped here
	open    chan struct{}
	held    sync.WaitGroup
}

// newGate returns the URL of the same database through a gate.
func newGate(t *testing.T, databaseURL string, p place, reached func()) (g *gate, throughURL string) {
	t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g = &gate{server: u.Host, place: p, reached: reached, open: make(chan struct{})}
	var opened sync.Once
	t.Cleanup(func() {
		opened.Do(g.release)
		_ = listener.Close()
		g.held.Wait()
	})
	ctx := context.WithoutCancel(t.Context())
	g.held.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := (&net.Dialer{}).DialContext(ctx, "tcp", g.server)
			if err != nil {
				_ = client.Close()
				continue
			}
			g.pass(client, server)
		}
	})
	u.Host = listener.Addr().String()
	return g, u.String()
}

func (g *gate) release() {
	select {
	case <-g.open:
	default:
		close(g.open)
	}
}

// pass forwards both directions of a connection.
func (g *gate) pass(client, server net.Conn) {
	answer := make(chan bool, 1) // the next answer is the place
	hang := func() { _ = client.Close(); _ = server.Close() }
	g.held.Go(func() {
		defer hang()
		said := []byte{}
		g.copy(server, client, func(chunk []byte) {
			here := bytes.Contains(said, []byte(g.place.after)) && bytes.Contains(chunk, []byte(g.place.says))
			if g.place.after != "" && len(said) < 1<<20 {
				said = append(said, chunk...)
			}
			switch {
			case !here:
			case g.place.answers:
				select {
				case answer <- true:
				default:
				}
			default:
				g.stop()
			}
		})
	})
	g.held.Go(func() {
		defer hang()
		g.copy(client, server, func([]byte) {
			select {
			case <-answer:
				g.stop()
			default:
			}
		})
	})
}

func (g *gate) stop() {
	first := g.passed.CompareAndSwap(false, true)
	if first {
		g.reached()
	}
	if first || g.place.always {
		<-g.open
	}
}

func (g *gate) copy(to, from net.Conn, look func([]byte)) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			look(buf[:n])
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
