package console

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/fraiseql/weir/internal/ops"
)

// problem is an error for the person in front of the browser.
type problem struct {
	status            int
	title, text, hint string
	command           string // to run
}

// Error is for logs.
func (p *problem) Error() string { return p.text }

func badRequest(text string) *problem {
	return &problem{status: http.StatusBadRequest, title: "This cannot be asked", text: text}
}

// fail shows what went wrong and what to do about it.
func (p *pages) fail(w http.ResponseWriter, r *http.Request, err error) {
	shown := explain(err)
	if shown.status >= http.StatusInternalServerError {
		p.opts.Logger.WarnContext(r.Context(), "a request failed", "path", r.URL.Path, "status", shown.status, "error", err)
	}
	p.render(w, r, shown.status, "error", view{
		Title: shown.title, Live: r.Method == http.MethodGet && shown.status == http.StatusServiceUnavailable,
		Body: struct{ Text, Hint, Command string }{shown.text, shown.hint, shown.command},
	})
}

// explain finds out what an error means to a person. Errors of connections name hosts and users: they are for the log.
func explain(err error) *problem {
	var shown *problem
	var old *ops.NotMigratedError
	var unknown *ops.UnknownBreakerError
	var elastic *ops.ElasticsearchError
	var refused *pgconn.PgError
	switch {
	case errors.As(err, &shown):
		return shown
	case errors.As(err, &old):
		p := &problem{
			status: http.StatusServiceUnavailable, title: "The database has not been migrated",
			text: "There is no schema weir in it yet.", hint: "Run:", command: "weir migrate up",
		}
		if old.Have > 0 {
			p.text = "Its schema is older than this console needs."
		}
		return p
	case errors.Is(err, ops.ErrNoDeadLetter):
		return &problem{
			status: http.StatusNotFound, title: "No dead letter",
			text: "There is no such dead letter, or no longer one: it may have been retried or removed.",
		}
	case errors.Is(err, ops.ErrNoEvent):
		return &problem{
			status: http.StatusNotFound, title: "No such event",
			text: "Nothing is known of this event: it has not been ingested yet, or it is older than the history.",
			hint: "Is the stream behind? See:", command: "weir status",
		}
	case errors.As(err, &unknown):
		return &problem{status: http.StatusNotFound, title: "No such endpoint", text: "Nobody knows this endpoint any more."}
	case errors.As(err, &elastic):
		return &problem{
			status: http.StatusServiceUnavailable, title: "Elasticsearch does not answer",
			text: "The history is in Elasticsearch, which did not answer, or refused.",
			hint: "Check that it runs, and the section elasticsearch of the configuration.",
		}
	case errors.As(err, &refused) && !away(refused):
		return &problem{
			status: http.StatusInternalServerError, title: "PostgreSQL refused", text: refused.Message + " (" + refused.Code + ").",
			hint: "Look for what is wrong with the setup:", command: "weir doctor",
		}
	case errors.Is(err, context.DeadlineExceeded) && !errors.As(err, new(*pgconn.ConnectError)):
		return &problem{
			status: http.StatusServiceUnavailable, title: "This took too long",
			text: "The database is busy, or there is too much to look at. What had been done before stays done.",
			hint: "Ask for less, or use the command line, which has more patience:", command: "weir --help",
		}
	case unreachable(err):
		return &problem{
			status: http.StatusServiceUnavailable, title: "The database cannot be reached",
			text: "Nothing can be shown or done until it can.",
			hint: "Check that it runs, and database.url of the configuration. The console's log says more. See:", command: "weir doctor",
		}
	default:
		return &problem{
			status: http.StatusInternalServerError, title: "This went wrong", text: "The console's log says what it was.",
		}
	}
}

// away says that PostgreSQL is starting, stopping, or lets nobody in.
func away(e *pgconn.PgError) bool {
	begins := func(class string) bool { return strings.HasPrefix(e.Code, class) }
	return begins("57P") || begins("53") || begins("28") || e.Code == "3D000"
}

func unreachable(err error) bool {
	var connect *pgconn.ConnectError
	var refused *pgconn.PgError
	var network net.Error
	return errors.As(err, &connect) || errors.As(err, &network) || errors.As(err, &refused) && away(refused) ||
		pgconn.SafeToRetry(err)
}
