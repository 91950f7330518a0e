package capture

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/store"
)

// Place is a source and a position in it, for people to compare.
type Place struct {
	SystemIdentifier string     `json:"system_identifier"` // of the source's cluster
	Timeline         int32      `json:"timeline"`          // of the source, 0 where it is not known
	Server           string     `json:"server"`            // port and data directory of the source, as far as known
	DatabaseSystem   string     `json:"database_system"`   // of the cluster with schema weir, and that database's oid, if known
	Installation     string     `json:"installation"`      // name of the installation
	Slot             string     `json:"slot"`              // name of the slot
	LSN              *event.LSN `json:"lsn"`               // null for a slot that is still to be made
	TxIndex          int64      `json:"tx_index"`          // place within the transaction
}

func (p *Place) at(pos event.Position) { p.LSN, p.TxIndex = &pos.LSN, pos.Index }

// SlotAct is what an adoption does with the slot.
type SlotAct string

// A slot is kept where there is a usable one, except in another cluster: there it is older than what was restored into it,
// so it would deliver all of that.
const (
	KeepSlot     SlotAct = "keep"
	CreateSlot   SlotAct = "create"
	RecreateSlot SlotAct = "recreate"
)

// Adoption is what it takes to let workers go on from a checkpoint that they refuse.
type Adoption struct {
	Problem string `json:"problem"` // why they refuse; "" when they do not, so that nothing is to be done
	// Recovers is what a worker makes up for by itself when it starts, "" for nothing.
	Recovers string `json:"recovers"`
	// Gap is what it cannot make up for: somebody has to accept it (weir accept-gap).
	Gap        string  `json:"gap"`
	Checkpoint *Place  `json:"checkpoint"` // null: there is none
	Present    Place   `json:"present"`    // what the checkpoint would become
	Slot       SlotAct `json:"slot"`
	// Continuous says that no change between the two places can be missing.
	Continuous bool `json:"continuous"`
	// Foreign says that the checkpoint may be another installation's, and so may be what came along with it.
	Foreign bool `json:"foreign"`
	// Restored says that the slot that is kept is older than what was restored into its cluster.
	Restored bool `json:"restored"`

	epoch int64
	began *time.Time // older rows are left out on purpose: they are not to be recovered later. nil: as it is
}

// Outlook is what a worker would find that starts.
type Outlook struct {
	Recovers string // why it would recover from the change log, "" when it would not
	Gap      string // what it could not make up for, so that nothing is captured; "" for nothing
}

func outlookOf(r ruling) (o Outlook) {
	switch r.verdict {
	case recoverTheLoss:
		o.Recovers = r.problem
	case stopAtTheGap:
		o.Gap = r.problem
	case createTheSlot, createTheCheckpoint, readOn:
	}
	return o
}

// CheckStart says what a worker would do about the checkpoint and the slot that are there, and with a *SetupError why it would
// refuse to start from them. It changes nothing.
func CheckStart(ctx context.Context, src *pgx.Conn, dst store.DBTX, cfg Config, installation string) (Outlook, error) {
	cfg = cfg.WithDefaults()
	seen, err := look(ctx, src, dst, cfg, installation)
	if err != nil {
		return Outlook{}, err
	}
	todo, err := judge(cfg, seen)
	if err == nil {
		seen.probe(ctx, src, cfg, probeInPassing)
		todo, err = judge(cfg, seen)
	}
	return outlookOf(todo), err
}

// AdoptOptions say how to adopt.
type AdoptOptions struct {
	Installation string
	// KeepSlot keeps the slot also where the source is another cluster than the checkpoint's: its changes are delivered.
	KeepSlot bool
}

// PlanAdoption says what an adoption would do, and changes nothing. A *SetupError says that it cannot be done.
func PlanAdoption(ctx context.Context, src *pgx.Conn, dst store.DBTX, cfg Config, opts AdoptOptions) (*Adoption, error) {
	cfg = cfg.WithDefaults()
	seen, err := look(ctx, src, dst, cfg, opts.Installation)
	if err != nil {
		return nil, err
	}
	seen.probe(ctx, src, cfg, probeToAdopt)
	return plan(cfg, seen, opts.KeepSlot)
}

// plan is pure.
func plan(cfg Config, s *sight, keepSlot bool) (*Adoption, error) {
	todo, err := judge(cfg, s)
	var refused *SetupError
	if err != nil && !errors.As(err, &refused) {
		return nil, err
	}
	a := &Adoption{Present: s.place(string(cfg.Slot)), Slot: KeepSlot, Continuous: true}
	if s.checkpoint != nil {
		there := s.checkpoint.place(s.checkpoint.Slot)
		there.at(s.checkpoint.Position)
		a.Checkpoint, a.epoch = &there, s.checkpoint.Epoch
	}
	switch {
	case refused == nil:
		outlook := outlookOf(todo)
		a.Recovers, a.Gap = outlook.Recovers, outlook.Gap
		return a, nil
	case s.slot != nil && (s.slot.Active || s.slot.beingMade()):
		return nil, &SetupError{fmt.Sprintf("slot %s is being read or made", cfg.Slot), "stop the workers, then run weir adopt again"}
	case s.slot != nil && s.slot.Status != lost && s.slot.usable(cfg, s.database, true) != nil,
		s.checkpoint == nil && !s.used && !s.tooOld:
		return nil, refused // no matter of the checkpoint
	}
	cp := s.checkpoint
	a.Problem, a.Foreign = refused.Problem, cp == nil || s.sameSource() != nil
	elsewhere := cp != nil && s.System != cp.System
	switch {
	case s.slot == nil:
		a.Slot, a.Continuous = CreateSlot, false
	case s.slot.Status == lost, s.tooOld, s.tablesGone, elsewhere && !keepSlot:
		a.Slot, a.Continuous = RecreateSlot, false
	case cp != nil && s.System == cp.System && s.slot.Confirmed <= cp.Position.LSN && cp.Position.LSN <= s.written:
		// The slot still has what comes after the checkpoint. On another timeline that may be something else.
		a.Continuous = s.Timeline == cp.Timeline
		a.Present.at(cp.Position)
	default:
		a.Continuous, a.Restored = false, elsewhere
		a.Present.at(event.Position{LSN: s.slot.Confirmed})
	}
	return a, nil
}

func (i identity) place(slot string) Place {
	return Place{
		SystemIdentifier: i.System, Timeline: i.Timeline, Server: i.Server.String(), DatabaseSystem: i.Home.String(),
		Installation: i.Installation, Slot: slot,
	}
}

// Apply does what the plan says, which is nothing where there is no Problem. Broken off, it may be planned and applied again.
func (a *Adoption) Apply(ctx context.Context, src *pgx.Conn, dst store.DBTX, cfg Config, logger *slog.Logger) error {
	if a.Problem == "" {
		return nil
	}
	cfg = cfg.WithDefaults()
	if _, err := src.Exec(ctx, endless); err != nil {
		return fmt.Errorf("lift the time limits of the session: %w", err)
	}
	if err := checkServer(ctx, src, cfg); err != nil {
		return err
	}
	if a.Slot == RecreateSlot { // first: a publication that is made now would be too young for it
		if _, err := src.Exec(ctx, `SELECT pg_drop_replication_slot($1)`, string(cfg.Slot)); err != nil {
			return fmt.Errorf("drop slot %s: %w", cfg.Slot, err)
		}
	}
	switch tooOld, err := prepare(ctx, src, cfg); {
	case err != nil:
		return err
	case tooOld:
		return errors.New("the slot is older than the publication, which was missing: run weir adopt again")
	}
	if a.Slot != KeepSlot {
		if _, _, err := publishTables(ctx, src, cfg); err != nil {
			return err
		}
		if err := a.makeSlot(ctx, src, cfg, logger); err != nil {
			return err
		}
	}
	changed, err := a.store(ctx, dst, cfg)
	if err != nil {
		return fmt.Errorf("store the checkpoint: %w", err)
	}
	if changed == 0 {
		return errors.New("a worker has taken the checkpoint meanwhile: run weir adopt again")
	}
	return nil
}

// store changes nothing (0) when somebody was quicker.
func (a *Adoption) store(ctx context.Context, dst store.DBTX, cfg Config) (int64, error) {
	p := a.Present
	var tablesFrom int64 // 0: what was known of them holds, or they are read when the next worker has looked at them
	if a.Slot != KeepSlot && cfg.CapturesTables() {
		tablesFrom = int64(*p.LSN)
	}
	if a.Checkpoint == nil {
		began := time.Now().Add(-cfg.RecoveryWindow.Std()) // of a slot that is kept
		if a.began != nil {
			began = *a.began
		}
		return store.New().InsertCheckpoint(ctx, dst, store.InsertCheckpointParams{
			SystemIdentifier: p.SystemIdentifier, Timeline: p.Timeline, Server: p.Server, DatabaseSystem: p.DatabaseSystem,
			Installation: p.Installation, Slot: p.Slot, LSN: int64(*p.LSN), BeganAt: began, TablesFrom: tablesFrom,
		})
	}
	return store.New().AdoptCheckpoint(ctx, dst, store.AdoptCheckpointParams{
		SystemIdentifier: p.SystemIdentifier, Timeline: p.Timeline, Server: p.Server, DatabaseSystem: p.DatabaseSystem,
		Installation: p.Installation, Slot: p.Slot, LSN: int64(*p.LSN), TxIndex: p.TxIndex, BeganAt: a.began, Epoch: a.epoch,
		TablesFrom: tablesFrom,
	})
}

// makeSlot begins at the present.
func (a *Adoption) makeSlot(ctx context.Context, src *pgx.Conn, cfg Config, logger *slog.Logger) error {
	watch := func(ctx context.Context) (*pgx.Conn, error) { return pgx.ConnectConfig(ctx, src.Config()) }
	began, err := clock(ctx, src)
	if err != nil {
		return fmt.Errorf("read the source's clock: %w", err)
	}
	if _, err := createSlot(ctx, src, cfg, logger, watch); err != nil {
		return err
	}
	a.began = &began
	slot, err := readSlot(ctx, src, cfg)
	if err != nil {
		return fmt.Errorf("read the slot: %w", err)
	}
	if slot == nil || slot.Confirmed == 0 || slot.Active {
		return fmt.Errorf("somebody else is making or reading slot %s: run weir adopt again", cfg.Slot)
	}
	a.Present.at(event.Position{LSN: slot.Confirmed})
	return nil
}

// MissingChanges is a query for the rows of the change log that were not ingested, of those that were committed since a
// time: created_at is when a row's transaction began. It needs both tables in one database; "" when no change log is captured.
func MissingChanges(cfg Config, since time.Time) string {
	cfg = cfg.WithDefaults()
	if *cfg.ChangeLog == (Table{}) {
		return ""
	}
	from := since.Add(-cfg.RecoveryWindow.Std()).UTC().Format(time.RFC3339)
	return fmt.Sprintf("SELECT l.* FROM %s l WHERE l.created_at >= '%s' AND NOT EXISTS (SELECT FROM weir.event e "+
		"WHERE e.id = l.id AND e.pk = l.pk_entity_change_log);", cfg.ChangeLog.SQL(), from)
}
