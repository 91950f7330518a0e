package capture

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/fraiseql/weir/internal/event"
)

// verdict is what to do about what was seen.
type verdict string

const (
	createTheSlot       verdict = "create the slot"
	createTheCheckpoint verdict = "create the checkpoint at the slot's position"
	readOn              verdict = "read on"
	recoverTheLoss      verdict = "recover from the change log"
	stopAtTheGap        verdict = "stop: a gap"
)

// cause is why continuity cannot be proven, as a label of metrics.
type cause string

const (
	slotGone      cause = "slot_gone"
	slotLost      cause = "slot_lost"
	slotAhead     cause = "slot_ahead"
	slotTooOldFor cause = "publication_younger"
	otherTimeline cause = "timeline"
	brokenOff     cause = "broken_off"
)

func causes() []cause {
	return []cause{slotGone, slotLost, slotAhead, slotTooOldFor, otherTimeline, brokenOff}
}

// ruling is a verdict, and what continuity was lost by.
type ruling struct {
	verdict
	cause   cause
	problem string
}

// judge decides how to start. It is pure: each of its rows is a test, and a row of the table in docs/start-up.md.
func judge(cfg Config, s *sight) (ruling, error) {
	if s.checkpoint != nil {
		if err := s.sameSource(); err != nil {
			return ruling{}, err
		}
	}
	if s.slot != nil {
		if err := s.slot.usable(cfg, s.database, s.checkpoint != nil || s.used); err != nil {
			return ruling{}, err
		}
	}
	switch cp := s.checkpoint; {
	case cp == nil && s.used:
		return ruling{}, &SetupError{"there is no checkpoint, but schema weir has events: the checkpoint was deleted, or not " +
			"restored with the rest, so nothing is sent", gapHint}
	case s.slot == nil && cp == nil:
		return ruling{verdict: createTheSlot}, nil
	case cp == nil && s.tooOld:
		return ruling{}, tooYoung(cfg)
	case cp == nil:
		return ruling{verdict: createTheCheckpoint}, nil
	case cp.Slot != string(cfg.Slot):
		return ruling{}, &SetupError{
			fmt.Sprintf("the checkpoint belongs to slot %s, not to %s", cp.Slot, cfg.Slot),
			fmt.Sprintf("-- set source.slot to %s, or go on with %s: weir adopt", cp.Slot, cfg.Slot),
		}
	case cp.State == stateGap:
		return ruling{verdict: stopAtTheGap, problem: cp.Problem}, nil
	case cp.State == stateRecovering:
		return ruling{recoverTheLoss, brokenOff, cp.Problem}, nil
	}
	why, problem := s.discontinuity(cfg)
	switch {
	case why == "":
		return ruling{verdict: readOn}, nil
	case losesForGood(cfg):
		return ruling{stopAtTheGap, why, problem}, nil
	default:
		return ruling{recoverTheLoss, why, problem}, nil
	}
}

// losesForGood says that the stream carries what the change log does not hold, so that it cannot be made up for.
func losesForGood(cfg Config) bool {
	return cfg.CapturesTables() || *cfg.ChangeLog == (Table{})
}

// discontinuity is why the slot does not have all that comes after the checkpoint, "" when it does.
func (s *sight) discontinuity(cfg Config) (why cause, problem string) {
	cp := s.checkpoint
	switch {
	case s.slot == nil:
		return slotGone, fmt.Sprintf("slot %s does not exist, but there is a checkpoint at %s", cfg.Slot, cp.Position.LSN)
	case s.slot.Status == lost:
		return slotLost, fmt.Sprintf("slot %s is lost: the server removed WAL that it still needed (max_slot_wal_keep_size)", cfg.Slot)
	case s.branch != 0 && !within(cp.Position, s.branch):
		return otherTimeline, fmt.Sprintf("timeline %d left timeline %d at %s, before the checkpoint at %s", s.Timeline, cp.Timeline,
			s.branch, cp.Position.LSN)
	case s.slot.Confirmed > cp.Position.LSN:
		return slotAhead, fmt.Sprintf("slot %s is at %s, past the checkpoint at %s", cfg.Slot, s.slot.Confirmed, cp.Position.LSN)
	case s.tooOld:
		return slotTooOldFor, tooYoung(cfg).Problem
	case s.tablesGone && (cfg.CapturesTables() || cp.Position.Index > 0):
		return slotTooOldFor, fmt.Sprintf("publication %s is gone: what has been written to the tables since cannot be read",
			cfg.tablesPublication())
	}
	return "", ""
}

// sameSource refuses a source that the checkpoint does not belong to: a copy must do no harm. A timeline that comes of the
// checkpoint's is a promoted standby, which has a port and a directory of its own.
func (s *sight) sameSource() error {
	const mend = "weir adopt # if this is the one to go on with"
	cp := s.checkpoint
	switch {
	case s.System != cp.System:
		return &SetupError{fmt.Sprintf("the source is another cluster than the checkpoint's (system identifier %s, not %s): "+
			"this looks like a restored dump or a copy, so nothing is sent", s.System, cp.System), mend}
	case differ(s.Home.System, cp.Home.System):
		return &SetupError{fmt.Sprintf("schema weir is in another cluster than it was (system identifier %s, not %s): "+
			"this looks like a restored dump or a copy, so nothing is sent", s.Home.System, cp.Home.System), mend}
	case differ(s.Home.Database, cp.Home.Database):
		return &SetupError{fmt.Sprintf("schema weir is in another database of the cluster than it was (oid %s, not %s): "+
			"this looks like a copy or a restored dump, so nothing is sent", s.Home.Database, cp.Home.Database), mend}
	case s.Timeline != cp.Timeline && s.branch == 0:
		return &SetupError{fmt.Sprintf("the source is on timeline %d, which does not come of the checkpoint's, %d: an older "+
			"server or a backup took its place, so nothing is sent before somebody has looked", s.Timeline, cp.Timeline), mend}
	case s.branch == 0 && s.Server.differs(cp.Server):
		return &SetupError{fmt.Sprintf("the source is the server at %s, the checkpoint's is at %s: this looks like a copy of the "+
			"data directory, so nothing is sent", s.Server, cp.Server), mend}
	case s.Installation != cp.Installation:
		return &SetupError{
			fmt.Sprintf("the checkpoint belongs to installation %q, this worker to %q", cp.Installation, s.Installation),
			fmt.Sprintf("-- set installation to %q, or, if this is the one to go on with: weir adopt", cp.Installation),
		}
	case s.branch == 0 && cp.Position.LSN > s.written:
		return &SetupError{fmt.Sprintf("the source's WAL ends at %s, before the checkpoint at %s: an older state of the server "+
			"was restored, so nothing is sent", s.written, cp.Position.LSN), mend}
	}
	return nil
}

// gapHint is how to go on where there is nothing to go on from.
const gapHint = "weir adopt # which goes on at the present and says which changes may be missing"

// readHistory finds out where the source's timeline left the checkpoint's, if it did.
func (s *sight) readHistory(ctx context.Context, repl *pgconn.PgConn) error {
	if s.checkpoint == nil || s.Timeline <= s.checkpoint.Timeline { // a descendant has a greater number
		return nil
	}
	past, err := readTimelines(ctx, repl, s.System, s.Timeline)
	s.branch = past.branch(s.checkpoint.Timeline)
	return err
}

// within says that everything up to a position is WAL that ends before an LSN. With an index, the position is that of a commit
// record's beginning, else that of its end.
func within(p event.Position, end event.LSN) bool {
	return p.LSN < end || (p.LSN == end && p.Index == 0)
}
