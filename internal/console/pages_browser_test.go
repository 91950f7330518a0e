package console

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/fraiseql/weir/internal/sandbox"
)

// stage is a console in front of a real worker, with a receiver whose answers the test decides.
type stage struct {
	*rig
	b     *tab
	work  *sandbox.Process
	erp   atomic.Int32   // the status that the ERP answers with
	calls atomic.Int32   // to the ERP
	log   sandbox.Output // of the worker
}

func newStage(t *testing.T) *stage {
	t.Helper()
	s := &stage{}
	s.erp.Store(http.StatusOK)
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/crm" {
			http.Error(w, `{"error": "unknown customer"}`, http.StatusUnprocessableEntity)
			return
		}
		s.calls.Add(1)
		w.WriteHeader(int(s.erp.Load()))
	}))
	t.Cleanup(receiver.Close)
	url := postgres.Database(t)
	rest := fmt.Sprintf(`
installation: production
source: {slot: %q}
http: {listen: "127.0.0.1:0"}
outbound: {allow: ["127.0.0.1"]}
observers:
  order-shipped:
    entity: Order
    event_type: UPDATE
    condition: "field_changed_to('status', 'shipped') && total > 100"
    actions: [{name: notify-erp, type: webhook, url: "%[2]s/erp", endpoint: erp.example.org}]
  customer-sync:
    entity: Customer
    actions: [{name: push-to-crm, type: webhook, url: "%[2]s/crm", endpoint: crm.example.org}]
  audit:
    entity: "*"
    actions: [{type: log, message_template: "{{ event_type }} {{ entity_type }}"}]
`, url[strings.LastIndex(url, "/")+1:strings.Index(url, "?")], receiver.URL)
	s.rig = newRigOn(t, url, "\n"+rest)
	s.past()
	s.spawn(url, rest)
	s.b = browser(t)
	return s
}

// spawn runs the worker's binary until the test ends.
func (s *stage) spawn(databaseURL, rest string) {
	s.t.Helper()
	dir := s.t.TempDir()
	build := exec.CommandContext(s.t.Context(), "go", "build", "-o", dir, "github.com/fraiseql/weir/cmd/worker")
	if out, err := build.CombinedOutput(); err != nil {
		s.t.Fatalf("build the worker: %v\n%s", err, out)
	}
	path := filepath.Join(dir, "weir.yaml")
	check(s.t, os.WriteFile(path, fmt.Appendf(nil, "database: {url: %q}\n%s", databaseURL, rest), 0o600))
	var err error
	s.work, err = sandbox.StartProcess(context.WithoutCancel(s.t.Context()), filepath.Join(dir, "worker"), []string{"--config", path}, nil, &s.log)
	check(s.t, err)
	s.t.Cleanup(func() {
		if err := s.work.Kill(); err != nil {
			s.t.Error(err)
		}
		if s.t.Failed() {
			s.t.Logf("worker:\n%s", s.log.String())
		}
	})
	s.await("the worker reads the stream", func() bool { return strings.Contains(s.log.String(), "reading the stream") })
}

// past is an hour of deliveries, which no test can wait for.
func (s *stage) past() {
	s.t.Helper()
	_, err := s.db.Exec(s.t.Context(), `
		INSERT INTO weir.river_job (kind, queue, state, attempt, max_attempts, args, metadata, attempted_at, finalized_at)
		SELECT 'weir_webhook', 'erp_example_org', 'completed', 1, 22,
		       jsonb_build_object('observer', (ARRAY['order-shipped', 'audit', 'customer-sync'])[1 + n % 3], 'action', 'notify-erp',
		           'entity', 'Order', 'entity_id', n::text, 'event_type', 'UPDATE', 'event_id', gen_random_uuid()::text, 'lsn', '0/1000',
		           'tx_index', n, 'day', to_char(now() - interval '1 day', 'YYYY-MM-DD'), 'pk', 0),
		       jsonb_build_object('output', jsonb_build_object('result', CASE WHEN n % 9 = 0 THEN 'cached' WHEN n % 31 = 0 THEN 'duplicate'
		           ELSE 'delivered' END, 'duration_ms', 20)),
		       at, at
		FROM generate_series(1, 1500) n, LATERAL (SELECT now() - make_interval(secs => 30 + 2.15 * n + 130 * (1 + sin(n / 70.0))) AS at) ended`)
	check(s.t, err)
}

// change writes a row of the change log, as an application does in the transaction of its mutation.
func (s *stage) change(entity, verb, data, before string) (id string) {
	s.t.Helper()
	check(s.t, s.db.QueryRow(s.t.Context(), `
		INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data, object_data_before)
		VALUES ($1, $2, gen_random_uuid(), $3::jsonb, nullif($4, '')::jsonb) RETURNING id`, entity, verb, data, before).Scan(&id))
	return id
}

func (s *stage) ship() (id string) {
	s.t.Helper()
	return s.change("Order", "UPDATE", `{"status": "shipped", "total": 249.90, "customer": "acme corp", "items": [{"sku": "A-1", "qty": 3}]}`,
		`{"status": "paid", "total": 249.90}`)
}

func (s *stage) dead() (n int) {
	s.t.Helper()
	check(s.t, s.db.QueryRow(s.t.Context(), `SELECT count(*) FROM weir.dead_letter`).Scan(&n))
	return n
}

// eval asks the page something.
func eval[T any](s *stage, js string) T {
	s.t.Helper()
	v, err := chromedp.Run(s.b, chromedp.Evaluate[T](js))
	if err != nil {
		s.t.Fatalf("%s: %v", js, err)
	}
	return v
}

// open goes to a page, and holds it to what every page must be.
func (s *stage) open(path string) {
	s.t.Helper()
	check(s.t, chromedp.Do(s.b, chromedp.Navigate(s.url+path)))
	s.await("the page "+path, func() bool {
		return eval[bool](s, `document.readyState === "complete" && document.querySelector("h1") !== null`)
	})
}

func (s *stage) look(width, height int64, scheme string) {
	s.t.Helper()
	check(s.t, chromedp.Do(s.b, chromedp.EmulateViewport(width, height)))
	_, err := chromedp.Call(s.b, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
	})
	check(s.t, err)
}

// faint lists texts whose contrast with what is behind them is below 4.5.
const faint = `(() => {
	const parse = (c) => { const m = c.match(/[\d.]+/g).map(Number); return { r: m[0], g: m[1], b: m[2], a: m.length > 3 ? m[3] : 1 }; };
	const lum = (c) => { const f = (v) => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
		return 0.2126 * f(c.r) + 0.7152 * f(c.g) + 0.0722 * f(c.b); };
	const behind = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c.a === 1) return c; }
		return { r: 255, g: 255, b: 255 }; };
	const found = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
	for (let n; (n = walk.nextNode());) {
		const e = n.parentElement;
		if (!n.data.trim() || e.closest("svg, noscript, script, .hidden, [hidden]") || !e.getClientRects().length) continue;
		const a = lum(parse(getComputedStyle(e).color)), b = lum(behind(e));
		const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
		if (contrast < 4.5) found.push(e.tagName + " " + n.data.trim().slice(0, 40) + " " + contrast.toFixed(2));
	}
	return found.join("; ");
})()`

// wider lists what makes the page wider than the screen.
const wider = `(() => {
	const width = document.documentElement.clientWidth;
	if (document.documentElement.scrollWidth <= width) return "";
	return [...document.querySelectorAll("body *")].filter((e) => !e.closest(".scroll, .hidden") && e.getBoundingClientRect().right > width + 1)
		.map((e) => e.tagName + "." + e.className).join(" ") || "something";
})()`

// TestConsoleInABrowser is one test, since a stage takes as long as what is played on it.
func TestConsoleInABrowser(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.look(1280, 900, "light")
	for _, act := range []struct {
		name string
		play func()
	}{{"a dead letter comes and goes", s.retries}, {"pausing", s.pauses}, {"typing", s.types}, {"every look of every page", s.looks}} {
		if !t.Run(act.name, func(t *testing.T) {
			s.t = t
			act.play()
		}) {
			break
		}
	}
	s.t = t
}

// looks shows the pages at both widths, dark and light.
func (s *stage) looks() {
	t := s.t
	t.Helper()
	_, err := s.db.Exec(t.Context(), `UPDATE weir.endpoint SET state = 'closed', open_until = NULL, manual = false`)
	check(t, err)
	before := s.calls.Load()
	event := s.ship()
	s.await("the ERP is called", func() bool { return s.calls.Load() > before })
	s.verdict("Everything flows")
	s.inspect("healthy", "light", 1280)
	for range 3 {
		s.ship()
		s.change("Customer", "UPDATE", `{"name": "Acme Corp", "city": "Nürnberg"}`, "")
	}
	s.await("three dead letters", func() bool { return s.dead() == 3 })
	_, err = s.db.Exec(t.Context(), `UPDATE weir.endpoint SET state = 'open', reason = '20 of 20 calls failed in 30s', changed_by = 'worker',
		open_until = now() + interval '1 h', changed_at = now() WHERE name = 'crm.example.org'`)
	check(t, err)
	var letter int64
	check(t, s.db.QueryRow(t.Context(), `SELECT max(id) FROM weir.dead_letter`).Scan(&letter))
	s.await("the history has it all", func() bool {
		var n int
		check(t, s.db.QueryRow(t.Context(), `SELECT count(*) FROM weir.document WHERE entity_type = 'Order'`).Scan(&n))
		return n >= 8
	})
	pages := map[string]string{
		"overview": "/", "dead-letters": "/dead-letters", "dead-letter": fmt.Sprint("/dead-letters/", letter), "search": "/search?q=status:shipped+acme",
		"event": "/events/" + event, "endpoints": "/endpoints", "remove": fmt.Sprint("/dead-letters/confirm?id=", letter), "error": "/events/none",
	}
	for name, path := range pages {
		s.open(path)
		for _, scheme := range []string{"light", "dark"} {
			s.look(1280, 900, scheme)
			s.inspect(name, scheme, 1280)
			s.look(375, 812, scheme)
			s.inspect(name, scheme, 375)
		}
	}
	check(t, s.work.Kill())
	_, err = s.db.Exec(t.Context(), `UPDATE weir.checkpoint SET state = 'gap', problem = 'slot weir was dropped'`)
	check(t, err)
	s.look(1280, 900, "light")
	s.verdict("3 things need attention")
	s.inspect("gap", "light", 1280)
}

// verdict waits until the first page says something. A machine that is busy may be late with what the worker reports of itself.
func (s *stage) verdict(text string) {
	s.t.Helper()
	s.open("/")
	s.await(text, func() bool { return eval[string](s, `document.getElementById("verdict").textContent`) == text })
}

// pictured are those of the looks that the documentation shows.
var pictured = []string{
	"healthy-light-1280", "overview-dark-1280", "gap-light-1280", "dead-letters-light-1280", "event-light-1280", "search-dark-1280",
	"overview-dark-375", "dead-letters-light-375",
}

func (s *stage) inspect(name, scheme string, width int) {
	s.t.Helper()
	at := fmt.Sprintf("%s-%s-%d", name, scheme, width)
	if found := eval[string](s, faint); found != "" {
		s.t.Errorf("%s: too faint: %s", at, found)
	}
	if found := eval[string](s, wider); found != "" {
		s.t.Errorf("%s: wider than the screen: %s", at, found)
	}
	if slices.Contains(pictured, at) {
		s.b.picture(s.t, "console-"+at)
	}
}

// press sends keys to what has the focus.
func (s *stage) press(keys string) {
	s.t.Helper()
	check(s.t, chromedp.Do(s.b, chromedp.KeyEvent(keys)))
}

// focused describes what has the focus.
func (s *stage) focused() string {
	s.t.Helper()
	return eval[string](s, `document.activeElement.getAttribute("aria-label") || document.activeElement.id || document.activeElement.textContent.trim()`)
}

// tabTo presses Tab until something has the focus.
func (s *stage) tabTo(what string) {
	s.t.Helper()
	for range 60 {
		s.press(kb.Tab)
		if s.focused() == what {
			return
		}
	}
	s.t.Fatalf("60 tabs do not lead to %q, but to %q", what, s.focused())
}

// retries: a dead letter appears by itself, is retried with the keyboard alone, and the worker delivers it.
func (s *stage) retries() {
	t := s.t
	t.Helper()
	s.erp.Store(http.StatusBadRequest)
	s.open("/dead-letters")
	check(t, chromedp.Do(s.b, chromedp.WaitVisible("#live")))
	s.press(kb.Tab)
	if s.focused() != "Skip to the content" {
		t.Errorf("the first thing to reach is %q", s.focused())
	}
	s.press("/")
	if s.focused() != "find" {
		t.Errorf(`"/" leads to %q`, s.focused())
	}
	eval[bool](s, `document.activeElement.blur(), (window.untouched = true)`)
	s.ship()
	s.await("the dead letter appears", func() bool { return eval[bool](s, `document.querySelector("#list button.small") !== null`) })
	if !eval[bool](s, `window.untouched === true && document.getElementById("summary").textContent.startsWith("1 dead letter")`) {
		t.Error("the page was loaded again, or nobody who listens is told")
	}
	var letter int64
	check(t, s.db.QueryRow(t.Context(), `SELECT id FROM weir.dead_letter`).Scan(&letter))

	s.erp.Store(http.StatusOK)
	before := s.calls.Load()
	s.tabTo(fmt.Sprint("Retry ", letter))
	s.press(kb.Enter)
	s.await("the page says so", func() bool {
		return eval[bool](s, `document.querySelector(".said")?.textContent.startsWith("1 dead letter retried") === true && !location.search.includes("done")`)
	})
	s.await("the ERP is called", func() bool { return s.calls.Load() == before+1 })
	s.await("none is left on the page", func() bool {
		return eval[bool](s, `document.getElementById("groups-h").textContent === "0 dead letters" && !document.querySelector("#list button")`)
	})
}

// types: a form that somebody fills in is left alone, and works by keyboard.
func (s *stage) types() {
	s.t.Helper()
	s.open("/endpoints")
	s.tabTo("Open the breaker of erp.example.org")
	for _, keys := range []string{kb.Enter, kb.Tab, kb.Tab, "it moves"} {
		s.press(keys)
	}
	_, err := s.db.Exec(s.t.Context(), `UPDATE weir.endpoint SET state = 'open', manual = true, changed_at = now() WHERE name = 'log'`)
	check(s.t, err)
	const fetched = `performance.getEntriesByType("resource").filter((e) => e.initiatorType === "fetch").length`
	before := eval[int](s, fetched)
	s.await("the page is fetched", func() bool { return eval[int](s, fetched) > before })
	if got := eval[string](s, `document.activeElement.value`); got != "it moves" {
		s.t.Errorf("what was typed has become %q", got)
	}
	s.press(kb.Enter)
	s.await("the breaker is open", func() bool {
		var n int
		check(s.t, s.db.QueryRow(s.t.Context(), `SELECT count(*) FROM weir.endpoint WHERE name = 'erp.example.org' AND state = 'open'
			AND reason = 'it moves' AND changed_by = 'somebody (console)'`).Scan(&n))
		return n == 1
	})
}

// pauses: who has paused the page, or is typing, is left alone.
func (s *stage) pauses() {
	s.t.Helper()
	s.tabTo("pause")
	s.press(kb.Enter)
	if !eval[bool](s, `document.getElementById("pause").getAttribute("aria-pressed") === "true"`) {
		s.t.Error("Enter does not pause")
	}
	s.await("it is said", func() bool {
		return eval[bool](s, `document.getElementById("updated").textContent.startsWith("paused, ")`)
	})
	s.press(kb.Enter)
	s.await("it goes on", func() bool {
		return eval[bool](s, `document.getElementById("pause").getAttribute("aria-pressed") === "false" && document.getElementById("updated").textContent === "updated just now"`)
	})
}
