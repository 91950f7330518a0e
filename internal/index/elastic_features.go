package index

import (
	"context"
	"errors"
	"fmt"
	"net/http"
)

// Features are what the server is and has. The history works without any of them: they are told to people.
type Features struct {
	// Distribution is elasticsearch or opensearch, "" where the server does not tell.
	Distribution string
	// Version is the server's, "" where it does not tell.
	Version string
	// DataStreams, Lifecycles (ILM) and DeleteByQuery say whether the server has these.
	DataStreams, Lifecycles, DeleteByQuery bool
}

const openSearch = "opensearch"

// Features are what was found at the first request to the history; nothing before.
func (e *Elasticsearch) Features() Features {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.features
}

// prepare finds out what the server is and puts the index template: once, and again after an error.
func (e *Elasticsearch) prepare(ctx context.Context) error {
	e.preparing.Lock()
	defer e.preparing.Unlock()
	if e.prepared {
		return nil
	}
	f, err := e.probe(ctx)
	if err != nil {
		return err
	}
	if err := e.ask(ctx, http.MethodPut, "/_index_template/"+e.prefix, e.template(f), nil); err != nil {
		return fmt.Errorf("put the index template %s: %w", e.prefix, err)
	}
	e.log.Info("the history is in Elasticsearch", "servers", e.String(), "distribution", f.Distribution, "version", f.Version,
		"data_streams", f.DataStreams, "ilm", f.Lifecycles, "delete_by_query", f.DeleteByQuery)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.features, e.prepared = f, true
	return nil
}

func (e *Elasticsearch) probe(ctx context.Context) (f Features, err error) {
	var root struct {
		Version struct{ Number, Distribution string }
	}
	told, err := e.has(ctx, http.MethodGet, "/", nil, &root)
	if err != nil {
		return f, err
	}
	if told {
		f.Version, f.Distribution = root.Version.Number, root.Version.Distribution
		if f.Distribution == "" && f.Version != "" {
			f.Distribution = "elasticsearch" // OpenSearch says so
		}
	} else if f.Version, err = e.nodeVersion(ctx); err != nil {
		return f, err
	}
	if f.DataStreams, err = e.has(ctx, http.MethodGet, "/_data_stream", nil, nil); err != nil {
		return f, err
	}
	if f.Lifecycles, err = e.has(ctx, http.MethodGet, "/_ilm/status", nil, nil); err != nil {
		return f, err
	}
	none := object{"query": object{"match_none": object{}}}
	f.DeleteByQuery, err = e.has(ctx, http.MethodPost, "/"+e.prefix+"/_delete_by_query?ignore_unavailable=true", none, nil)
	return f, err
}

func (e *Elasticsearch) nodeVersion(ctx context.Context) (string, error) {
	var nodes struct {
		Nodes map[string]struct{ Version string }
	}
	_, err := e.has(ctx, http.MethodGet, "/_nodes/_local?filter_path=nodes.*.version", nil, &nodes)
	for _, n := range nodes.Nodes {
		return n.Version, err
	}
	return "", err
}

// has says whether the server serves a request. What it does not know, and what it does not let us do, it does not have.
func (e *Elasticsearch) has(ctx context.Context, method, path string, body, out any) (bool, error) {
	err := e.ask(ctx, method, path, body, out)
	var s *statusError
	if errors.As(err, &s) && s.Status < 500 && s.Status != http.StatusUnauthorized && s.Status != http.StatusTooManyRequests {
		return false, nil
	}
	return err == nil, err
}

// object is one of JSON's.
type object = map[string]any

// template is what new indices get. An installation whose name begins with another's has the longer prefix, so the greater
// priority. All are found by their alias: a pattern would match another installation's, too.
func (e *Elasticsearch) template(f Features) object {
	return object{
		"index_patterns": []string{e.prefix + "-*"},
		"priority":       500 + len(e.prefix),
		"template": object{
			"settings": object{"number_of_shards": 1, "auto_expand_replicas": "0-1"},
			"aliases":  object{e.prefix: object{}},
			"mappings": object{"dynamic": false, "properties": properties(f)},
		},
	}
}

// maxFlat is how many characters a value in data may have to be found by its field: a term of Lucene has 32766 bytes.
const maxFlat = 4096

func properties(f Features) object {
	all := object{
		"payload": object{"type": "object", "enabled": false}, // kept as it is, every digit of it
		"data":    object{"type": "flattened", "ignore_above": maxFlat, "depth_limit": 200},
		// The built-in analyzer cuts a token after 255 characters, of documents and of questions alike, so only a prefix that is
		// longer finds nothing. A tokenizer with a greater limit is a module that not every server has.
		"words": object{"type": "text", "analyzer": "whitespace", "norms": false},
		"error": object{"type": "text"},
	}
	if f.Distribution == openSearch {
		all["data"] = object{"type": "flat_object"}
	}
	for kind, names := range map[string][]string{
		"keyword": {
			"kind", "event_id", "event_type", "entity", "entity_id", "delivery_id", "duplicate_of", "observer", "action",
			"action_type", "endpoint", "outcome",
		},
		"long":    {"pk", "seq", "duration_ms"},
		"integer": {"response_status", "attempts"},
		"date":    {"@timestamp", "day", "ingested_at", "started_at", "finished_at"},
	} {
		for _, name := range names {
			all[name] = object{"type": kind}
		}
	}
	return all
}
