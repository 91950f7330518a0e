package console

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"riverqueue.com/riverui"

	"github.com/fraiseql/weir/internal/jobs"
)

// newRiverUI makes River UI with a client that only reads and changes jobs: it works none.
func newRiverUI(pool *pgxpool.Pool, base string, log *slog.Logger) (*riverui.Handler, error) {
	log = log.With("component", "riverui")
	client, err := river.NewClient(riverpgxv5.New(pool), &river.Config{Schema: jobs.Schema, Logger: log})
	if err != nil {
		return nil, fmt.Errorf("river: %w", err)
	}
	ui, err := riverui.NewHandler(&riverui.HandlerOpts{
		Endpoints: riverui.NewEndpoints(client, nil), Logger: log, Prefix: base + "/river",
	})
	if err != nil {
		return nil, fmt.Errorf("river ui: %w", err)
	}
	return ui, nil
}

// startRiverUI begins its counting of jobs once there is something to count. That ends with the context.
func (c *Console) startRiverUI(ctx context.Context) {
	if err := c.database.await(ctx); err != nil {
		return
	}
	if err := c.river.Start(ctx); err != nil {
		c.log.Error("River UI does not count jobs", "error", err)
	}
}

// mountRiverUI adds River UI below base. Answers to other origins (CORS) are for River UI's own command to give, not for its
// handler: there are none here.
func mountRiverUI(mux *http.ServeMux, base string, ui http.Handler) {
	path := base + "/river"
	handler := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Security-Policy", riverUIPolicy)
		if strings.HasPrefix(r.URL.Path, path+"/assets/") { // named after their contents
			rw.Header().Set("Cache-Control", "private, max-age=31536000, immutable")
		}
		ui.ServeHTTP(rw, r)
	})
	mux.Handle(path, handler)
	mux.Handle(path+"/", handler)
}
