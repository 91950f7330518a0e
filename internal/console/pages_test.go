package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/fraiseql/weir/internal/capture"
	"github.com/fraiseql/weir/internal/config"
	"github.com/fraiseql/weir/internal/event"
)

func TestOverviewOfANewDatabase(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.get("/").is(http.StatusOK).shows("1 thing to know", "No worker has been here yet", "not started", "No worker is running",
		"No endpoints yet", "None ended in the last hour").hides("dead-letters/confirm")
}

func TestOverviewOfAHealthyStream(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.slot()
	const reader = "worker-a"
	s.reader(reader)
	s.exec(`UPDATE weir.checkpoint SET owner = $1`, reader)
	s.worker(reader, 0)
	s.worker("worker-b", 0)
	s.exec(`UPDATE weir.worker SET stream_at = now() WHERE client_id = $1`, reader)
	s.exec(`INSERT INTO weir.endpoint (name) VALUES ('erp.example.org')`)
	s.job(job{state: "completed", result: "delivered", ended: time.Minute})
	s.job(job{state: "completed", result: "cached", ended: time.Minute, observer: "mailer"})
	s.job(job{state: "retryable"})
	s.get("/").is(http.StatusOK).shows("Everything flows", "streaming by "+reader, "reserved", "4 217 events so far", "production",
		"standby", "reads the stream", "erp.example.org closed 0 0 1 0", "delivered 1", "cached 1", "mailer").hides("No worker")
}

func TestOverviewOfTrouble(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		make  func(s *site)
		shows []string
	}{
		"a gap": {
			func(s *site) {
				s.slot()
				s.exec(`UPDATE weir.checkpoint SET state = 'gap', problem = 'slot weir was dropped'`)
			},
			[]string{"There is a gap", "slot weir was dropped", "weir accept-gap", "need attention"},
		},
		"a recovery": {
			func(s *site) {
				s.slot()
				s.exec(`UPDATE weir.checkpoint SET state = 'recovering', problem = 'the slot was lost'`)
			},
			[]string{"being recovered from the change log", "recovering"},
		},
		"stopped":       {func(s *site) { s.slot() }, []string{"Nobody reads the stream", "weir doctor", "No worker is running, so nothing is delivered"}},
		"no slot":       {func(s *site) { s.checkpoint("streaming") }, []string{"does not exist any more", "no slot"}},
		"only standbys": {func(s *site) { s.slot(); s.worker("worker-b", 0) }, []string{"Nobody reads the stream", "standby", "nobody reads"}},
		"a dead worker": {func(s *site) { s.slot(); s.worker("worker-b", time.Minute) }, []string{"Worker worker-b has given no sign of life for 1 min"}},
		"an older configuration": {
			func(s *site) {
				s.worker("worker-b", 0)
				s.exec(`UPDATE weir.worker SET config_error = 'weir.yaml:3: no'`)
			},
			[]string{"works with an older configuration: weir.yaml:3: no", "weir validate-config"},
		},
		"an open breaker": {func(s *site) {
			s.exec(`INSERT INTO weir.endpoint (name, state, reason, open_until) VALUES ('erp', 'open', '20 of 20 calls failed', now() + interval '30 s')`)
		}, []string{"The breaker of erp is open: 20 of 20 calls failed."}},
		"a paused stream": {func(s *site) {
			s.slot()
			s.exec(`INSERT INTO weir.pause (scope, name, paused_by, reason) VALUES ('stream', '', 'anna', 'an upgrade')`)
		}, []string{"Paused: the stream, for", ", by anna: an upgrade.", "weir resume --stream", "paused"}},
		"a paused observer": {func(s *site) {
			s.exec(`INSERT INTO weir.pause (scope, name, paused_by) VALUES ('observer', 'order-shipped', 'anna')`)
		}, []string{"Paused: observer order-shipped, for", "weir resume --observer order-shipped"}},
		"a gone action": {
			func(s *site) {
				s.exec(`INSERT INTO weir.gone (observer, action, target) VALUES ('order-shipped', 'notify', 'x')`)
			},
			[]string{"The target of order-shipped/notify is gone"},
		},
		"dead letters": {func(s *site) { s.job(job{}); s.job(job{}) }, []string{"2 dead letters wait for a person.", "dead 2"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			tt.make(s)
			s.get("/").is(http.StatusOK).shows(tt.shows...)
		})
	}
}

func TestOverviewOfRanges(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.job(job{ended: 5 * time.Hour, observer: "mailer"})
	s.job(job{ended: 6 * 24 * time.Hour})
	for name, dead := range map[string]string{"1h": "None ended", "6h": "dead 1", "24h": "dead 1", "7d": "dead 2", "nonsense": "None ended"} {
		s.get("/?range=" + name).is(http.StatusOK).shows(dead)
	}
	s.get("/?range=7d&observer=mailer").is(http.StatusOK).shows("Deliveries of mailer", "dead 1", "All observers")
}

func TestPagesBelowAPrefix(t *testing.T) {
	t.Parallel()
	s := newSite(t, func(o *pagesOptions) { o.Base = "/weir" })
	id := s.job(job{})
	for _, path := range []string{"/", "/dead-letters", "/search", "/endpoints", fmt.Sprint("/dead-letters/", id)} {
		a := s.get(path).is(http.StatusOK)
		for _, link := range []string{`href="/`, `action="/`, `src="/`} {
			for _, part := range strings.Split(a.body, link)[1:] {
				if !strings.HasPrefix(part, "weir/") {
					t.Errorf("%s: %s%.30s", path, link, part)
				}
			}
		}
	}
	if next := s.post(fmt.Sprintf("/dead-letters/%d/retry", id), nil).is(http.StatusSeeOther).next; !strings.HasPrefix(next, "/weir/dead-letters?") {
		t.Errorf("sent to %s", next)
	}
}

func TestStaticFiles(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	page := s.get("/").body
	for name, kind := range map[string]string{"console.css": "text/css", "console.js": "text/javascript", "icon.svg": "image/svg+xml"} {
		_, rest, found := strings.Cut(page, "/static/"+name)
		version, _, _ := strings.Cut(rest, `"`)
		if !found {
			t.Fatalf("%s is not loaded", name)
		}
		w := httptest.NewRecorder()
		s.http.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/static/"+name+version, nil))
		if w.Code != http.StatusOK || !strings.HasPrefix(w.Header().Get("Content-Type"), kind) || !strings.Contains(w.Header().Get("Cache-Control"), "immutable") {
			t.Errorf("%s: %d %v", name, w.Code, w.Header())
		}
	}
	s.get("/static/nothing").is(http.StatusNotFound)
	s.get("/static/../pages.go").hides("package console")
}

func TestErrorPages(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for path, status := range map[string]int{
		"/dead-letters/1": http.StatusNotFound, "/dead-letters/x": http.StatusBadRequest, "/dead-letters?since=soon": http.StatusBadRequest,
		"/dead-letters?after=x": http.StatusBadRequest, "/events/x": http.StatusBadRequest,
		"/events/0190a0c2-7f0e-7c3a-8a52-3f2d1f0c9b11": http.StatusNotFound, "/nowhere": http.StatusNotFound, "/dead-letters/confirm?id=5": http.StatusNotFound,
	} {
		s.get(path).is(status)
	}
	s.post("/endpoints/open", url.Values{"endpoint": {"nobody"}}).is(http.StatusNotFound)
	s.post("/endpoints/open", url.Values{"endpoint": {"nobody"}, "for": {"soon"}}).is(http.StatusBadRequest)
	s.post("/dead-letters/retry", url.Values{"id": {"x"}}).is(http.StatusBadRequest)
}

func TestNotMigrated(t *testing.T) {
	t.Parallel()
	s := siteOf(t, postgres.EmptyDatabase(t))
	for _, path := range []string{"/", "/dead-letters", "/search?q=x", "/endpoints", "/events/0190a0c2-7f0e-7c3a-8a52-3f2d1f0c9b11", "/dead-letters/1"} {
		s.get(path).is(http.StatusServiceUnavailable).shows("The database has not been migrated", "weir migrate up")
	}
	s.post("/dead-letters/1/retry", nil).is(http.StatusServiceUnavailable)
}

// TestPagesWithoutDatabase: nothing of the URL is shown.
func TestPagesWithoutDatabase(t *testing.T) {
	t.Parallel()
	s := siteOf(t, "postgres://somebody:hidden-password@127.0.0.1:1/weir")
	s.get("/").is(http.StatusServiceUnavailable).shows("The database cannot be reached", "weir doctor").hides("hidden-password", "somebody", "127.0.0.1")
}

func TestReadOnlyPages(t *testing.T) {
	t.Parallel()
	s := newSite(t, readOnly)
	id := s.job(job{})
	s.exec(`INSERT INTO weir.endpoint (name) VALUES ('erp')`)
	s.exec(`INSERT INTO weir.gone (observer, action, target) VALUES ('order-shipped', 'notify', 'x')`)
	for _, path := range []string{"/", "/dead-letters", fmt.Sprint("/dead-letters/", id), fmt.Sprint("/dead-letters/confirm?id=", id), "/endpoints"} {
		s.get(path).is(http.StatusOK).shows("read-only").hides(`method="post"`, `class="danger"`, "formaction", `action="/endpoints/`, "Remove…")
	}
	for _, path := range []string{
		"/dead-letters/retry", "/dead-letters/remove", fmt.Sprintf("/dead-letters/%d/retry", id), fmt.Sprintf("/dead-letters/%d/remove", id),
		"/endpoints/open", "/endpoints/close",
	} {
		s.post(path, url.Values{"id": {fmt.Sprint(id)}, "all": {"1"}, "endpoint": {"erp"}}).is(http.StatusForbidden).shows("This console changes nothing")
	}
	if s.count(`SELECT count(*) FROM weir.dead_letter`) != 1 || s.count(`SELECT count(*) FROM weir.endpoint WHERE state = 'closed'`) != 1 {
		t.Error("something was changed")
	}
}

func TestEndpointsPage(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.get("/endpoints").is(http.StatusOK).shows("No endpoints yet", "None.")
	s.exec(`INSERT INTO weir.endpoint (name) VALUES ('erp.example.org'), ('crm')`)
	s.exec(`INSERT INTO weir.gone (observer, action, target) VALUES ('order-shipped', 'notify', 'x')`)
	s.job(job{state: "retryable"})
	s.job(job{state: "available", queue: "weir_change", kind: "weir_change"})
	s.get("/endpoints").is(http.StatusOK).shows("erp.example.org closed – – – 0 0 1 0 Open…", "weir_change – – – – 0 1 0 0", "order-shipped/notify", "Deliver again")
	how := url.Values{"endpoint": {"erp.example.org"}, "for": {"30m"}, "reason": {"it moves"}}
	s.follows(s.post("/endpoints/open", how)).shows("The breaker is open", "erp.example.org open for 30 min", "anna (console)", "it moves")
	if s.count(`SELECT count(*) FROM weir.endpoint WHERE state = 'open' AND manual AND open_until BETWEEN now() + interval '29 min' AND now() + interval '30 min'`) != 1 {
		t.Error("the breaker is not open for half an hour")
	}
	s.follows(s.post("/endpoints/open", url.Values{"endpoint": {"crm"}})).shows("crm open until somebody closes it")
	s.follows(s.post("/endpoints/close", how)).shows("The breaker is closed", "erp.example.org closed")
	s.follows(s.post("/endpoints/close", url.Values{"endpoint": {"order-shipped/notify"}})).shows("The action delivers again", "None.")
}

func TestSearchPage(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.get("/search").is(http.StatusOK).shows("No events match")
	e, other := newEvent(1), newEvent(2)
	other.Data, other.Changes = json.RawMessage(`{"status":"paid","total":5}`), nil
	s.job(job{event: e})
	s.record(e, other)
	s.get("/search").is(http.StatusOK).shows("order-1", "order-2")
	found := s.get("/search?q=status:shipped+acme&since=24h").is(http.StatusOK).shows("order-1", "dead letter order-shipped/notify-erp").hides("order-2")
	if !strings.Contains(found.body, "<mark>acme</mark>") || !strings.Contains(found.body, fmt.Sprint("/events/", e.ID)) {
		t.Errorf("got %s", found.body)
	}
	s.get("/search?entity=Order/order-2").is(http.StatusOK).shows("order-2").hides("order-1")
	s.get("/search?q=" + url.QueryEscape(`"open`)).is(http.StatusOK).shows("query, character 1: the quote is not closed")
	s.get("/search?since=soon").is(http.StatusOK).shows("Since when?")
	s.get("/search?outcome=nonsense").is(http.StatusOK).shows("expected one of delivered")
}

// TestElasticsearchAway: PostgreSQL answers where it has the same history.
func TestElasticsearchAway(t *testing.T) {
	t.Parallel()
	for store, status := range map[string]int{"both": http.StatusOK, "elasticsearch": http.StatusServiceUnavailable} {
		t.Run(store, func(t *testing.T) {
			t.Parallel()
			cfg := loaded(t, siteConfig+"elasticsearch: {urls: [\"http://127.0.0.1:1\"]}\nhistory: {store: "+store+"}\n")
			s := newSite(t, func(o *pagesOptions) { o.Config = cfg })
			e := newEvent(1)
			s.record(e)
			s.exec("UPDATE weir.history SET event_seq = (SELECT max(seq) FROM weir.event)")
			if a := s.get("/search?q=acme").is(status); status == http.StatusOK {
				a.shows("Elasticsearch does not answer: PostgreSQL did instead", "order-1")
			} else {
				a.shows("Elasticsearch does not answer", "the section elasticsearch of the configuration")
			}
			s.get(fmt.Sprint("/events/", e.ID)).is(http.StatusOK).shows("what only it has is not shown", "UPDATE Order order-1")
		})
	}
}

// TestSourceElsewhere: the slot is where the change log is.
func TestSourceElsewhere(t *testing.T) {
	t.Parallel()
	source := newSite(t)
	source.slot()
	there, err := config.ParseURL(source.db.Config().ConnString())
	check(t, err)
	s := newSite(t, func(o *pagesOptions) {
		o.Source, o.Config.Source.Slot = there, capture.Name(source.db.Config().ConnConfig.Database)
	})
	s.get("/").is(http.StatusOK).shows("stopped", "reserved", "nobody reads")
}

// TestErrorsExplained: a person learns what it means, and no more.
func TestErrorsExplained(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		err    error
		status int
		title  string
	}{
		"slow":       {fmt.Errorf("list: %w", context.DeadlineExceeded), http.StatusServiceUnavailable, "This took too long"},
		"refused":    {&pgconn.PgError{Code: "42501", Message: "permission denied"}, http.StatusInternalServerError, "PostgreSQL refused"},
		"stopping":   {&pgconn.PgError{Code: "57P01"}, http.StatusServiceUnavailable, "The database cannot be reached"},
		"unforeseen": {errors.New("x"), http.StatusInternalServerError, "This went wrong"},
	} {
		if got := explain(tt.err); got.status != tt.status || got.title != tt.title {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestSearchPages(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	var events []*event.Event
	for n := range int64(searchPage + 1) {
		events = append(events, newEvent(n+1))
	}
	s.record(events...)
	first := s.get("/search?q=acme").is(http.StatusOK)
	_, rest, found := strings.Cut(first.body, `href="/search?after=`)
	after, _, _ := strings.Cut(rest, "&")
	if n := strings.Count(first.body, "<article"); n != searchPage || !found {
		t.Fatalf("%d on the first page", n)
	}
	if n := strings.Count(s.get("/search?q=acme&after="+after).body, "<article"); n != 1 {
		t.Errorf("%d on the second page", n)
	}
}

func TestStoryOfAnEvent(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	e := newEvent(1)
	s.record(e)
	dead := s.job(job{event: e, lastError: "connection refused"})
	s.job(job{event: e, observer: "mailer", action: "mail", state: "completed", result: "delivered"})
	a := s.get(fmt.Sprint("/events/", e.ID)).is(http.StatusOK).shows("UPDATE Order order-1", "committed at 0/1001, change 1", "ingested 2 deliveries known",
		"order-shipped/notify-erp failed, attempt 2 connection refused", "became a dead letter attempts_exhausted", "mailer/mail ended delivered (503)",
		"match leads to notify-erp", "total > 1000 is false (total = 100.10)", "condition error", "9007199254740993001")
	if !strings.Contains(a.body, fmt.Sprintf("/dead-letters/%d\"", dead)) {
		t.Error("no link to the dead letter")
	}
	unknown := newSite(t, func(o *pagesOptions) { o.Observers = nil })
	unknown.record(e)
	unknown.get(fmt.Sprint("/events/", e.ID)).is(http.StatusOK).shows("Not evaluated", "None. Those that ended well")
}

// TestHostileData: whatever an application writes stays text, and is cut where it is long.
func TestHostileData(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	const script = `<script>alert("x")</script><img src=x onerror=alert(1)>`
	e := newEvent(1)
	e.EntityType, e.EntityID = "Order"+script, script+"\u202e"+strings.Repeat("long ", 2000)
	e.Data = json.RawMessage(fmt.Sprintf(`{"name":%q,"rtl":"\u05d0\u05d1","big":%q}`, "acme "+script, strings.Repeat("x", 500_000)))
	id := s.job(job{event: e, observer: script, action: script, queue: "erp", lastError: script + strings.Repeat(" and on", 5000)})
	s.record(e)
	s.exec(`INSERT INTO weir.endpoint (name, state, reason, changed_by, open_until) VALUES ($1, 'open', $1, $1, 'infinity')`, script)
	s.worker(script, time.Minute)
	for _, path := range []string{
		"/", "/?range=1h&observer=" + url.QueryEscape(script), "/dead-letters", "/dead-letters?error=" + url.QueryEscape(script), "/search?q=acme",
		"/search?q=" + url.QueryEscape(script), fmt.Sprint("/dead-letters/", id), fmt.Sprint("/dead-letters/confirm?id=", id), fmt.Sprint("/events/", e.ID), "/endpoints",
	} {
		a := s.get(path).is(http.StatusOK).hides("<script>alert", "<img src=x", "javascript:")
		if len(a.body) > 250_000 {
			t.Errorf("%s has %d bytes", path, len(a.body))
		}
	}
	s.get(fmt.Sprint("/dead-letters/", id)).shows(`alert("x")`, "more)")
}

// TestSaid: a made-up link cannot say what it likes.
func TestSaid(t *testing.T) {
	t.Parallel()
	for query, want := range map[string]string{
		"":                                 "",
		"done=send+me+money":               "",
		"done=retried&changed=1":           "1 dead letter retried: a worker takes it up at once.",
		"done=removed&changed=3":           "3 dead letters removed.",
		"done=removed&changed=x":           "0 dead letters removed.",
		"done=retried&changed=2&missing=1": "2 dead letters retried: workers take them up at once. 1 more had been dealt with already.",
	} {
		q, err := url.ParseQuery(query)
		check(t, err)
		if got := said(q); got != want {
			t.Errorf("%s: %q, want %q", query, got, want)
		}
	}
}
