package ops

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/internal/capture"
	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/jobs"
	"github.com/fraiseql/weir/internal/observer"
	"github.com/fraiseql/weir/internal/store"
)

// Scope is what a pause holds.
type Scope string

// The scopes.
const (
	ScopeDeliveries Scope = "deliveries" // all of them
	ScopeEndpoint   Scope = "endpoint"
	ScopeObserver   Scope = "observer"
	ScopeStream     Scope = "stream"
)

// Pause is something that a person has paused.
type Pause struct {
	Scope Scope `json:"scope"`
	// Name is that of the endpoint or the observer, "" for all deliveries and for the stream. Of a queue that no endpoint has
	// which workers know, it is the queue's.
	Name  string     `json:"name"`
	Since event.Time `json:"since"` // when it was paused
	By    string     `json:"by"`    // "" for a queue that was paused elsewhere, as in River UI
	// Reason is what that person said, "" for nothing.
	Reason string `json:"reason"`
}

// What is how people speak of it.
func (p Pause) What() string {
	switch p.Scope {
	case ScopeDeliveries:
		return "all deliveries"
	case ScopeStream:
		return "the stream"
	default:
		return string(p.Scope) + " " + p.Name
	}
}

// Pauses is what was paused or resumed, and what is paused now.
type Pauses struct {
	Time event.Time `json:"time"` // by the database's clock
	// Changed are those that were paused, or resumed: these as they were before.
	Changed []Pause `json:"changed"`
	// Unchanged are those asked for that were paused already, or were not paused.
	Unchanged []Pause `json:"unchanged"`
	// Paused is everything that is paused now.
	Paused []Pause `json:"paused"`
	// Slot is what a paused stream holds, null where the stream was not asked for, or where it has no slot.
	Slot *HeldSlot `json:"slot"`
}

// HeldSlot is the WAL that the server keeps for the slot while nobody reads the stream.
type HeldSlot struct {
	Slot          string `json:"slot"`           // its name
	RetainedBytes int64  `json:"retained_bytes"` // WAL that the slot holds now
	// LimitBytes is max_slot_wal_keep_size, beyond which the server removes WAL that the slot still needs; null: there is no
	// limit, until the disk is full.
	LimitBytes *int64 `json:"limit_bytes"`
}

// Targets are what a command is about; none of them: all deliveries.
type Targets struct {
	Endpoints, Observers []string
	Stream               bool
	// Configured are the observers of the configuration, nil where there is none: names that it lacks are looked for among jobs.
	Configured *observer.Set
}

func (t Targets) none() bool { return len(t.Endpoints)+len(t.Observers) == 0 && !t.Stream }

// UnknownTargetError says that there is no endpoint, or observer, of that name.
type UnknownTargetError struct {
	Scope Scope
	Name  string
	Known []string
}

// Error lists what there is.
func (e *UnknownTargetError) Error() string {
	if len(e.Known) == 0 {
		return fmt.Sprintf("there is no %s %s: none is known, neither from a configuration nor from the database", e.Scope, e.Name)
	}
	return fmt.Sprintf("there is no %s %s: expected one of %s", e.Scope, e.Name, strings.Join(e.Known, ", "))
}

// ReadPaused lists everything that is paused.
func ReadPaused(ctx context.Context, db DB) ([]Pause, error) {
	rows, err := store.New().ListPaused(ctx, db)
	if err != nil {
		return nil, fmt.Errorf("list what is paused: %w", err)
	}
	endpoints := map[string]string{}
	if slices.ContainsFunc(rows, func(r store.ListPausedRow) bool { return r.Scope == string(ScopeEndpoint) }) {
		if endpoints, err = endpointsByQueue(ctx, db, nil); err != nil {
			return nil, err
		}
	}
	paused := []Pause{}
	for _, r := range rows {
		p := Pause{Scope: Scope(r.Scope), Name: r.Name, Since: event.Time(r.Since), By: r.PausedBy, Reason: r.Reason}
		if name, ok := endpoints[r.Name]; ok && p.Scope == ScopeEndpoint {
			p.Name = name
		}
		paused = append(paused, p)
	}
	return paused, nil
}

// endpointsByQueue are all endpoints that the database and the configuration know, and the queues that belong to none of them.
func endpointsByQueue(ctx context.Context, db DB, configured *observer.Set) (map[string]string, error) {
	found := map[string]string{}
	queues, err := store.New().KnownQueues(ctx, db)
	if err != nil {
		return nil, fmt.Errorf("list the queues: %w", err)
	}
	for _, name := range queues {
		found[name] = name
	}
	names, err := store.New().KnownEndpoints(ctx, db)
	if err != nil {
		return nil, fmt.Errorf("list the endpoints: %w", err)
	}
	if configured != nil {
		names = append(names, configured.Endpoints()...)
	}
	for _, name := range names {
		found[jobs.QueueName(name)] = name
	}
	return found, nil
}

func (s *Status) pause(scope Scope) *Pause {
	if i := slices.IndexFunc(s.Paused, func(p Pause) bool { return p.Scope == scope }); i >= 0 {
		return &s.Paused[i]
	}
	return nil
}

// PauseWork pauses what it is told, or all deliveries. Workers obey within about two seconds; deliveries that run end. The
// error is an *UnknownTargetError for a name that nobody knows: then nothing is paused.
func PauseWork(ctx context.Context, db DB, t Targets, by, reason string) (*Pauses, error) {
	return changePauses(ctx, db, t, func(tx pgx.Tx, now []Pause, wanted []target) (changed, unchanged []target, err error) {
		for _, w := range wanted {
			if slices.ContainsFunc(now, w.is) {
				unchanged = append(unchanged, w)
				continue
			}
			if err := w.pause(ctx, tx, by, reason); err != nil {
				return nil, nil, err
			}
			changed = append(changed, w)
		}
		return changed, unchanged, nil
	})
}

// ResumeWork lifts the pauses that it is told, or all of deliveries: that of all, those of endpoints, also from River UI, and
// those of observers, but not the stream's.
func ResumeWork(ctx context.Context, db DB, t Targets) (*Pauses, error) {
	return changePauses(ctx, db, t, func(tx pgx.Tx, now []Pause, wanted []target) (changed, unchanged []target, err error) {
		if t.none() {
			if wanted, err = deliveriesOf(ctx, db, now); err != nil {
				return nil, nil, err
			}
		}
		for _, w := range wanted {
			if !slices.ContainsFunc(now, w.is) {
				unchanged = append(unchanged, w)
				continue
			}
			if err := w.resume(ctx, tx); err != nil {
				return nil, nil, err
			}
			changed = append(changed, w)
		}
		return changed, unchanged, nil
	})
}

// pauseChange is told what is paused now, and returns which of what is wanted it has changed.
type pauseChange func(tx pgx.Tx, now []Pause, wanted []target) (changed, unchanged []target, err error)

func changePauses(ctx context.Context, db DB, t Targets, change pauseChange) (*Pauses, error) {
	wanted, err := t.find(ctx, db)
	if err != nil {
		return nil, err
	}
	before, err := ReadPaused(ctx, db)
	if err != nil {
		return nil, err
	}
	var changed, unchanged []target
	err = pgx.BeginFunc(ctx, db, func(tx pgx.Tx) (err error) {
		changed, unchanged, err = change(tx, before, wanted)
		return err
	})
	if err != nil {
		return nil, err
	}
	var now time.Time
	if err := db.QueryRow(ctx, "SELECT now()").Scan(&now); err != nil {
		return nil, fmt.Errorf("read the clock: %w", err)
	}
	p := &Pauses{Time: event.Time(now)}
	if p.Paused, err = ReadPaused(ctx, db); err != nil {
		return nil, err
	}
	p.Changed, p.Unchanged = described(changed, before, p.Paused), described(unchanged, before, p.Paused)
	return p, nil
}

// described are targets with who paused them, as they are or, when they are not paused any more, as they were.
func described(targets []target, before, now []Pause) []Pause {
	found := []Pause{}
	for _, w := range targets {
		p := Pause{Scope: w.scope, Name: w.name}
		for _, known := range [][]Pause{now, before} {
			if i := slices.IndexFunc(known, w.is); i >= 0 {
				p = known[i]
				p.Name = w.name
				break
			}
		}
		found = append(found, p)
	}
	return found
}

// ReadHeldSlot returns nil where the slot does not exist.
func ReadHeldSlot(ctx context.Context, source store.DBTX, cfg capture.Config) (*HeldSlot, error) {
	h := &HeldSlot{Slot: string(cfg.WithDefaults().Slot)}
	err := source.QueryRow(ctx, `
		WITH wal AS (
			SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END AS lsn)
		SELECT greatest(coalesce(wal.lsn - s.restart_lsn, 0), 0)::bigint,
		       (SELECT CASE WHEN setting::bigint >= 0 THEN setting::bigint * 1048576 END -- its unit is MB
		          FROM pg_settings WHERE name = 'max_slot_wal_keep_size')
		  FROM pg_replication_slots s CROSS JOIN wal WHERE s.slot_name = $1`, h.Slot).Scan(&h.RetainedBytes, &h.LimitBytes)
	if notFound(err) {
		return nil, nil //nolint:nilnil // there is no slot
	}
	if err != nil {
		return nil, fmt.Errorf("read replication slot %s: %w", h.Slot, err)
	}
	return h, nil
}
