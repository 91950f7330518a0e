package chaos

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/google/uuid"
)

// paths are the receiver's, one for each observer that calls it. Each is an endpoint of its own.
var paths = []string{"/plain", "/ordered", "/deduped", "/changed"}

// call is one request that the receiver has got.
type call struct {
	Path     string
	Delivery uuid.UUID // of the header webhook-id
	Event    uuid.UUID
	Entity   string
	Version  int64  // data.n: the entity's, which the load counts
	Tx       string // data.tx
	Status   int    // of the answer; 0: none was given
	At       time.Time
}

// receiver answers webhooks and writes down what it has got.
type receiver struct {
	server   *http.Server
	address  string
	stopped  chan struct{}
	shutdown context.CancelFunc

	mu    sync.Mutex // guards the rest
	calls []*call
	moods map[string]Fault // of the paths that are not well
}

func newReceiver(ctx context.Context) (*receiver, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	base, cancel := context.WithCancel(context.WithoutCancel(ctx))
	r := &receiver{
		address: listener.Addr().String(), stopped: make(chan struct{}), shutdown: cancel, moods: map[string]Fault{},
	}
	r.server = &http.Server{
		Handler: r, ReadHeaderTimeout: 10 * time.Second, BaseContext: func(net.Listener) context.Context { return base },
	}
	go func() {
		defer close(r.stopped)
		_ = r.server.Serve(listener) // until close
	}()
	return r, nil
}

func (r *receiver) close() {
	r.shutdown()
	_ = r.server.Close()
	<-r.stopped
}

// suffer puts a path into the state of a fault, until mend.
func (r *receiver) suffer(f Fault) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.moods[f.Path] = f
}

func (r *receiver) mend(path string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.moods, path)
}

// seen are the calls so far.
func (r *receiver) seen() []call {
	r.mu.Lock()
	defer r.mu.Unlock()
	calls := make([]call, len(r.calls))
	for i, c := range r.calls {
		calls[i] = *c
	}
	return calls
}

// body is what the receiver reads of an event.
type body struct {
	ID       uuid.UUID `json:"id"`
	EntityID string    `json:"entity_id"`
	Data     struct {
		N      int64  `json:"n"`
		Tx     string `json:"tx"`
		Poison bool   `json:"poison"`
	} `json:"data"`
}

// ServeHTTP notes the call before it answers: what Weir believes to be delivered has been noted.
func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	mood := r.moods[req.URL.Path]
	r.mu.Unlock()
	if mood.Kind == ReceiverAway { // as if nobody had listened: nothing is read
		hangUp(w)
		return
	}
	raw, err := io.ReadAll(req.Body)
	var b body
	if err != nil || json.Unmarshal(raw, &b) != nil {
		w.WriteHeader(http.StatusInternalServerError) // the worker died while it sent
		return
	}
	id, _ := uuid.Parse(req.Header.Get("webhook-id")) // none is a difference that the checker finds
	c := &call{
		Path: req.URL.Path, Delivery: id, Event: b.ID, Entity: b.EntityID, Version: b.Data.N, Tx: b.Data.Tx, At: time.Now(),
	}
	r.mu.Lock()
	r.calls = append(r.calls, c)
	r.mu.Unlock()
	r.answer(w, req, c, mood, b.Data.Poison)
}

func (r *receiver) answer(w http.ResponseWriter, req *http.Request, c *call, mood Fault, poison bool) {
	status := http.StatusNoContent
	if poison && c.Path == "/plain" {
		status = http.StatusBadRequest
	}
	switch mood.Kind {
	case ReceiverFails:
		status = http.StatusInternalServerError
	case ReceiverResets:
		hangUp(w)
		return
	case ReceiverHangs:
		<-req.Context().Done()
		return
	case ReceiverSlow:
		select {
		case <-time.After(mood.Latency):
		case <-req.Context().Done():
		}
	default:
	}
	r.mu.Lock()
	c.Status = status
	r.mu.Unlock()
	w.WriteHeader(status)
}

// hangUp ends the connection without an answer.
func hangUp(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // a reset
	}
	_ = conn.Close()
}
