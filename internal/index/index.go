// Package index is the history: it records every event once, in the transaction that makes its jobs, and gives it back
// to the deliveries that name it.
package index

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/store"
)

// ErrNotFound says that an event is not (or no longer) recorded.
var ErrNotFound = errors.New("the event is not in weir.event")

// Key names a row of weir.event.
type Key struct {
	Day time.Time // UTC midnight
	ID  uuid.UUID
	PK  int64
}

// Identity is what an event is known by, wherever it is recorded: the change log's id is not unique.
type Identity struct {
	ID uuid.UUID
	PK int64
}

// Identity is that of the event.
func (k Key) Identity() Identity { return Identity{k.ID, k.PK} }

// KeyOf is the key of an event.
func KeyOf(e *event.Event) Key { return Key{Day: e.Day(), ID: e.ID, PK: e.PK} }

// Record is an event as it is stored.
type Record struct {
	Event   *event.Event
	Payload []byte // the event's JSON, which receivers get as it is
}

// Index records and loads events. Safe for concurrent use.
type Index struct {
	recent recent
	loaded recent // for the other deliveries of an event
	loader loader
	config atomic.Pointer[Config]
}

// New makes an index that keeps about cacheBytes of recent events in memory: most deliveries run soon after their event
// was recorded, in the same process.
func New(cacheBytes int, c Config) *Index {
	// What is read again has a place of its own: a backlog of deliveries, oldest first, would push the recent events out, one by
	// one, just before their turn.
	loaded := cacheBytes / 8
	x := &Index{recent: newRecent(cacheBytes - loaded), loaded: newRecent(loaded)}
	x.Configure(c)
	return x
}

// Configure puts another configuration in force.
func (x *Index) Configure(c Config) { x.config.Store(&c) }

// Config is the one in force.
func (x *Index) Config() Config { return *x.config.Load() }

// Ingested is an event that is to be recorded.
type Ingested struct {
	Event *event.Event
	// Matched: a job names it, which needs all of it.
	Matched bool

	row    *store.CopyEventsParams // once it is prepared
	record Record                  // the same, of one that is matched
}

// Prepare writes the events down as they will be stored, so that Record need not, and returns how many that are. What fails is
// left to Record.
func (x *Index) Prepare(events []Ingested) (rows int) {
	c := x.Config()
	for i := range events {
		if events[i].recorded(c) {
			rows++
			_ = events[i].prepare(c)
		}
	}
	return rows
}

// recorded says whether the history keeps it.
func (i *Ingested) recorded(c Config) bool { return i.Matched || !c.MatchedOnly() }

// prepare makes the event's row, and what deliveries find of it.
func (i *Ingested) prepare(c Config) error {
	e := *i.Event // a pointer into the caller's batch would keep all of it
	payload, err := e.JSON()
	if err != nil {
		return err
	}
	row := &store.CopyEventsParams{
		Day: e.Day(), ID: e.ID, PK: e.PK, LSN: int64(e.LSN), TxIndex: e.TxIndex,
		EventType: string(e.Type), EntityType: e.EntityType, EntityID: e.EntityID, TenantID: e.TenantID,
		CommitTime: time.Time(e.CommitTime), CreatedAt: time.Time(e.Timestamp), Payload: payload,
	}
	shown, some, err := redacted(&e, c.Redact)
	if err != nil {
		return err
	}
	if some {
		if row.Payload = shown; i.Matched {
			row.Unredacted = payload
		}
	}
	i.row = row
	if i.Matched {
		i.record = Record{Event: &e, Payload: payload}
	}
	return nil
}

// Record stores the events in the caller's transaction, but for those that the configuration leaves out. An event that is there
// already makes it fail. The caller holds the row of weir.checkpoint, as the stream does, or has called Late.
func (x *Index) Record(ctx context.Context, tx pgx.Tx, events []Ingested) error {
	c := x.Config()
	rows := make([]store.CopyEventsParams, 0, len(events))
	for i := range events {
		one := &events[i]
		if !one.recorded(c) {
			continue
		}
		if one.row == nil {
			if err := one.prepare(c); err != nil {
				return err
			}
		}
		rows = append(rows, *one.row)
	}
	if len(rows) == 0 {
		return nil
	}
	if _, err := store.New().CopyEvents(ctx, tx, rows); err != nil {
		return fmt.Errorf("record events: %w", err)
	}
	// Should the transaction be rolled back, what is kept here is still what the event's next ingest will store.
	for i := range events {
		if r := events[i].record; r.Event != nil {
			x.recent.put(KeyOf(r.Event), r)
		}
	}
	return nil
}

// Late prepares a transaction other than the stream's for Record: events become visible in the order of their numbers.
func Late(ctx context.Context, tx pgx.Tx) error { return store.New().LockEvents(ctx, tx) }

// recent is a first-in-first-out cache bounded by bytes. Events are immutable, so nothing in it goes stale.
type recent struct {
	limit int

	mu    sync.Mutex // guards the rest
	rows  map[Key]Record
	order []Key
	bytes int
}

func newRecent(limit int) recent { return recent{limit: limit, rows: map[Key]Record{}} }

// weight guesses what a record costs: the payload, the event's own copy of its data, and the rest of the event.
func weight(r Record) int { return 2*len(r.Payload) + 1<<10 }

func (r *recent) get(key Key) (Record, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rec, ok := r.rows[key]
	return rec, ok
}

func (r *recent) put(key Key, rec Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if old, ok := r.rows[key]; ok {
		r.bytes -= weight(old)
	} else {
		r.order = append(r.order, key)
	}
	r.rows[key] = rec
	r.bytes += weight(rec)
	for r.bytes > r.limit && len(r.order) > 1 {
		oldest := r.order[0]
		r.order = r.order[1:]
		r.bytes -= weight(r.rows[oldest])
		delete(r.rows, oldest)
	}
}
