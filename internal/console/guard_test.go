package console

import (
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/riverqueue/apiframe/apiendpoint"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivershared/baseservice"
	"riverqueue.com/riverui"
	"riverqueue.com/riverui/uiendpoints"
)

// route is one that a client may ask for.
type route struct{ method, path, body string }

// riverRoutes are all that River UI's API has, as it says itself, for the jobs of insertAll.
func riverRoutes(t *testing.T, ids map[string]int64) (routes []route) {
	t.Helper()
	client, err := river.NewClient(riverpgxv5.New(nil), &river.Config{})
	check(t, err)
	log := slog.New(slog.DiscardHandler)
	endpoints := riverui.NewEndpoints(client, nil)
	endpoints.Configure(&uiendpoints.BundleOpts{})
	bodies := map[string]string{
		"POST /api/jobs/cancel":    fmt.Sprintf(`{"ids":["%d"]}`, ids["available"]),
		"POST /api/jobs/retry":     fmt.Sprintf(`{"ids":["%d"]}`, ids["discarded"]),
		"POST /api/jobs/delete":    fmt.Sprintf(`{"ids":["%d"]}`, ids["completed"]),
		"PATCH /api/queues/{name}": `{"concurrency":{"global_limit":7}}`,
	}
	fill := strings.NewReplacer("{job_id}", fmt.Sprint(ids["discarded"]), "{name}", "erp_example_org")
	for _, e := range endpoints.MountEndpoints(baseservice.NewArchetype(log), log, http.NewServeMux(), &apiendpoint.MountOpts{Logger: log}) {
		pattern := e.Meta().Pattern
		method, path, _ := strings.Cut(pattern, " ")
		routes = append(routes, route{method, "/river" + fill.Replace(path), bodies[pattern]})
	}
	if len(routes) < 15 {
		t.Fatalf("only %d routes: does River UI still list them?", len(routes))
	}
	return routes
}

// allRoutes are those of River UI's API and of everything else, each with every method that may change something.
func allRoutes(t *testing.T, ids map[string]int64) (routes []route) {
	t.Helper()
	api := riverRoutes(t, ids)
	routes = append(routes, api...)
	paths := []string{
		"/", "/dead-letters", "/dead-letters/" + fmt.Sprint(ids["discarded"]) + "/retry", "/dead-letters/" + fmt.Sprint(ids["discarded"]) + "/remove",
		"/search", "/events/1", "/endpoints", "/static/x.css", "/metrics", "/healthz", "/nowhere", "/river", "/river/", "/river/jobs", "/river/assets/x",
	}
	for _, r := range api {
		paths = append(paths, r.path)
	}
	for _, path := range paths {
		for _, method := range []string{"POST", "PUT", "PATCH", "DELETE", "PROPFIND", "TRACE", "post"} {
			body := ""
			for _, r := range api {
				if r.path == path && r.method != http.MethodGet {
					body = r.body
				}
			}
			routes = append(routes, route{method, path, body})
		}
	}
	return routes
}

// Each of River UI's buttons does change something where that is allowed: what the next tests refuse is real.
func TestRiverUIChanges(t *testing.T) {
	t.Parallel()
	r := newRig(t, "prefix: /weir")
	ids := r.insertAll()
	changes := 0
	for _, route := range riverRoutes(t, ids) {
		before := r.jobs()
		status, text, _ := r.do(route.method, route.path, route.body)
		changed := r.jobs() != before
		if readsOnly(route.method) && changed || !readsOnly(route.method) && (!changed || status != http.StatusOK) {
			t.Errorf("%v: %d, changed: %t\n%s", route, status, changed, text)
		}
		if changed {
			changes++
		}
	}
	if changes < 6 {
		t.Errorf("%d routes change something: expected 6", changes)
	}
}

// Read-only: whatever may change something is refused, everywhere, and says why; headers that name another method are nothing.
func TestReadOnly(t *testing.T) {
	t.Parallel()
	r := newRig(t, "read_only: true, prefix: /weir")
	ids := r.insertAll()
	before := r.jobs()
	for _, route := range allRoutes(t, ids) {
		headers := []string{"Content-Type", "application/json"}
		for _, name := range []string{"X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"} {
			headers = append(headers, name, http.MethodGet)
		}
		status, text, _ := r.do(route.method, route.path, route.body, headers...)
		if !readsOnly(route.method) && (status != http.StatusForbidden || !strings.Contains(text, "read-only")) {
			t.Errorf("%v: %d\n%s", route, status, text)
		}
		if readsOnly(route.method) && status == http.StatusForbidden {
			t.Errorf("%v: %d\n%s", route, status, text)
		}
	}
	for _, route := range riverRoutes(t, ids) {
		if !readsOnly(route.method) {
			r.do(http.MethodGet, route.path+"?_method="+route.method, route.body, "X-HTTP-Method-Override", route.method)
		}
	}
	if after := r.jobs(); after != before {
		t.Errorf("something has changed:\n%s\nbefore:\n%s", after, before)
	}
}

// Without credentials there is nothing but the probe's answer, and with wrong ones.
func TestUnauthorized(t *testing.T) {
	t.Parallel()
	r := newRig(t, "prefix: /weir, basic_auth: {user: ops, password_env: CONSOLE_PASSWORD}")
	ids := r.insertAll()
	before := r.jobs()
	strangers := map[string][]string{
		"nobody": nil, "wrong password": basic("ops", password+"x"), "empty password": basic("ops", ""), "wrong user": basic("root", password),
		"other scheme": {"Authorization", "Bearer " + password}, "half": {"Authorization", "Basic"}, "header": {"X-Forwarded-User", "ops"},
	}
	refused := func(route route, who string, headers []string) {
		status, text, header := r.do(route.method, route.path, route.body, headers...)
		if status != http.StatusUnauthorized || header.Get("WWW-Authenticate") != `Basic realm="Weir", charset="UTF-8"` || strings.Contains(text, "weir_") {
			t.Errorf("%s, %v: %d\n%s", who, route, status, text)
		}
	}
	for _, route := range allRoutes(t, ids) {
		refused(route, "nobody", nil)
	}
	for who, headers := range strangers {
		for _, path := range []string{"/", "/metrics", "/river/", "/river/api/jobs", "/nowhere"} {
			refused(route{http.MethodGet, path, ""}, who, headers)
		}
	}
	if after := r.jobs(); after != before {
		t.Errorf("something has changed:\n%s\nbefore:\n%s", after, before)
	}
	for _, path := range []string{"/healthz", r.root() + "/healthz"} { // below the prefix, and beside it
		if status, text := r.get(path); status != http.StatusOK || text != "ok\n" {
			t.Errorf("%s: %d %s", path, status, text)
		}
	}
	if status, text := r.get("/river/api/jobs", basic("ops", password)...); status != http.StatusOK || !strings.Contains(text, "weir_webhook") {
		t.Errorf("with the password: %d\n%s", status, text)
	}
	if status, _ := r.get("/nowhere", basic("ops", password)...); status != http.StatusNotFound {
		t.Errorf("an unknown path: %d", status)
	}
}

// A page of another origin cannot use the credentials that the browser adds to what it sends.
func TestForeignOrigin(t *testing.T) {
	t.Parallel()
	r := newRig(t, "basic_auth: {user: ops, password_env: CONSOLE_PASSWORD}, origins: [https://ops.example.org]")
	ids := r.insertAll()
	before := r.jobs()
	known := basic("ops", password)
	for _, headers := range [][]string{
		{"Origin", "https://evil.example"},
		{"Origin", "null"},
		{"Origin", "https://ops.example.org.evil.example"},
		{"Origin", "http://ops.example.org"},
		{"Sec-Fetch-Site", "cross-site"},
		{"Sec-Fetch-Site", "same-site"},
		{"Origin", r.url + "1"},
		{"Origin", "x:" + r.url},
	} {
		for _, route := range riverRoutes(t, ids) {
			if headers[0] != "Origin" && readsOnly(route.method) {
				continue // a link from elsewhere is followed
			}
			if status, text, _ := r.do(route.method, route.path, route.body, append(headers, known...)...); status != http.StatusForbidden {
				t.Errorf("%v, %v: %d\n%s", headers, route, status, text)
			}
		}
	}
	if after := r.jobs(); after != before {
		t.Errorf("something has changed:\n%s\nbefore:\n%s", after, before)
	}
	for _, headers := range [][]string{
		{}, {"Origin", r.url}, {"Origin", "https://ops.example.org", "Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-origin"},
	} {
		before := r.jobs()
		path := "/river/api/queues/erp_example_org/pause"
		if strings.Contains(r.one("SELECT coalesce(paused_at::text, '') FROM weir.river_queue"), ":") {
			path = "/river/api/queues/erp_example_org/resume"
		}
		status, text, answer := r.do(http.MethodPut, path, "", append(headers, known...)...)
		if status != http.StatusOK || r.jobs() == before {
			t.Errorf("%v: %d\n%s", headers, status, text)
		}
		if allowed := answer.Get("Access-Control-Allow-Origin"); allowed != "" {
			t.Errorf("%v: other origins may read: %s", headers, allowed)
		}
	}
}

// Without authentication, a name that was bound to this machine later (DNS rebinding) opens nothing.
func TestForeignHost(t *testing.T) {
	t.Parallel()
	r := newRig(t, "read_only: false")
	for _, host := range []string{"evil.example", "localhost.evil.example", "10.0.0.1:8080", "127.0.0.1.evil.example:80", "[::2]", ""} {
		if status, text, _ := r.do(http.MethodGet, "/river/api/jobs", "", "Host", host); host != "" && status != http.StatusForbidden {
			t.Errorf("%s: %d\n%s", host, status, text)
		}
	}
	for _, host := range []string{"localhost", "LOCALHOST:8080", "127.0.0.1", "127.1.2.3:1", "[::1]:8080", "[::1]"} {
		if status, text, _ := r.do(http.MethodGet, "/river/api/jobs", "", "Host", host); status != http.StatusOK {
			t.Errorf("%s: %d\n%s", host, status, text)
		}
	}
	authenticated := newRig(t, "basic_auth: {user: ops, password_env: CONSOLE_PASSWORD}")
	status, _, _ := authenticated.do(http.MethodGet, "/river/api/jobs", "", append(basic("ops", password), "Host", "ops.example.org")...)
	if status != http.StatusOK {
		t.Errorf("with authentication: %d", status)
	}
}

func TestSecurityHeaders(t *testing.T) {
	t.Parallel()
	r := newRig(t, "prefix: /weir")
	for path, policy := range map[string]string{"/": pagesPolicy, "/river/": riverUIPolicy, "/river/api/jobs": riverUIPolicy, "/nowhere": pagesPolicy} {
		_, _, h := r.do(http.MethodGet, path, "")
		for name, want := range map[string]string{
			"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Cache-Control": "no-store",
			"Referrer-Policy": "same-origin", "Cross-Origin-Opener-Policy": "same-origin", "Strict-Transport-Security": "",
		} {
			if got := h.Get(name); got != want {
				t.Errorf("%s: %s: %q, want %q", path, name, got, want)
			}
		}
		if h.Get("Permissions-Policy") == "" || h.Get("X-Request-Id") == "" {
			t.Errorf("%s: %v", path, h)
		}
	}
	if !strings.Contains(pagesPolicy, "frame-ancestors 'none'") || strings.Contains(pagesPolicy, "unsafe") {
		t.Errorf("policy %s", pagesPolicy)
	}
}

// What the browser asks for below the prefix is found there.
func TestPrefix(t *testing.T) {
	t.Parallel()
	r := newRig(t, "prefix: /ops/weir")
	for path, want := range map[string]int{
		"/": http.StatusOK, "/river/": http.StatusOK, "/river/jobs": http.StatusOK, "/river/favicon.ico": http.StatusOK, "/metrics": http.StatusOK,
		r.root() + "/metrics": http.StatusNotFound, r.root() + "/river/": http.StatusNotFound, r.root() + "/": http.StatusNotFound,
	} {
		if status, _ := r.get(path); status != want && (path != "/" || status >= http.StatusBadRequest) {
			t.Errorf("%s: %d, want %d", path, status, want)
		}
	}
	for _, path := range []string{"", "/river"} {
		status, _, h := r.do(http.MethodGet, path, "")
		if location := h.Get("Location"); status/100 != 3 || location != "/ops/weir"+path+"/" {
			t.Errorf("%q: %d, to %q", path, status, location)
		}
	}
	_, page := r.get("/river/")
	_, asset, _ := strings.Cut(page, "/ops/weir/river/assets/")
	asset, _, _ = strings.Cut(asset, `"`)
	status, _, h := r.do(http.MethodGet, "/river/assets/"+asset, "")
	if status != http.StatusOK || !strings.Contains(h.Get("Cache-Control"), "immutable") {
		t.Errorf("%s: %d, %s", asset, status, h.Get("Cache-Control"))
	}
}

// A page that panics is answered for, and counted; the next one is served.
func TestPanic(t *testing.T) {
	t.Parallel()
	r := newRig(t, "read_only: false")
	r.console.guard.first = r.console.guard.recoverPanic(r.console.guard.identify(r.console.guard.observe(func(v *visit, req *http.Request) {
		if req.URL.Path == "/panic" {
			panic("a mistake")
		}
	})))
	status, text := r.get("/panic")
	if status != http.StatusInternalServerError || strings.Contains(text, "a mistake") || !strings.Contains(r.log.String(), "a mistake") {
		t.Errorf("%d %s", status, text)
	}
	if status, _ := r.get("/"); status != http.StatusOK {
		t.Errorf("afterwards: %d", status)
	}
	r.await("the count", func() bool { return r.metric(`weir_console_requests_total{code="500",method="GET"}`) == 1 })
}

// A body has an end, and so has the time that a request may take.
func TestLimits(t *testing.T) {
	t.Parallel()
	r := newRig(t, "read_only: false")
	ids := r.insertAll()
	body := fmt.Sprintf(`{"ids":["%d"],"more":%q}`, ids["discarded"], strings.Repeat("1", bodySize))
	before := r.jobs()
	if status, text, _ := r.do(http.MethodPost, "/river/api/jobs/retry", body); status/100 == 2 || r.jobs() != before {
		t.Errorf("%d\n%s", status, text)
	}
	bounded := false
	look := func(_ *visit, req *http.Request) { _, bounded = req.Context().Deadline() }
	r.console.guard.limit(look)(&visit{}, &http.Request{Body: http.NoBody})
	if !bounded {
		t.Error("no deadline")
	}
}
