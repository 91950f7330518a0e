package console

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"riverqueue.com/riverui"

	"github.com/fraiseql/weir/internal/action"
	"github.com/fraiseql/weir/internal/config"
	"github.com/fraiseql/weir/internal/observer"
)

// Limits on what a client may take.
const (
	headerTime = 5 * time.Second
	readTime   = 15 * time.Second
	writeTime  = time.Minute
	idleTime   = 2 * time.Minute
	headerSize = 64 << 10
)

// Options is what a Console needs.
type Options struct {
	// Config was loaded with config.Options.Console, or is config.Default's.
	Config  *config.Config
	Logger  *slog.Logger
	Version string
	// Ready is told the address once it is listened on. Optional.
	Ready func(addr string)
}

// Console serves River UI and Weir's own pages. Make it with New, run it once with Run.
type Console struct {
	cfg         config.Console
	opts        Options
	log         *slog.Logger
	registry    *prometheus.Registry
	pool        *pgxpool.Pool
	database    *database
	river       *riverui.Handler
	pages       *pages
	guard       *guard
	certificate *certificate // nil: plain HTTP
}

// New makes a console, which connects to nothing yet. The error is about the configuration.
func New(ctx context.Context, o Options) (c *Console, err error) {
	cfg := o.Config.Console
	if err := cfg.CheckPublic(); err != nil {
		return nil, fmt.Errorf("console.listen: %w", err)
	}
	if auth := cfg.BasicAuth; auth != nil && (auth.User == "" || auth.Password.Value() == "") {
		return nil, errors.New("console.basic_auth: user or password is empty")
	}
	c = &Console{cfg: cfg, opts: o, log: o.Logger, registry: prometheus.NewRegistry()}
	if c.pool, err = connect(ctx, o.Config.Database.URL.Value()); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	c.database = &database{pool: c.pool, log: o.Logger}
	if !cfg.TLS.IsZero() {
		c.certificate = &certificate{files: cfg.TLS, log: o.Logger}
		if _, err := c.certificate.get(nil); err != nil {
			return nil, fmt.Errorf("console.tls: %w", err)
		}
	}
	routes, err := c.routes(ctx)
	if err != nil {
		return nil, err
	}
	c.guard = newGuard(cfg, o.Logger, newMetrics(c.registry, o.Version), routes)
	return c, nil
}

// routes are everything there is, behind the guard.
func (c *Console) routes(ctx context.Context) (http.Handler, error) {
	base := string(c.cfg.Prefix)
	observers, err := observer.New(c.opts.Config.Observers, action.Deps{
		Mailer: action.NewMailer(c.opts.Config.SMTP), Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return nil, err
	}
	c.pages, err = newPages(ctx, pagesOptions{
		DB: c.pool, Source: c.opts.Config.Source.URL, Observers: observers, ReadOnly: c.cfg.ReadOnly, Base: base,
		Logger: c.log, Config: c.opts.Config,
	})
	if err != nil {
		return nil, err
	}
	if c.river, err = newRiverUI(c.pool, base, c.log); err != nil {
		return nil, err
	}
	fromDatabase := http.NewServeMux()
	c.pages.register(fromDatabase)
	mountRiverUI(fromDatabase, base, c.river)

	mux := http.NewServeMux()
	mux.Handle("/", c.database.needed(fromDatabase, c.pages.fail))
	c.pages.registerFiles(mux)
	mux.Handle("GET "+base+"/metrics", promhttp.HandlerFor(c.registry, promhttp.HandlerOpts{Registry: c.registry}))
	for _, path := range healthPaths(base) {
		mux.HandleFunc("GET "+path, func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
			_, _ = rw.Write([]byte("ok\n"))
		})
	}
	return mux, nil
}

// close ends the connections to databases.
func (c *Console) close() {
	if c.pages != nil {
		if err := c.pages.close(); err != nil {
			c.log.Warn("a connection was not closed", "error", err)
		}
	}
	c.pool.Close()
}

// Run serves until the context ends; then running requests get their time (shutdown_timeout). It returns nil after such a stop.
// For an unreachable database it waits: the pages say so meanwhile.
func (c *Console) Run(ctx context.Context) error {
	defer c.close()
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", string(c.cfg.Listen))
	if err != nil {
		return fmt.Errorf("console.listen: %w", err)
	}
	background, cancel := context.WithCancel(ctx)
	var waiting sync.WaitGroup
	waiting.Go(func() { c.startRiverUI(background) })
	defer waiting.Wait()
	defer cancel()

	server := c.server()
	served := make(chan error, 1)
	go func() { served <- c.serve(server, listener) }()
	c.log.Info("serving the console", "address", listener.Addr().String(), "prefix", string(c.cfg.Prefix),
		"tls", c.certificate != nil, "read_only", c.cfg.ReadOnly, "authentication", c.cfg.Authenticates(), "version", c.opts.Version)
	if c.opts.Ready != nil {
		c.opts.Ready(listener.Addr().String())
	}
	select {
	case err := <-served:
		return fmt.Errorf("serve the console: %w", err)
	case <-ctx.Done():
	}
	return c.stop(ctx, server, served)
}

func (c *Console) server() *http.Server {
	server := &http.Server{
		Handler: c.guard, ReadHeaderTimeout: headerTime, ReadTimeout: readTime, WriteTimeout: writeTime, IdleTimeout: idleTime,
		MaxHeaderBytes: headerSize, ErrorLog: slog.NewLogLogger(c.log.Handler(), slog.LevelDebug), // broken connections and handshakes
	}
	if c.certificate != nil {
		server.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: c.certificate.get}
	}
	return server
}

func (c *Console) serve(server *http.Server, listener net.Listener) error {
	if c.certificate != nil {
		return server.ServeTLS(listener, "", "")
	}
	return server.Serve(listener)
}

// stop lets running requests end.
func (c *Console) stop(ctx context.Context, server *http.Server, served <-chan error) error {
	limit := c.opts.Config.ShutdownTimeout.Std()
	c.log.Info("stopping: running requests may end", "shutdown_timeout", limit)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	err := server.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		c.log.Warn("requests were cut off", "shutdown_timeout", limit)
		err = server.Close()
	}
	if failed := <-served; !errors.Is(failed, http.ErrServerClosed) {
		err = errors.Join(err, failed)
	}
	c.log.Info("console stopped")
	return err
}
