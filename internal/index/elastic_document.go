package index

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
)

const (
	kindEvent    = "event"
	kindDelivery = "delivery"
)

// source is a document as Elasticsearch keeps it.
type source struct {
	Kind       string          `json:"kind"`
	EventID    uuid.UUID       `json:"event_id"`
	PK         int64           `json:"pk"`
	Day        string          `json:"day"`
	Seq        int64           `json:"seq"`
	At         time.Time       `json:"@timestamp"`
	IngestedAt time.Time       `json:"ingested_at"`
	EventType  string          `json:"event_type"`
	Entity     string          `json:"entity"`
	EntityID   string          `json:"entity_id"`
	Payload    json.RawMessage `json:"payload,omitempty"`
	Data       json.RawMessage `json:"data,omitempty"`
	Words      []string        `json:"words,omitempty"`

	*Outcome
}

const dayFormat = "2006-01-02"

func sourceOf(d *Document) source {
	s := source{
		Kind: kindEvent, EventID: d.ID, PK: d.PK, Day: d.Day.UTC().Format(dayFormat), Seq: d.Seq, At: d.At.UTC(),
		IngestedAt: d.IngestedAt.UTC(), EventType: d.EventType, Entity: d.EntityType, EntityID: d.EntityID,
		Payload: d.Payload, Outcome: d.Outcome,
	}
	if d.Outcome != nil {
		s.Kind = kindDelivery
	}
	var event struct {
		Data json.RawMessage `json:"data"`
	}
	if json.Unmarshal(d.Payload, &event) == nil && bytes.HasPrefix(event.Data, []byte("{")) {
		s.Data = event.Data
	}
	for _, run := range d.runs() {
		s.Words = append(s.Words, strings.Join(run, " "))
	}
	return s
}

// key is the event that the document is of.
func (s *source) key() (Key, error) {
	day, err := time.Parse(dayFormat, s.Day)
	return Key{Day: day, ID: s.EventID, PK: s.PK}, err
}

// document is what the source was made of.
func (s *source) document(version int64) (Document, error) {
	key, err := s.key()
	if err != nil {
		return Document{}, fmt.Errorf("a document of event %s: %w", s.EventID, err)
	}
	d := Document{
		Key: key, Seq: s.Seq, At: s.At, IngestedAt: s.IngestedAt, EventType: s.EventType, EntityType: s.Entity,
		EntityID: s.EntityID, Payload: s.Payload, Version: version,
	}
	if s.Kind == kindDelivery {
		d.Outcome = s.Outcome
	}
	return d, nil
}

// What is this far from the day of its ingest has no index of its own: odd timestamps would make thousands.
const (
	daysBefore = 31
	daysAfter  = 1
)

const indexDay = "2006.01.02"

// indexOf is the name of a document's index. It depends on the document alone, so that one that is written again is found.
func (e *Elasticsearch) indexOf(d *Document) string {
	ingested, day := d.IngestedAt.UTC().Truncate(24*time.Hour), d.Day.UTC()
	if day.Before(ingested.AddDate(0, 0, -daysBefore)) || day.After(ingested.AddDate(0, 0, daysAfter)) {
		return e.otherIndex()
	}
	return e.prefix + "-" + day.Format(indexDay)
}

func (e *Elasticsearch) otherIndex() string { return e.prefix + "-other" }
