package cache

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// slowWire is a way to a server on which answers are under way for a while, until it is cut: then they are lost.
type slowWire struct {
	listener net.Listener
	delay    atomic.Int64
	cut      atomic.Bool
	wg       sync.WaitGroup
}

func newSlowWire(t *testing.T, server string) *slowWire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &slowWire{listener: l}
	w.wg.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			backend, err := net.Dial("tcp", server)
			if err != nil {
				client.Close()
				continue
			}
			w.wg.Go(func() { _, _ = io.Copy(backend, client); backend.Close() })
			w.wg.Go(func() { w.answers(client, backend) })
		}
	})
	t.Cleanup(func() { l.Close(); w.wg.Wait() })
	return w
}

func (w *slowWire) answers(client io.WriteCloser, backend io.Reader) {
	var sending sync.WaitGroup
	turn := make(chan struct{}) // closed when the answer before has been sent
	close(turn)
	buf := make([]byte, 64<<10)
	for {
		n, err := backend.Read(buf)
		if err != nil {
			break
		}
		if w.cut.Load() {
			continue
		}
		answer, before, sent := string(buf[:n]), turn, make(chan struct{})
		turn = sent
		arrives := time.After(time.Duration(w.delay.Load()))
		sending.Go(func() {
			defer close(sent)
			<-arrives
			<-before
			_, _ = io.WriteString(client, answer)
		})
	}
	sending.Wait()
	client.Close()
}

// An answer that was under way for long says little of now: memory is not trusted for more than a second after the last moment
// at which the subscription certainly lived.
func TestSlowAnswersAreOld(t *testing.T) {
	t.Parallel()
	wire := newSlowWire(t, suite.Redis(t).Addr())
	w := newWorker(t, at(t, "redis://"+wire.listener.Addr().String()), "main", ResultsOptions{})
	wire.delay.Store(int64(trustFor * 6 / 10))
	time.Sleep(2 * trustFor)
	eventually(t, 10*time.Second, "it is trusted though answers are slow", w.trusts)
	wire.cut.Store(true)
	time.Sleep(trustFor + trustFor/20)
	if w.trusts() {
		t.Errorf("still trusted %s after the last answer was given", trustFor)
	}
}
