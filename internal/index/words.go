package index

import (
	"bytes"
	"cmp"
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/fraiseql/weir/internal/event"
)

// Limits of a document's words.
const (
	// maxWords is how many bytes of tokens a document has at most. What comes later is not found by words. It keeps a
	// document's vector below PostgreSQL's limit of 1 MiB whatever the tokens are.
	maxWords = 128 << 10
	// maxPosition is PostgreSQL's greatest position in a vector, maxOccurrences how many positions of one word it keeps.
	maxPosition    = 1<<14 - 1
	maxOccurrences = 256
)

// runs are the words of a document: each run is the consecutive tokens of one value, and a phrase is looked for within
// one run. A value is there several times: as bare tokens, and as tokens of each of its names (see fielded). Names of the
// envelope's and the outcome's values are fixed; a value of the data has its path without indexes of arrays
// ("items.sku"), the paths above it ("items"), and its own path with "data." before it.
//
// Outcome and envelope come first, so that they are there however large the data is (see maxWords).
func (d *Document) runs() [][]string {
	w := words{seen: map[string]bool{}, occurrences: map[string]int{}, position: firstPosition}
	if d.Outcome != nil {
		w.outcome(d.Outcome)
	}
	e, err := event.Parse(d.Payload)
	if err != nil { // recorded no more, or no event's JSON: its key and columns are known
		e = &event.Event{}
	}
	w.envelope(d, e)
	if d.Outcome != nil {
		w.add(d.Outcome.Error, "error") // it may be long, and a search relies on the names before it
	}
	if len(e.Data) > 0 {
		dec := json.NewDecoder(bytes.NewReader(e.Data))
		dec.UseNumber()
		w.data(dec, nil)
	}
	return w.runs
}

// words collects the runs of a document.
type words struct {
	runs        [][]string
	seen        map[string]bool // runs that are there
	size        int             // bytes of tokens
	occurrences map[string]int  // of a token in runs of several
	position    int             // that the next run of several tokens gets in tsvector
}

func (w *words) outcome(o *Outcome) {
	w.add(o.DeliveryID.String(), "delivery")
	w.add(o.Observer, "observer")
	w.add(o.Action, "action")
	w.add(o.ActionType, "type")
	w.add(o.Endpoint, "endpoint")
	w.add(o.State, "outcome")
	if o.ResponseStatus != nil {
		w.add(strconv.Itoa(int(*o.ResponseStatus)), "response_status")
	}
}

func (w *words) envelope(d *Document, e *event.Event) {
	w.add(cmp.Or(e.EntityType, d.EntityType), "entity")
	w.add(cmp.Or(e.EntityID, d.EntityID), "entity_id")
	w.add(cmp.Or(string(e.Type), d.EventType), "event_type")
	if id := cmp.Or(e.ID, d.ID); id != uuid.Nil {
		w.add(id.String(), "id")
	}
	w.addIfAny(e.TenantID, "tenant_id")
	w.addIfAny(e.UserID, "user_id")
	w.addIfAny(e.ActorType, "actor_type")
	w.addIfAny(e.CDCSource, "cdc_source")
	for _, field := range e.UpdatedFields {
		w.add(field, "updated")
	}
}

// data adds the values of the JSON value that dec is at. The paths are its own, last, and those above it.
func (w *words) data(dec *json.Decoder, paths []string) {
	read, err := dec.Token()
	if err != nil { // cannot be: it was decoded as part of the event
		return
	}
	switch t := read.(type) {
	case json.Delim:
		w.composite(dec, t, paths)
	case string:
		w.add(t, names(paths)...)
	case json.Number:
		w.add(t.String(), names(paths)...)
	case bool:
		w.add(strconv.FormatBool(t), names(paths)...)
	}
}

func (w *words) composite(dec *json.Decoder, open json.Delim, paths []string) {
	for dec.More() && !w.full() {
		inner := paths
		if open == '{' {
			key, err := dec.Token()
			if err != nil {
				return
			}
			name, _ := key.(string)
			inner = below(paths, name)
		}
		w.data(dec, inner)
	}
	if !w.full() { // else nobody reads on
		_, _ = dec.Token()
	}
}

// below adds the path of a key. A path that is too long to tell its keys apart is there once.
func below(paths []string, key string) []string {
	path := fieldName(cmp.Or(key, "_"))
	if len(paths) > 0 {
		path = cut(paths[len(paths)-1]+"."+path, maxToken)
		if path == paths[len(paths)-1] {
			return paths
		}
	}
	return append(slices.Clip(paths), path)
}

// names are the names of the value at the last of the paths.
func names(paths []string) []string {
	if len(paths) == 0 {
		return []string{"data"}
	}
	return append(slices.Clip(paths), cut("data."+paths[len(paths)-1], maxToken))
}

func (w *words) full() bool { return w.size >= maxWords }

// add emits the runs of a value.
func (w *words) add(value string, names ...string) {
	bare := tokens(value)
	if len(bare) == 0 {
		return
	}
	w.emit(bare)
	for _, name := range names {
		if w.full() {
			return
		}
		run := make([]string, len(bare))
		for i, t := range bare {
			run[i] = fielded(name, t)
		}
		w.emit(run)
	}
}

func (w *words) addIfAny(value *string, name string) {
	if value != nil {
		w.add(*value, name)
	}
}

// emit adds a run that is not there yet. It is broken where PostgreSQL could not keep another position of a word, or has
// none left: every word is found, and a phrase is found or not found in all stores alike.
func (w *words) emit(run []string) {
	if w.duplicate(run) {
		return
	}
	from := 0
	for i, t := range run {
		if w.size+len(t) > maxWords {
			w.size = maxWords
			w.piece(run, from, i)
			return
		}
		w.size += len(t)
		if len(run) == 1 {
			break
		}
		if w.occurrences[t] == maxOccurrences-1 || w.position+i-from > maxPosition {
			w.piece(run, from, i)
			w.piece(run, i, i+1)
			from = i + 1
		} else {
			w.occurrences[t]++
		}
	}
	w.piece(run, from, len(run))
}

// piece adds a part of a run, or the whole of it.
func (w *words) piece(run []string, from, to int) {
	part := run[from:to]
	if len(part) == 0 || len(part) < len(run) && w.duplicate(part) {
		return
	}
	w.runs = append(w.runs, part)
	w.position = positionAfter(w.position, part)
}

func (w *words) duplicate(run []string) bool {
	key := strings.Join(run, " ")
	if w.seen[key] {
		return true
	}
	w.seen[key] = true
	return false
}
