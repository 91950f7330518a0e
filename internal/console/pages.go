package console

import (
	"bytes"
	"cmp"
	"context"
	"embed"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/fraiseql/weir/internal/config"
	"github.com/fraiseql/weir/internal/index"
	"github.com/fraiseql/weir/internal/observer"
)

const (
	// pageTime bounds a page, with all its questions to the databases.
	pageTime = 10 * time.Second
	// actTime bounds an act. What is done in batches stays done when time is up.
	actTime = 25 * time.Second
	// maxForm bounds the body of a request, in bytes: a thousand chosen dead letters are 20 kB.
	maxForm = 256 << 10
)

// pagesOptions is what Weir's own pages need.
type pagesOptions struct {
	DB        *pgxpool.Pool // connects later
	Source    config.URL    // the database with the change log; the same as DB's where it is not another
	Observers *observer.Set // compiled; nothing of it can be run. nil: not known, nothing is explained
	ReadOnly  bool
	Base      string // the path prefix, "" or as in /weir
	Logger    *slog.Logger
	Config    *config.Config // never nil; its defaults without a file
}

// pages are Weir's own.
type pages struct {
	opts      pagesOptions
	source    *pgxpool.Pool        // opts.DB where the change log is in the same database
	elastic   *index.Elasticsearch // nil: PostgreSQL has the history
	templates map[string]*template.Template
	files     files
	recent    recent
}

//go:embed templates/*.html
var templateFiles embed.FS

// newPages prepares the pages and connects to nothing yet. The error is about the configuration.
func newPages(ctx context.Context, o pagesOptions) (*pages, error) {
	p := &pages{opts: o, source: o.DB, templates: map[string]*template.Template{}}
	var err error
	if p.files, err = readFiles(); err != nil {
		return nil, err
	}
	for _, name := range []string{"overview", "letters", "letter", "confirm", "search", "event", "endpoints", "error"} {
		t := template.New("layout.html").Funcs(p.functions())
		if t, err = t.ParseFS(templateFiles, "templates/layout.html", "templates/parts.html", "templates/"+name+".html"); err != nil {
			return nil, fmt.Errorf("page %s: %w", name, err)
		}
		p.templates[name] = t
	}
	if !o.Source.IsZero() && o.Source != o.Config.Database.URL {
		if p.source, err = connect(ctx, o.Source.Value()); err != nil {
			return nil, fmt.Errorf("source.url: %w", err)
		}
	}
	if o.Config.History.InElasticsearch() && o.Config.Elasticsearch != nil {
		p.elastic, err = index.OpenElasticsearch(*o.Config.Elasticsearch, index.ElasticsearchOptions{
			Installation: o.Config.Installation, Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
		})
	}
	return p, err
}

// close ends what newPages has opened. DB is its owner's.
func (p *pages) close() error {
	if p.source != p.opts.DB {
		p.source.Close()
	}
	if p.elastic == nil {
		return nil
	}
	return p.elastic.Close()
}

// register adds the pages' routes, all of them below Base.
func (p *pages) register(mux *http.ServeMux) {
	p.page(mux, "/{$}", "overview", p.overview)
	p.page(mux, "/dead-letters", "letters", p.letters)
	p.page(mux, "/dead-letters/{id}", "letter", p.letter)
	p.page(mux, "/dead-letters/confirm", "confirm", p.confirm)
	p.page(mux, "/search", "search", p.search)
	p.page(mux, "/events/{id}", "event", p.event)
	p.page(mux, "/endpoints", "endpoints", p.endpoints)
	mux.HandleFunc(p.opts.Base+"/", func(w http.ResponseWriter, r *http.Request) {
		p.fail(w, r, &problem{status: http.StatusNotFound, title: "No such page", text: "There is nothing at this address."})
	})
	p.act(mux, "/dead-letters/retry", p.retry)
	p.act(mux, "/dead-letters/remove", p.remove)
	p.act(mux, "/dead-letters/{id}/retry", p.retry)
	p.act(mux, "/dead-letters/{id}/remove", p.remove)
	p.act(mux, "/endpoints/open", p.openBreaker)
	p.act(mux, "/endpoints/close", p.closeBreaker)
}

// registerFiles adds what pages load, which takes no database.
func (p *pages) registerFiles(mux *http.ServeMux) {
	mux.Handle("GET "+p.opts.Base+"/static/", http.StripPrefix(p.opts.Base+"/static/", p.files))
}

// view is what a template is given.
type view struct {
	Base, Title string
	Here        string // the entry of the navigation
	ReadOnly    bool
	Live        bool // the page is fetched again by itself
	Said        string
	Query       string // in the search box
	Now         time.Time
	Body        any
}

// page adds a route that shows something. ask answers within the request's time.
func (p *pages) page(mux *http.ServeMux, path, name string, ask func(context.Context, *http.Request) (view, error)) {
	mux.HandleFunc("GET "+p.opts.Base+path, func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), pageTime)
		defer cancel()
		v, err := ask(ctx, r)
		if err != nil {
			p.fail(w, r, err)
			return
		}
		v.Said = said(r.URL.Query())
		p.render(w, r, http.StatusOK, name, v)
	})
}

// change does what a form asks for, on behalf of somebody, and says where the browser goes then.
type change func(ctx context.Context, r *http.Request, by string) (next string, err error)

// act adds a route that changes something and then sends the browser on to a page that says what was done.
func (p *pages) act(mux *http.ServeMux, path string, do change) {
	mux.HandleFunc("POST "+p.opts.Base+path, func(w http.ResponseWriter, r *http.Request) {
		if p.opts.ReadOnly {
			p.fail(w, r, &problem{
				status: http.StatusForbidden, title: "Read-only", text: "This console changes nothing.",
				hint: "Use the command weir, or a console without read_only.",
			})
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), actTime)
		defer cancel()
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		if err := r.ParseForm(); err != nil {
			p.fail(w, r, &problem{status: http.StatusBadRequest, title: "The form cannot be read", text: "It is broken, or too long."})
			return
		}
		next, err := do(ctx, r, by(w))
		if err != nil {
			p.fail(w, r, err)
			return
		}
		http.Redirect(w, r, p.opts.Base+next, http.StatusSeeOther)
	})
}

// render writes a page once it is complete: half a page with status 200 would be taken for a whole one.
func (p *pages) render(w http.ResponseWriter, r *http.Request, status int, name string, v view) {
	v.Base, v.ReadOnly = p.opts.Base, p.opts.ReadOnly
	if v.Now.IsZero() {
		v.Now = time.Now()
	}
	var page bytes.Buffer
	if err := p.templates[name].Execute(&page, v); err != nil {
		p.opts.Logger.ErrorContext(r.Context(), "a page could not be made", "page", name, "error", err)
		http.Error(w, "The page could not be made; the console's log says why.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = page.WriteTo(w) // nobody is left to tell
}

// by names who asks, for others: the guard knows.
func by(w http.ResponseWriter) string {
	name := "somebody"
	if v, ok := w.(*visit); ok {
		name = cmp.Or(v.user, name)
	}
	return name + " (console)"
}

// done is where to go after an act, with what said makes a sentence of.
func done(path, what string, values url.Values) string {
	if values == nil {
		values = url.Values{}
	}
	values.Set("done", what)
	return path + "?" + values.Encode()
}
