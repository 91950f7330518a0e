package index

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"
)

// found is a document that a search found.
type found struct {
	Index   string `json:"_index"`
	ID      string `json:"_id"`
	Version int64  `json:"_version"`
	Source  source `json:"_source"`
}

// search asks all indices of the installation; where there is none yet, nothing is found.
func (e *Elasticsearch) search(ctx context.Context, body object) ([]found, error) {
	return e.searchIn(ctx, e.prefix, body)
}

func (e *Elasticsearch) searchIn(ctx context.Context, index string, body object) ([]found, error) {
	var answer struct {
		Hits struct{ Hits []found }
	}
	body["track_total_hits"] = false
	// Half an answer would look like all there is.
	path := "/" + index + "/_search?ignore_unavailable=true&allow_no_indices=true&allow_partial_search_results=false"
	err := e.ask(ctx, http.MethodPost, path, body, &answer)
	return answer.Hits.Hits, err
}

func term(field string, value any) object { return object{"term": object{field: value}} }

func bounds(field string, within object) object { return object{"range": object{field: within}} }

func every(filters ...object) object { return object{"bool": object{"filter": filters}} }

// Search returns the newest events that match, newest first. The page begins after s.Before.
func (e *Elasticsearch) Search(ctx context.Context, s Search) ([]Hit, error) {
	// The whole source: of a filtered one Elasticsearch would write the numbers anew.
	hits, err := e.search(ctx, object{
		"size": s.Limit, "query": every(s.filters()...), "collapse": object{"field": "seq"},
		"sort": []object{{"seq": object{"order": "desc", "unmapped_type": "long"}}},
	})
	if err != nil {
		return nil, err
	}
	page := make([]Hit, len(hits))
	for i, h := range hits {
		key, err := h.Source.key()
		if err != nil {
			return nil, err
		}
		page[i] = Hit{Key: key, Seq: h.Source.Seq, Payload: h.Source.Payload}
	}
	return page, nil
}

func (s *Search) filters() []object {
	filters := []object{}
	if words := s.Query.elastic(); words != nil {
		filters = append(filters, words)
	}
	within := object{}
	if !s.Since.IsZero() {
		within["gte"] = s.Since.UTC().Format(time.RFC3339Nano)
	}
	if !s.Until.IsZero() {
		within["lt"] = s.Until.UTC().Format(time.RFC3339Nano)
	}
	if len(within) > 0 {
		filters = append(filters, bounds("@timestamp", within))
	}
	if s.Before > 0 {
		filters = append(filters, bounds("seq", object{"lt": s.Before}))
	}
	kind, id, withID := strings.Cut(s.Entity, "/")
	if kind != "" {
		filters = append(filters, term("entity", kind))
	}
	if withID {
		filters = append(filters, term("entity_id", id))
	}
	if s.Observer != "" {
		filters = append(filters, term("observer", s.Observer))
	}
	if s.Outcome != "" {
		filters = append(filters, term("outcome", s.Outcome))
	}
	return filters
}

// maxStory is how many documents one question about events returns: Elasticsearch's own limit.
const maxStory = 10_000

// Story returns the documents of an event, and of its deliveries.
func (e *Elasticsearch) Story(ctx context.Context, id uuid.UUID) ([]Document, error) {
	hits, err := e.search(ctx, object{
		"size": maxStory, "version": true, "query": every(term("event_id", id)),
		"sort": []object{
			{"seq": object{"order": "asc", "unmapped_type": "long"}},
			{"finished_at": object{"order": "asc", "missing": "_first", "unmapped_type": "date"}},
		},
	})
	if err != nil {
		return nil, err
	}
	story := make([]Document, len(hits))
	for i := range hits {
		if story[i], err = hits[i].Source.document(hits[i].Version); err != nil {
			return nil, err
		}
	}
	return story, nil
}

// idsAtOnce is how many events one question names: their deliveries are well below maxStory then.
const idsAtOnce = 200

// Deliveries returns the outcomes of events, by the events' ids.
func (e *Elasticsearch) Deliveries(ctx context.Context, ids []uuid.UUID) (map[Identity][]Outcome, error) {
	all := map[Identity][]Outcome{}
	for len(ids) > 0 {
		n := min(len(ids), idsAtOnce)
		hits, err := e.search(ctx, object{
			"size":    maxStory,
			"query":   every(term("kind", kindDelivery), object{"terms": object{"event_id": ids[:n]}}),
			"_source": object{"excludes": []string{"payload", "data", "words"}},
			"sort":    []object{{"finished_at": object{"order": "asc", "unmapped_type": "date"}}},
		})
		if err != nil {
			return nil, err
		}
		for _, h := range hits {
			if h.Source.Outcome != nil {
				of := Identity{h.Source.EventID, h.Source.PK}
				all[of] = append(all[of], *h.Source.Outcome)
			}
		}
		ids = ids[n:]
	}
	return all, nil
}
