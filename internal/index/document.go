package index

import (
	"encoding/json"
	"time"

	"github.com/google/uuid"
)

// Document is what a search sees: one for each event, and one for each delivery that has an outcome. A delivery's document
// holds the words of its event, too, so that one document answers a question about both.
type Document struct {
	// Key is the event's.
	Key
	// Seq is the place of the event in the order in which events were recorded: unique, and what pages of a search go by.
	Seq int64
	// At is the event's timestamp, IngestedAt when it was recorded.
	At, IngestedAt time.Time
	EventType      string
	EntityType     string
	EntityID       string
	// Payload is the event's JSON without what history.redact leaves out. Empty when the event is recorded no more.
	Payload json.RawMessage
	// Outcome is what became of a delivery; nil for the document of the event itself.
	Outcome *Outcome
	// Version grows each time that documents are read: of two documents of one delivery the one with the greater is newer.
	Version int64
}

// Outcome is what became of a delivery.
type Outcome struct {
	DeliveryID uuid.UUID `json:"delivery_id"`
	Observer   string    `json:"observer"`
	Action     string    `json:"action"`
	ActionType string    `json:"action_type"`
	Endpoint   string    `json:"endpoint"`
	// State is delivered, duplicate, cached, dead, dropped or cancelled.
	State          string     `json:"outcome"`
	Attempts       int        `json:"attempts"`
	StartedAt      *time.Time `json:"started_at"`
	FinishedAt     *time.Time `json:"finished_at"`
	DurationMS     *int64     `json:"duration_ms"`
	ResponseStatus *int32     `json:"response_status"`
	Error          string     `json:"error"`
	DuplicateOf    *uuid.UUID `json:"duplicate_of"`
}

// Outcomes are the states of an Outcome.
func Outcomes() []string {
	return []string{"delivered", "duplicate", "cached", "dead", "dropped", "cancelled"}
}

// Refusal is a document that a store cannot take: trying again is in vain.
type Refusal struct {
	Document Document
	Reason   string
}

// Search is a question to the history.
type Search struct {
	Query Query
	// Since and Until bound the event's timestamp, Until itself excluded. Zero: unbounded.
	Since, Until time.Time
	// Entity is an entity type, or TYPE/ID. "": any.
	Entity string
	// Observer and Outcome choose events that have such a delivery. "": any.
	Observer, Outcome string
	// Before is the Seq of the last hit of the page before; 0 begins with the newest.
	Before int64
	// Limit bounds the page.
	Limit int
}

// Hit is an event that a search has found: because of itself, or of one of its deliveries.
type Hit struct {
	Key
	Seq     int64
	Payload json.RawMessage
}
