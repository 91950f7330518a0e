package console

import (
	"log/slog"
	"net/http"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fraiseql/weir/internal/config"
	"github.com/fraiseql/weir/internal/observer"
)

// pagesOptions is what Weir's own pages need.
type pagesOptions struct {
	DB        *pgxpool.Pool // connects later
	Source    config.URL    // the database with the change log; the same as DB's where it is not another
	Observers *observer.Set // compiled; nothing of it can be run
	ReadOnly  bool
	Base      string // the path prefix, "" or as in /weir
	Logger    *slog.Logger
	Config    *config.Config // never nil; its defaults without a file
}

// pages are Weir's own.
type pages struct{ opts pagesOptions }

func newPages(o pagesOptions) (*pages, error) { return &pages{opts: o}, nil }

// register adds the pages' routes, all of them below Base.
func (p *pages) register(mux *http.ServeMux) {
	mux.HandleFunc("GET "+p.opts.Base+"/{$}", func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusNoContent) })
}
