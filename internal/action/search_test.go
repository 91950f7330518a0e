package action

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/index"
)

// searching is a search action with a server.
type searching struct {
	t     *testing.T
	deps  Deps
	url   string
	index string // the test's own
}

// newSearching goes to the test binary's server.
func newSearching(t *testing.T) *searching {
	t.Helper()
	return searchingAt(t, servers.Elasticsearch(t))
}

func searchingAt(t *testing.T, url string) *searching {
	t.Helper()
	server, err := index.ParseServerURL(url)
	if err != nil {
		t.Fatal(err)
	}
	es, err := index.OpenElasticsearch(index.ElasticsearchConfig{URLs: []index.ServerURL{server}}, index.ElasticsearchOptions{
		Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := es.Close(); err != nil {
			t.Error(err)
		}
	})
	name := strings.ToLower(fmt.Sprintf("%s-%d", t.Name(), time.Now().UnixNano()))
	return &searching{t: t, deps: Deps{Elasticsearch: es}, url: url, index: name}
}

// do is a call of an action with the index of this test and more keys.
func (s *searching) do(keys string, e event.Event) (event.Outcome, error) {
	s.t.Helper()
	return s.bind(keys).Do(s.t.Context(), callFor(s.t, e))
}

func (s *searching) bind(keys string) Action {
	s.t.Helper()
	return mustDecode(s.t, "{type: search, index: "+s.index+keys+"}").Bind(s.deps)
}

// ask sends a request to the server, beside the action.
func (s *searching) ask(method, path, body string) (status int, answer []byte) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, s.url+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Content-Type", jsonContent)
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	if answer, err = io.ReadAll(res.Body); err != nil {
		s.t.Fatal(err)
	}
	return res.StatusCode, answer
}

// found is a document's source, "" if there is none.
func (s *searching) found(id string) string {
	s.t.Helper()
	status, answer := s.ask(http.MethodGet, "/"+s.index+"/_doc/"+id, "")
	var document struct {
		Source json.RawMessage `json:"_source"`
	}
	if err := json.Unmarshal(answer, &document); err != nil || status != http.StatusOK && status != http.StatusNotFound {
		s.t.Fatalf("%d %s: %v", status, answer, err)
	}
	return string(document.Source)
}

func (s *searching) must(method, path, body string) {
	s.t.Helper()
	if status, answer := s.ask(method, path, body); status != http.StatusOK {
		s.t.Fatalf("%s %s: %d %s", method, path, status, answer)
	}
}

// at is an event of an entity at a position.
func at(kind event.Type, id string, lsn event.LSN, txIndex int64, data string) event.Event {
	e := order
	e.Type, e.EntityID, e.LSN, e.TxIndex, e.Data = kind, id, lsn, txIndex, json.RawMessage(data)
	return e
}

func TestSearchUpserts(t *testing.T) {
	t.Parallel()
	s := newSearching(t)
	tests := map[string]struct {
		keys string
		e    event.Event
		id   string // as in a URL
		want string
	}{
		"defaults": {"", at(event.Insert, "1", 64, 1, `{"big":9007199254740993123,"html":"<&>"}`), "1", `{"big":9007199254740993123,"html":"<&>"}`},
		"templates": {
			`, id_template: "a/{{ total }}", document_template: '{"t": {{ total }}, "n": "{{ note }}"}'`,
			at(event.Custom, "", 64, 1, `{"total":1.50,"note":"a\"b"}`), "a%2F1.50", `{"t": 1.50, "n": "a\"b"}`,
		},
		"no data":   {"", at(event.Update, "3", 64, 1, ""), "3", "{}"},
		"odd names": {"", at(event.Update, "é ?#%2F..", 64, 1, `{"a":1}`), "%C3%A9%20%3F%23%252F..", `{"a":1}`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			for _, status := range []int{http.StatusCreated, http.StatusConflict} { // and once more, as after a crash
				out, err := s.do(test.keys, test.e)
				if err != nil || out.ResponseStatus != status {
					t.Errorf("got %+v, %v, want %d", out, err, status)
				}
			}
			if got := s.found(test.id); got != test.want {
				t.Errorf("found %s, want %s", got, test.want)
			}
		})
	}
}

// TestSearchOrder: whatever the order of arrival, what the newest event says is there.
func TestSearchOrder(t *testing.T) {
	t.Parallel()
	s := newSearching(t)
	const commit = event.LSN(0x16_B374D848)
	tests := map[string]struct {
		events []event.Event // the newest is the last one
		want   string
	}{
		"commits": {[]event.Event{
			at(event.Insert, "", commit-40, 1, `{"n":1}`), at(event.Update, "", commit, 1, `{"n":2}`),
			at(event.Update, "", commit+40, 1, `{"n":3}`),
		}, `{"n":3}`},
		"one transaction": {[]event.Event{
			at(event.Insert, "", commit, 1, `{"n":1}`), at(event.Update, "", commit, 2, `{"n":2}`),
			at(event.Update, "", commit, lastIndex, `{"n":3}`),
		}, `{"n":3}`},
		"a late update stays without effect": {[]event.Event{
			at(event.Insert, "", commit-40, 1, `{"n":1}`), at(event.Update, "", commit-40, 2, `{"n":2}`),
			at(event.Delete, "", commit, 1, `{"n":2}`),
		}, ""},
		"made again": {[]event.Event{
			at(event.Insert, "", commit-40, 1, `{"n":1}`), at(event.Delete, "", commit, 1, `{"n":1}`),
			at(event.Insert, "", commit, 2, `{"n":2}`),
		}, `{"n":2}`},
	}
	orders := [][]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			for _, arrival := range orders {
				id := strings.ReplaceAll(fmt.Sprint(name, arrival), " ", "_")
				for _, i := range arrival {
					e := test.events[i]
					e.EntityID = id
					if _, err := s.do("", e); err != nil {
						t.Fatal(err)
					}
				}
				if got := s.found(id); got != test.want {
					t.Errorf("arrival %v: found %q, want %q", arrival, got, test.want)
				}
			}
		})
	}
}

// TestSearchBeyondTheIndex: the changes of a very long transaction share a version, and do not refuse each other.
func TestSearchBeyondTheIndex(t *testing.T) {
	t.Parallel()
	s := newSearching(t)
	for i, want := range []string{`{"n":1}`, `{"n":2}`} {
		if _, err := s.do("", at(event.Update, "1", 64, lastIndex+int64(i), want)); err != nil {
			t.Fatal(err)
		}
		if got := s.found("1"); got != want {
			t.Errorf("found %s, want %s", got, want)
		}
	}
	if _, err := s.do("", at(event.Update, "1", 64, 7, `{"n":0}`)); err != nil || s.found("1") != `{"n":2}` {
		t.Errorf("%v, found %s", err, s.found("1"))
	}
}

func TestVersionOf(t *testing.T) {
	t.Parallel()
	ordered := []event.Position{
		{LSN: 0, Index: 1},
		{LSN: 40, Index: 1},
		{LSN: 40, Index: 2},
		{LSN: 40, Index: lastIndex - 1},
		{LSN: 40, Index: lastIndex},
		{LSN: 80, Index: 1},
		{LSN: 120, Index: 1},
		{LSN: 160, Index: 0},
		{LSN: 200, Index: 1},
		{LSN: 1 << 40, Index: 1},
		{LSN: positionEnd - 8, Index: math.MaxInt64},
	}
	var versions []int64
	for _, p := range ordered {
		v, saturated, err := versionOf(p)
		if err != nil || v <= 0 || saturated != (p.Index >= lastIndex) {
			t.Errorf("%s: %d, %t, %v", p, v, saturated, err)
		}
		versions = append(versions, v)
	}
	if !slices.IsSorted(versions) || len(slices.Compact(versions)) != len(ordered) {
		t.Errorf("versions are %v", versions)
	}
	for _, p := range []event.Position{{}, {LSN: positionEnd}, {LSN: math.MaxUint64, Index: 1}} {
		if v, _, err := versionOf(p); err == nil {
			t.Errorf("%s: %d", p, v)
		}
	}
}

// TestSearchRefused: what Elasticsearch would refuse again is final, and its reason is told.
func TestSearchRefused(t *testing.T) {
	t.Parallel()
	s := newSearching(t)
	s.must(http.MethodPut, "/"+s.index, `{"mappings":{"properties":{"total":{"type":"long"}}}}`)
	out, err := s.do("", at(event.Update, "1", 64, 1, `{"total":"much"}`))
	e := wantError(t, err, ClassFinal, "status_400")
	if text := e.Error(); e.Sick || !strings.Contains(text, "failed to parse field [total] of type [long]") ||
		!strings.Contains(text, `For input string: "much"`) || out.ResponseStatus != http.StatusBadRequest {
		t.Errorf("got %s, %+v", text, out)
	}

	s.must(http.MethodPut, "/_cluster/settings", `{"persistent":{"action.auto_create_index":"-never-*,*"}}`)
	s.index = "never-" + s.index
	_, err = s.do("", at(event.Update, "1", 64, 1, `{}`))
	if e := wantError(t, err, ClassFinal, "status_404"); !strings.Contains(e.Error(), "no such index") {
		t.Error(e)
	}
}

func TestSearchRemovesWhatIsNotThere(t *testing.T) {
	t.Parallel()
	s := newSearching(t)
	s.must(http.MethodPut, "/"+s.index, "")
	out, err := s.do("", at(event.Delete, "1", 64, 1, `{}`))
	if err != nil || out.ResponseStatus != http.StatusNotFound || out.ResponseBody != "nothing to do: there is no document" {
		t.Errorf("got %+v, %v", out, err)
	}
}

func TestSearchWithoutServer(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	s := searchingAt(t, "http://"+l.Addr().String())
	_, err = s.do("", at(event.Update, "secret-id", 64, 1, `{}`))
	if e := wantError(t, err, ClassRetry, "connect"); !e.Sick || strings.Contains(e.Error(), "secret-id") {
		t.Errorf("sick: %t, %s", e.Sick, e)
	}
	s.deps.Elasticsearch = nil
	_, err = s.do("", at(event.Update, "1", 64, 1, `{}`))
	if e := wantError(t, err, ClassRetry, "elasticsearch_away"); !e.Sick {
		t.Error(e)
	}
}

func TestSearchAnswers(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		status int
		header string // Retry-After
		body   string
		class  Class
		code   string
		sick   bool
		after  time.Duration
	}{
		"credentials": {401, "", `{"error":{"type":"security_exception","reason":"no"}}`, ClassRetry, "status_401", true, 0},
		"rights":      {403, "", `{"error":{"type":"security_exception","reason":"no"}}`, ClassRetry, "status_403", false, 0},
		"another 404": {404, "", `{"error":"alias [x] missing"}`, ClassRetry, "status_404", false, 0},
		"too large":   {413, "", "", ClassFinal, "status_413", false, 0},
		"busy":        {429, "7", `{"error":{"type":"es_rejected_execution_exception"}}`, ClassLater, "status_429", true, 7 * time.Second},
		"busy, mute":  {429, "", "", ClassLater, "status_429", true, defaultPause},
		"a proxy's":   {502, "", "<html>", ClassRetry, "status_502", true, 0},
		"no shards":   {503, "", `{"error":{"type":"unavailable_shards_exception"}}`, ClassRetry, "status_503", true, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url, _ := receiver(t, func(w http.ResponseWriter, _ *http.Request) {
				if test.header != "" {
					w.Header().Set("Retry-After", test.header)
				}
				w.WriteHeader(test.status)
				_, _ = io.WriteString(w, test.body)
			})
			s := searchingAt(t, url)
			s.index = "orders"
			for _, kind := range []event.Type{event.Update, event.Delete} {
				_, err := s.do("", at(kind, "1", 64, 1, `{}`))
				if e := wantError(t, err, test.class, test.code); e.Sick != test.sick || e.After != test.after {
					t.Errorf("%s: sick %t, after %s", kind, e.Sick, e.After)
				}
			}
		})
	}
}

// TestSearchRenders: what Elasticsearch could not take is found before it is asked.
func TestSearchRenders(t *testing.T) {
	t.Parallel()
	data := func(key, value string) event.Event {
		raw, err := json.Marshal(map[string]string{key: value})
		if err != nil {
			t.Fatal(err)
		}
		return at(event.Update, "1", 64, 1, string(raw))
	}
	named := `{type: search, index: "x{{ name }}"}`
	for name, test := range map[string]struct {
		text string
		e    event.Event
		want string
	}{
		"several indexes": {named, data("name", ",y"), `index: "x,y" is no name`},
		"all indexes":     {named, data("name", "*"), `index: "x*" is no name`},
		"upper case":      {named, data("name", "Y"), `index: "xY" is no name`},
		"long":            {named, data("name", strings.Repeat("y", 255)), "at most 255 bytes"},
		"hidden":          {`{type: search, index: "{{ name }}"}`, data("name", "_all"), `index: "_all" is no name`},
		"no id":           {`{type: search, index: x}`, at(event.Custom, "", 64, 1, `{}`), "id_template: it renders to an empty text"},
		"long id":         {`{type: search, index: x, id_template: "{{ id }}{{ name }}"}`, data("name", strings.Repeat("y", 512)), "and Elasticsearch takes 512"},
		"no object":       {`{type: search, index: x, document_template: "{{ name }}"}`, data("name", "y"), "document_template: it renders to something else"},
		"no object there": {`{type: search, index: x}`, at(event.Update, "1", 64, 1, `[1]`), "document_template: it renders to something else"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := mustDecode(t, test.text).Bind(Deps{}).Do(t.Context(), callFor(t, test.e))
			if e := wantError(t, err, ClassFinal, codeTemplate); !strings.Contains(e.Error(), test.want) {
				t.Errorf("got %s, want %s", e, test.want)
			}
		})
	}
}

// TestSearchBehindAPath: a proxy may offer Elasticsearch below a path.
func TestSearchBehindAPath(t *testing.T) {
	t.Parallel()
	url, got := receiver(t, nil)
	s := searchingAt(t, url+"/a b/search/")
	s.index = "orders"
	for id, want := range map[string]string{"a/b": "a%2Fb", "plain": "plain", "é %2F": "%C3%A9%20%252F"} {
		if _, err := s.do("", at(event.Update, id, 64, 1, `{}`)); err != nil {
			t.Fatal(err)
		}
		if path, _, _ := strings.Cut((<-got).uri, "?"); path != "/a%20b/search/orders/_doc/"+want {
			t.Errorf("%s went to %s, want %s", id, path, want)
		}
	}
}

func TestSearchPreview(t *testing.T) {
	t.Parallel()
	a := mustDecode(t, `{type: search, index: "orders-{{ status }}"}`).Bind(Deps{})
	e := at(event.Update, "7", 64, 1, `{"status":"shipped"}`)
	if p := parts(t, a, callFor(t, e)); fmt.Sprint(p) != `map[document:{"status":"shipped"} id:7 index:orders-shipped]` {
		t.Error(p)
	}
	e.Type = event.Delete
	if p := parts(t, a, callFor(t, e)); p["document"] != "[removed]" {
		t.Error(p)
	}
}
