package index

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"

	"github.com/google/uuid"
)

// entry is a document on its way.
type entry struct {
	doc    *Document
	op     string // create or index
	index  string
	id     string
	source []byte
}

// put writes documents. An event is created; one that is there already is left, or with overwrite written again. Of a
// delivery's documents the one with the greatest version wins. Those that are refused are in vain to try again; an error
// says that the others, or some of them, are not written yet: put them again.
func (e *Elasticsearch) put(ctx context.Context, docs []Document, overwrite bool) (refused []Refusal, err error) {
	if err := e.prepare(ctx); err != nil {
		return nil, err
	}
	entries, refused := e.entries(docs)
	conflicts, more, err := e.write(ctx, entries)
	refused = append(refused, more...)
	if err != nil || len(conflicts) == 0 {
		return refused, err
	}
	again, err := e.resolve(ctx, conflicts, overwrite)
	if err != nil {
		return refused, err
	}
	// A conflict now says that the event is there under its second name.
	_, more, err = e.write(ctx, again)
	return append(refused, more...), err
}

// entries encodes documents: of one delivery the last.
func (e *Elasticsearch) entries(docs []Document) (entries []*entry, refused []Refusal) {
	last := map[uuid.UUID]int{}
	for i, d := range docs {
		if d.Outcome != nil {
			last[d.Outcome.DeliveryID] = i
		}
	}
	for i := range docs {
		d := &docs[i]
		one := &entry{doc: d, op: "create", index: e.indexOf(d), id: d.ID.String()}
		if d.Outcome != nil {
			if last[d.Outcome.DeliveryID] != i {
				continue
			}
			one.op, one.id = "index", d.Outcome.DeliveryID.String()
		}
		var err error
		if one.source, err = json.Marshal(sourceOf(d)); err != nil {
			refused = append(refused, Refusal{*d, err.Error()})
			continue
		}
		entries = append(entries, one)
	}
	return entries, refused
}

// append adds the entry's two lines of a bulk request.
func (n *entry) append(body []byte) []byte {
	meta := object{"_index": n.index, "_id": n.id}
	if n.doc.Outcome != nil {
		meta["version"], meta["version_type"] = n.doc.Version, "external"
	}
	head, err := json.Marshal(object{n.op: meta})
	if err != nil {
		panic(err) // strings and a number
	}
	body = append(append(body, head...), '\n')
	return append(append(body, n.source...), '\n')
}

// resolve looks at who has the ids of events that could not be created: the same event, or another one with the same id. It
// returns what is to be written then.
func (e *Elasticsearch) resolve(ctx context.Context, conflicts []*entry, overwrite bool) (again []*entry, err error) {
	wanted := make([]object, len(conflicts))
	for i, n := range conflicts {
		wanted[i] = object{"_index": n.index, "_id": n.id, "_source": []string{"pk"}}
	}
	var answer struct {
		Docs []struct {
			Found  bool
			Source struct{ PK int64 } `json:"_source"`
		}
	}
	if err := e.ask(ctx, http.MethodPost, "/_mget", object{"docs": wanted}, &answer); err != nil {
		return nil, err
	}
	if len(answer.Docs) != len(conflicts) {
		return nil, fmt.Errorf("asked Elasticsearch for %d documents, got %d", len(conflicts), len(answer.Docs))
	}
	for i, n := range conflicts {
		there := answer.Docs[i]
		switch {
		case !there.Found: // it was removed meanwhile
			return nil, fmt.Errorf("the document %s was there and is no more", n.id)
		case there.Source.PK != n.doc.PK:
			n.id += "-" + strconv.FormatInt(n.doc.PK, 10)
		case !overwrite:
			continue
		}
		if overwrite {
			n.op = "index"
		}
		again = append(again, n)
	}
	return again, nil
}
