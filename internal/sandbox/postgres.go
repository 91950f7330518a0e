package sandbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// DatabaseURLVariable is the environment variable that names the server which Open uses instead of starting one.
const DatabaseURLVariable = "DATABASE_URL"

// PostgresOptions describe a private server. The zero value is fine for tests.
type PostgresOptions struct {
	// Version is "major.minor". Empty: the environment's WEIR_POSTGRES_VERSION, else DefaultPostgresVersion.
	Version string
	// Settings are parameters of postgresql.conf; they win over the defaults (logical WAL, 100 slots, 300 connections).
	Settings map[string]string
	// CopyOf starts the server on a copy of another's data directory, in place of a new one: with its databases, its slots
	// and its system identifier. That one must not be running (Kill); Restart starts it again, beside the copy.
	CopyOf *Postgres
	// Standby, with CopyOf, starts it as a standby of what the setting primary_conninfo names, if any, to be promoted.
	Standby bool
	// Durable leaves fsync on: for benchmarks. Without it data survives a killed server, but not a machine's crash.
	Durable bool
	// Progress hears in words for people what takes longer. nil: nobody does.
	Progress func(string)
	// Logger gets debug messages. nil: none.
	Logger *slog.Logger
}

// StopMode is how Restart stops the server.
type StopMode int

// Fast ends sessions and writes a checkpoint; a walsender first sends everything to its client, which can take as
// long as that client likes. Immediate is like a crash: the next start recovers from the WAL.
const (
	Fast StopMode = iota
	Immediate
)

// Postgres is a server for tests, the demo, benchmarks or chaos. Safe for concurrent use, except that a Stop ends
// whatever else goes on.
type Postgres struct {
	base url.URL // names the database from which others are created
	own  *server // nil: the server of DATABASE_URL

	templating sync.Mutex // guards template, and is held while that is made; taken before mu
	template   string     // name of the migrated database, "" until it exists

	mu   sync.Mutex          // guards made
	made map[string]struct{} // databases that we have created and not yet dropped
}

// Open returns the server that DATABASE_URL names, or starts a private one. An error of the former says what the
// variable should be.
func Open(ctx context.Context, o PostgresOptions) (*Postgres, error) {
	named := os.Getenv(DatabaseURLVariable)
	if named == "" {
		return StartPostgres(ctx, o)
	}
	base, err := url.Parse(named)
	if err != nil || (base.Scheme != "postgres" && base.Scheme != "postgresql") {
		// The parser's error would repeat the password.
		return nil, errors.New(DatabaseURLVariable + " is not a URL: want postgres://user:password@host:port/database")
	}
	p := newPostgres(*base, nil)
	conn, err := p.connect(ctx)
	if err != nil {
		return nil, fmt.Errorf("the server of %s: %w (unset it to get a private one)", DatabaseURLVariable, err)
	}
	return p, conn.Close(ctx)
}

// StartPostgres starts a private server on a free port of 127.0.0.1 and returns when it accepts connections. The only
// user is the superuser postgres, without a password. The first start of a version downloads it. ctx ends the start,
// not the server: that is what Stop is for, and the end of this process.
func StartPostgres(ctx context.Context, o PostgresOptions) (*Postgres, error) {
	begin := time.Now()
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler)).With("component", "sandbox")
	s, err := newServer(ctx, o)
	if err != nil {
		return nil, err
	}
	o.Progress("starting a private PostgreSQL")
	if o.CopyOf == nil {
		err = s.initialize(ctx)
	} else {
		err = s.copyFrom(ctx, o.CopyOf.own, o.Standby)
	}
	if err == nil {
		err = onFreePort(func(port int) error {
			s.port = port
			return s.start(ctx)
		})
	}
	if err != nil {
		return nil, errors.Join(err, s.close(context.WithoutCancel(ctx)))
	}
	o.Logger.DebugContext(ctx, "PostgreSQL started", "port", s.port, "folder", s.dir, "took", time.Since(begin))
	return newPostgres(url.URL{
		Scheme: "postgres", User: url.User("postgres"), Path: "/postgres", RawQuery: "sslmode=disable",
		Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)),
	}, s), nil
}

func newPostgres(base url.URL, own *server) *Postgres {
	return &Postgres{base: base, own: own, made: make(map[string]struct{})}
}

// URL is how to connect to the database. It need not exist.
func (p *Postgres) URL(database string) string {
	u := p.base
	u.Path = "/" + database
	return u.String()
}

// Stop ends the server, however busy, and removes its folder. On the server of DATABASE_URL it drops the databases
// that were made there and are still left. More calls do nothing.
func (p *Postgres) Stop(ctx context.Context) error {
	if p.own != nil {
		return p.own.close(ctx)
	}
	var errs []error
	for _, name := range p.left() {
		errs = append(errs, p.drop(ctx, name))
	}
	return errors.Join(errs...)
}

var errNotOurs = errors.New("the server of " + DatabaseURLVariable + " is not ours to stop: use StartPostgres")

// Restart stops the server if it runs, starts it on the same port and returns when it accepts connections.
func (p *Postgres) Restart(ctx context.Context, mode StopMode) error {
	if p.own == nil {
		return errNotOurs
	}
	if mode == Immediate {
		return p.own.restart(ctx, syscall.SIGQUIT)
	}
	return p.own.restart(ctx, syscall.SIGINT)
}

// Kill ends all processes of the server with SIGKILL, as a crash would. Restart starts it again.
func (p *Postgres) Kill() error {
	if p.own == nil {
		return errNotOurs
	}
	return p.own.kill()
}

// Keep moves the data directory of a killed server elsewhere, where postgres -D finds it again, with its log as server.log.
// The server is lost for us.
func (p *Postgres) Keep(folder string) error {
	if p.own == nil {
		return errNotOurs
	}
	return p.own.keep(folder)
}

// Log is the end of the server's log, for error messages; empty for the server of DATABASE_URL.
func (p *Postgres) Log() string {
	if p.own == nil {
		return ""
	}
	return p.own.log(0)
}
