// Package lease says who is alive.
//
// A worker has a row in weir.worker and renews it every two seconds, by the database's clock. One that has not been
// renewed for six seconds may be declared dead by any other worker: its row is deleted. The row's lock decides between a
// renewal and a death that come at the same time, so a worker that finds its row is alive for everybody, and one that does
// not find it has been declared dead for everybody: it must give up its client id and whatever it does under it, since
// others have taken that over.
//
// A server that was away, or a clock that jumped, lets every lease run out at once. So only who has seen the database up
// without a break for as long as a lease lasts may declare others dead: by then the living have renewed theirs. A break is
// a call that failed, since a server that restarts ends every session; a pause between two renewals that is so long that
// another's lease could have run out meanwhile; and a clock that says something else than a moment ago.
package lease

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fraiseql/weir/internal/store"
)

const (
	// Expiry is how long a lease holds without being renewed.
	Expiry = 6 * time.Second

	renewEvery  = 2 * time.Second
	renewAgain  = 500 * time.Millisecond // after an error
	overdue     = time.Second            // how late a renewal is before it counts as left out
	callTimeout = 2 * time.Second
	// fresh is a sign of life of the source that is as good as one of now: it is asked for one every second.
	fresh = 2 * time.Second
	// unbroken is the longest pause between two renewals, by the database's clock, after which the database still counts as
	// seen without a break. Another worker's last renewal may be renewEvery older than ours, so a server that stood still
	// for as long as this has cost it at the most renewEvery + unbroken, which is less than Expiry.
	unbroken = renewEvery + 1500*time.Millisecond
)

// ErrLost says that this worker's lease no longer holds: it was declared dead, or gave up (Lose).
var ErrLost = errors.New("the lease is lost")

var errDeclaredDead = fmt.Errorf("%w: declared dead by another worker, having renewed it too late", ErrLost)

// ErrStale says that this worker may have been declared dead and has yet to ask.
var ErrStale = errors.New("the lease has to be renewed first")

// Options is what a Lease needs.
type Options struct {
	DatabaseURL string
	ClientID    string // fresh at each start
	Version     string
	// ReadsStream says whether the worker reads the stream at the moment, and how long ago its source last gave a sign of
	// life. Optional.
	ReadsStream func() (heard time.Duration, reading bool)
	Logger      *slog.Logger
}

// Lease is a worker's own. Take it, then Run it. Safe for concurrent use.
type Lease struct {
	opts Options
	log  *slog.Logger
	lost chan struct{}
	now  chan struct{} // asks for a renewal before its time
	conn *pgx.Conn     // of its own, so that a busy pool kills nobody; Run's after Take

	mu       sync.Mutex // guards the rest
	loadedAt time.Time  // of the configuration
	problem  string     // of a later one that was refused
	since    time.Time  // the database has been seen up without a break since then, by its clock
	last     time.Time  // newest renewal, by its clock
	broken   bool       // a call has failed since
	ending   error      // why lost is closed
	renewed  time.Time  // the same by this process's monotonic clock
}

// New makes a lease that is not yet taken.
func New(o Options) *Lease {
	return &Lease{
		opts: o, log: o.Logger.With("component", "lease"), lost: make(chan struct{}), now: make(chan struct{}, 1), loadedAt: time.Now(),
	}
}

// Take announces the worker. Nothing may be done under its client id before.
func (l *Lease) Take(ctx context.Context) error {
	host, _ := os.Hostname() // for people
	return l.call(ctx, func(ctx context.Context) (time.Time, error) {
		loadedAt, problem := l.config()
		return store.New().TakeLease(ctx, l.conn, store.TakeLeaseParams{
			ClientID: l.opts.ClientID, Hostname: host, PID: int32(os.Getpid()), Version: l.opts.Version,
			ConfigLoadedAt: loadedAt, ConfigError: problem,
		})
	})
}

// Run renews the lease until the context ends, and gives it back then. It returns ErrLost, and closes Lost, when the worker
// was declared dead. An unreachable database does not end it.
func (l *Lease) Run(ctx context.Context) error {
	defer l.release(ctx)
	logged := ""
	for ctx.Err() == nil {
		wait := renewEvery
		err := l.renew(ctx)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			return l.lose(errDeclaredDead)
		case err != nil:
			wait = renewAgain
			if err.Error() != logged && ctx.Err() == nil {
				l.log.Warn("lease not renewed, trying again", "error", err)
			}
			logged = err.Error()
		default:
			logged = ""
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-l.now:
		}
		timer.Stop()
	}
	return nil
}

// Lost is closed when the lease no longer holds.
func (l *Lease) Lost() <-chan struct{} { return l.lost }

// Err is nil, or ErrLost with its reason.
func (l *Lease) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ending
}

// Lose gives the client id up at once, for a reason that others cannot know of.
func (l *Lease) Lose(why error) { _ = l.lose(fmt.Errorf("%w: %w", ErrLost, why)) }

func (l *Lease) lose(err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ending == nil {
		l.ending = err
		close(l.lost)
	}
	return l.ending
}

// Check returns an error when the worker may have been declared dead, as far as this process can tell by its own clock: it
// must ask the database before it does anything else under its client id. A process that was stopped and goes on does not
// know by itself what happened meanwhile.
func (l *Lease) Check() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ending != nil {
		// Canceled, so that River gives up at once instead of trying again.
		return fmt.Errorf("%w (%w)", l.ending, context.Canceled)
	}
	if !l.renewed.IsZero() && max(time.Since(l.renewed), sinceByWall(l.renewed)) >= Expiry {
		return ErrStale
	}
	return nil
}

// sinceByWall counts the time in which the machine was suspended, too, in which the monotonic clock may stand still.
func sinceByWall(t time.Time) time.Duration { return time.Now().Round(0).Sub(t.Round(0)) }

// SetConfig says in the worker's row which configuration is in force, and why a later one is not ("" when it is). It
// reaches the database with the next renewal, which it brings forward.
func (l *Lease) SetConfig(loadedAt time.Time, problem string) {
	l.mu.Lock()
	l.loadedAt, l.problem = loadedAt, storable(problem)
	l.mu.Unlock()
	select {
	case l.now <- struct{}{}:
	default:
	}
}

// storable is a text that PostgreSQL takes, whatever a file had in it: a renewal must not fail for it.
func storable(text string) string {
	const limit = 1000
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "\uFFFD"))
	if r := []rune(text); len(r) > limit {
		return string(r[:limit]) + "…"
	}
	return text
}

// Dead is a worker that was declared dead.
type Dead struct {
	ClientID, Hostname string
	PID                int
	SeenAt             time.Time
}

// MayBury says that this worker has seen the database up without a break for as long as a lease holds: whoever has not
// renewed his by now is dead.
func (l *Lease) MayBury() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.broken && time.Since(l.renewed) <= unbroken && l.last.Sub(l.since) >= Expiry
}

// Outlives is MayBury for a worker that gave its last sign of life then: this one has renewed its own lease at a time when the
// other's renewal was overdue, so the database did not stand still, it is the other who does.
func (l *Lease) Outlives(said time.Time) bool {
	return l.MayBury() && l.lastRenewal().Sub(said) >= renewEvery+overdue
}

// Bury declares dead whose lease has run out, and returns them; none when this worker may not (MayBury), nor when the
// database's clock has jumped since its last renewal.
func (l *Lease) Bury(ctx context.Context, db store.DBTX) ([]Dead, error) {
	if !l.MayBury() {
		return nil, nil
	}
	rows, err := store.New().BuryWorkers(ctx, db, store.BuryWorkersParams{
		Me: l.opts.ClientID, Expiry: Expiry, LastRenewal: l.lastRenewal(), Unbroken: unbroken,
	})
	if err != nil {
		return nil, fmt.Errorf("declare workers dead: %w", err)
	}
	var dead []Dead
	for _, r := range rows {
		dead = append(dead, Dead{r.ClientID, r.Hostname, int(r.PID), r.SeenAt})
	}
	return dead, nil
}

func (l *Lease) lastRenewal() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

func (l *Lease) config() (loadedAt time.Time, problem string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.loadedAt, l.problem
}

func (l *Lease) renew(ctx context.Context) error {
	return l.call(ctx, func(ctx context.Context) (time.Time, error) {
		loadedAt, problem := l.config()
		p := store.RenewLeaseParams{ClientID: l.opts.ClientID, ConfigLoadedAt: loadedAt, ConfigError: problem}
		if l.opts.ReadsStream != nil {
			p.Heard, p.ReadsStream = l.opts.ReadsStream()
		}
		if p.Heard < fresh {
			p.Heard = 0
		}
		return store.New().RenewLease(ctx, l.conn, p)
	})
}

// call runs one statement on the lease's connection, which it opens if need be, within the time that a renewal may take.
// What it returns is the database's clock.
func (l *Lease) call(ctx context.Context, statement func(context.Context) (time.Time, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, callTimeout, fmt.Errorf("the database did not answer within %s", callTimeout))
	defer cancel()
	if l.conn == nil {
		conn, err := l.connect(ctx)
		if err != nil {
			l.broke()
			return err
		}
		l.conn = conn
	}
	at, err := statement(ctx)
	if err == nil {
		l.saw(at)
		return nil
	}
	if !errors.Is(err, pgx.ErrNoRows) {
		l.broke()
		l.hangUp(ctx)
		err = errors.Join(err, context.Cause(ctx))
	}
	return err
}

func (l *Lease) connect(ctx context.Context) (*pgx.Conn, error) {
	pool, err := pgxpool.ParseConfig(l.opts.DatabaseURL) // the URL may hold parameters of a pool
	if err != nil {
		return nil, fmt.Errorf("database.url: %w", err)
	}
	pool.ConnConfig.RuntimeParams["application_name"] = "weir:" + l.opts.ClientID
	return pgx.ConnectConfig(ctx, pool.ConnConfig)
}

func (l *Lease) hangUp(ctx context.Context) {
	if l.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = l.conn.Close(ctx) // nothing is left to do with a connection that does not close
	l.conn = nil
}

// saw keeps account of since when the database has been up. A clock that jumped is a break, too.
func (l *Lease) saw(at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if gap := at.Sub(l.last); l.broken || gap < 0 || gap > unbroken {
		l.since = at
	}
	l.last, l.renewed, l.broken = at, time.Now(), false
}

// broke keeps account of a call that failed.
func (l *Lease) broke() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.broken = true
}

// release gives the lease back, so that nobody has to wait for its end. The connection may have been cut off by the stop.
func (l *Lease) release(ctx context.Context) {
	ctx = context.WithoutCancel(ctx)
	defer l.hangUp(ctx)
	err := l.call(ctx, func(ctx context.Context) (time.Time, error) {
		return time.Time{}, store.New().ReleaseLease(ctx, l.conn, l.opts.ClientID)
	})
	if err != nil {
		l.log.Warn("lease not given back, it will run out", "error", err)
	}
}
