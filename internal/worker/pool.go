package worker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	pgxuuid "github.com/vgarvardt/pgx-google-uuid/v5"

	"github.com/fraiseql/weir/internal/capture"
)

const (
	// connectTime is how long a server may take to accept a connection, unless the URL says connect_timeout.
	connectTime = 10 * time.Second
	// pingTime is how long a connection that was idle may take to show that it is alive.
	pingTime = 2 * time.Second
	// closeTime is how long the connections of a pool may take to close.
	closeTime = 2 * time.Second
	// forgetTime is how long a session may take to forget what a function has left in it.
	forgetTime = 5 * time.Second
)

// connect makes a pool, which connects later.
func (l *life) connect(ctx context.Context, conns int32) (*pgxpool.Pool, error) {
	url := l.cfg.Database.URL.Value()
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("database.url: %w", err)
	}
	if conns != poolConns || !strings.Contains(url, "pool_max_conns") {
		cfg.MaxConns = conns
	}
	if !strings.Contains(url, "connect_timeout") {
		cfg.ConnConfig.ConnectTimeout = connectTime
	}
	cfg.MinConns, cfg.MaxConnIdleTime, cfg.PingTimeout = 0, time.Minute, pingTime
	cfg.ConnConfig.RuntimeParams["application_name"] = "weir:" + l.clientID
	cfg.ConnConfig.RuntimeParams["client_encoding"] = "UTF8" // whatever the database's or the role's default is
	// River fetches without a time limit: the kernel has to notice that nobody is there.
	cfg.ConnConfig.DialFunc = capture.Dial
	cfg.AfterConnect = l.prepareConn
	// A worker that was stopped for a while must not fetch, or conclude, what others have taken over meanwhile.
	cfg.PrepareConn = func(context.Context, *pgx.Conn) (bool, error) { return true, l.lease.Check() }
	if conns == functionConns {
		cfg.AfterRelease = func(conn *pgx.Conn) bool { return forget(context.WithoutCancel(ctx), conn) }
	}
	return pgxpool.NewWithConfig(ctx, cfg)
}

// closePool does not wait for connections that are dead without anybody having said so.
func (l *life) closePool(pool *pgxpool.Pool) {
	closed := make(chan struct{})
	l.remains.Go(func() {
		defer close(closed)
		pool.Close()
	})
	select {
	case <-closed:
	case <-time.After(closeTime):
		l.log.Warn("some connections to the database do not close: they are left to themselves")
	}
}

// prepareConn is what a new connection needs. Without a codec for them pgx writes ids by way of their text.
func (l *life) prepareConn(ctx context.Context, conn *pgx.Conn) error {
	pgxuuid.Register(conn.TypeMap())
	return l.sameServer(ctx, conn)
}

// server is the one that a life began with.
type server struct {
	mu   sync.Mutex // guards name
	name string     // system identifier, database and timeline; "": not known yet
}

// sameServer ends the life when another server answers at the same address than the one that it began with: a restored dump,
// a copy, a standby that was promoted. Nothing may be delivered from there before the next life has looked at it as at a start.
func (l *life) sameServer(ctx context.Context, conn *pgx.Conn) error {
	var name string
	var standby bool
	err := conn.QueryRow(ctx, `
		SELECT format('%s/%s/%s', system_identifier, (SELECT oid FROM pg_database WHERE datname = current_database()),
		       CASE WHEN NOT pg_is_in_recovery() THEN left(pg_walfile_name(pg_current_wal_lsn()), 8) END), pg_is_in_recovery()
		  FROM pg_control_system()`).Scan(&name, &standby)
	var refused *pgconn.PgError
	switch {
	case errors.As(err, &refused) && slices.Contains([]string{"42501", "42883", "0A000"}, refused.Code):
		return nil // it may not be asked, or there is no such function; the start's checks know the source
	case err != nil:
		return fmt.Errorf("identify the server: %w", err)
	case standby:
		return nil // nothing can be fetched or concluded there
	}
	l.server.mu.Lock()
	defer l.server.mu.Unlock()
	if l.server.name == "" {
		l.server.name = name
	}
	if l.server.name == name {
		return nil
	}
	err = fmt.Errorf("another server answers at the address of database.url (%s, not %s)", name, l.server.name)
	l.lease.Lose(err)
	return err
}

// forget has a session forget what a function has left in it: a role, settings, temporary tables, locks. It returns false for
// one that is to be closed instead. DISCARD ALL would also drop the statements that pgx has prepared.
func forget(ctx context.Context, conn *pgx.Conn) bool {
	ctx, cancel := context.WithTimeout(ctx, forgetTime)
	defer cancel()
	_, err := conn.PgConn().Exec(ctx, `RESET SESSION AUTHORIZATION; RESET ALL; SELECT pg_advisory_unlock_all();
		DISCARD TEMP; DISCARD SEQUENCES; UNLISTEN *; CLOSE ALL`).ReadAll()
	return err == nil
}
