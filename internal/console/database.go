package console

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fraiseql/weir/internal/ops"
)

const (
	// poolConns is the size of the pool, unless the URL says pool_max_conns: a few people, not more.
	poolConns = 5
	// connectTime is how long a server may take to accept a connection, unless the URL says connect_timeout.
	connectTime = 5 * time.Second
	// pingTime is how long the database may take to answer before a page says that it does not.
	pingTime = 5 * time.Second
	// believed is how long an answer is good for: a page is many requests.
	believed = time.Second
	// retryDatabase is the time between two attempts while nobody asks.
	retryDatabase = 2 * time.Second
)

// connect makes a pool, which connects later.
func connect(ctx context.Context, url string) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, errors.New("database.url is no PostgreSQL URL") // pgx's error could repeat the password
	}
	if !strings.Contains(url, "pool_max_conns") {
		cfg.MaxConns = poolConns
	}
	if cfg.ConnConfig.ConnectTimeout == 0 {
		cfg.ConnConfig.ConnectTimeout = connectTime
	}
	cfg.MaxConnIdleTime = time.Minute
	cfg.ConnConfig.RuntimeParams["application_name"] = "weir (console)" // those of workers begin with "weir:"
	cfg.ConnConfig.RuntimeParams["client_encoding"] = "UTF8"
	return pgxpool.NewWithConfig(ctx, cfg)
}

// database knows whether pages can be made. It is safe for concurrent use.
type database struct {
	pool *pgxpool.Pool
	log  *slog.Logger

	mu    sync.Mutex // guards the rest, and lets one ask for all
	asked time.Time
	err   error
}

// check returns nil if the database answers and has what the pages read, an *ops.NotMigratedError if it does not have it.
func (d *database) check(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.asked.IsZero() && time.Since(d.asked) < believed {
		return d.err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), pingTime) // the answer is for others, too
	defer cancel()
	_, err := ops.CheckMigrated(ctx, d.pool)
	switch {
	case err != nil && (d.err == nil || d.err.Error() != err.Error()):
		d.log.Warn("the database cannot be used: pages answer 503 until it can", "error", err)
	case err == nil && (d.err != nil || d.asked.IsZero()):
		d.log.Info("the database answers")
	}
	d.asked, d.err = time.Now(), err
	return err
}

// await returns when the database can be used, or with an error when the context ends.
func (d *database) await(ctx context.Context) error {
	for d.check(ctx) != nil {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(retryDatabase):
		}
	}
	return nil
}

// needed answers 503 while the database cannot be used: by page where a person looks at one of our own.
func (d *database) needed(next http.Handler, page func(http.ResponseWriter, *http.Request, error)) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		err := d.check(r.Context())
		if err == nil {
			next.ServeHTTP(rw, r)
			return
		}
		text := "the database cannot be reached: the console's log says why; this page comes back by itself"
		var old *ops.NotMigratedError
		if errors.As(err, &old) {
			text = err.Error()
		}
		rw.Header().Set("Retry-After", "5")
		if strings.Contains(r.Header.Get("Accept"), "text/html") {
			rw.Header().Set("Refresh", "5")
			if !strings.Contains(r.URL.Path, "/river") {
				page(rw, r, err)
				return
			}
		}
		refuse(rw, r, http.StatusServiceUnavailable, text)
	})
}

// refuse says why a request is not answered: as River UI's API does to its pages, else as text.
func refuse(rw http.ResponseWriter, r *http.Request, status int, text string) {
	if strings.Contains(r.URL.Path, "/river/api/") {
		rw.Header().Set("Content-Type", "application/json; charset=utf-8")
		rw.WriteHeader(status)
		fmt.Fprintf(rw, "{\"message\":%q}\n", text)
		return
	}
	http.Error(rw, text, status)
}
