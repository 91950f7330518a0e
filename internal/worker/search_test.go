package worker_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// elastic asks Elasticsearch, again while the shards of an index are not there yet.
func (r *rig) elastic(method, url, body string) (answer []byte) {
	r.t.Helper()
	status := 0
	r.await("an answer of Elasticsearch", func() bool {
		req, err := http.NewRequestWithContext(r.t.Context(), method, url, strings.NewReader(body))
		if err != nil {
			r.t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
		if err != nil {
			r.t.Fatal(err)
		}
		defer func() { _ = res.Body.Close() }()
		if answer, err = io.ReadAll(res.Body); err != nil {
			r.t.Fatal(err)
		}
		status = res.StatusCode
		return status != http.StatusServiceUnavailable
	})
	if status != http.StatusOK {
		r.t.Fatalf("%s %s: %d %s", method, url, status, answer)
	}
	return answer
}

// documents are what an index holds: names by ids.
func (r *rig) documents(indexURL string) map[string]string {
	r.t.Helper()
	r.elastic(http.MethodPost, indexURL+"/_refresh", "")
	var found struct {
		Hits struct {
			Hits []struct {
				ID     string                `json:"_id"`
				Source struct{ Name string } `json:"_source"`
			} `json:"hits"`
		} `json:"hits"`
	}
	if err := json.Unmarshal(r.elastic(http.MethodGet, indexURL+"/_search?size=10000", ""), &found); err != nil {
		r.t.Fatal(err)
	}
	documents := map[string]string{}
	for _, hit := range found.Hits.Hits {
		documents[hit.ID] = hit.Source.Name
	}
	return documents
}

// TestSearchIndex: an index follows its entities through inserts, updates and removals, whose deliveries run side by side, in any
// order. What the index cannot take is a dead letter with Elasticsearch's reason and holds back nothing else.
func TestSearchIndex(t *testing.T) {
	t.Parallel()
	const (
		entities  = 100
		conflicts = entities / 20 // every 20th has a total that is no number
		removed   = entities / 10 // 5, 15, 25 …
	)
	r, server := newRig(t), postgres.Elasticsearch(t)
	indexURL := fmt.Sprintf("%s/things-%d", server, time.Now().UnixNano())
	r.elastic(http.MethodPut, indexURL, `{"mappings":{"properties":{"total":{"type":"long"}}}}`)
	run := r.started(fmt.Sprintf(`
elasticsearch: {urls: [%q]}
observers:
  things:
    entity: Thing
    retry: {max_attempts: 5, initial_delay: 50ms, backoff: fixed}
    actions:
      - type: search
        index: %s
        document_template: '{"name": "{{ name }}", "total": {{ total }}}'
`, server, indexURL[strings.LastIndex(indexURL, "/")+1:]))

	// Each entity is made and changed twice, in one transaction and another; a tenth is then removed.
	change := func(verb, name, where string) {
		r.exec(`INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data)
			SELECT 'Thing', $1, ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, jsonb_build_object('name', $2::text || n,
				'total', CASE WHEN n % 20 = 0 THEN '"much"' ELSE '7' END::jsonb)
			FROM generate_series(1, $3::int) n WHERE `+where, verb, name, entities)
	}
	change("INSERT", "first ", "true")
	change("UPDATE", "second ", "true")
	change("UPDATE", "third ", "true")
	change("DELETE", "third ", "n % 10 = 5")
	total := strconv.Itoa(3*entities + removed)
	r.await("every delivery", func() bool { return r.jobs("state = 'completed' OR "+deadLetter) == total })

	want := map[string]string{}
	for n := 1; n <= entities; n++ {
		if n%20 != 0 && n%10 != 5 {
			want[fmt.Sprintf("00000000-0000-4000-8000-%012d", n)] = "third " + strconv.Itoa(n)
		}
	}
	if got := r.documents(indexURL); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the index holds %v, want %v", got, want)
	}
	refused := strconv.Itoa(3 * conflicts)
	if n := r.jobs(deadLetter); n != refused {
		t.Errorf("%s dead letters, want %s", n, refused)
	}
	const reason = "failed to parse field [total] of type [long]"
	told := deadLetter + " AND metadata->>'weir_dead_letter' = 'status_400' AND attempt = 1 AND errors::text LIKE '%" + reason + "%'"
	if n := r.jobs(told); n != refused {
		t.Errorf("%s of %s dead letters say why: %s", n, refused, r.one("SELECT coalesce(min(errors::text), '') FROM job WHERE "+deadLetter))
	}
	if n := r.one("SELECT count(*)::text FROM weir.endpoint WHERE state <> 'closed'"); n != "0" {
		t.Error("what was refused has opened a breaker")
	}
	if status := run.get(t, "/readyz"); strings.Contains(status.body, "elasticsearch:") {
		t.Error(status.body)
	}
}
