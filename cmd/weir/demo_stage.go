package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/db/migrations"
	"github.com/fraiseql/weir/examples/orders"
	"github.com/fraiseql/weir/internal/config"
	"github.com/fraiseql/weir/internal/ops"
	"github.com/fraiseql/weir/internal/sandbox"
	"github.com/fraiseql/weir/internal/worker"
)

// startLimit bounds the worker's start. The download of PostgreSQL comes before and takes what it takes.
const startLimit = 60 * time.Second

// stage is everything that the demo starts: each part registers its end beside its beginning.
type stage struct {
	*app
	opts   demoOptions
	screen *screen
	undo   []func(context.Context) error

	dir         string // of weir.yaml and worker.log
	logPath     string // "" when the worker logs to stderr
	keepLog     bool
	databaseURL string
	slot        string
	conn        *pgx.Conn // of the application and of the questions; one goroutine's
	cfg         *config.Config
	ask         ops.Question // about events, with the example's observers
	secret      string
	receiverURL string
	requests    chan orders.Request // as the receiver gets them
	workerAddr  string
	ended       chan struct{} // closed when the worker has ended
	workerErr   error         // valid once ended is closed
}

// start brings everything up. What was started when it fails is for close to end.
func (s *stage) start(ctx context.Context) error {
	for _, part := range []func(context.Context) error{
		s.makeFolder, s.startPostgres, s.prepareDatabase, s.startReceiver, s.loadConfig, s.startWorker, s.awaitWorker,
	} {
		if err := part(ctx); err != nil {
			return err
		}
	}
	return nil
}

// close ends what was started, the last first. It works when ctx has ended, too.
func (s *stage) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	var errs []error
	for _, end := range slices.Backward(s.undo) {
		errs = append(errs, end(ctx))
	}
	return errors.Join(errs...)
}

func (s *stage) onClose(end func(context.Context) error) { s.undo = append(s.undo, end) }

func (s *stage) makeFolder(context.Context) error {
	dir, err := os.MkdirTemp("", "weir-demo-")
	if err != nil {
		return err
	}
	s.dir = dir
	s.onClose(func(context.Context) error {
		if s.keepLog && s.logPath != "" {
			return os.Remove(s.configPath())
		}
		return os.RemoveAll(dir)
	})
	return nil
}

func (s *stage) startPostgres(ctx context.Context) error {
	private := os.Getenv(sandbox.DatabaseURLVariable) == ""
	if !private {
		s.screen.setup("PostgreSQL",
			"the server of "+sandbox.DatabaseURLVariable+", in a database of its own that is dropped afterwards")
	}
	server, err := sandbox.Open(ctx, sandbox.PostgresOptions{
		Progress: func(text string) { s.screen.setup("PostgreSQL", text) },
	})
	if err != nil {
		return err
	}
	s.onClose(server.Stop)
	databaseURL, drop, err := server.EmptyDatabase(ctx)
	if err != nil {
		return err
	}
	s.onClose(drop)
	u, err := url.Parse(databaseURL)
	if err != nil {
		return errors.New("the URL of the demo's database cannot be parsed") // the parser's error would repeat a password
	}
	s.databaseURL, s.slot = databaseURL, "weir"
	if !private {
		s.slot = strings.TrimPrefix(u.Path, "/") // slots belong to the server: named after the database, it is ours alone
	}
	s.screen.setup("PostgreSQL", u.Redacted())
	return nil
}

func (s *stage) prepareDatabase(ctx context.Context) error {
	if err := migrations.Up(ctx, s.databaseURL, func(string) {}); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	conn, err := pgx.Connect(ctx, s.databaseURL)
	if err != nil {
		return err
	}
	s.conn = conn
	s.onClose(conn.Close)
	if _, err := conn.Exec(ctx, orders.Schema); err != nil {
		return fmt.Errorf("apply examples/orders/schema.sql: %w", err)
	}
	s.screen.setup("schema", "migrated; examples/orders/schema.sql applied: table app.orders and its functions")
	return nil
}

func (s *stage) startReceiver(ctx context.Context) error {
	var key [24]byte
	_, _ = rand.Read(key[:]) // never fails (crypto/rand)
	s.secret = "whsec_" + base64.StdEncoding.EncodeToString(key[:])
	s.requests = make(chan orders.Request)
	closing := make(chan struct{})
	receiver, err := orders.NewReceiver(orders.ReceiverOptions{
		Secret: s.secret, Forget: s.opts.drop,
		Notify: func(r orders.Request) {
			select {
			case s.requests <- r:
			case <-closing:
			}
		},
	})
	if err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("start the receiver: %w", err)
	}
	server := &http.Server{Handler: receiver, ReadHeaderTimeout: 5 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener) // until Close; what does not arrive is missed by the story
	}()
	s.onClose(func(context.Context) error {
		close(closing)
		err := server.Close()
		<-done
		return err
	})
	s.receiverURL = "http://" + listener.Addr().String()
	s.screen.setup("receiver", s.receiverURL+", verifies the signatures")
	return nil
}

// loadConfig loads examples/orders/weir.yaml as it is: all that differs comes from the environment that it is given.
func (s *stage) loadConfig(ctx context.Context) error {
	path := s.configPath()
	if err := os.WriteFile(path, orders.Config, 0o600); err != nil {
		return err
	}
	environment := map[string]string{
		"DATABASE_URL": s.databaseURL, "ORDERS_SECRET": s.secret, "RECEIVER_URL": s.receiverURL,
		"WEIR_SLOT": s.slot, "WEIR_HTTP_LISTEN": "127.0.0.1:0",
	}
	var err error
	s.cfg, err = config.Load(ctx, config.Options{Path: path, Lookup: func(name string) (string, bool) {
		value, ok := environment[name]
		return value, ok
	}})
	if err != nil {
		return err
	}
	s.ask, err = s.question(&settings{file: s.cfg, path: path}, "")
	return err
}

func (s *stage) configPath() string { return filepath.Join(s.dir, "weir.yaml") }

func (s *stage) startWorker(ctx context.Context) error {
	log, where, err := s.openLog()
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx)) // it ends in its turn, before the receiver
	ready := make(chan string, 1)
	w := worker.New(s.cfg, worker.Options{
		Logger: s.cfg.Log.Logger(log, nil), Version: version, HTTPReady: func(addr string) { ready <- addr },
	})
	s.ended = make(chan struct{})
	go func() {
		defer close(s.ended)
		s.workerErr = w.Run(ctx)
	}()
	s.onClose(func(context.Context) error {
		stop()
		for {
			select {
			case <-s.requests: // deliveries that still run must not wait for somebody to look
			case <-s.ended:
				return s.workerErr
			}
		}
	})
	select {
	case s.workerAddr = <-ready:
	case <-s.ended:
		return s.workerEnded()
	}
	s.screen.setup("worker", "examples/orders/weir.yaml; its log goes to "+where)
	return nil
}

func (s *stage) openLog() (log io.Writer, where string, err error) {
	if s.flags.verbose {
		return s.stderr, "stderr", nil
	}
	path := filepath.Join(s.dir, "worker.log")
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, "", err
	}
	s.logPath = path
	s.onClose(func(context.Context) error { return file.Close() })
	return file, path, nil
}

// workerEnded is the error of a worker that was not told to end.
func (s *stage) workerEnded() error {
	if s.workerErr == nil {
		return errors.New("the worker ended by itself")
	}
	err := s.workerErr
	s.workerErr = nil // said once
	return fmt.Errorf("the worker ended: %w", err)
}

// awaitWorker waits until the worker reads the stream: what is committed from then on is captured.
func (s *stage) awaitWorker(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startLimit, fmt.Errorf("the worker was not ready after %s", startLimit))
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		why, err := s.notReady(ctx)
		if err == nil && why == "" {
			s.screen.setup("worker", "reads the stream; http://"+s.workerAddr+"/metrics")
			return nil
		}
		select {
		case <-tick.C:
		case <-s.ended:
			return s.workerEnded()
		case <-ctx.Done():
			return fmt.Errorf("%w: %s", context.Cause(ctx), why)
		}
	}
}

// notReady is what the worker says about itself, "" when it is ready.
func (s *stage) notReady(ctx context.Context) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.workerAddr+"/readyz", http.NoBody)
	if err != nil {
		return "", err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 4<<10))
	if err != nil || res.StatusCode == http.StatusOK {
		return "", err
	}
	return strings.TrimSpace(string(body)), nil
}
