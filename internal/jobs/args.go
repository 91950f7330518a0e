package jobs

import (
	"strings"
	"time"
	"unicode"

	"github.com/google/uuid"

	"github.com/fraiseql/weir/internal/event"
)

// Args are a delivery's job arguments: short keys that a person reads in River UI, and the name of the row of
// weir.event (day, event_id, pk) that holds the event. Never the event itself, which would be written again
// with each state of the job, and never a secret.
type Args struct {
	Observer  string     `json:"observer"`  // its name
	Action    string     `json:"action"`    // its name
	Entity    string     `json:"entity"`    // type of the entity
	EntityID  string     `json:"entity_id"` // "" for a CUSTOM event without one
	EventType event.Type `json:"event_type"`
	EventID   uuid.UUID  `json:"event_id"` // of the event
	LSN       event.LSN  `json:"lsn"`      // of the commit
	TxIndex   int64      `json:"tx_index"` // place within the transaction
	Day       string     `json:"day"`      // YYYY-MM-DD
	PK        int64      `json:"pk"`       // of the row in the change log, 0 without one
	// Replay is the replay that has made the delivery again; zero for one that is made for the first time.
	Replay uuid.UUID `json:"replay,omitzero"`
}

const dayLayout = "2006-01-02"

func argsOf(e *event.Event, observer, action string) Args {
	return Args{
		Observer: observer, Action: action, Entity: e.EntityType, EntityID: e.EntityID, EventType: e.Type, EventID: e.ID,
		LSN: e.LSN, TxIndex: e.TxIndex, Day: e.Day().Format(dayLayout), PK: e.PK,
	}
}

// DeliveryID is the stable identity of the delivery that the job is.
func (a Args) DeliveryID() uuid.UUID {
	id := event.DeliveryID(a.EventID, a.PK, a.Observer, a.Action)
	if a.Replay != uuid.Nil {
		return event.ReplayedID(id, a.Replay)
	}
	return id
}

// ReplayOf is the delivery that this one repeats; zero when it repeats none.
func (a Args) ReplayOf() uuid.UUID {
	if a.Replay == uuid.Nil {
		return uuid.Nil
	}
	return event.DeliveryID(a.EventID, a.PK, a.Observer, a.Action)
}

// position is the event's place in commit order.
func (a Args) position() event.Position { return event.Position{LSN: a.LSN, Index: a.TxIndex} }

func (a Args) args() Args { return a }

// One type of arguments for each type of action: River tells jobs apart by kind.
type (
	webhookArgs  struct{ Args }
	slackArgs    struct{ Args }
	emailArgs    struct{ Args }
	smsArgs      struct{ Args }
	pushArgs     struct{ Args }
	searchArgs   struct{ Args }
	cacheArgs    struct{ Args }
	databaseArgs struct{ Args }
	logArgs      struct{ Args }
)

// Kind is River's name for the type.
func (webhookArgs) Kind() string { return "weir_webhook" }

// Kind is River's name for the type.
func (slackArgs) Kind() string { return "weir_slack" }

// Kind is River's name for the type.
func (emailArgs) Kind() string { return "weir_email" }

// Kind is River's name for the type.
func (smsArgs) Kind() string { return "weir_sms" }

// Kind is River's name for the type.
func (pushArgs) Kind() string { return "weir_push" }

// Kind is River's name for the type.
func (searchArgs) Kind() string { return "weir_search" }

// Kind is River's name for the type.
func (cacheArgs) Kind() string { return "weir_cache" }

// Kind is River's name for the type.
func (databaseArgs) Kind() string { return "weir_database" }

// Kind is River's name for the type.
func (logArgs) Kind() string { return "weir_log" }

// changeArgs are those of a change that is no event (no observer), or of an event for which an observer's condition
// failed. Working the job evaluates it again.
type changeArgs struct {
	Args
	CommitTime time.Time `json:"commit_time"`
	Reason     string    `json:"reason"` // as found when the change was read
}

// KindChange is the kind of a change that could not be matched: a dead letter once it has been worked.
const KindChange = "weir_change"

// Kind is River's name for the type.
func (changeArgs) Kind() string { return KindChange }

const maxText = 300

// short makes a text fit to be stored with a job: one line, valid for jsonb, and bounded, since River keeps each of them
// with each attempt.
func short(s string) string {
	s = strings.Join(strings.FieldsFunc(strings.ToValidUTF8(s, "\uFFFD"), unicode.IsControl), " ")
	if r := []rune(s); len(r) > maxText {
		return string(r[:maxText-1]) + "…"
	}
	return s
}
