package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/internal/config"
	"github.com/fraiseql/weir/internal/index"
)

// elastic writes a configuration with an installation of the test's own on an Elasticsearch.
func elastic(t *testing.T, db *pgx.Conn, databaseURL, at, store string) (path, installation string) {
	t.Helper()
	installation = "t-" + uuid.NewString()
	path, _ = slotFile(t, db, fmt.Sprintf("installation: %s\ndatabase: {url: %q}\nelasticsearch: {urls: [%q], timeout: 5s}\n"+
		"history: {store: %s}\nobservers: {}\n", installation, databaseURL, at, store))
	return path, installation
}

// inElasticsearch makes the documents in the Elasticsearch of a configuration.
func inElasticsearch(t *testing.T, path, databaseURL string) {
	t.Helper()
	cfg, err := config.Load(t.Context(), config.Options{Path: path})
	check(t, err)
	e, err := index.OpenElasticsearch(*cfg.Elasticsearch, index.ElasticsearchOptions{Installation: cfg.Installation})
	check(t, err)
	defer func() { check(t, e.Close()) }()
	followed(t, databaseURL, func(o index.FollowerOptions) *index.Follower { return index.FollowElasticsearch(e, o) },
		index.Config{Store: "elasticsearch"})
}

// tracesIn counts the documents of an installation that have a text, whatever the field.
func tracesIn(t *testing.T, at, installation, text string) (n int) {
	t.Helper()
	ask := func(method, path, body string) []byte {
		req, err := http.NewRequestWithContext(t.Context(), method, at+path, strings.NewReader(body))
		check(t, err)
		req.Header.Set("Content-Type", "application/json")
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		res, err := client.Do(req)
		check(t, err)
		defer func() { check(t, res.Body.Close()) }()
		raw, err := io.ReadAll(res.Body)
		check(t, err)
		if res.StatusCode != http.StatusOK {
			t.Fatalf("%s %s: %s", method, path, raw)
		}
		return raw
	}
	all := "/weir-history-" + installation + "*"
	ask(http.MethodPost, all+"/_refresh", "")
	var found struct {
		Hits struct{ Hits []json.RawMessage }
	}
	check(t, json.Unmarshal(ask(http.MethodPost, all+"/_search", `{"size": 1000, "query": {"match_all": {}}}`), &found))
	for _, hit := range found.Hits.Hits {
		if bytes.Contains(hit, []byte(text)) {
			n++
		}
	}
	return n
}

func TestHistoryInElasticsearch(t *testing.T) {
	t.Parallel()
	url, db := database(t)
	at := postgres.Elasticsearch(t)
	path, installation := elastic(t, db, url, at, "elasticsearch")
	gone, kept := customers(t, db)
	search := func(args ...string) result {
		t.Helper()
		return weir(t, append([]string{"search", "--config", path}, args...)...)
	}
	search("--limit", "3").exits(0).says("no events match").complains("not searchable yet")
	inElasticsearch(t, path, url)
	if n := tracesIn(t, at, installation, kept.String()); n != 8 {
		t.Fatalf("%d documents, want 8", n)
	}
	search("customer:"+gone.String(), "--format", "json").exits(0).
		says(`"store": "elasticsearch"`, `"lag_seconds": 0`, `"name": "Ada"`, `"state": "retryable"`, `"result": "dead"`)
	search("--outcome", "dead", "--entity", "Customer/"+gone.String()).exits(0).says("mailer/notify", "no such customer")
	search("--limit", "1").exits(0).says("There are more: --after ")
	search("--store", "postgres").exits(0).complains("not searchable yet")

	var id uuid.UUID
	check(t, db.QueryRow(t.Context(), "SELECT event_id FROM weir.outcome WHERE entity_id = $1 LIMIT 1", kept).Scan(&id))
	inPostgresAlone := weir(t, "debug-event", id.String(), "--config", path).exits(0).says("hook/notify", "mailer/notify", "Ada")
	exec(t, db, "DELETE FROM weir.outcome WHERE event_id = $1", id)
	weir(t, "debug-event", id.String(), "--config", path).exits(0).says("hook/notify", "delivered", "mailer/notify", "moved", "Ada")
	exec(t, db, "DELETE FROM weir.event WHERE id = $1", id)
	weir(t, "debug-event", id.String(), "--config", path).exits(0).says("hook/notify", "mailer/notify", "moved", "Ada")
	weir(t, "debug-event", uuid.NewString(), "--config", path).exits(1).complains("no such event")
	if strings.Count(inPostgresAlone.stdout, "hook/notify") != 1 {
		t.Errorf("a delivery that both have is there twice:\n%s", inPostgresAlone.stdout)
	}

	weir(t, "history", "forget", "--entity", "Customer", "--id", gone.String(), "--change-log", "--config", path).exits(0).
		says("2 events", "7 documents in Elasticsearch", "1 row of the change log", "receipt 1")
	if n := tracesIn(t, at, installation, gone.String()); n != 0 {
		t.Errorf("%d documents are left", n)
	}
	if got := traces(t, db, gone.String()); got != "weir.forgotten 1" {
		t.Errorf("traces: %s", got)
	}
	if n := tracesIn(t, at, installation, kept.String()); n != 8 {
		t.Errorf("the other customer has %d documents", n)
	}
	weir(t, "history", "reindex", "--config", path).exits(0).says("stored 2 events with 3 finished deliveries of 1 day")
	weir(t, "doctor", "--config", path).says("ok       elasticsearch", "it serves: ")
	weir(t, "status", "--config", path).exits(0).says("elasticsearch: up to event 5")
}

// Without Elasticsearch, PostgreSQL answers if it has the history, too; nothing is half forgotten.
func TestElasticsearchIsAway(t *testing.T) {
	t.Parallel()
	url, db := database(t)
	const nobody = "http://127.0.0.1:9"
	both, _ := elastic(t, db, url, nobody, "both")
	alone, _ := elastic(t, db, url, nobody, "elasticsearch")
	e := shippedOrder(1)
	record(t, db, e)
	inPostgres(t, url)
	exec(t, db, "UPDATE weir.history SET event_seq = 1 WHERE store = 'elasticsearch'")
	const why = "cannot ask the Elasticsearch at " + nobody
	weir(t, "search", "--config", both).exits(0).says("order-1").complains("PostgreSQL answers: "+why, "connection refused")
	weir(t, "search", "--config", both, "--store", "elasticsearch").exits(4).complains(why)
	weir(t, "search", "--config", alone).exits(4).complains(why, "check that it runs")
	weir(t, "debug-event", e.ID.String(), "--config", alone).exits(0).says("order-1").complains("what only Elasticsearch has is not shown")
	weir(t, "debug-event", uuid.NewString(), "--config", alone).exits(1).complains("is not shown", "no such event")
	weir(t, "history", "reindex", "--config", alone).exits(4).complains(why)
	weir(t, "history", "forget", "--entity", "Order", "--id", "order-1", "--config", both).exits(4).complains(why)
	if got := traces(t, db, e.ID.String()); got == "" {
		t.Error("it was removed all the same")
	}
	weir(t, "doctor", "--config", both).says("warning  elasticsearch", "connection refused", "check that it runs")
}

func TestElasticsearchRefuses(t *testing.T) {
	t.Parallel()
	url, db := database(t)
	at := newRefusing(t)
	path, _ := elastic(t, db, url, at, "elasticsearch")
	weir(t, "search", "--config", path).exits(4).complains("401")
	weir(t, "doctor", "--config", path).says("warning  elasticsearch", "it refuses the credentials", "api_key_env")
	lacking := file(t, fmt.Sprintf("database: {url: %q}\nelasticsearch: {urls: [%q], api_key_env: NOT_SET}\n"+
		"history: {store: elasticsearch}\nobservers: {}\n", url, at))
	weir(t, "search", "--config", lacking).exits(3).complains("NOT_SET")
	weir(t, "history", "forget", "--entity", "Order", "--id", "1", "--config", lacking).exits(3).complains("NOT_SET")
}

// newRefusing is a server whose answer to every request is that of Elasticsearch to wrong credentials.
func newRefusing(t *testing.T) (url string) {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, `{"error":{"type":"security_exception","reason":"missing authentication credentials"},"status":401}`)
	}))
	t.Cleanup(s.Close)
	return s.URL
}
