package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/fraiseql/weir/internal/capture"
	"github.com/fraiseql/weir/internal/jobs"
)

// serveHTTP starts /metrics, /healthz and /readyz before anything else, so that a worker that waits for its database
// says so.
func (w *Worker) serveHTTP(ctx context.Context, undo *cleanup) error {
	addr := string(w.force.config().HTTP.Listen)
	if addr == "" {
		return nil
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("http.listen: %w (another worker on this machine? give each its own address, or \"\" for none)", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(w.registry, promhttp.HandlerOpts{Registry: w.registry}))
	mux.HandleFunc("GET /healthz", func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = rw.Write([]byte("ok\n"))
	})
	mux.Handle("GET /readyz", &w.health)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			w.log.Error("HTTP server ended", "error", err)
		}
	}()
	undo.add("stop the HTTP server", func() error {
		err := server.Close()
		<-done
		return err
	})
	w.log.Info("serving /metrics, /healthz and /readyz", "address", listener.Addr().String())
	if w.opts.HTTPReady != nil {
		w.opts.HTTPReady(listener.Addr().String())
	}
	return nil
}

// health answers /readyz: 200 while the stream is read, recovered, stood by for or paused, and jobs are worked, else 503, with
// the reason.
type health struct {
	degraded func() []string // what is not as it should be and does not keep the worker from working

	mu     sync.Mutex // guards the rest
	stream *capture.Stream
	queue  *jobs.Queue
	away   func() []string // what is away of what deliveries use
	err    error
}

// Readiness is the body of /readyz.
type Readiness struct {
	Ready  bool   `json:"ready"`           // the status is 200
	Stream string `json:"stream"`          // connecting, standby, streaming, recovering, gap or paused
	Error  string `json:"error,omitempty"` // why it is not ready, or why the stream does not go on
	// Degraded lists what is not as it should be and not needed to go on: a configuration that was refused, a mail
	// server that the last mail did not reach, Redis that is away, an endpoint whose circuit breaker is open.
	Degraded []string `json:"degraded"`
}

func (h *health) set(stream *capture.Stream, queue *jobs.Queue, away func() []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stream, h.queue, h.away, h.err = stream, queue, away, nil
}

func (h *health) waiting(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.err = err
}

func (h *health) readiness() Readiness {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := Readiness{Stream: string(capture.Connecting), Degraded: h.degraded()}
	if h.err != nil {
		r.Error = h.err.Error()
	}
	if h.stream == nil {
		return r
	}
	r.Degraded = append(r.Degraded, h.away()...)
	s := h.stream.Health()
	r.Stream, r.Error = string(s.State), s.Err
	r.Ready = s.State != capture.Connecting && s.State != capture.Gap && h.queue.Working()
	if s.State == capture.Recovering {
		r.Degraded = append(r.Degraded, "stream: it has lost its continuity and is recovered from the change log")
	}
	if s.State == capture.Paused {
		r.Degraded = append(r.Degraded, "stream: paused, so its slot holds WAL (weir resume --stream)")
	}
	r.Degraded = append(r.Degraded, h.queue.Degraded()...)
	return r
}

func (h *health) ready() float64 {
	if h.readiness().Ready {
		return 1
	}
	return 0
}

func (h *health) troubles() float64 { return float64(len(h.readiness().Degraded)) }

// ServeHTTP answers a probe.
func (h *health) ServeHTTP(rw http.ResponseWriter, _ *http.Request) {
	r := h.readiness()
	rw.Header().Set("Content-Type", "application/json")
	if !r.Ready {
		rw.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(rw).Encode(r)
}
