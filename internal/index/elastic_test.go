package index_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/fraiseql/weir/internal/index"
	"github.com/fraiseql/weir/internal/setting"
)

var today = time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC)

// elastic is the history of an installation of its own, on the server or what stands before it.
func elastic(t *testing.T, at, more string) *index.Elasticsearch {
	t.Helper()
	var cfg index.ElasticsearchConfig
	lookup := func(name string) (string, bool) { return "of " + name, true }
	ctx := setting.NewContext(t.Context(), setting.Surroundings{Lookup: lookup})
	text := fmt.Sprintf("urls: [%q]\n%s", at, more)
	if err := yaml.NewDecoder(strings.NewReader(text), yaml.Strict()).DecodeContext(ctx, &cfg); err != nil {
		t.Fatal(err)
	}
	e, err := index.OpenElasticsearch(cfg, index.ElasticsearchOptions{Installation: "T " + uuid.NewString()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return e
}

// before is a proxy before the real server.
func before(t *testing.T, serve func(w http.ResponseWriter, r *http.Request, pass http.Handler)) *httptest.Server {
	t.Helper()
	target, err := url.Parse(postgres.Elasticsearch(t))
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.Transport = transport
	proxy.ModifyResponse = func(r *http.Response) error { r.Header.Del("X-Elastic-Product"); return nil }
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { serve(w, r, proxy) }))
	t.Cleanup(func() { s.Close(); transport.CloseIdleConnections() })
	return s
}

func anEvent(seq int64, day time.Time, data string) index.Document {
	id := uuid.New()
	return index.Document{
		Key: index.Key{Day: day, ID: id, PK: seq}, Seq: seq, At: day.Add(time.Hour), IngestedAt: today.Add(time.Hour),
		EventType: "UPDATE", EntityType: "Order", EntityID: fmt.Sprintf("order-%d", seq),
		Payload: json.RawMessage(fmt.Sprintf(`{"id":%q,"data":%s}`, id, data)),
	}
}

func outcomeOf(d index.Document, id uuid.UUID, state string, version int64) index.Document {
	at := today.Add(2 * time.Hour)
	d.Outcome = &index.Outcome{
		DeliveryID: id, Observer: "shipped", Action: "erp", ActionType: "webhook", State: state, Attempts: 3, FinishedAt: &at,
	}
	d.Version = version
	return d
}

func putAll(t *testing.T, e *index.Elasticsearch, docs ...index.Document) {
	t.Helper()
	refused, err := e.Put(t.Context(), docs, false)
	if err != nil || len(refused) > 0 {
		t.Fatalf("put: %v, refused %v", err, refused)
	}
	if err := e.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func seqs(t *testing.T, e *index.Elasticsearch, s index.Search) []int64 {
	t.Helper()
	if s.Limit == 0 {
		s.Limit = 50
	}
	hits, err := e.Search(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	all := []int64{}
	for _, h := range hits {
		all = append(all, h.Seq)
	}
	return all
}

func want(t *testing.T, what string, got []int64, want ...int64) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func TestElasticsearchSearch(t *testing.T) {
	t.Parallel()
	e := elastic(t, postgres.Elasticsearch(t), "")
	want(t, "nothing is there yet", seqs(t, e, index.Search{}))
	const digits = `{"total":12345678901234567890.12345678901234567890,"big":1e400}`
	one, two, three := anEvent(1, today, digits), anEvent(2, today, `{"status":"new"}`), anEvent(3, today.AddDate(0, 0, -1), `{}`)
	delivery := uuid.New()
	putAll(t, e, one, two, three, outcomeOf(two, delivery, "dead", 1), outcomeOf(two, delivery, "delivered", 2))
	putAll(t, e, one, two, outcomeOf(two, delivery, "dead", 1)) // again, and an older outcome

	want(t, "all", seqs(t, e, index.Search{}), 3, 2, 1)
	want(t, "first page", seqs(t, e, index.Search{Limit: 2}), 3, 2)
	want(t, "second page", seqs(t, e, index.Search{Limit: 2, Before: 2}), 1)
	for text, found := range map[string][]int64{"status:new": {2}, "order-1": {1}, "outcome:delivered": {2}, "status:old": {}} {
		q, err := index.ParseQuery(text)
		if err != nil {
			t.Fatal(err)
		}
		want(t, text, seqs(t, e, index.Search{Query: q}), found...)
	}
	want(t, "since", seqs(t, e, index.Search{Since: today}), 2, 1)
	want(t, "until", seqs(t, e, index.Search{Until: today.Add(time.Hour)}), 3)
	want(t, "entity type", seqs(t, e, index.Search{Entity: "Order"}), 3, 2, 1)
	want(t, "entity", seqs(t, e, index.Search{Entity: "Order/order-1"}), 1)
	want(t, "observer", seqs(t, e, index.Search{Observer: "shipped"}), 2)
	want(t, "newest outcome", seqs(t, e, index.Search{Observer: "shipped", Outcome: "delivered"}), 2)
	want(t, "older outcome", seqs(t, e, index.Search{Outcome: "dead"}))

	hits, err := e.Search(t.Context(), index.Search{Entity: "Order/order-1", Limit: 1})
	if err != nil || len(hits) != 1 || string(hits[0].Payload) != string(one.Payload) || hits[0].Key != one.Key {
		t.Errorf("got %s of %+v, %v; want %s", hits[0].Payload, hits[0].Key, err, one.Payload)
	}
	story, err := e.Story(t.Context(), two.ID)
	if err != nil || len(story) != 2 || story[0].Outcome != nil || story[1].Outcome == nil ||
		story[1].Outcome.DeliveryID != delivery || story[1].Outcome.State != "delivered" || story[1].Version != 2 {
		t.Errorf("the story is %+v, %v", story, err)
	}
	outcomes, err := e.Deliveries(t.Context(), []uuid.UUID{one.ID, two.ID})
	if err != nil || len(outcomes) != 1 || len(outcomes[two.Identity()]) != 1 || outcomes[two.Identity()][0].Attempts != 3 {
		t.Errorf("the outcomes are %+v, %v", outcomes, err)
	}
	if e.Trouble() != "" {
		t.Error(e.Trouble())
	}
}

// Two events that share an id are both kept; with overwrite each takes the place of its own document.
func TestElasticsearchKeepsTwoEventsOfOneID(t *testing.T) {
	t.Parallel()
	e := elastic(t, postgres.Elasticsearch(t), "")
	one, two := anEvent(1, today, `{}`), anEvent(2, today, `{}`)
	two.ID = one.ID
	putAll(t, e, one, two)
	putAll(t, e, two, one)
	want(t, "both", seqs(t, e, index.Search{}), 2, 1)
	one.EntityID, two.EntityID = "first", "second"
	for range 2 {
		if refused, err := e.Put(t.Context(), []index.Document{two, one}, true); err != nil || len(refused) > 0 {
			t.Fatalf("overwrite: %v, %v", refused, err)
		}
	}
	if err := e.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	want(t, "both again", seqs(t, e, index.Search{}), 2, 1)
	want(t, "the first", seqs(t, e, index.Search{Entity: "Order/first"}), 1)
	want(t, "the second", seqs(t, e, index.Search{Entity: "Order/second"}), 2)
}

func TestElasticsearchForgetsAndExpires(t *testing.T) {
	t.Parallel()
	e := elastic(t, postgres.Elasticsearch(t), "")
	old, late := anEvent(1, today.AddDate(0, 0, -3), `{}`), anEvent(2, today.AddDate(0, 0, -2), `{}`)
	odd, now := anEvent(3, today.AddDate(-5, 0, 0), `{}`), anEvent(4, today, `{}`)
	mine := outcomeOf(now, uuid.New(), "delivered", 1)
	putAll(t, e, old, late, odd, now, mine, outcomeOf(late, uuid.New(), "dead", 1))
	if !strings.HasSuffix(e.IndexOf(odd), "-other") || !strings.HasSuffix(e.IndexOf(old), "-2026.11.22") {
		t.Errorf("the indices are %s and %s", e.IndexOf(odd), e.IndexOf(old))
	}

	dropped, err := e.Expire(t.Context(), today)
	if err != nil || !slices.Equal(dropped, []string{e.IndexOf(old)}) {
		t.Errorf("dropped %v, %v", dropped, err)
	}
	want(t, "the late outcome's and the odd one stay", seqs(t, e, index.Search{}), 4, 3, 2)
	if n, err := e.Forget(t.Context(), "Order", "order-4"); err != nil || n != 2 {
		t.Errorf("forgot %d, %v", n, err)
	}
	want(t, "without the forgotten", seqs(t, e, index.Search{}), 3, 2)
	if dropped, err := e.Expire(t.Context(), today.AddDate(0, 0, 1)); err != nil || len(dropped) != 2 {
		t.Errorf("dropped %v, %v", dropped, err)
	}
	want(t, "nothing", seqs(t, e, index.Search{}))
}

func TestElasticsearchRefusesWithItsReason(t *testing.T) {
	t.Parallel()
	e := elastic(t, postgres.Elasticsearch(t), "")
	fine, bad := anEvent(1, today, `{}`), anEvent(2, today, `{}`)
	bad.EventType = "by hand"
	// Somebody made the index by hand, with a type that some events do not have.
	body := map[string]any{"mappings": map[string]any{"properties": map[string]any{
		"event_type": map[string]any{"type": "long", "ignore_malformed": false},
	}}}
	fine.EventType = "7"
	if err := e.Ask(t.Context(), http.MethodPut, "/"+e.IndexOf(fine), body, nil); err != nil {
		t.Fatal(err)
	}
	refused, err := e.Put(t.Context(), []index.Document{bad, fine}, false)
	if err != nil || len(refused) != 1 || refused[0].Document.ID != bad.ID {
		t.Fatalf("refused %+v, %v", refused, err)
	}
	if why := refused[0].Reason; !strings.Contains(why, "_parsing_exception: ") || !strings.Contains(why, "event_type") ||
		len([]rune(why)) > 300 {
		t.Errorf("the reason is %q", why)
	}
	if err := e.Ask(t.Context(), http.MethodGet, "/"+e.IndexOf(fine)+"/_doc/"+fine.ID.String(), nil, nil); err != nil {
		t.Errorf("the other one is not there: %v", err)
	}
}

func TestElasticsearchRepeatsWhatWasTooMuch(t *testing.T) {
	t.Parallel()
	var bulks atomic.Int64
	s := before(t, func(w http.ResponseWriter, r *http.Request, pass http.Handler) {
		if r.URL.Path == "/_bulk" {
			switch n := bulks.Add(1); {
			case n < 3:
				http.Error(w, `{"error":"too many"}`, http.StatusTooManyRequests)
				return
			case r.ContentLength > 3000:
				http.Error(w, `{"error":"too large"}`, http.StatusRequestEntityTooLarge)
				return
			}
		}
		pass.ServeHTTP(w, r)
	})
	s.Start()
	e := elastic(t, s.URL, "")
	docs := []index.Document{anEvent(9, today, `{"a":"`+strings.Repeat("x", 5000)+`"}`)}
	for seq := range int64(8) {
		docs = append(docs, anEvent(seq, today, `{}`))
	}
	refused, err := e.Put(t.Context(), docs, false)
	if err != nil || len(refused) != 1 || refused[0].Document.Seq != 9 || !strings.Contains(refused[0].Reason, "413") {
		t.Errorf("refused %v, %v", refused, err)
	}
	if n := testutil.ToFloat64(e.Retries()); n != 2 {
		t.Errorf("%v retries are counted, want 2", n)
	}
	if err := e.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	want(t, "the others", seqs(t, e, index.Search{}), 7, 6, 5, 4, 3, 2, 1, 0)
}

// While Elasticsearch is busy, put goes on until its caller's time is over; without an answer it returns at once.
func TestElasticsearchAway(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancelCause(t.Context())
	s := before(t, func(w http.ResponseWriter, r *http.Request, pass http.Handler) {
		if r.URL.Path == "/_bulk" {
			cancel(fmt.Errorf("the caller's time is over"))
			w.Header().Set("Retry-After", "3600")
			http.Error(w, `{"error":"busy"}`, http.StatusServiceUnavailable)
			return
		}
		pass.ServeHTTP(w, r)
	})
	s.Start()
	e := elastic(t, s.URL, "")
	if _, err := e.Put(ctx, []index.Document{anEvent(1, today, `{}`)}, false); err == nil {
		t.Error("it is put")
	}
	s.Close()
	if _, err := e.Put(t.Context(), []index.Document{anEvent(1, today, `{}`)}, false); err == nil ||
		!strings.Contains(e.Trouble(), "connection refused") {
		t.Errorf("got %v; trouble %q", err, e.Trouble())
	}
}

func TestElasticsearchCredentials(t *testing.T) {
	t.Parallel()
	for more, header := range map[string]string{
		"api_key_env: KEY":                 "APIKey of KEY",
		"username_env: U\npassword_env: P": "Basic " + base64.StdEncoding.EncodeToString([]byte("of U:of P")),
	} {
		s := before(t, func(w http.ResponseWriter, r *http.Request, pass http.Handler) {
			if r.Header.Get("Authorization") != header {
				http.Error(w, `{"error":{"type":"security_exception","reason":"who are you?"}}`, http.StatusUnauthorized)
				return
			}
			r.Header.Del("Authorization")
			pass.ServeHTTP(w, r)
		})
		s.StartTLS()
		ca := filepath.Join(t.TempDir(), "ca.pem")
		raw := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
		if err := os.WriteFile(ca, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		e := elastic(t, s.URL, more+"\nca_file: "+ca)
		putAll(t, e, anEvent(1, today, `{}`))
		want(t, more, seqs(t, e, index.Search{}), 1)

		nobody := elastic(t, s.URL, "ca_file: "+ca)
		_, err := nobody.Put(t.Context(), []index.Document{anEvent(1, today, `{}`)}, false)
		if err == nil || !strings.Contains(err.Error(), "who are you?") || !strings.Contains(nobody.Trouble(), "401") {
			t.Errorf("without: %v; trouble %q", err, nobody.Trouble())
		}
		stranger := elastic(t, s.URL, more)
		_, err = stranger.Put(t.Context(), []index.Document{anEvent(1, today, `{}`)}, false)
		if err == nil || !strings.Contains(err.Error(), "certificate") {
			t.Errorf("with an unknown authority: %v", err)
		}
	}
}
