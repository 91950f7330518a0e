package console

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/net/html"

	"github.com/fraiseql/weir/internal/action"
	"github.com/fraiseql/weir/internal/capture"
	"github.com/fraiseql/weir/internal/config"
	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/index"
	"github.com/fraiseql/weir/internal/observer"
	"github.com/fraiseql/weir/internal/ops"
)

// site is Weir's own pages on a database, without what guards them.
type site struct {
	t    *testing.T
	db   *pgxpool.Pool
	base string // of the paths
	http http.Handler
}

const siteConfig = `
database: {url: "postgres://localhost/x"}
observers:
  order-shipped:
    entity: Order
    event_type: UPDATE
    condition: "field_changed_to('status', 'shipped') && total > 100"
    actions: [{name: notify-erp, type: log, message_template: x}]
  large:
    entity: Order
    condition: "total > 1000"
    actions: [{type: log, message_template: x}]
  misspelt:
    entity: Order
    condition: "totla > 1000"
    actions: [{type: log, message_template: x}]
`

// newSite serves a migrated database of the test's own.
func newSite(t *testing.T, options ...func(*pagesOptions)) *site {
	t.Helper()
	return siteOf(t, postgres.Database(t), options...)
}

// siteOf serves a database. Its slot has the database's name: slots belong to the server.
func siteOf(t *testing.T, databaseURL string, options ...func(*pagesOptions)) *site {
	t.Helper()
	cfg := loaded(t, siteConfig)
	pool, err := connect(context.WithoutCancel(t.Context()), databaseURL)
	check(t, err)
	t.Cleanup(pool.Close)
	cfg.Source.Slot = capture.Name(pool.Config().ConnConfig.Database)
	observers, err := observer.New(cfg.Observers, action.Deps{Logger: slog.New(slog.DiscardHandler)})
	check(t, err)
	o := pagesOptions{DB: pool, Observers: observers, Logger: slog.New(slog.DiscardHandler), Config: cfg}
	for _, change := range options {
		change(&o)
	}
	p, err := newPages(t.Context(), o)
	check(t, err)
	t.Cleanup(func() { check(t, p.close()) })
	fromDatabase := http.NewServeMux()
	p.register(fromDatabase)
	database := &database{pool: pool, log: o.Logger}
	mux := http.NewServeMux()
	mux.Handle("/", database.needed(fromDatabase, p.fail))
	p.registerFiles(mux)
	return &site{t: t, db: pool, base: o.Base, http: mux}
}

// loaded is a configuration with this text.
func loaded(t *testing.T, text string) *config.Config {
	t.Helper()
	path := filepath.Join(t.TempDir(), "weir.yaml")
	check(t, os.WriteFile(path, []byte(text), 0o600))
	cfg, err := config.Load(t.Context(), config.Options{Path: path})
	check(t, err)
	return cfg
}

func readOnly(o *pagesOptions) { o.ReadOnly = true }

// shown is a page, or what a form was answered with.
type shown struct {
	t      *testing.T
	path   string
	status int
	next   string // where the browser is sent
	body   string
	text   string // of the body, blanks folded
}

func (s *site) get(path string) shown {
	s.t.Helper()
	return s.send(httptest.NewRequestWithContext(s.t.Context(), http.MethodGet, s.base+path, nil))
}

func (s *site) post(path string, values url.Values) shown {
	s.t.Helper()
	r := httptest.NewRequestWithContext(s.t.Context(), http.MethodPost, s.base+path, strings.NewReader(values.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return s.send(r)
}

func (s *site) send(r *http.Request) shown {
	s.t.Helper()
	r.Header.Set("Accept", "text/html") // as browsers do
	w := httptest.NewRecorder()
	s.http.ServeHTTP(&visit{ResponseWriter: w, user: "anna"}, r)
	body, err := io.ReadAll(w.Result().Body)
	check(s.t, err)
	a := shown{t: s.t, path: r.URL.String(), status: w.Code, next: w.Header().Get("Location"), body: string(body)}
	if strings.HasPrefix(w.Header().Get("Content-Type"), "text/html") && a.next == "" {
		root, err := html.Parse(strings.NewReader(a.body))
		check(s.t, err)
		checkMarkup(s.t, a.path, root)
		a.text = textOf(root)
	}
	return a
}

func (a shown) is(status int) shown {
	a.t.Helper()
	if a.status != status {
		a.t.Fatalf("%s: status %d, want %d: %s", a.path, a.status, status, a.text)
	}
	return a
}

// shows wants all of the texts on the page.
func (a shown) shows(texts ...string) shown {
	a.t.Helper()
	for _, text := range texts {
		if !strings.Contains(a.text, text) {
			a.t.Errorf("%s does not show %q: %s", a.path, text, a.text)
		}
	}
	return a
}

func (a shown) hides(texts ...string) shown {
	a.t.Helper()
	for _, text := range texts {
		if strings.Contains(a.body, text) {
			a.t.Errorf("%s has %q: %s", a.path, text, a.text)
		}
	}
	return a
}

// follows is the page that the browser is sent to.
func (s *site) follows(a shown) shown {
	s.t.Helper()
	a.is(http.StatusSeeOther)
	return s.get(strings.TrimPrefix(a.next, s.base)).is(http.StatusOK)
}

func (s *site) exec(sql string, args ...any) {
	s.t.Helper()
	_, err := s.db.Exec(s.t.Context(), sql, args...)
	check(s.t, err)
}

func (s *site) count(sql string, args ...any) (n int) {
	s.t.Helper()
	check(s.t, s.db.QueryRow(s.t.Context(), sql, args...).Scan(&n))
	return n
}

// slot makes a replication slot as a worker does, and a checkpoint that stands where it stands.
func (s *site) slot() {
	s.t.Helper()
	s.exec(`CREATE PUBLICATION weir FOR TABLE core.tb_entity_change_log WITH (publish = 'insert')`)
	s.exec(`SELECT pg_create_logical_replication_slot(current_database(), 'pgoutput')`)
	s.checkpoint("streaming")
}

func (s *site) checkpoint(state string) {
	s.t.Helper()
	s.exec(`
		INSERT INTO weir.checkpoint (system_identifier, timeline, installation, slot, lsn, owner, epoch, events, commit_time, state, problem)
		SELECT (SELECT system_identifier::text FROM pg_control_system()), 1, 'production', current_database(),
		       coalesce(max(confirmed_flush_lsn), '0/1000'), 'worker-1', 3, 4217, now() - interval '3 s', $1::text,
		       CASE WHEN $1::text = 'streaming' THEN '' ELSE 'slot weir was dropped' END
		  FROM pg_replication_slots WHERE slot_name = current_database()`, state)
}

func (s *site) worker(id string, seen time.Duration) {
	s.t.Helper()
	s.exec(`INSERT INTO weir.worker (client_id, hostname, pid, version, seen_at, config_loaded_at) VALUES ($1, 'host-a', 4711, 'v1.4.0', now() - $2::interval, now())`,
		id, seen)
}

func newEvent(n int64) *event.Event {
	return &event.Event{
		ID: uuid.NewSHA1(uuid.Nil, fmt.Append(nil, n)), Type: event.Update, EntityType: "Order", EntityID: fmt.Sprint("order-", n),
		Data:    json.RawMessage(fmt.Sprintf(`{"status":"shipped","total":100.10,"customer":"acme corp","no":%d}`, 9007199254740993000+n)),
		Changes: json.RawMessage(`{"status":{"old":"paid","new":"shipped"}}`), UpdatedFields: []string{"status"},
		Timestamp: event.Time(time.Now().Truncate(time.Microsecond)), CommitTime: event.Time(time.Now().Add(-time.Minute)),
		LSN: event.LSN(0x1000 + n), TxIndex: n, PK: n,
	}
}

// record stores events as ingest does, and makes them searchable.
func (s *site) record(events ...*event.Event) {
	s.t.Helper()
	all := make([]index.Ingested, len(events))
	for i, e := range events {
		all[i] = index.Ingested{Event: e, Matched: true}
	}
	check(s.t, pgx.BeginFunc(s.t.Context(), s.db, func(tx pgx.Tx) error {
		return index.New(0, index.Config{}).Record(s.t.Context(), tx, all)
	}))
	conn, err := s.db.Acquire(s.t.Context())
	check(s.t, err)
	defer conn.Release()
	today := time.Now().UTC().Truncate(24 * time.Hour)
	_, err = ops.Reindex(s.t.Context(), conn.Conn(), index.Reindex{From: today.AddDate(0, 0, -2), To: today.AddDate(0, 0, 1)})
	check(s.t, err)
	s.exec("UPDATE weir.history SET event_seq = (SELECT max(seq) FROM weir.event) WHERE store = 'postgres'")
}

// job is a row of weir.river_job. The zero value, but for the event, is a dead letter of order-shipped/notify-erp that has run out
// of its three attempts.
type job struct {
	event                          *event.Event
	kind, observer, action, queue  string
	state, mark, lastError, result string
	ended                          time.Duration // ago
}

func (s *site) job(j job) (id int64) {
	s.t.Helper()
	or := func(text *string, otherwise string) {
		if *text == "" {
			*text = otherwise
		}
	}
	or(&j.kind, "weir_webhook")
	or(&j.observer, "order-shipped")
	or(&j.action, "notify-erp")
	or(&j.queue, "erp_example_org")
	or(&j.state, "discarded")
	or(&j.result, "dead")
	if j.event == nil {
		j.event = newEvent(1)
	}
	args, err := json.Marshal(map[string]any{
		"observer": j.observer, "action": j.action, "entity": j.event.EntityType, "entity_id": j.event.EntityID,
		"event_type": j.event.Type, "event_id": j.event.ID, "lsn": j.event.LSN, "tx_index": j.event.TxIndex,
		"day": j.event.Day().Format(time.DateOnly), "pk": j.event.PK,
	})
	check(s.t, err)
	meta := map[string]any{"output": map[string]any{"result": j.result, "status": 503, "duration_ms": 12}}
	if j.mark != "" {
		meta["weir_dead_letter"] = j.mark
	}
	metadata, err := json.Marshal(meta)
	check(s.t, err)
	failures := []string{}
	if j.state != "completed" {
		or(&j.lastError, "503 Service Unavailable")
		for n := 1; n <= 3; n++ {
			one, err := json.Marshal(map[string]any{"at": time.Now().Add(-j.ended - time.Duration(4-n)*time.Second), "attempt": n, "error": j.lastError})
			check(s.t, err)
			failures = append(failures, string(one))
		}
	}
	check(s.t, s.db.QueryRow(s.t.Context(), `
		INSERT INTO weir.river_job (kind, queue, state, attempt, max_attempts, args, metadata, errors, attempted_at, finalized_at)
		VALUES ($1, $2, $3::text::weir.river_job_state, 3, 3, $4, $5, $6::text[]::jsonb[], now() - $7::interval,
		        CASE WHEN $3::text IN ('discarded', 'cancelled', 'completed') THEN now() - $7::interval END)
		RETURNING id`, j.kind, j.queue, j.state, string(args), string(metadata), failures, j.ended).Scan(&id))
	return id
}

// reader reads the slot until the test ends, as the worker of a name.
func (s *site) reader(clientID string) {
	s.t.Helper()
	ctx := context.WithoutCancel(s.t.Context())
	cfg := s.db.Config().ConnConfig.Config.Copy()
	cfg.RuntimeParams["replication"], cfg.RuntimeParams["application_name"] = "database", "weir:"+clientID
	conn, err := pgconn.ConnectConfig(ctx, cfg)
	check(s.t, err)
	s.t.Cleanup(func() { _ = conn.Close(ctx) })
	conn.Frontend().Send(&pgproto3.Query{String: fmt.Sprintf(
		"START_REPLICATION SLOT %s LOGICAL 0/0 (proto_version '1', publication_names 'weir')", cfg.Database)})
	check(s.t, conn.Frontend().Flush())
	_, err = conn.ReceiveMessage(ctx) // CopyBoth: it reads
	check(s.t, err)
}
