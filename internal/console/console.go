package console

import (
	"context"
	"log/slog"
	"net/http"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fraiseql/weir/internal/config"
)

// Options is what a Console needs.
type Options struct {
	Config  *config.Config // loaded with config.Options.Console, or its defaults
	Logger  *slog.Logger
	Version string
	// Ready is told the address once it is listened on. Optional.
	Ready func(addr string)
}

// Console serves River UI and Weir's own pages. Make it with New, run it once with Run.
type Console struct {
	opts Options
	mux  *http.ServeMux
}

// New makes a console. It connects to nothing yet. The error is about the configuration.
func New(ctx context.Context, o Options) (*Console, error) {
	cfg := o.Config.Console
	if err := cfg.CheckPublic(); err != nil {
		return nil, err
	}
	pool, err := pgxpool.New(ctx, o.Config.Database.URL.Value())
	if err != nil {
		return nil, err
	}
	p, err := newPages(pagesOptions{
		DB: pool, Source: o.Config.Source.URL, ReadOnly: cfg.ReadOnly, Base: string(cfg.Prefix), Logger: o.Logger, Config: o.Config,
	})
	if err != nil {
		return nil, err
	}
	c := &Console{opts: o, mux: http.NewServeMux()}
	p.register(c.mux)
	return c, nil
}
