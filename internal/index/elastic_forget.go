package index

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Forget removes all documents of an entity, and returns how many they were.
func (e *Elasticsearch) Forget(ctx context.Context, entityType, entityID string) (int64, error) {
	n, err := e.remove(ctx, e.prefix, every(term("entity", entityType), term("entity_id", entityID)))
	if err != nil {
		return n, fmt.Errorf("forget %s/%s: %w", entityType, entityID, err)
	}
	return n, nil
}

const removeAtOnce = 1000

// remove removes the documents that a query finds. By search and bulk: not every server has _delete_by_query, and where there
// is one it would not wait for a document that is written meanwhile, either.
func (e *Elasticsearch) remove(ctx context.Context, index string, query object) (removed int64, err error) {
	for {
		if err := e.refresh(ctx, index); err != nil {
			return removed, err
		}
		hits, err := e.searchIn(ctx, index, object{"size": removeAtOnce, "_source": false, "query": query})
		if err != nil || len(hits) == 0 {
			return removed, err
		}
		n, err := e.removeHits(ctx, hits)
		removed += n
		if err != nil {
			return removed, err
		}
	}
}

func (e *Elasticsearch) removeHits(ctx context.Context, hits []found) (removed int64, err error) {
	var body []byte
	for _, h := range hits {
		line, err := json.Marshal(object{"delete": object{"_index": h.Index, "_id": h.ID}})
		if err != nil {
			return 0, err
		}
		body = append(append(body, line...), '\n')
	}
	items, err := e.bulkRequest(ctx, body, len(hits))
	if err != nil {
		return 0, err
	}
	for i, one := range items {
		switch {
		case one.Status < 300:
			removed++
		case one.Status != http.StatusNotFound:
			err = fmt.Errorf("remove %s from %s: %w", hits[i].ID, hits[i].Index,
				&statusError{Status: one.Status, Why: one.Error.String()})
		}
	}
	return removed, err
}

// refresh lets a search see what was written before.
func (e *Elasticsearch) refresh(ctx context.Context, index string) error {
	return e.ask(ctx, http.MethodPost, "/"+index+"/_refresh?ignore_unavailable=true&allow_no_indices=true", nil, nil)
}

// expire drops the indices of days before a UTC midnight, and returns their names. One that holds an outcome of that day or
// later stays. What has no index of its own day goes by when it was ingested.
func (e *Elasticsearch) expire(ctx context.Context, before time.Time) (dropped []string, err error) {
	indices, err := e.indices(ctx)
	if err != nil {
		return nil, err
	}
	at := before.UTC().Format(time.RFC3339)
	late := bounds("finished_at", object{"gte": at})
	for _, index := range indices {
		if index == e.otherIndex() {
			old := object{"bool": object{"filter": bounds("ingested_at", object{"lt": at}), "must_not": late}}
			if _, err := e.remove(ctx, index, old); err != nil {
				return dropped, err
			}
			continue
		}
		day, err := time.Parse(indexDay, strings.TrimPrefix(index, e.prefix+"-"))
		if err != nil || !day.Before(before) {
			continue
		}
		gone, err := e.drop(ctx, index, late)
		if err != nil {
			return dropped, fmt.Errorf("drop %s: %w", index, err)
		}
		if gone {
			dropped = append(dropped, index)
		}
	}
	return dropped, nil
}

// drop removes an index unless the query finds something in it.
func (e *Elasticsearch) drop(ctx context.Context, index string, unless object) (bool, error) {
	if err := e.refresh(ctx, index); err != nil {
		return false, err
	}
	kept, err := e.searchIn(ctx, index, object{"size": 1, "_source": false, "query": unless})
	if err != nil || len(kept) > 0 {
		return false, err
	}
	err = e.ask(ctx, http.MethodDelete, "/"+index, nil, nil)
	if statusOf(err) == http.StatusNotFound {
		return false, nil
	}
	return err == nil, err
}

// indices are those of the installation, sorted.
func (e *Elasticsearch) indices(ctx context.Context) ([]string, error) {
	var byName map[string]json.RawMessage
	err := e.ask(ctx, http.MethodGet, "/_alias/"+e.prefix, nil, &byName)
	if err != nil && statusOf(err) != http.StatusNotFound {
		return nil, err
	}
	names := make([]string, 0, len(byName))
	for name := range byName {
		names = append(names, name)
	}
	slices.Sort(names)
	return names, nil
}
