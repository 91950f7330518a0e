package ops

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/internal/capture"
	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/index"
	"github.com/fraiseql/weir/internal/jobs"
	"github.com/fraiseql/weir/internal/observer"
	"github.com/fraiseql/weir/internal/store"
)

// ReplaySource is where the events of a replay are read.
type ReplaySource string

// The sources: what was recorded, and the rows of the change log, which may be older than the first start.
const (
	ReplayEvents    ReplaySource = "events"
	ReplayChangeLog ReplaySource = "change-log"
)

// ReplayOptions say what is to be delivered again.
type ReplayOptions struct {
	ID         uuid.UUID // what was made under it is not made again
	Since      time.Time // of the event's timestamp, the row's created_at
	Until      time.Time // excluded
	Observer   string    // "": all
	Entity     string    // "": any
	Source     ReplaySource
	Incomplete bool // also what history.redact may have taken something from
	DryRun     bool

	Observers *observer.Set
	History   index.Config
	Capture   capture.Config
	// Log connects to the source, when rows of the change log are needed first.
	Log func(ctx context.Context) (*pgx.Conn, error)
	// Patience is how long the stream may take to come past rows of the change log that were read. 0: 30 s, where a worker
	// that is on time needs milliseconds.
	Patience time.Duration
	// Progress is told after each step how many of about how many events have been looked at. nil: nobody is.
	Progress func(done, total int64)
}

// Replay is what a replay has done so far, or would do.
type Replay struct {
	ID      uuid.UUID    `json:"id"`    // of the replay; --id goes on with it
	Since   event.Time   `json:"since"` // from when on
	Until   event.Time   `json:"until"` // before when
	Source  ReplaySource `json:"source"`
	DryRun  bool         `json:"dry_run"` // nothing was changed
	Total   int64        `json:"total"`   // events, or rows, of that time
	Events  int64        `json:"events"`  // of them looked at
	Matched int64        `json:"matched"` // of them led to a delivery
	// Deliveries that were made, or would be. Existing had been made by the same replay before.
	Deliveries int64          `json:"deliveries"`
	Existing   int64          `json:"existing"` // deliveries that this replay had made before
	Actions    []ReplayAction `json:"actions"`  // with their numbers of deliveries
	// Recorded are rows of the change log that became events now, and NotEvents those that cannot.
	Recorded  int64 `json:"recorded"`
	NotEvents int64 `json:"not_events"` // rows of the change log that cannot be events
	// Forgotten are rows of entities that were forgotten, which are left out, and Incomplete events that have lost fields to
	// history.redact and are no more in the change log: left out, unless they were asked for.
	Forgotten  int64 `json:"forgotten"`
	Incomplete int64 `json:"incomplete"` // events left out that may have lost fields to history.redact
	// Restored are events whose lost fields were read from the change log.
	Restored int64             `json:"restored"`
	Errors   []ReplayError     `json:"errors"`   // of conditions: not delivered
	BadRows  []ReplayBadRow    `json:"bad_rows"` // the first of NotEvents
	Done     bool              `json:"done"`     // it has come to the end
	actions  map[[2]string]int // places in Actions
}

// ReplayAction is an action, and how many deliveries it gets.
type ReplayAction struct {
	Observer   string `json:"observer"`   // its name
	Action     string `json:"action"`     // its name
	Type       string `json:"type"`       // of the action
	Deliveries int64  `json:"deliveries"` // how many
}

// ReplayError is an observer whose condition could not be evaluated for some of the events.
type ReplayError struct {
	Observer string `json:"observer"` // its name
	Events   int64  `json:"events"`   // how many
	First    string `json:"first"`    // the first error
}

// ReplayBadRow is a row of the change log that is no event.
type ReplayBadRow struct {
	PK     int64  `json:"pk"`     // of the row in the change log
	Reason string `json:"reason"` // why it is no event
}

// mostBadRows bounds how many rows that are no events are named.
const mostBadRows = 10

// replaying is a replay that runs.
type replaying struct {
	ReplayOptions

	db     DB
	jobs   *jobs.Replayer
	log    *capture.LogRows // nil until it is needed
	source *pgx.Conn
	said   *Replay
}

// NewReplay returns a replay that has done nothing yet.
func NewReplay(o ReplayOptions) *Replay {
	return &Replay{
		ID: o.ID, Since: event.Time(o.Since), Until: event.Time(o.Until), Source: o.Source, DryRun: o.DryRun,
		Actions: []ReplayAction{}, Errors: []ReplayError{}, BadRows: []ReplayBadRow{}, actions: map[[2]string]int{},
	}
}

// Run delivers again what the options choose, batch by batch, each in a transaction, and counts in r. After an error, or the
// end of the context, r says how far it came: with the same id it goes on without delivering anything twice.
func (r *Replay) Run(ctx context.Context, db DB, o ReplayOptions) error {
	made, err := jobs.NewReplayer(o.ID, o.Observers, o.Observer)
	if err != nil {
		return err
	}
	run := &replaying{ReplayOptions: o, db: db, jobs: made, said: r}
	defer run.close(ctx)
	if o.Source == ReplayChangeLog {
		err = run.changeLog(ctx)
	} else {
		err = run.events(ctx)
	}
	r.Done = err == nil
	return err
}

func (r *replaying) close(ctx context.Context) {
	if r.source == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = r.source.Close(ctx) // the session ends either way
}

// open makes the change log ready to be read.
func (r *replaying) open(ctx context.Context) (err error) {
	if r.log != nil {
		return nil
	}
	if r.source, err = r.Log(ctx); err != nil {
		return err
	}
	r.log, err = capture.OpenLog(ctx, r.source, r.Capture)
	return err
}

func (r *replaying) progress(looked int) {
	r.said.Events += int64(looked)
	if r.Progress != nil {
		r.Progress(r.said.Events, r.said.Total)
	}
}

// events replays what was recorded before the replay began.
func (r *replaying) events(ctx context.Context) error {
	within := index.Within{Since: r.Since, Until: r.Until, Entity: r.Entity}
	total, last, err := within.Count(ctx, r.db)
	if err != nil {
		return err
	}
	r.said.Total = total
	for after := int64(0); ; {
		page, err := within.After(ctx, r.db, r.History, after, last)
		if err != nil || len(page) == 0 {
			return err
		}
		batch, restored, err := r.complete(ctx, page)
		if err != nil {
			return err
		}
		if err := r.deliver(ctx, batch, restored); err != nil {
			return err
		}
		after = page[len(page)-1].Seq
		r.progress(len(page))
	}
}

// complete reads from the change log what events have lost. What is not there any more is left out, unless it was asked for.
func (r *replaying) complete(ctx context.Context, page []index.Recorded) (batch, restored []*event.Event, err error) {
	var keys []int64
	for _, one := range page {
		if one.Lacks && one.Event.PK != 0 {
			keys = append(keys, one.Event.PK)
		}
	}
	rows := map[index.Identity]*event.Event{}
	if len(keys) > 0 && *r.Capture.WithDefaults().ChangeLog != (capture.Table{}) {
		if err := r.open(ctx); err != nil {
			return nil, nil, err
		}
		changes, err := r.log.Named(ctx, keys)
		if err != nil {
			return nil, nil, err
		}
		for i := range changes {
			if c := &changes[i]; c.Reason == "" {
				rows[index.KeyOf(&c.Event).Identity()] = &c.Event
			}
		}
	}
	for _, one := range page {
		if !one.Lacks {
			batch = append(batch, one.Event)
			continue
		}
		row, ok := rows[index.KeyOf(one.Event).Identity()]
		switch {
		case ok:
			whole := *one.Event
			whole.Data, whole.Changes = row.Data, row.Changes
			batch, restored = append(batch, &whole), append(restored, &whole)
		case r.Incomplete:
			batch = append(batch, one.Event)
		default:
			r.said.Incomplete++
		}
	}
	return batch, restored, nil
}

// deliver makes the deliveries of recorded events.
func (r *replaying) deliver(ctx context.Context, batch, restored []*event.Event) error {
	if r.DryRun {
		m, err := r.jobs.Match(ctx, r.db, batch)
		if err == nil {
			r.count(&outcome{match: m, restored: restored})
		}
		return err
	}
	return r.inTx(ctx, func(tx pgx.Tx) (*outcome, error) {
		present, err := r.present(ctx, tx, batch)
		if err != nil {
			return nil, err
		}
		return r.insert(ctx, tx, present, restored, nil)
	})
}

// present leaves out what was removed since it was read: a partition that was dropped, an entity that was forgotten.
func (r *replaying) present(ctx context.Context, tx pgx.Tx, batch []*event.Event) ([]*event.Event, error) {
	there, err := index.Named(ctx, tx, r.History, keysOf(batch))
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(batch), func(e *event.Event) bool {
		_, ok := there[index.KeyOf(e).Identity()]
		return !ok
	}), nil
}

func keysOf(events []*event.Event) []index.Key {
	keys := make([]index.Key, len(events))
	for i, e := range events {
		keys[i] = index.KeyOf(e)
	}
	return keys
}

// outcome is what a transaction has done, to be counted when it is committed.
type outcome struct {
	match     *jobs.Replay
	restored  []*event.Event
	recorded  int64
	forgotten int64
}

// insert inserts the deliveries of events, and records those that are late.
func (r *replaying) insert(ctx context.Context, tx pgx.Tx, batch, restored, late []*event.Event) (*outcome, error) {
	all := slices.Concat(batch, late)
	slices.SortStableFunc(all, func(a, b *event.Event) int { return a.Position().Compare(b.Position()) })
	m, err := r.jobs.Match(ctx, tx, all)
	if err != nil {
		return nil, err
	}
	for _, e := range restored {
		if m.Matched[e] {
			if err := index.Restore(ctx, tx, e); err != nil {
				return nil, err
			}
		}
	}
	if len(late) > 0 {
		ingested := make([]index.Ingested, len(late))
		for i, e := range late {
			ingested[i] = index.Ingested{Event: e, Matched: m.Matched[e]}
		}
		if err := index.New(0, r.History).Record(ctx, tx, ingested); err != nil {
			return nil, err
		}
	}
	out := &outcome{match: m, restored: restored, recorded: r.recordedOf(late, m)}
	return out, r.jobs.Insert(ctx, tx, m)
}

// recordedOf counts the late events that are recorded.
func (r *replaying) recordedOf(late []*event.Event, m *jobs.Replay) (n int64) {
	for _, e := range late {
		if m.Matched[e] || !r.History.MatchedOnly() {
			n++
		}
	}
	return n
}

// inTx runs a batch. Two calls of one replay take turns, and no partition is dropped meanwhile.
func (r *replaying) inTx(ctx context.Context, do func(pgx.Tx) (*outcome, error)) error {
	var out *outcome
	tx, err := r.db.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // after a COMMIT it does nothing
	if err := store.New().HoldReplay(ctx, tx, r.ID.String()); err != nil {
		return err
	}
	if err := store.New().HoldPartitions(ctx, tx); err != nil {
		return err
	}
	if out, err = do(tx); err != nil {
		return err
	}
	// The COMMIT is not cut off: what was done is then known.
	if err := tx.Commit(context.WithoutCancel(ctx)); err != nil {
		return fmt.Errorf("commit a batch of the replay: %w", err)
	}
	r.count(out)
	_ = r.jobs.Inserted(ctx, r.db, out.match) // else the workers' sweep does it
	return nil
}

func (r *replaying) count(out *outcome) {
	s, m := r.said, out.match
	s.Matched += int64(len(m.Matched))
	s.Existing += int64(m.Existing)
	s.Deliveries += int64(len(m.Made))
	s.Restored += int64(len(out.restored))
	s.Recorded += out.recorded
	s.Forgotten += out.forgotten
	for _, b := range m.Made {
		key := [2]string{b.Observer, b.Action.Name()}
		i, ok := s.actions[key]
		if !ok {
			i = len(s.Actions)
			s.actions[key] = i
			s.Actions = append(s.Actions, ReplayAction{Observer: b.Observer, Action: b.Action.Name(), Type: b.Action.Type()})
		}
		s.Actions[i].Deliveries++
	}
	for _, failed := range m.Failed {
		i := slices.IndexFunc(s.Errors, func(e ReplayError) bool { return e.Observer == failed.Observer })
		if i < 0 {
			i = len(s.Errors)
			s.Errors = append(s.Errors, ReplayError{Observer: failed.Observer, First: failed.Err.Error()})
		}
		s.Errors[i].Events++
	}
}
